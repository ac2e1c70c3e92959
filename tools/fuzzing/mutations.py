"""Changes of an input: of its bytes, and of what looks like a number, a text or a bracket in it."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

MOST_BYTES = 1 << 17
_TOKEN = re.compile(rb'-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|"[^"\n]{0,200}"|[\[\]{}:,]|\w+')
_NUMBERS = (
    *(b"0", b"-1", b"1", b"-0.0", b"255", b"256", b"65536", b"1e5", b"1e308", b"1e309", b"-1e400", b"0.1"),
    *(str(2**power + step).encode() for power in (31, 32, 53, 63, 64) for step in (-1, 0, 1)),
    *(b"-9223372036854775809", b"9" * 400, b"9" * 5000, b"NaN", b"Infinity", b"-Infinity", b".inf", b"0x10", b"1_000"),
)
_WORDS = (
    *(b"null", b"true", b"false", b'""', b'"\\ud800"', b'"\\u0000"', b'"\xff\xfe"', b"[]", b"{}", b"[[]]", b"~"),
    *(b"!!python/object:os.system", b"&a *a", b"<<: *a", b"- -", b"? :", b"\x00", b"\xef\xbb\xbf", b"\r", b"\n\n"),
    *("\u202e\u0000\u2028é😀".encode(), b"%s%n", b"../../etc/passwd", b"file:///dev/zero", b"/dev/zero", b"a" * 5000),
)
_NESTS = (
    (b"[", b"]"),
    (b'{"a":', b"}"),
    (b"(", b")"),
    (b"\x91", b""),
    (b"\x81\xa1a", b""),
    (b"not ", b""),
    (b"- ", b""),
)
_SIZES = (
    b"\x00",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\xff\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\x00\x00\x00\x80",
    b"\xff" * 8,
)
_HEADS = (
    b"\xdc\xff\xff",
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xdb\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
)


def _flip(data: bytes, draw: random.Random, _: Sequence[bytes]) -> bytes:
    at = draw.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]


def _overwrite(data: bytes, draw: random.Random, _: Sequence[bytes]) -> bytes:
    at, value = draw.randrange(len(data)), draw.choice((*_SIZES, *_HEADS, draw.randbytes(draw.randrange(1, 9))))
    return data[:at] + value + data[at + len(value) :]


def _insert(data: bytes, draw: random.Random, _: Sequence[bytes]) -> bytes:
    at = draw.randrange(len(data) + 1)
    return data[:at] + draw.choice((*_WORDS, *_NUMBERS, *_SIZES, *_HEADS)) + data[at:]


def _remove(data: bytes, draw: random.Random, _: Sequence[bytes]) -> bytes:
    at = draw.randrange(len(data))
    return data[:at] + data[at + draw.choice((1, 1, 2, 4, 8, draw.randrange(1, len(data) + 1))) :]


def _cut(data: bytes, draw: random.Random, _: Sequence[bytes]) -> bytes:
    return data[: draw.randrange(len(data))]


def _repeat(data: bytes, draw: random.Random, _: Sequence[bytes]) -> bytes:
    at = draw.randrange(len(data))
    part = data[at : at + draw.randrange(1, 200)]
    return data[:at] + part * draw.choice((2, 3, 50, 500)) + data[at:]


def _splice(data: bytes, draw: random.Random, pool: Sequence[bytes]) -> bytes:
    other = draw.choice(pool) or b"\0"
    return data[: draw.randrange(len(data) + 1)] + other[draw.randrange(len(other)) :]


def _nest(data: bytes, draw: random.Random, _: Sequence[bytes]) -> bytes:
    (before, after), depth, at = draw.choice(_NESTS), draw.choice((2, 60, 1500, 20_000)), draw.randrange(len(data) + 1)
    end = draw.choice((at, len(data)))
    return data[:at] + before * depth + data[at:end] + after * depth + data[end:]


def _token(data: bytes, draw: random.Random, _: Sequence[bytes]) -> bytes:
    """Another value where a number, a text or a word is, or a token of the same input."""
    near = draw.randrange(len(data))
    found = [match.span() for match in _TOKEN.finditer(data, near, near + 1000)]
    if not found:
        return _insert(data, draw, ())
    begin, end = draw.choice(found)
    other_begin, other_end = draw.choice(found)
    value = draw.choice((draw.choice(_NUMBERS), draw.choice(_WORDS), data[other_begin:other_end], b""))
    return data[:begin] + value + data[end:]


def _line(data: bytes, draw: random.Random, _: Sequence[bytes]) -> bytes:
    """Lines in another order, or one of them twice or not at all."""
    lines = data.split(b"\n")
    at, to = draw.randrange(len(lines)), draw.randrange(len(lines))
    line = lines.pop(at) if draw.random() < 0.7 else lines[at]
    lines[to:to] = [line] * draw.choice((0, 1, 1, 2))
    return b"\n".join(lines)


_Change = Callable[[bytes, random.Random, Sequence[bytes]], bytes]
_CHANGES: tuple[_Change, ...] = (_flip, _overwrite, _insert, _remove, _cut, _repeat, _splice, _nest, _line)


def mutated(data: bytes, draw: random.Random, pool: Sequence[bytes]) -> bytes:
    """One to six changes; every other one of a token."""
    for _ in range(draw.choice((1, 1, 1, 2, 3, 6))):
        change = _token if draw.random() < 0.5 else draw.choice(_CHANGES)
        data = change(data or b"\0", draw, pool)[:MOST_BYTES]
    return data
