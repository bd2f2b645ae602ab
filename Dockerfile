# The shop of examples/shop, for docker-compose.yml: one image, whose command says whether it serves or works.
FROM python:3.13-slim

COPY pyproject.toml README.md LICENSE _streamlayer_pytestplugin.py /src/
COPY streamlayer /src/streamlayer
RUN pip install --no-cache-dir '/src[cli]' && useradd --create-home shop

COPY examples/shop /shop
USER shop
WORKDIR /shop
ENV PYTHONUNBUFFERED=1
CMD ["streamlayer", "worker", "worker:app"]
