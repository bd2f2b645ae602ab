"""``rediss://``: everything through TLS, with a certificate authority that lives as long as the test.

Debian's redis-server speaks TLS; the embedded Valkey was built without it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import trustme

from streamlayer import Admin, Consumer, Producer, ServerUnavailableError, aio
from tests import servers
from tests.system.test_cli import Cli
from tests.waiting import sync_wait_until

pytestmark = [pytest.mark.system, pytest.mark.timeout(60)]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority's certificate, another authority's, a server's certificate and key, a client's."""
    folder = tmp_path_factory.mktemp("tls")
    ours, others = trustme.CA(), trustme.CA()
    ours.cert_pem.write_to_path(folder / "ca.pem")
    others.cert_pem.write_to_path(folder / "other.pem")
    issued = ours.issue_cert("127.0.0.1", "localhost")
    issued.private_key_pem.write_to_path(folder / "key.pem")
    issued.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    ours.issue_cert("client").private_key_and_cert_chain_pem.write_to_path(folder / "client.pem")
    return folder


@pytest.fixture(scope="module")
def address(authority: Path) -> Iterator[str]:
    """A server that listens for TLS alone; its URL without parameters."""
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    command = [servers.binary("redis"), "--port", "0", "--tls-port", str(port), "--dir", str(authority), "--save", ""]
    command += ["--tls-cert-file", str(authority / "cert.pem"), "--tls-key-file", str(authority / "key.pem")]
    command += ["--tls-ca-cert-file", str(authority / "ca.pem"), "--tls-auth-clients", "no", "--bind", "127.0.0.1"]
    url = f"rediss://127.0.0.1:{port}/0"
    with (authority / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            sync_wait_until(lambda: _answers(url, authority), "the server answers", timeout=20)
            yield url
        finally:
            process.kill()


def _answers(url: str, authority: Path) -> bool:
    with redis.Redis.from_url(url, ssl_ca_certs=str(authority / "ca.pem")) as client:
        return servers.answers(client)


def test_everything_through_tls(address: str, authority: Path) -> None:
    """Producer, group, waking, administrator, in the sync colour; the plain protocol is not spoken at all."""
    url = f"{address}?ssl_ca_certs={authority / 'ca.pem'}"
    with Admin(url=url) as admin, Producer(url=url) as producer:
        admin.create_topics(["t"])
        with Consumer("t", url=url, group_id="g") as consumer:
            consumer.wait_for_assignment(timeout_ms=20_000)
            assert consumer.poll(50) == {}
            consumer._check_at = 1 << 60  # it does not look by itself: it is woken
            producer.send_and_wait("t", b"a")
            assert [r.value for records in consumer.poll(20_000).values() for r in records] == [b"a"]
            consumer.commit()
        admin.delete_groups(["g"])
        admin.delete_topics(["t"])
    plain = address.replace("rediss://", "redis://")
    with pytest.raises(ServerUnavailableError), Admin(url=plain) as admin:
        admin.list_topics()


def test_everything_through_tls_aio(address: str, authority: Path) -> None:
    """The same with asyncio."""

    async def story() -> None:
        url = f"{address}?ssl_ca_certs={authority / 'ca.pem'}"
        async with aio.Admin(url=url) as admin, aio.Producer(url=url) as producer:
            await admin.create_topics(["u"])
            async with aio.Consumer("u", url=url, group_id="g") as consumer:
                await consumer.wait_for_assignment(timeout_ms=20_000)
                assert await consumer.poll(50) == {}
                await producer.send_and_wait("u", b"a")
                assert [r.value for records in (await consumer.poll(5000)).values() for r in records] == [b"a"]
                await consumer.commit()
            await admin.delete_groups(["g"])
            await admin.delete_topics(["u"])

    asyncio.run(story())


def test_a_redis_py_client_lends_its_certificates(address: str, authority: Path) -> None:
    """``redis=``: its settings are taken, those of TLS too."""
    with (
        redis.Redis.from_url(address, ssl_ca_certs=str(authority / "ca.pem")) as client,
        Producer(redis=client) as producer,
    ):
        assert producer.send_and_wait("v", b"a").offset == 0


@pytest.mark.parametrize("file", ["other.pem", None])
def test_a_server_that_nobody_vouches_for_is_refused_at_once(address: str, authority: Path, file: str | None) -> None:
    """Another authority's certificate, or none: told in words, in both colours, and not tried for seconds."""
    url = address if file is None else f"{address}?ssl_ca_certs={authority / file}"
    began = time.monotonic()
    with pytest.raises(ServerUnavailableError, match="certificate verify failed"), Producer(url=url):
        raise AssertionError("it connected")

    async def story() -> None:
        async with aio.Producer(url=url):
            raise AssertionError("it connected")

    with pytest.raises(ServerUnavailableError, match="certificate verify failed"):
        asyncio.run(story())
    assert time.monotonic() - began < 8  # else it is tried for ten


def test_a_server_that_asks_who_we_are(address: str, authority: Path) -> None:
    """A client's certificate is a parameter of the URL, too, and the command line takes it; without it: at once."""
    url = f"{address}?ssl_ca_certs={authority / 'ca.pem'}"
    client = authority / "client.pem"
    with redis.Redis.from_url(url, ssl_certfile=str(client), ssl_keyfile=str(client)) as operator:
        operator.config_set("tls-auth-clients", "yes")
        try:
            began = time.monotonic()
            with pytest.raises(ServerUnavailableError), Producer(url=url):
                raise AssertionError("it connected")
            assert time.monotonic() - began < 8  # else it is tried for ten
            with Producer(url=f"{url}&ssl_certfile={client}&ssl_keyfile={client}") as producer:
                assert producer.send_and_wait("w", b"a").offset == 0
            findings, _ = Cli(f"{url}&ssl_certfile={client}&ssl_keyfile={client}", "sl").run("doctor", status=1)
            assert "appendonly is no" in findings
        finally:
            operator.config_set("tls-auth-clients", "no")


def test_an_idle_connection_is_kept_until_the_server_ends_it(address: str, authority: Path) -> None:
    """What TLS says beside the data is not taken for an end; an end is noticed before a batch is sent that way."""
    url = f"{address}?ssl_ca_certs={authority / 'ca.pem'}"
    with (
        Producer(url=url, client_id="idle", enable_idempotence=False) as producer,
        redis.Redis.from_url(address, ssl_ca_certs=str(authority / "ca.pem")) as direct,
    ):
        producer.send_and_wait("idle", b"1", partition=0)
        kept = _ids(direct)
        began = time.monotonic()
        sync_wait_until(lambda: time.monotonic() - began > 1.2, "it is idle")
        producer.send_and_wait("idle", b"2", partition=0)
        assert _ids(direct) == kept
        direct.config_set("timeout", "1")
        sync_wait_until(lambda: not _ids(direct), "the server ends it")
        direct.config_set("timeout", "0")
        producer.send_and_wait("idle", b"3", partition=0)
        with Consumer("idle", url=url) as consumer:
            assert [record.value for record in consumer.read_to_end()] == [b"1", b"2", b"3"]


def _ids(client: redis.Redis) -> list[str]:
    return [each["id"] for each in client.client_list() if each["name"] == "idle"]
