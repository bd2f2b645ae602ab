"""The rights that a server's ACL must give: which commands, on which keys and channels, and what each is for.

A script's own commands are checked against the user, too, so they are all here. ``README.md`` has the line to type, and
a test that takes each right away holds this list to what is needed.

https://redis.io/docs/latest/operate/oss_and_stack/management/security/acl/
"""

from __future__ import annotations

import re
from typing import Final

from streamlayer._core import scripts

PROBES: Final = {
    "append": "append K v",
    "client|setinfo": "client setinfo lib-name v",
    "client|setname": "client setname v",
    "config|get": "config get v",
    "evalsha": "evalsha v 1 K",
    "exists": "exists K",
    "get": "get K",
    "getrange": "getrange K 0 0",
    "hdel": "hdel K v",
    "hexists": "hexists K v",
    "hget": "hget K v",
    "hgetall": "hgetall K",
    "hincrby": "hincrby K v 1",
    "hlen": "hlen K",
    "hmget": "hmget K v",
    "hscan": "hscan K 0",
    "hset": "hset K v v",
    "info": "info",
    "persist": "persist K",
    "pexpireat": "pexpireat K 1",
    "ping": "ping",
    "pttl": "pttl K",
    "publish": "publish K v",
    "script|load": "script load v",
    "select": "select 0",
    "set": "set K v",
    "strlen": "strlen K",
    "subscribe": "subscribe K",
    "time": "time",
    "type": "type K",
    "unlink": "unlink K",
    "unsubscribe": "unsubscribe K",
    "wait": "wait 0 1",
    "waitaof": "waitaof 0 0 1",
    "zadd": "zadd K 1 v",
    "zcard": "zcard K",
    "zcount": "zcount K 0 1",
    "zrange": "zrange K 0 0",
    "zrangebyscore": "zrangebyscore K 0 1",
    "zrem": "zrem K v",
    "zremrangebyscore": "zremrangebyscore K 0 1",
    "zrevrange": "zrevrange K 0 0",
    "zscore": "zscore K v",
}
"""All commands, each with a call of it; K: a key, or a channel, of the namespace."""

OPTIONAL: Final = {
    "client|setinfo": "the client library is not named in CLIENT LIST",
    "info": "lost records are not noticed, and the server's version and eviction policy are not checked",
    "wait": "topics with min_insync_replicas above 1 take nothing with acks='all'",
    "waitaof": "topics cannot have flush='primary' or 'replicas'",
    "config|get": "what a crash can take away is not known: min_durability refuses",
}
"""What one may do without, and what is so then."""
COMMANDS: Final = tuple(name for name in PROBES if name not in OPTIONAL)
"""What producers, consumers and administrators need."""
SINCE_7_2: Final = frozenset({"client|setinfo", "waitaof"})
"""Redis 7.0 does not know these, and refuses rules that name them."""


def acl_rules(namespace: str, *, before_7_2: bool = False) -> list[str]:
    """The rules of ``ACL SETUSER`` that give all this for one namespace.

    :param before_7_2: the server is Redis 7.0.
    """
    unknown = SINCE_7_2 if before_7_2 else frozenset[str]()
    commands = [command for command in (*COMMANDS, *OPTIONAL) if command not in unknown]
    return [f"~{namespace}:*", f"&{namespace}:*", *(f"+{command}" for command in commands)]


_RUN = frozenset(
    name.lower() for script in scripts.ALL for name in re.findall(r"redis\.p?call\('(\w+)'", script.source)
)
RUN_BY_SCRIPTS: Final = tuple(probe for name, probe in PROBES.items() if name in _RUN - {"publish", *OPTIONAL})
"""Calls that a user must be allowed before any script is run: one that is refused would leave half of it done."""
_NAMED = re.compile(r"run the '([^']+)' command")
_CAUGHT = re.compile(r"can't run this command .*\((\w+)\)$")
_LINE = re.compile(r"can't run this command .*script: ([0-9a-f]{40}), on @user_script:(\d+)")
_CALL = re.compile(r"redis\.call\('(\w+)'")


def denied_commands(text: str) -> list[str]:
    """Which commands an ACL denied, by a server's error text; more than one: one of them; empty: it was about a key.

    Redis 7.0 does not say what a script wanted to run, but where: the script's line tells, or the script itself.
    """
    if named := _NAMED.search(text) or _CAUGHT.search(text):
        return [named[1].lower()]
    if line := _LINE.search(text):
        for script in scripts.ALL:
            if line[1] == script.flagged_sha:
                return [name.lower() for name in _CALL.findall(script.flagged.split("\n")[int(line[2]) - 1])]
    return []
