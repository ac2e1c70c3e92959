"""Conditions on messages, as `label == anger and confidence > 0.6`: read once, never evaluated as code."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec
from msgspec import inspect

from clcr_stream.errors import ConfigError
from clcr_stream.wire.messages import TYPES, Kind

Plain: TypeAlias = Any  # null, a truth, number or text, or a list or table of them
Condition: TypeAlias = Callable[[Mapping[str, Plain]], bool]

READ: tuple[str, ...] = ("age_ms", "missed", "new_session")  # what the reader knows besides the message
HELP = (
    "fields with ==, !=, <, <=, >, >= or contains, joined by and, or, not and brackets: "
    "label == anger and confidence > 0.6"
)
_TOKEN = re.compile(
    r"""\s*(?:(?P<op>==|!=|<=|>=|<|>|\(|\))|(?P<text>'[^']*'|"[^"]*")|(?P<word>[^\s()<>=!'"]+))""", re.VERBOSE
)
_ORDERED = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_OPERATORS = ("==", "!=", *_ORDERED, "contains")
_WORDS = {"true": True, "false": False, "null": None}
_MOST_TOKENS = 200  # also bounds the depth


def parse_where(text: str, kinds: Sequence[Kind]) -> Condition:
    """The condition that a text describes, for messages of these kinds as `plain` gives them. ConfigError."""
    return _Parser(text, kinds).whole()


def field_of(path: str, message: Mapping[str, Plain]) -> Plain:
    """The value at a dotted path, null where there is none: `probs.anger`, `modalities.vision.quality`."""
    value: Plain = message
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def check_field(path: str, kinds: Sequence[Kind]) -> None:
    """ConfigError, with the names that are there, when no message of these kinds can have a field."""
    first, *rest = path.split(".")
    if first in READ and not rest:
        return
    infos = [inspect.type_info(TYPES[kind]) for kind in kinds]
    for depth, name in enumerate((first, *rest)):
        known = sorted({field for info in infos for field in _names(info)})
        following = [found for info in infos for found in _inner(info, name)]
        if not following:
            at = ".".join((first, *rest)[:depth])
            allowed = (*known, *READ) if depth == 0 else known
            raise ConfigError(
                f"field {path!r}: there is no {name!r}{f' in {at}' if at else ''}; "
                + (f"allowed are {', '.join(allowed)}" if allowed else "it holds no fields")
            )
        infos = following


def _names(info: inspect.Type) -> list[str]:
    if isinstance(info, inspect.StructType):
        return [field.encode_name for field in info.fields] + ([info.tag_field] if info.tag_field else [])
    return [name for one in info.types for name in _names(one)] if isinstance(info, inspect.UnionType) else []


def _inner(info: inspect.Type, name: str) -> list[inspect.Type]:
    if isinstance(info, inspect.UnionType):
        return [found for one in info.types for found in _inner(one, name)]
    if isinstance(info, inspect.DictType):
        return [info.value_type]
    if isinstance(info, inspect.StructType):
        if name == info.tag_field:
            return [inspect.StrType()]
        return [field.type for field in info.fields if field.encode_name == name]
    return []


class _Parser:
    """Recursive descent over the tokens; `or` binds weaker than `and`, `and` weaker than `not`."""

    def __init__(self, text: str, kinds: Sequence[Kind]) -> None:
        self._text = text
        self._kinds = kinds
        self._tokens: list[tuple[str, str]] = []
        at, end = 0, len(text.rstrip())
        while at < end:
            match = _TOKEN.match(text, at)
            if match is None:
                raise self._error(f"not understood at {text[at : at + 20]!r}")
            self._tokens.append((match.lastgroup or "", match[match.lastgroup or 0]))
            at = match.end()
        if len(self._tokens) > _MOST_TOKENS:
            raise self._error(f"longer than {_MOST_TOKENS} words")

    def whole(self) -> Condition:
        condition = self._any_of()
        if self._tokens:
            raise self._error(f"{self._tokens[0][1]!r} is not expected there")
        return condition

    def _any_of(self) -> Condition:
        parts = [self._all_of()]
        while self._take("word", "or"):
            parts.append(self._all_of())
        return parts[0] if len(parts) == 1 else lambda message: any(part(message) for part in parts)

    def _all_of(self) -> Condition:
        parts = [self._one()]
        while self._take("word", "and"):
            parts.append(self._one())
        return parts[0] if len(parts) == 1 else lambda message: all(part(message) for part in parts)

    def _one(self) -> Condition:
        if self._take("word", "not"):
            inner = self._one()
            return lambda message: not inner(message)
        if self._take("op", "("):
            inner = self._any_of()
            if not self._take("op", ")"):
                raise self._error("a bracket is not closed")
            return inner
        return self._comparison()

    def _comparison(self) -> Condition:
        kind, path = self._next("a field")
        if kind != "word":
            raise self._error(f"{path!r} stands where a field is expected")
        check_field(path, self._kinds)
        if not self._tokens or self._tokens[0][1] not in _OPERATORS:
            return lambda message: bool(field_of(path, message))
        _, name = self._next("an operator")
        value = self._value()
        if name in _ORDERED:
            if isinstance(value, bool) or not isinstance(value, float):
                raise self._error(f"{name} compares numbers, {value!r} is none")
            return _ordered(_ORDERED[name], path, value)
        if name == "contains":
            return lambda message: _contains(field_of(path, message), value)
        equal = name == "=="
        return lambda message: _same(field_of(path, message), value) is equal

    def _value(self) -> Plain:
        kind, text = self._next("a value")
        if kind == "op":
            raise self._error(f"{text!r} stands where a value is expected")
        if kind == "text":
            return text[1:-1]
        try:
            number = float(text)
        except ValueError:
            return _WORDS.get(text, text)
        return number if math.isfinite(number) else text

    def _next(self, what: str) -> tuple[str, str]:
        if not self._tokens:
            raise self._error(f"{what} is missing at its end")
        return self._tokens.pop(0)

    def _take(self, kind: str, text: str) -> bool:
        if self._tokens[:1] != [(kind, text)]:
            return False
        self._tokens.pop(0)
        return True

    def _error(self, why: str) -> ConfigError:
        return ConfigError(f"--where {self._text!r}: {why}; allowed are {HELP}")


def _ordered(compare: Callable[[float, float], bool], path: str, value: float) -> Condition:
    def holds(message: Mapping[str, Plain]) -> bool:
        found = field_of(path, message)
        return isinstance(found, (int, float)) and compare(found, value)

    return holds


def _same(found: Plain, value: Plain) -> bool:
    if value is None or isinstance(value, bool):
        return found is value
    return bool(found == value) and not isinstance(found, bool)


def _contains(found: Plain, value: Plain) -> bool:
    if isinstance(found, str):
        return str(value) in found
    return isinstance(found, (list, tuple, Mapping)) and value in found


def plain(message: msgspec.Struct, **read: Plain) -> dict[str, Plain]:
    """A message as nulls, truths, numbers, texts, lists and tables, with what its reader knows."""
    return {**msgspec.to_builtins(message), **read}
