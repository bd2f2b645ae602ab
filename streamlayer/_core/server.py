"""What a server says of itself, and whether this library can work with it."""

from __future__ import annotations

from streamlayer.errors import ConfigurationError, UnsupportedVersionError

OLDEST_REDIS = (7, 0)
OLDEST_VALKEY = (7, 2)


def parse_info(text: str) -> dict[str, str]:
    """The fields of an ``INFO`` reply."""
    pairs = (line.split(":", 1) for line in text.splitlines() if ":" in line and not line.startswith("#"))
    return {name: value.strip() for name, value in pairs}


def may_evict(memory: dict[str, str]) -> bool:
    """Whether a server throws records away when its memory is full.

    :param memory: fields of ``INFO memory``.
    """
    return memory.get("maxmemory", "0") != "0" and memory.get("maxmemory_policy", "noeviction") != "noeviction"


def check_server(info: dict[str, str], *, allow_eviction: bool) -> None:
    """Refuse a server that is too old, or that may throw records away.

    :param info: fields of ``INFO server`` and ``INFO memory``; what is missing is not checked.
    :raises UnsupportedVersionError: it is too old.
    :raises ConfigurationError: its eviction policy would delete parts of logs silently.
    """
    name, oldest = ("Valkey", OLDEST_VALKEY) if "valkey_version" in info else ("Redis", OLDEST_REDIS)
    version = info.get("valkey_version") or info.get("redis_version", "")
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    if numbers and numbers < oldest:
        msg = f"the server is {name} {version}; streamlayer needs Redis 7.0 or Valkey 7.2, or later"
        raise UnsupportedVersionError(msg)
    if may_evict(info) and not allow_eviction:
        msg = (
            f"the server's maxmemory-policy is {info['maxmemory_policy']}: it would delete records silently when memory"
            " is full. Run `CONFIG SET maxmemory-policy noeviction` (and put it into the server's configuration), "
            "or pass allow_eviction=True if the records may be lost"
        )
        raise ConfigurationError(msg)
