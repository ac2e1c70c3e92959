"""One-place changes of a Python source that its tests should notice: a comparison, a sign, a 0 for a 1, a negated if.

A change is a span of text and what stands there instead; the rest of the file keeps its bytes. Annotations, docstrings
and texts (f-strings included) are left alone: what they say is not behaviour.
"""

from __future__ import annotations

import ast
import hashlib
import io
import itertools
import tokenize
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

# Text of an operator -> what may stand in its place; of two, the first is the boundary and the second the opposite.
COMPARISONS = {
    "<": ("<=", ">="),
    "<=": ("<", ">"),
    ">": (">=", "<="),
    ">=": (">", "<"),
    "==": ("!=",),
    "!=": ("==",),
    "is": ("is not",),
    "is not": ("is",),
    "in": ("not in",),
    "not in": ("in",),
}
ARITHMETIC = {"+": ("-",), "-": ("+",), "*": ("/",), "/": ("*",), "//": ("*",), "%": ("*",)}
LOGIC = {"and": ("or",), "or": ("and",)}


@dataclass(frozen=True)
class Change:
    """What one change does: offsets into the text, and the names under which a report shows it."""

    start: int
    end: int
    text: str
    kind: str
    line: int
    where: str  # the function or class around it, dotted; "" at module level
    before: str  # the line
    after: str

    def applied(self, source: str) -> str:
        """The source with this change."""
        return source[: self.start] + self.text + source[self.end :]


def changes(source: str) -> list[Change]:
    """Every change that this source allows, in the order of their places."""
    return sorted(_Finder(source).changes(), key=lambda change: (change.start, change.text))


def sample(by_path: Mapping[str, Sequence[Change]], count: int, seed: int) -> list[tuple[str, Change]]:
    """`count` changes, drawn by hash: an edit elsewhere in the code leaves the rest of the sample as it was."""
    ranked: list[tuple[str, str, Change]] = []
    for path, found in by_path.items():
        occurrences: Counter[str] = Counter()
        for change in found:
            key = f"{seed}|{path}|{change.where}|{change.before}|{change.after}"
            occurrences[key] += 1
            ranked.append((hashlib.sha256(f"{key}|{occurrences[key]}".encode()).hexdigest(), path, change))
    chosen = sorted(ranked, key=lambda entry: entry[0])[:count]
    return sorted(((path, change) for _, path, change in chosen), key=lambda pair: (pair[0], pair[1].start))


class _Finder:
    def __init__(self, source: str) -> None:
        self._source = source
        self._lines = source.splitlines(keepends=True)
        self._starts = [0]
        for line in self._lines:
            self._starts.append(self._starts[-1] + len(line))
        self._tree = ast.parse(source)
        self._tokens = [
            (self._starts[token.start[0] - 1] + token.start[1], token)
            for token in tokenize.generate_tokens(io.StringIO(source).readline)
            if token.type in (tokenize.OP, tokenize.NAME)
        ]

    def changes(self) -> Iterator[Change]:
        yield from self._walk(self._tree, "")

    def _walk(self, node: ast.AST, where: str) -> Iterator[Change]:
        yield from self._of(node, where)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            where = f"{where}.{node.name}" if where else node.name
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list") or isinstance(node, ast.JoinedStr):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from self._walk(child, where)

    def _of(self, node: ast.AST, where: str) -> Iterator[Change]:
        if isinstance(node, ast.Compare):
            operands = [node.left, *node.comparators]
            yield from self._between(operands, COMPARISONS, "comparison", where)
        elif isinstance(node, ast.BinOp):
            yield from self._between([node.left, node.right], ARITHMETIC, "arithmetic", where)
        elif isinstance(node, ast.BoolOp):
            yield from self._between(node.values, LOGIC, "and/or", where)
        elif isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add | ast.Sub):
            yield from self._between([node.target, node.value], {"+=": ("-=",), "-=": ("+=",)}, "arithmetic", where)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
            kind, operator = ("dropped not", "not") if isinstance(node.op, ast.Not) else ("sign", "-")
            yield self._change(self._start(node), self._start(node) + len(operator), "", kind, where)
        elif isinstance(node, ast.If | ast.IfExp):
            start, end = self._start(node.test), self._end(node.test)
            yield self._change(start, end, f"not ({self._source[start:end]})", "negated if", where)
        elif isinstance(node, ast.Constant) and type(node.value) in (bool, int) and node.value in (0, 1):
            text = {"0": "1", "1": "0", "True": "False", "False": "True"}.get(self._text(node))
            if text is not None:
                yield self._change(self._start(node), self._end(node), text, "constant", where)

    def _between(
        self, operands: Sequence[ast.expr], table: Mapping[str, tuple[str, ...]], kind: str, where: str
    ) -> Iterator[Change]:
        """The operators that stand between neighbours of `operands`, each with all that may stand there instead."""
        for left, right in itertools.pairwise(operands):
            first, last = self._end(left), self._start(right)
            tokens = [(at, t.string) for at, t in self._tokens if first <= at < last and t.string not in "()"]
            if not tokens:
                continue
            start, end = tokens[0][0], tokens[-1][0] + len(tokens[-1][1])
            for text in table.get(" ".join(string for _, string in tokens), ()):
                yield self._change(start, end, text, kind, where)

    def _change(self, start: int, end: int, text: str, kind: str, where: str) -> Change:
        line = self._source.count("\n", 0, start) + 1
        changed = self._source[:start] + text + self._source[end:]
        after = changed[self._starts[line - 1] :].split("\n", 1)[0]
        return Change(start, end, text, kind, line, where, self._lines[line - 1].strip(), after.strip())

    def _text(self, node: ast.expr) -> str:
        return self._source[self._start(node) : self._end(node)]

    def _start(self, node: ast.expr) -> int:
        return self._offset(node.lineno, node.col_offset)

    def _end(self, node: ast.expr) -> int:
        return self._offset(node.end_lineno or node.lineno, node.end_col_offset or node.col_offset)

    def _offset(self, line: int, column_bytes: int) -> int:
        """Offset in characters of a place that the parser gives in UTF-8 bytes."""
        column = len(self._lines[line - 1].encode()[:column_bytes].decode())
        return self._starts[line - 1] + column
