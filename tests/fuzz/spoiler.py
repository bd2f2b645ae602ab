"""Who spoils stored keys: one value of whatever type, changed to what somebody's mistake might have left there."""

from __future__ import annotations

import random

import redis

STRANGE = [
    b"", b"-", b"0", b"-1", b"1", b"7", b"nan", b"inf", b"1e300", b"9007199254740993", b"99999999999999999999", b"x",
    b"\xff\x00", b"1:2:3", b"1::0", b",,,", b"1 2 3", b"{}", b"[]", b"null", b"-9", b"1.5", b"t:0-99999999999",
]  # fmt: skip


class Spoiler:
    """Changes keys under a prefix."""

    def __init__(self, client: redis.Redis, prefix: str, dice: random.Random) -> None:
        self.client, self.prefix, self.dice = client, prefix, dice

    def spoil(self) -> str:
        """Change something; what it was."""
        keys: list[bytes] = sorted(self.client.keys(f"{self.prefix}*"))
        # Most of what scripts believe without looking stands in `meta`.
        key = self.dice.choice(keys + 5 * [key for key in keys if key.endswith(b":meta")])
        kind = self.client.type(key).decode()
        if self.dice.random() < 0.1:
            self.client.delete(key)
            if self.dice.random() < 0.5:
                self.client.rpush(key, "mine")
            return f"{key!r} is gone, or a list"
        return f"{kind} {key!r}: {getattr(self, f'_spoil_{kind}')(key)}"

    def _strange(self, was: bytes) -> bytes:
        how = self.dice.randrange(4)
        if how == 0 and was:
            at = self.dice.randrange(len(was))
            return was[:at] + bytes([self.dice.randrange(256)]) + was[at + 1 :]
        if how == 1:
            return was[: self.dice.randrange(len(was) + 1)]
        if how == 2:
            return was + self.dice.choice(STRANGE)
        return self.dice.choice(STRANGE)

    def _spoil_hash(self, key: bytes) -> str:
        name, was = self.dice.choice(sorted(self.client.hgetall(key).items()))
        if self.dice.random() < 0.2:
            self.client.hdel(key, name)
            return f"{name!r} is gone"
        self.client.hset(key, name, now := self._strange(was))
        return f"{name!r} was {was[:60]!r} and is {now[:60]!r}"

    def _spoil_string(self, key: bytes) -> str:
        now = self._strange(self.client.get(key))
        self.client.set(key, now)
        return f"{len(now)} bytes"

    def _spoil_zset(self, key: bytes) -> str:
        member, score = self.dice.choice(self.client.zrange(key, 0, -1, withscores=True))
        was = member, score
        if self.dice.random() < 0.7:
            self.client.zrem(key, member)
            member = self._strange(member)
        score = self.dice.choice([score, -1, 0, 2.0**53, float("inf"), float("-inf"), score + 1])
        self.client.zadd(key, {member: score})
        return f"{was!r} is {member!r}, {score}"
