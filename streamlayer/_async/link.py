"""One connection to the server, on which calls are executed in order.

The rule: what came back is said exactly. An outcome is a result, a refusal, an error (certainly not applied) or
``Unanswered`` (sent, and nobody knows). Nothing is retried here, ``NOSCRIPT`` apart, which is a definite no.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, cast

import redis
from redis.exceptions import MasterDownError

from streamlayer._core import durability, scripts
from streamlayer._core.calls import Call
from streamlayer._core.keys import DEFAULT_NAMESPACE
from streamlayer._core.refusals import Refusal, error_from_reply, is_retriable, nonsense
from streamlayer._core.resp import pack, pack_evalsha
from streamlayer._core.server import check_server, may_evict, parse_info
from streamlayer._core.server_calls import check_rights, read_memory
from streamlayer._types import DurabilityLevel
from streamlayer._waiting import aio as waiting
from streamlayer.errors import (
    AuthenticationFailedError,
    AuthorizationError,
    RequestTimedOutError,
    ServerUnavailableError,
    StreamlayerError,
)

IDLE_MS = 500
"""A connection that was not used for so long is looked at before something is sent: servers end idle ones."""
LOOK_MS = 60_000
"""How often a connection that is used looks whether the server may throw records away by now."""
SCRIPTS_LOADED_AGAIN = 3
"""How often calls that met no script are sent again at once."""


class Unanswered(Exception):
    """A call was sent and no answer came: it may have been executed.

    :ivar error: what to raise if that is all that can be said.
    """

    def __init__(self, error: StreamlayerError) -> None:
        super().__init__(str(error))
        self.error = error


Outcome: TypeAlias = Any
"""What became of one call: its parsed result, or (as a value) a ``Refusal``, ``StreamlayerError`` or ``Unanswered``."""


_parents: list[object] = []
"""Connections that a fork's child has from its parent. Freeing one would take it out of the event loop's epoll, which
both share: the parent would hear nothing any more."""


class Settings:
    """How to make a connection.

    :ivar kind: redis-py's connection class.
    :ivar options: its arguments.
    :ivar fake: whether the server is fakeredis, which takes no script flags.
    :ivar namespace: what the keys begin with; each new connection looks whether it may use them.
    :ivar min_durability: what the server must give; each new connection looks.
    """

    def __init__(
        self, kind: Callable[..., waiting.Connection], options: dict[str, Any], *, allow_eviction: bool
    ) -> None:
        self.kind = kind
        self.options = options
        self.fake = kind.__module__.partition(".")[0] == "fakeredis"
        self.allow_eviction = allow_eviction
        self.min_durability: DurabilityLevel | None = None
        self.namespace = DEFAULT_NAMESPACE

    @property
    def silence_ms(self) -> float:
        """How long the server may be silent before a connection is given up, whatever the caller's patience."""
        return float(self.options["socket_timeout"]) * 1000

    @property
    def place(self) -> str:
        """The server's address, for messages: never with a password in it."""
        if "path" in self.options:
            return str(self.options["path"])
        if self.fake:
            return "fakeredis"
        return f"{self.options.get('host', 'localhost')}:{self.options.get('port', 6379)}"


_RIGHTS = b"rights"
_REPLICAS_WORDS = (redis.ReadOnlyError, MasterDownError)


def error_text(error: Exception) -> str:
    """The server's error line as it was: redis-py takes the first word away when it knows it."""
    code = "LOADING" if isinstance(error, redis.BusyLoadingError) else getattr(error, "status_code", None)
    text = str(error.args[0]) if error.args else ""
    return f"{code} {text}" if code and not text.startswith(f"{code} ") else text


def lost(error: Exception, place: str) -> StreamlayerError:
    """The error for a connection that ended while something was under way."""
    if isinstance(error, redis.TimeoutError):
        return RequestTimedOutError(f"{place} did not answer in time: {error}")
    if not isinstance(error, (redis.RedisError, OSError)):
        return ServerUnavailableError(f"{place} sent what is no answer ({error!r}); connection closed")
    return ServerUnavailableError(f"the connection to {place} was lost: {error}")


class Link:
    """A connection that opens when it is needed and opens anew after it was lost.

    :ivar opened: how many times it was opened.
    :ivar put_off: whether a server was there that could not be used yet: it loads, or somebody's script keeps it busy.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.opened = 0
        self.put_off = False
        self._connection: waiting.Connection | None = None
        self._tags = itertools.count(1)
        self._out_of_step = False
        self._used_at = self._looked_at = 0

    @property
    def connected(self) -> bool:
        """Whether there is a connection that has not been found lost."""
        return self._connection is not None and self._connection.is_connected

    async def connect(self, limit_ms: float = waiting.REPLY_TIMEOUT_MS) -> waiting.Connection:
        """Open the connection, check the server, load the scripts.

        :param limit_ms: how long the server may be silent.
        :raises ServerUnavailableError: nobody answers there.
        :raises AuthenticationFailedError: the password is wrong or missing.
        """
        if self._connection is not None and self._connection.is_connected and not await self._ended():
            return self._connection
        connection = self._connection = self.settings.kind(**self.settings.options)
        place = self.settings.place
        try:
            await waiting.connect(connection, limit_ms)
        except Exception as raised:  # noqa: BLE001 - redis-py raises what it likes where a server answers nonsense
            await self.close()
            error = _unwrapped(raised)
            if isinstance(error, redis.AuthenticationError):
                raise AuthenticationFailedError(f"{place} refused the login: {error_text(error)}") from error
            if isinstance(error, (redis.ResponseError, redis.BusyLoadingError)):
                raise self._refused(error) from error
            why = (str(error) or repr(error)).rstrip(".")
            msg = f"no connection to {place} ({why}). Is the server running there, and is the url right?"
            raise ServerUnavailableError(msg) from error
        await self._prepare(connection, limit_ms)
        self.opened += 1
        self._used_at = self._looked_at = waiting.monotonic_ms()
        return connection

    async def _ended(self) -> bool:
        """Whether the server has ended the connection while it was idle: what is sent goes over a new one then."""
        idle_ms = waiting.monotonic_ms() - self._used_at
        if self._connection is None or self.settings.fake or idle_ms < IDLE_MS:
            return False
        if not await waiting.hung_up(self._connection):
            return False
        await self.close()
        return True

    def _refused(self, error: Exception) -> StreamlayerError:
        """What the server said to somebody who connects."""
        found = error_from_reply(error_text(error), self.settings.place)
        self.put_off = self.put_off or (isinstance(found, StreamlayerError) and found.retriable)
        return StreamlayerError(str(found)) if isinstance(found, Refusal) else found

    async def _prepare(self, connection: waiting.Connection, limit_ms: float) -> None:
        commands: list[tuple[str, ...]] = [("INFO", "server"), ("INFO", "memory")]
        commands += [("SCRIPT", "LOAD", self._text(script)) for script in scripts.ALL]
        rights = check_rights(self.settings.namespace)
        wanted = self.settings.min_durability
        loaded = len(commands)
        commands += durability.QUESTIONS if wanted is not None else ()
        replies: list[Any] = []
        try:
            request = [pack(command) for command in commands]
            if not self.settings.fake:
                request.append(self._pack(rights, _RIGHTS))
            await waiting.exchange(connection, request, replies, len(request), limit_ms)
        except Exception as error:  # as above
            await self.close()
            if isinstance(error, redis.AuthenticationError):
                raise AuthenticationFailedError(f"{self.settings.place}: {error_text(error)}") from error
            if isinstance(error, redis.BusyLoadingError):
                raise self._refused(error) from error
            raise ServerUnavailableError(
                f"no connection to {self.settings.place}: {str(error) or repr(error)}"
            ) from error
        info = [reply.decode(errors="replace") for reply in replies[:2] if isinstance(reply, bytes)]
        try:
            for reply in replies:  # before what they say is judged: a server that is busy has not told what it gives
                if isinstance(reply, Exception) and is_retriable(error_text(reply)):
                    raise self._refused(reply) from reply
            check_server(parse_info("\n".join(info)), allow_eviction=self.settings.allow_eviction)
            if wanted is not None:
                durability.check_durability(
                    durability.durability_of(replies[loaded : len(commands)]), wanted, self.settings.place
                )
            for reply in replies[2:loaded]:
                if isinstance(reply, Exception):
                    raise self._refused(reply) from reply
            if not self.settings.fake:
                self._check_rights(rights, replies[-1])
        except StreamlayerError:
            await self.close()
            raise

    def _check_rights(self, rights: Call[list[str]], reply: Any) -> None:
        """Whether scripts may do all that they do: one that is stopped half way would leave half of it done."""
        outcome = self._outcome(rights, _RIGHTS, reply)
        if isinstance(outcome, Unanswered):
            raise outcome.error
        if isinstance(outcome, Refusal):
            return  # NOSCRIPT: somebody flushes them; what is sent next meets that too, and all is prepared anew
        if isinstance(outcome, Exception):
            raise self._refused(reply) if isinstance(reply, Exception) else outcome
        if outcome:
            missing = " ".join(f"+{name}" for name in outcome)
            msg = f"{self.settings.place}: the server's ACL does not allow all that is needed: give the user {missing}"
            raise AuthorizationError(msg)

    def _text(self, script: scripts.Script) -> str:
        return script.source if self.settings.fake else script.flagged

    def _pack(self, call: Call[Any], tag: bytes) -> bytes:
        script = call.script
        if script is None:
            return pack(call.args)
        return pack_evalsha(script.sha if self.settings.fake else script.flagged_sha, call.keys, tag, call.args)

    async def execute(self, calls: Sequence[Call[Any]], limit_ms: float = waiting.REPLY_TIMEOUT_MS) -> list[Outcome]:
        """Send calls in one go and say what became of each, in order.

        :param limit_ms: how long the server may be silent.
        :raises ServerUnavailableError: there is no connection; nothing was sent.
        """
        outcomes = await self._once(calls, limit_ms)
        if not _not_run(outcomes):
            return outcomes
        for _ in range(SCRIPTS_LOADED_AGAIN):
            again = _not_run(outcomes)
            if not again or self._connection is None:
                break
            found: list[Outcome]
            try:
                await self._prepare(self._connection, limit_ms)
                found = await self._once([calls[i] for i in again], limit_ms)
            except StreamlayerError as error:
                found = [error] * len(again)  # these were not sent; others may have been executed
            for i, outcome in zip(again, found, strict=True):
                outcomes[i] = outcome
        for i in _not_run(outcomes):
            outcomes[i] = ServerUnavailableError(f"{self.settings.place} forgets scripts as fast as they are loaded")
        return outcomes

    async def _once(self, calls: Sequence[Call[Any]], limit_ms: float) -> list[Outcome]:
        connection = await self.connect(limit_ms)
        if self.settings.fake or self.settings.allow_eviction or self._used_at - self._looked_at < LOOK_MS:
            return await self._exchange(connection, calls, limit_ms)
        *outcomes, memory = await self._exchange(connection, [*calls, read_memory()], limit_ms)
        self._looked_at = self._used_at
        if isinstance(memory, dict) and may_evict(cast("dict[str, str]", memory)):
            await self.close()  # who connects next is told
        return outcomes

    async def _exchange(
        self, connection: waiting.Connection, calls: Sequence[Call[Any]], limit_ms: float
    ) -> list[Outcome]:
        tags = [b"%d" % next(self._tags) for _ in calls]
        request = [self._pack(call, tag) for call, tag in zip(calls, tags, strict=True)]
        replies: list[Any] = []
        failure: Exception | None = None
        try:
            await waiting.exchange(connection, request, replies, len(calls), limit_ms)
        except redis.BusyLoadingError as error:
            replies.append(redis.ResponseError(error_text(error)))
            failure = error
        except Exception as error:  # noqa: BLE001 - as above: whatever it is, nothing more can be read
            failure = error
        outcomes = [self._outcome(call, tag, reply) for call, tag, reply in zip(calls, tags, replies, strict=False)]
        self._used_at = waiting.monotonic_ms()
        # A server that became a replica keeps its connections; whoever leads to the primary leads elsewhere by now.
        if self._out_of_step or any(isinstance(reply, _REPLICAS_WORDS) for reply in replies):
            await self.close()
        if failure is not None:
            unknown = Unanswered(lost(failure, self.settings.place))
            outcomes += [unknown] * (len(calls) - len(outcomes))
            await self.close()
        return outcomes

    def _outcome(self, call: Call[Any], tag: bytes, reply: Any) -> Outcome:
        if isinstance(reply, Exception) and not self._out_of_step:
            return error_from_reply(error_text(reply), *_place_of(call), key=call.keys[0])
        if call.script is None and not self._out_of_step:
            return _parsed(call, reply)
        if self._out_of_step or not isinstance(reply, list) or reply[:1] != [tag]:
            # Somebody else's answer: this connection is out of step and nothing on it can be believed.
            self._out_of_step = True
            return Unanswered(ServerUnavailableError(f"{self.settings.place} answered another call; connection closed"))
        return _parsed(call, reply[1:])

    async def close(self) -> None:
        """Drop the connection; the next call opens a new one."""
        connection, self._connection = self._connection, None
        self._out_of_step = False
        if connection is not None:
            try:
                await connection.disconnect()
            except (redis.RedisError, OSError):
                return  # it was gone already

    def abandon(self) -> None:
        """Forget the connection without touching it: in a fork's child it is still the parent's."""
        _parents.append(self._connection)
        self._connection = None


def _parsed(call: Call[Any], reply: Any) -> Outcome:
    try:
        return call.parse(reply)
    except Exception as error:  # noqa: BLE001 - it is that call's own answer: what is stored makes no sense
        name = str(call.args[0]) if call.script is None else call.script.name
        return nonsense(f"what {name} answered cannot be read ({error!r})", *_place_of(call), key=call.keys[0])


def _not_run(outcomes: Sequence[Outcome]) -> list[int]:
    """What met no script; and the gaps that this made behind it, where another client loaded it meanwhile."""
    words = [outcome.word if isinstance(outcome, Refusal) else "" for outcome in outcomes]
    if "NOSCRIPT" not in words:
        return []
    first = words.index("NOSCRIPT")
    return [i for i, word in enumerate(words) if word == "NOSCRIPT" or (word == "GAP" and i > first)]


def _unwrapped(error: Exception) -> Exception:
    """What was wrong: redis-py's asyncio connections put whatever the login said into a ``ConnectionError``."""
    cause = error.__cause__
    return cause if type(error) is redis.ConnectionError and isinstance(cause, redis.RedisError) else error


def _place_of(call: Call[Any]) -> tuple[str, int | None]:
    """What a call is about, read from its first key: a topic and a partition, or in words what else there is."""
    if not call.keys[0]:
        return "the server", None
    before, brace, rest = call.keys[0].partition("{")
    name = rest.partition("}")[0]
    if before.endswith(":g:"):
        return f"group {name}", None
    if not brace:
        return "the list of groups" if before.endswith(":groups") else "", None
    topic, _, partition = name.rpartition(":")
    return topic, int(partition)
