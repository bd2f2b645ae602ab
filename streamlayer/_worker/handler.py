"""A handler: what its parameters want of a record, and how it is called.

The rule: a value that does not fit is ``InvalidRecordError``, before the handler is called; whatever else is raised
is the handler's own.
"""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from pydantic import PydanticUndefinedAnnotation, PydanticUserError, TypeAdapter, ValidationError

from streamlayer._types import ConsumerRecord
from streamlayer.errors import ConfigurationError, StreamlayerError

Record = ConsumerRecord[Any, Any]
Reader = Callable[[Record], Any]


class InvalidRecordError(StreamlayerError):
    """A record's value is not what the handler's annotation says. It is not tried again."""


class Handler:
    """A user's function, and what each of its parameters is given of a record.

    :param call: the function, or whatever can be called.
    :param names: what annotations may name beside what is global where it was written.
    :ivar name: as logs call it.
    :ivar call: the function.
    :ivar is_async: whether what it returns is awaited; else it runs in a thread.
    :ivar takes_batches: whether it takes lists.
    :raises ConfigurationError: a parameter has no annotation, or one that says nothing.
    """

    def __init__(self, call: Callable[..., Any], names: Mapping[str, Any]) -> None:
        self.call = call
        self.name = getattr(call, "__qualname__", None) or repr(call)
        inner = _inner(call)
        self.is_async = inspect.iscoroutinefunction(inner)
        if inspect.isgeneratorfunction(inner) or inspect.isasyncgenfunction(inner):
            msg = f"handler {self.name} is a generator, which nobody runs: have it return a list instead of yielding"
            raise ConfigurationError(msg)
        self._globals: Mapping[str, Any] = getattr(inspect.unwrap(inner), "__globals__", {})
        self.takes_batches = False
        self._readers: dict[str, Reader] = {}
        self._adapters: list[tuple[inspect.Parameter, TypeAdapter[Any]]] = []
        self._read_parameters(names)

    def _read_parameters(self, names: Mapping[str, Any]) -> None:
        batches: set[bool] = set()
        wants_value = False
        for parameter in inspect.signature(self.call).parameters.values():
            if parameter.kind in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}:
                continue
            if parameter.default is not parameter.empty:
                continue  # it is the user's own
            annotation = self._annotation(parameter, names)
            if annotation is None or parameter.kind is parameter.KEYWORD_ONLY:
                self._refuse(parameter, "it needs an annotation, and to be positional")
            item = _list_item(annotation)
            batches.add(item is not None)
            reader, is_value = self._reader(parameter, annotation if item is None else item)
            if is_value and wants_value:
                self._refuse(parameter, "there is one for the value already")
            wants_value = wants_value or is_value
            self._readers[parameter.name] = reader
        if not self._readers:
            msg = f"handler {self.name} takes nothing: give it a parameter for the value, such as `order: Order`"
            raise ConfigurationError(msg)
        if len(batches) > 1:
            msg = f"handler {self.name} mixes lists and single values: a batch is list[…] in every parameter"
            raise ConfigurationError(msg)
        self.takes_batches = batches.pop()

    def _annotation(self, parameter: inspect.Parameter, names: Mapping[str, Any]) -> Any:
        annotation = parameter.annotation
        if annotation is parameter.empty:
            return None
        texts = types.SimpleNamespace(__annotations__={parameter.name: annotation})
        try:  # it may be a text, or have texts in it
            known = {**self._globals, **names}
            return typing.get_type_hints(texts, known, include_extras=True)[parameter.name]
        except Exception as error:  # noqa: BLE001 - whatever it is, the annotation cannot be read
            self._refuse(parameter, f"its annotation {parameter.annotation!r} cannot be read: {error}")

    def _reader(self, parameter: inspect.Parameter, annotation: Any) -> tuple[Reader, bool]:
        bare = _bare(annotation)
        if bare is ConsumerRecord or typing.get_origin(bare) is ConsumerRecord:
            return _itself, False
        plain, optional = _without_none(bare)
        core = _bare(plain)
        read = next((readers[optional] for kind, readers in _STORED.items() if core is kind), None)
        if read is not None and bare is annotation and core is plain:
            return read, True  # nothing more is said of it
        try:
            adapter: TypeAdapter[Any] = TypeAdapter(annotation)
        except (PydanticUserError, PydanticUndefinedAnnotation) as error:
            self._refuse(parameter, f"{annotation!r} is nothing that pydantic validates: {error}")
        self._adapters.append((parameter, adapter))
        return _validator(adapter, read), True

    def check(self) -> None:
        """Look whether models are complete by now, which may name others that come later in their module.

        :raises ConfigurationError: one is not: no record would ever be valid.
        """
        for parameter, adapter in self._adapters:
            if not getattr(adapter, "pydantic_complete", True):
                try:
                    adapter.rebuild()
                except PydanticUndefinedAnnotation as error:
                    self._refuse(parameter, f"{parameter.annotation!r} names what is not there: {error}")

    def _refuse(self, parameter: inspect.Parameter, why: str) -> typing.NoReturn:
        msg = (
            f"handler {self.name}, parameter {parameter.name}: {why}. A parameter is a pydantic model (or what "
            "pydantic validates from JSON), bytes, str, dict, ConsumerRecord, or a list of one of them"
        )
        raise ConfigurationError(msg)

    def arguments(self, record: Record) -> list[Any]:
        """What to call it with for a record.

        :raises InvalidRecordError: the value does not fit.
        """
        return [reader(record) for reader in self._readers.values()]

    def batch(self, arguments: Sequence[list[Any]]) -> list[list[Any]]:
        """What to call it with for the records that these are the arguments of."""
        return [list(column) for column in zip(*arguments, strict=True)]


_NONE: Final = type(None)


def _inner(call: Any) -> Any:
    """What a call runs: the function in a ``partial``, the ``__call__`` of an object."""
    while isinstance(call, functools.partial):
        call = call.func
    return call if inspect.isroutine(call) else getattr(call, "__call__", call)  # noqa: B004 - its type's


def _list_item(annotation: Any) -> Any:
    """Of what a list is; ``None`` if the annotation is none."""
    if annotation is list:
        return dict
    if typing.get_origin(annotation) is list:
        return next(iter(typing.get_args(annotation)), dict)
    return None


def _bare(annotation: Any) -> Any:
    """Without what ``Annotated`` and ``NewType`` say beside the type."""
    while True:
        if typing.get_origin(annotation) is typing.Annotated:
            annotation = typing.get_args(annotation)[0]
        elif isinstance(annotation, typing.NewType):
            annotation = annotation.__supertype__
        else:
            return annotation


def _without_none(annotation: Any) -> tuple[Any, bool]:
    if typing.get_origin(annotation) in {typing.Union, types.UnionType}:
        rest = [arg for arg in typing.get_args(annotation) if arg is not _NONE]
        if len(rest) == 1:
            return rest[0], len(rest) < len(typing.get_args(annotation))
    return annotation, False


def _itself(record: Record) -> Record:
    return record


def _value(record: Record) -> Any:
    return record.value


def _value_needed(record: Record) -> Any:
    if record.value is None:
        msg = "the value is null"
        raise InvalidRecordError(msg)
    return record.value


def _text(record: Record) -> Any:
    return None if record.value is None else _text_needed(record)


def _text_needed(record: Record) -> str:
    try:
        return str(_value_needed(record), "utf-8")
    except UnicodeDecodeError as error:
        msg = f"the value is not UTF-8: {error}"
        raise InvalidRecordError(msg) from error


_STORED: Final[dict[Any, tuple[Reader, Reader]]] = {bytes: (_value_needed, _value), str: (_text_needed, _text)}
"""How these are read as they are stored, which is no JSON: where a null does not fit, and where it does."""


def _validator(adapter: TypeAdapter[Any], read: Reader | None) -> Reader:
    """What pydantic makes of a value.

    :param read: how it is stored, if that is no JSON.
    """
    from_json, from_python = adapter.validate_json, adapter.validate_python

    def validated(record: Record) -> Any:
        value = record.value
        try:
            if read is not None:
                return from_python(read(record))
            return from_python(None) if value is None else from_json(value)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            at = ".".join(map(str, first["loc"]))
            msg = f"the value is not valid{' at ' + at if at else ''}: {first['msg']} ({error.error_count()} in all)"
            raise InvalidRecordError(msg) from error

    return validated
