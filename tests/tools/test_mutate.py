"""The tool that asks whether tests notice: which changes it makes, how it draws them, what it runs and keeps."""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

mutations: Any = import_module("checks.mutations")
mutate: Any = import_module("mutate")

SOURCE = '''"""A docstring with 1 < 2."""


def rest(count: int = 0, limit: "int | None" = None) -> int:
    """Not 1 - 1."""
    if count < 1 and limit is not None:
        count += 1
    # a comment: 0
    return -count if not (limit) else (count + 0) * 2 - len(f"{count - 1}ä 1")
'''


def lines_of(source: str) -> list[tuple[str, str]]:
    return [(change.kind, change.after) for change in mutations.changes(source)]


def test_a_change_is_a_comparison_a_sign_a_constant_a_negated_if_logic_or_a_dropped_not() -> None:
    assert lines_of(SOURCE) == [
        ("constant", 'def rest(count: int = 1, limit: "int | None" = None) -> int:'),
        ("negated if", "if not (count < 1 and limit is not None):"),
        ("comparison", "if count <= 1 and limit is not None:"),
        ("comparison", "if count >= 1 and limit is not None:"),
        ("constant", "if count < 0 and limit is not None:"),
        ("and/or", "if count < 1 or limit is not None:"),
        ("comparison", "if count < 1 and limit is None:"),
        ("arithmetic", "count -= 1"),
        ("constant", "count += 0"),
        ("sign", 'return count if not (limit) else (count + 0) * 2 - len(f"{count - 1}ä 1")'),
        ("dropped not", 'return -count if  (limit) else (count + 0) * 2 - len(f"{count - 1}ä 1")'),
        ("negated if", 'return -count if not (not (limit)) else (count + 0) * 2 - len(f"{count - 1}ä 1")'),
        ("arithmetic", 'return -count if not (limit) else (count - 0) * 2 - len(f"{count - 1}ä 1")'),
        ("constant", 'return -count if not (limit) else (count + 1) * 2 - len(f"{count - 1}ä 1")'),
        ("arithmetic", 'return -count if not (limit) else (count + 0) / 2 - len(f"{count - 1}ä 1")'),
        ("arithmetic", 'return -count if not (limit) else (count + 0) * 2 + len(f"{count - 1}ä 1")'),
    ]
    assert {change.where for change in mutations.changes(SOURCE + "LIMIT = 1\n")} == {"", "rest"}


def test_a_change_of_the_runtime_is_another_program_that_still_parses() -> None:
    for path in mutate.modules(mutate.ROOT):
        source = (mutate.ROOT / path).read_text(encoding="utf-8")
        original = ast.parse(source)
        for change in mutations.changes(source)[::97]:
            before = statement_at(original, change.line)
            first = min(part.lineno for part in (before, *getattr(before, "decorator_list", ())))
            lines = change.applied(source).splitlines()[first - 1 : before.end_lineno]
            (changed,) = ast.parse("\n".join(lines)).body
            assert ast.dump(changed) != ast.dump(before), f"{path}:{change.line}: {change.after}"


def statement_at(module: ast.Module, line: int) -> ast.stmt:
    """The statement of a module that a line belongs to, a class or function as a whole."""
    return next(statement for statement in module.body if (statement.end_lineno or line) >= line)


def test_the_sample_is_fixed_and_an_edit_elsewhere_leaves_it_alone() -> None:
    before = {"a.py": mutations.changes(SOURCE), "b.py": mutations.changes("x = 1 + 1\n")}
    drawn = mutations.sample(before, 6, seed=1)
    assert len(drawn) == 6 and drawn == mutations.sample(before, 6, seed=1)
    assert drawn != mutations.sample(before, 6, seed=2)
    longer = {"a.py": mutations.changes("import os\n\n" + SOURCE), "b.py": before["b.py"]}
    assert [change.after for _, change in mutations.sample(longer, 6, seed=1)] == [change.after for _, change in drawn]


def result(outcome: str, module_sha256: str = "m", tests_sha256: str = "t") -> Any:
    return mutate.Result("wire/a", 3, "f", "sign", "-x", "x", outcome, "", module_sha256, tests_sha256)


@pytest.mark.parametrize(
    ("stored", "asked", "kept"),
    [
        (result("noticed"), result("pending"), True),
        (result("noticed"), result("pending", tests_sha256="new"), True),
        (result("survived"), result("pending"), True),
        (result("survived"), result("pending", tests_sha256="new"), False),  # the new tests may notice it
        (result("noticed"), result("pending", module_sha256="new"), False),
    ],
)
def test_a_result_is_kept_until_what_it_depends_on_changes(tmp_path: Path, stored: Any, asked: Any, kept: bool) -> None:
    mutate.Store(tmp_path / "r/results.json").add(stored)
    assert mutate.Store(tmp_path / "r/results.json").known(asked) == (stored if kept else None)


def test_the_report_counts_the_noticed_and_lists_the_survivors() -> None:
    results = [result("noticed"), result("noticed"), result("survived"), result("equivalent")]
    text, share = mutate.report(results)
    assert share == pytest.approx(2 / 3)
    assert text.splitlines() == [
        "runtime/clcr_stream/wire/a.py:3: -x  ->  x",
        "2 of 3 changes noticed (66.7%), 1 more are equivalent",
    ]


def test_a_change_that_tests_notice_is_told_from_one_that_they_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small repository with one module and one test, changed in a copy; the original keeps its bytes."""
    root = tmp_path / "repository"
    (root / "runtime/clcr_stream/wire").mkdir(parents=True)
    (root / "tests/wire").mkdir(parents=True)
    for name in ("__init__.py", "wire/__init__.py"):
        (root / "runtime/clcr_stream" / name).touch()
    source = (
        "def over(x: int) -> bool:\n    return x > 1\n\n\n"
        "def unused(x: int) -> int:\n    return -x\n\n\n"
        "def twice(x: int) -> int:\n    return x + x\n"
    )
    (root / "runtime/clcr_stream/wire/a.py").write_text(source, encoding="utf-8")
    test = (
        "import pytest\nfrom clcr_stream.wire.a import over, twice\n\n"
        "def test_over():\n    assert over(2) and not over(1)\n\n"
        "@pytest.mark.slow\ndef test_twice():\n    assert twice(2) == 4\n"
    )
    (root / "tests/wire/test_a.py").write_text(test, encoding="utf-8")
    options = '[tool.pytest.ini_options]\npythonpath = ["runtime"]\nmarkers = ["slow", "device", "gpu", "data"]\n'
    (root / "pyproject.toml").write_text(options, encoding="utf-8")
    monkeypatch.setattr(mutate, "ROOT", root)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # the small repository needs none
    monkeypatch.setattr(mutate, "files", lambda folder: [p.relative_to(folder) for p in folder.rglob("*.[pt]*")])
    path = Path("runtime/clcr_stream/wire/a.py")
    drawn = [(path, change) for change in mutations.changes(source)]
    results = mutate.judge_all(drawn, mutate.Store(tmp_path / "results.json"), jobs=1)
    assert [(r.kind, r.outcome) for r in results] == [
        ("comparison", "noticed"),
        ("comparison", "noticed"),
        ("constant", "noticed"),
        ("sign", "survived"),
        ("arithmetic", "noticed"),
    ]
    assert {r.by for r in results} == {"tests/wire/test_a.py::test_over", "tests/wire/test_a.py::test_twice", ""}
    assert results[-1].by.endswith("test_twice"), "slow tests are asked where the fast ones notice nothing"
    assert (root / path).read_text(encoding="utf-8") == source


def test_every_module_of_the_runtime_has_tests_of_its_own() -> None:
    assert mutate.gaps(mutate.ROOT) == []
