"""Where the server is: a URL, or a redis-py client's own settings, made into what a connection of ours needs."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

from streamlayer._core.keys import DEFAULT_NAMESPACE, check_name
from streamlayer.errors import ConfigurationError

DEFAULT_URL = "redis://localhost:6379/0"
LONGEST_REPLY_S = 5
"""No answer is waited for longer, whatever a client that was passed says: redis-py before 8 waits for ever."""
_SCHEMES = {"redis": "redis", "rediss": "rediss", "valkey": "redis", "valkeys": "rediss", "unix": "unix"}
_LATER = {"cluster": "Redis Cluster", "sentinel": "Redis Sentinel"}

FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
"""Connection settings that name files."""


@dataclass(frozen=True)
class Address:
    """A server's URL in redis-py's words, and the namespace that was part of it."""

    url: str
    namespace: str | None


def parse_url(url: object) -> Address:
    """Read a URL: ``redis``, ``rediss``, ``valkey``, ``valkeys`` or ``unix``, with ``?namespace=`` if one likes.

    :raises ConfigurationError: it is no URL, or of a scheme that cannot work.
    """
    if not isinstance(url, str) or "://" not in url:
        shown = f"…@{url.rpartition('@')[2]}" if isinstance(url, str) and "@" in url else repr(url)
        msg = f"url must look like redis://host:6379/0 or unix:///path/to.sock, not {shown}"
        raise ConfigurationError(msg)
    parts = _split(url)
    scheme, _, kind = parts.scheme.partition("+")
    if kind in _LATER and scheme in _SCHEMES:
        msg = f"{_LATER[kind]} is not supported by this version: use the url of one server, {scheme}://…"
        raise ConfigurationError(msg)
    if kind or scheme not in _SCHEMES:
        msg = f"url scheme {parts.scheme!r} is not known: use one of {', '.join(sorted(_SCHEMES))}"
        raise ConfigurationError(msg)
    query = parse_qsl(parts.query, keep_blank_values=True)
    for_tls = [name for name, _ in query if name.startswith("ssl_")]
    if for_tls and _SCHEMES[scheme] != "rediss":
        msg = f"{for_tls[0]} is for TLS, and url says {scheme}://: use rediss://"
        raise ConfigurationError(msg)
    if scheme != "unix" and parts.path.strip("/") and not parts.path.strip("/").isdecimal():
        raise ConfigurationError(_NO_DATABASE)
    namespace = dict(query).get("namespace")
    rest = urlencode([pair for pair in query if pair[0] != "namespace"])
    plain = f"{_SCHEMES[scheme]}://{parts.netloc}{parts.path}"
    return Address(f"{plain}?{rest}" if rest else plain, namespace)


_QUOTED = "A password with / # ? @ : [ or % in it is written as urllib.parse.quote(password, safe='')"
_NO_DATABASE = f"what stands behind the host in url is the database, a number: redis://host:6379/0. {_QUOTED}"


def _split(url: str) -> SplitResult:
    # What urllib says quotes parts of the url: there may be a password in them.
    with contextlib.suppress(ValueError):
        parts = urlsplit(url)
        if (parts.port or 0) >= 0 and not parts.fragment:
            return parts
    msg = f"url cannot be read: host and port look like redis://host:6379/0. {_QUOTED}"
    raise ConfigurationError(msg)


def namespace_of(given: str | None, address: Address | None) -> str:
    """The namespace to use: the argument, else the URL's, else ``sl``."""
    chosen = given if given is not None else address.namespace if address else None
    return check_name(chosen, "namespace") if chosen is not None else DEFAULT_NAMESPACE


def connection_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Copy a redis-py connection's settings, with all that would decide in our place taken out.

    Retries are off (a retry is the library's own decision), replies stay bytes, and RESP2 is spoken: pushed messages
    and replies then come on one path in both colours.
    """
    ours = {k: v for k, v in options.items() if k not in {"retry", "maint_notifications_config", "event_dispatcher"}}
    ours["socket_timeout"] = min(ours.get("socket_timeout") or LONGEST_REPLY_S, LONGEST_REPLY_S)
    ours.update(
        decode_responses=False,
        encoding="utf-8",
        retry_on_timeout=False,
        retry_on_error=[],
        health_check_interval=0,
        protocol=2,
    )
    return ours
