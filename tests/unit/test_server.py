"""What a server says of itself: too old, or about to lose records, is refused before the first record."""

from __future__ import annotations

import pytest

from streamlayer._core.server import check_server, parse_info
from streamlayer.errors import ConfigurationError, UnsupportedVersionError

VALKEY = (
    "# Server\r\nredis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:9.1.2\r\n\r\n# Memory\r\nmaxmemory:0\r\n"
)


def test_info_is_read_field_by_field() -> None:
    """Sections and blank lines are left out, values may hold colons."""
    info = parse_info(VALKEY + "executable:/a:b\r\n")
    assert info["valkey_version"] == "9.1.2"
    assert info["executable"] == "/a:b"
    assert info["maxmemory"] == "0"
    assert not any(name.startswith("#") for name in info)


@pytest.mark.parametrize(
    "info",
    [
        {"redis_version": "7.0.0"},
        {"redis_version": "7.0.15"},
        {"redis_version": "10.0.1"},
        {"redis_version": "7.2.4", "valkey_version": "7.2.5"},
        parse_info(VALKEY),
        {"redis_version": "255.255.255"},
        {"redis_version": "unstable"},
        {},
    ],
)
def test_servers_that_are_new_enough_pass(info: dict[str, str]) -> None:
    """From Redis 7.0 and Valkey 7.2 on; what says nothing is not refused."""
    check_server(info, allow_eviction=False)


@pytest.mark.parametrize(
    ("info", "words"),
    [
        ({"redis_version": "6.2.14"}, "Redis 6.2.14"),
        ({"redis_version": "5.0"}, "Redis 5.0"),
        ({"redis_version": "7.2.4", "valkey_version": "7.1.0"}, "Valkey 7.1.0"),
    ],
)
def test_servers_that_are_too_old_are_refused(info: dict[str, str], words: str) -> None:
    """The error names the server's version and the oldest that would do."""
    with pytest.raises(UnsupportedVersionError, match=f"{words}; streamlayer needs Redis 7.0 or Valkey 7.2"):
        check_server(info, allow_eviction=False)


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-random", "volatile-ttl", "volatile-lru"])
def test_a_policy_that_deletes_is_refused(policy: str) -> None:
    """`volatile-*` too, since data keys carry a TTL; the error says which command mends it."""
    info = {"redis_version": "7.0.0", "maxmemory": "1000", "maxmemory_policy": policy}
    with pytest.raises(ConfigurationError, match=f"{policy}.*CONFIG SET maxmemory-policy noeviction"):
        check_server(info, allow_eviction=False)
    check_server(info, allow_eviction=True)


@pytest.mark.parametrize("info", [{"maxmemory": "0", "maxmemory_policy": "allkeys-lru"}, {"maxmemory": "9"}])
def test_a_policy_without_a_limit_deletes_nothing(info: dict[str, str]) -> None:
    """Without `maxmemory` no key is ever evicted; without a policy nothing is."""
    check_server(info, allow_eviction=False)
