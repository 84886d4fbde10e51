"""Classes of the application's own, read and written as JSON by the library that knows them.

Pydantic models, dataclasses and msgspec structs will do; the library is loaded when its first class comes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import fields, is_dataclass
from functools import lru_cache
from importlib.util import find_spec
from operator import attrgetter
from typing import Any, Final, Protocol

from evsession.canonical import dumps
from evsession.errors import Unsupported

_MAX_CLASSES: Final = 256
"""Classes whose adapters are kept: more than an application writes down."""

_AT: Final = re.compile(r"(.*) - at `\$\.?(.*)`", re.DOTALL)
_MISSING: Final = re.compile(r"Object missing required field `(.*)`")


class Adapter(Protocol):
    """Reads and writes objects of one class as JSON, by one library."""

    def load(self, raw: bytes) -> Any:
        """Return an object of the class.

        Raises:
            Misfit: the JSON does not fit the class.
        """

    def dump(self, model: Any) -> bytes:
        """Return an object as JSON, of equal objects always the same.

        Raises:
            Misfit: a field holds what has no JSON form.
        """

    def builtins(self, model: Any) -> dict[str, Any]:
        """Return the fields of an object that can be dumped, as JSON has them, each number as it is."""

    def assign(self, model: Any, newer: Any) -> None:
        """Give an object the fields of another one, also if the class is frozen."""

    values: Callable[[Any], tuple[Any, ...]]
    """Returns the values of all fields that the class names."""

    is_open: bool
    """Whether its objects have further fields."""


class Misfit(Exception):
    """A field's path within an object, ``""`` for the object itself, and what is wrong with it."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(path, problem)
        self.path = path
        self.problem = problem


def adapter_of(type_: Any) -> Adapter:
    """Return what reads and writes objects of a class.

    Raises:
        Unsupported: it is of no kind that can be checked, or the library that checks it is missing.
    """
    if isinstance(type_, type) and (adapter := _adapter_of(type_)) is not None:
        return adapter
    name = getattr(type_, "__name__", type(type_).__name__)
    raise Unsupported(f"{name} as a session's model", "use a Pydantic model, a dataclass or a msgspec struct")


@lru_cache(_MAX_CLASSES)
def _adapter_of(type_: Any) -> Adapter | None:
    if hasattr(type_, "__struct_fields__"):
        return _Msgspec(type_, type_.__struct_fields__)
    if hasattr(type_, "model_fields"):
        return _Pydantic(type_, tuple(type_.model_fields))
    return _for_dataclass(type_) if is_dataclass(type_) else None


def _for_dataclass(type_: Any) -> Adapter:
    names = tuple(field.name for field in fields(type_))
    if find_spec("pydantic") is not None:
        return _Pydantic(type_, names)
    if find_spec("msgspec") is not None:
        return _Msgspec(type_, names)
    raise Unsupported(f"dataclass {type_.__name__} as a session's model", "install pydantic or msgspec to check it")


class _Pydantic:
    """Pydantic models and dataclasses."""

    def __init__(self, type_: type[Any], names: tuple[str, ...]) -> None:
        from pydantic import TypeAdapter, ValidationError
        from pydantic.errors import PydanticUserError
        from pydantic_core import PydanticSerializationError

        adapter = TypeAdapter(type_)
        with suppress(PydanticUserError):  # a schema that cannot be had says nothing
            _check_readable(type_.__name__, dumps(adapter.json_schema(mode="serialization")))
        self._validate = adapter.validator.validate_json
        self._write = adapter.serializer.to_json
        self._simplify = adapter.serializer.to_python
        self._names = names
        self.values = _values_of(names)
        self.is_open = getattr(type_, "model_config", {}).get("extra") == "allow"
        self._invalid = ValidationError
        self._unwritable = PydanticSerializationError

    def load(self, raw: bytes) -> Any:
        try:
            return self._validate(raw)
        except self._invalid as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            raise Misfit(_path(first["loc"]), first["msg"]) from error

    def dump(self, model: Any) -> bytes:
        try:
            return self._write(model, by_alias=True, round_trip=True, warnings=False)
        except self._unwritable as error:
            raise _unwritable(self._names, lambda name: self._dump_field(model, name), self._unwritable) from error

    def builtins(self, model: Any) -> dict[str, Any]:
        fields: dict[str, Any] = self._simplify(model, mode="json", by_alias=True, round_trip=True, warnings=False)
        return fields

    def _dump_field(self, model: Any, name: str) -> bytes:
        return self._write(model, include={name}, warnings=False)

    def assign(self, model: Any, newer: Any) -> None:
        for name in self._names:
            object.__setattr__(model, name, getattr(newer, name))
        for name in ("__pydantic_fields_set__", "__pydantic_extra__"):
            if hasattr(newer, name):
                object.__setattr__(model, name, getattr(newer, name))


class _Msgspec:
    """Structs of msgspec, and dataclasses where there is no Pydantic."""

    def __init__(self, type_: type[Any], names: tuple[str, ...]) -> None:
        import msgspec

        self._msgspec = msgspec
        self._decoder = msgspec.json.Decoder(type_)
        self._names = names
        self.values = _values_of(names)
        self._unwritable = (TypeError, ValueError, msgspec.MsgspecError)
        self.is_open = False
        self._is_struct = hasattr(type_, "__struct_fields__")

    def load(self, raw: bytes) -> Any:
        try:
            return self._decoder.decode(raw)
        except self._msgspec.ValidationError as error:
            raise _misfit(str(error)) from error

    def dump(self, model: Any) -> bytes:
        encode = self._msgspec.json.encode
        try:
            return encode(model, order="deterministic")
        except self._unwritable as error:
            raise _unwritable(self._names, lambda name: encode(getattr(model, name)), self._unwritable) from error

    def builtins(self, model: Any) -> dict[str, Any]:
        fields: dict[str, Any] = self._msgspec.to_builtins(model, str_keys=True)
        return fields

    def assign(self, model: Any, newer: Any) -> None:
        put = self._msgspec.structs.force_setattr if self._is_struct else object.__setattr__
        for name in self._names:
            put(model, name, getattr(newer, name))


def _check_readable(name: str, schema: bytes) -> None:
    """Raise for fields such as `SecretStr`, whose JSON is a row of stars: a change of one would be lost in silence."""
    if b'"writeOnly":true' in schema:
        way_out = "give it @field_serializer(…, when_used='json') that returns its value, or use str"
        raise Unsupported(f"a secret field of {name}, which hides itself in JSON,", way_out)


def _values_of(names: tuple[str, ...]) -> Callable[[Any], tuple[Any, ...]]:
    """Return a function that gives the values of an object's fields."""
    if len(names) > 1:
        return attrgetter(*names)
    return lambda model: tuple(getattr(model, name) for name in names)


def _unwritable(names: Iterable[str], dump: Callable[[str], object], errors: Any) -> Misfit:
    """Return the misfit of the first field that cannot be written by itself."""
    for name in names:
        try:
            dump(name)
        except errors:
            return Misfit(name, "it has no JSON form")
    return Misfit("", "it has no JSON form")


def _path(loc: Iterable[int | str]) -> str:
    """Return the path of a field as errors show it: ``items[0].name``."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).removeprefix(".")


def _misfit(text: str) -> Misfit:
    """Read what msgspec says of a misfit: the problem, and where it is if that is within the object."""
    found = _AT.fullmatch(text)
    problem, path = (found[1], found[2]) if found else (text, "")
    missing = _MISSING.fullmatch(problem)
    if missing:
        return Misfit(f"{path}.{missing[1]}".removeprefix("."), "it is missing")
    return Misfit(path, problem)
