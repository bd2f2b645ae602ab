"""What real servers say when they refuse, taken from them, and the one class that it becomes.

These use a server of their own: they fill it, make it a replica, and lock it.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis

from streamlayer import embedded, errors
from streamlayer._async.link import error_text
from streamlayer._core import calls, registry_calls, scripts
from streamlayer._core.refusals import Refusal, error_from_reply
from streamlayer.errors import StreamlayerError
from tests import servers
from tests.lua.run import TOPIC_ID, Log, Runner, new_log, word_of
from tests.waiting import sync_wait_until


@pytest.fixture(scope="module", params=[kind for kind in servers.chosen_kinds() if kind != "fakeredis"])
def own(request: pytest.FixtureRequest) -> Iterator[servers.TestServer]:
    """A server that nobody else uses."""
    running = servers.TestServer(request.param, embedded.Server(binary=servers.binary(request.param)).start())
    yield running
    running.stop()


@pytest.fixture
def log(own: servers.TestServer) -> Iterator[Log]:
    """An empty partition there, and afterwards a server without limits."""
    client = own.sync_client()
    client.flushall()
    yield new_log(client, "sl")
    client.execute_command("REPLICAOF", "NO", "ONE")
    client.config_set("maxmemory", 0)
    client.config_set("min-replicas-to-write", 0)
    client.config_set("replica-serve-stale-data", "yes")
    client.close()


def answer_of(call: Callable[[], Any]) -> StreamlayerError | Refusal:
    """What an error reply of the server becomes."""
    with pytest.raises(redis.RedisError) as caught:
        call()
    return error_from_reply(error_text(caught.value), "orders", 0)


def refusal(log: Log, *, writes: bool = True) -> StreamlayerError | Refusal:
    """What the server's no to an append, or to a look-up, becomes."""
    answer = log.append(b"a") if writes else log.at_time(-1)
    assert word_of(answer) != "OK"
    return error_from_reply(" ".join(answer), "orders", 0)


def test_a_full_server_refuses_appends_and_nothing_else(log: Log) -> None:
    """OOM: certainly not written, tried again. Reading, looking up and deleting go on."""
    log.append(b"before")
    before = log.dump()
    log.run.client.config_set("maxmemory", 1)
    found = refusal(log)
    assert isinstance(found, errors.ServerFullError)
    assert found.retriable
    assert log.dump() == before
    assert word_of(log.fetch(1, arm=True)) == "OK"
    assert word_of(log.at_time(-1)) == "OK"
    assert log.run(registry_calls.registry("sl", "orders", b"", b"x")).changed
    assert log.run(calls.delete_partition(log.keys, topic_id=TOPIC_ID)) is None
    assert word_of(log.create()) == "OOM"


def test_a_replica_takes_no_writes(log: Log) -> None:
    """READONLY, and nothing was written; scripts that only read run there."""
    log.run.client.execute_command("REPLICAOF", "127.0.0.1", "1")
    assert isinstance(refusal(log), errors.ServerReadOnlyError)
    assert word_of(log.at_time(-1)) == "OK"


def test_a_replica_without_its_primary_may_say_nothing(log: Log) -> None:
    """MASTERDOWN is waited for."""
    log.run.client.config_set("replica-serve-stale-data", "no")
    log.run.client.execute_command("REPLICAOF", "127.0.0.1", "1")
    assert isinstance(refusal(log, writes=False), errors.ServerUnavailableError)


def test_too_few_replicas_is_a_certain_no(log: Log) -> None:
    """NOREPLICAS comes before anything is written."""
    log.run.client.config_set("min-replicas-to-write", 1)
    before = log.dump()
    assert isinstance(refusal(log), StreamlayerError)
    assert log.dump() == before


def test_forgotten_scripts_are_loaded_again(log: Log) -> None:
    """NOSCRIPT is a word for the client, not an error."""
    found = answer_of(lambda: log.run.client.evalsha("0" * 40, 0))
    assert isinstance(found, Refusal)
    assert found.word == "NOSCRIPT"


def test_a_busy_server_is_waited_for(log: Log, own: servers.TestServer) -> None:
    """BUSY: somebody's script runs on and on; it is not ours, and nothing was done."""
    other = own.sync_client(socket_timeout=30)
    log.run.client.config_set("busy-reply-threshold", 1)
    thread = threading.Thread(target=_loop, args=[other], daemon=True)
    thread.start()
    try:
        sync_wait_until(lambda: _busy(log), "the server is busy")
        assert isinstance(refusal(log), errors.ServerUnavailableError)
    finally:
        sync_wait_until(lambda: _killed(log.run.client), "the script is killed")
        thread.join(10)
        other.close()


def _loop(client: redis.Redis) -> None:
    with suppress(redis.ResponseError):  # it is killed
        client.eval("while true do end", 0)


def _busy(log: Log) -> bool:
    try:
        log.run.client.ping()
    except redis.RedisError:
        return True
    return False


def _killed(client: redis.Redis) -> bool:
    try:
        client.script_kill()
    except redis.RedisError as error:
        return "NOTBUSY" in error_text(error)
    return False


@pytest.mark.parametrize(
    ("rules", "kind"),
    [
        (["+@all", "-evalsha", "~*", "&*"], errors.AuthorizationError),
        (["+@all", "~nothing", "&*"], errors.AuthorizationError),
        (["+@all", "-append", "~*", "&*"], errors.AuthorizationError),
    ],
)
def test_a_missing_right_is_named(
    log: Log, own: servers.TestServer, rules: list[str], kind: type[StreamlayerError]
) -> None:
    """The call, its keys, or a command inside the script: each is a right that is missing, and is said so."""
    log.run.client.execute_command("ACL", "SETUSER", "limited", "on", ">secret", "resetkeys", *rules)
    limited = own.sync_client(username="limited", password="secret")
    log.append(b"loads the script")
    found = refusal(Log(Runner(limited), log.keys))
    limited.close()
    assert isinstance(found, kind), found


def test_a_missing_right_to_info_turns_detection_off_and_nothing_else(log: Log, own: servers.TestServer) -> None:
    """Where INFO is not allowed, appends go on; no epoch is added, by nobody's change of user."""
    log.append(b"a")
    epochs = log.fetch(0).epochs
    log.run.client.execute_command("ACL", "SETUSER", "blind", "on", ">secret", "+@all", "-info", "~*", "&*")
    blind = Log(Runner(own.sync_client(username="blind", password="secret")), log.keys)
    assert blind.append(b"b").epochs == epochs
    blind.run.client.close()
    assert log.append(b"c").epochs == epochs


def test_wrong_and_missing_passwords(log: Log, own: servers.TestServer) -> None:
    """WRONGPASS and NOAUTH: no use in trying again."""
    client = own.sync_client()
    wrong = answer_of(lambda: client.execute_command("AUTH", "nobody", "wrong"))
    assert isinstance(wrong, errors.AuthenticationFailedError)
    client.execute_command("ACL", "SETUSER", "default", "resetpass", ">secret")
    try:
        nobody = own.sync_client()
        missing = answer_of(nobody.ping)
        nobody.close()
    finally:
        client.execute_command("ACL", "SETUSER", "default", "nopass")
        client.close()
    assert isinstance(missing, errors.AuthenticationFailedError)


def test_a_wrong_type_that_no_script_looked_at(log: Log) -> None:
    """A plain WRONGTYPE is somebody else's data too."""
    log.run.client.set("sl:topics", "mine")
    found = answer_of(lambda: log.run.client.hget("sl:topics", "orders"))
    assert isinstance(found, errors.ForeignDataError)


def test_a_server_with_too_many_clients(log: Log, own: servers.TestServer) -> None:
    """`maxclients`: no connection was had, so nothing was done; it may be had later."""
    assert own.process is not None
    limit = log.run.client.config_get("maxclients")["maxclients"]
    log.run.client.config_set("maxclients", 1)
    with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as other:
        for connection in (one, other):
            connection.settimeout(5)
            connection.connect(urlsplit(own.process.url).path)
        said = other.recv(200).decode()
    log.run.client.config_set("maxclients", limit)
    assert isinstance(error_from_reply(said.strip("-\r\n"), "orders", 0), errors.ServerUnavailableError), said


def test_without_a_right_to_publish_what_was_appended_is_told(log: Log, own: servers.TestServer) -> None:
    """An ACL that forbids our channels (the default of a new user) must not turn a done append into an error."""
    log.run.client.execute_command("ACL", "SETUSER", "mute", "on", ">secret", "+@all", "resetchannels", "~*")
    log.append(b"a")
    log.fetch(1, arm=True)
    mute = Log(Runner(own.sync_client(username="mute", password="secret")), log.keys)
    assert mute.append(b"b").base_offset == 1
    assert mute.run(registry_calls.registry("sl", "orders", b"", b"x")).changed
    assert mute.read() == [b"a", b"b"]
    mute.run.client.close()


def test_every_script_loads_with_its_flags(log: Log) -> None:
    """The shebangs are ones that real servers take, and the names are the servers' own."""
    for script in scripts.ALL:
        assert log.run.client.script_load(script.flagged) == script.flagged_sha
