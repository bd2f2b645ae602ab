"""The rights that a server's ACL must give: which commands, on which keys and channels, and what each is for.

A script's own commands are checked against the user, too, so they are all here. ``README.md`` has the line to type, and
a test that takes each right away holds this list to what is needed.

https://redis.io/docs/latest/operate/oss_and_stack/management/security/acl/
"""

from __future__ import annotations

from typing import Final

COMMANDS: Final = (
    "append",
    "client|setname",
    "evalsha",
    "exists",
    "get",
    "getrange",
    "hdel",
    "hexists",
    "hget",
    "hgetall",
    "hincrby",
    "hlen",
    "hmget",
    "hscan",
    "hset",
    "persist",
    "pexpireat",
    "ping",
    "pttl",
    "publish",
    "script|load",
    "select",
    "set",
    "strlen",
    "subscribe",
    "time",
    "type",
    "unlink",
    "unsubscribe",
    "zadd",
    "zcard",
    "zcount",
    "zrange",
    "zrangebyscore",
    "zrem",
    "zremrangebyscore",
    "zrevrange",
    "zscore",
)
"""What producers, consumers and administrators need."""

OPTIONAL: Final = {
    "client|setinfo": "the client library is not named in CLIENT LIST",
    "info": "lost records are not noticed, and the server's version and eviction policy are not checked",
    "wait": "topics with min_insync_replicas above 1 take nothing with acks='all'",
    "waitaof": "topics cannot have flush='primary' or 'replicas'",
    "config|get": "what a crash can take away is not known: min_durability refuses",
}
"""What one may do without, and what is so then."""
SINCE_7_2: Final = frozenset({"client|setinfo", "waitaof"})
"""Redis 7.0 does not know these, and refuses rules that name them."""


def acl_rules(namespace: str, *, before_7_2: bool = False) -> list[str]:
    """The rules of ``ACL SETUSER`` that give all this for one namespace.

    :param before_7_2: the server is Redis 7.0.
    """
    unknown = SINCE_7_2 if before_7_2 else frozenset[str]()
    commands = [command for command in (*COMMANDS, *OPTIONAL) if command not in unknown]
    return [f"~{namespace}:*", f"&{namespace}:*", *(f"+{command}" for command in commands)]
