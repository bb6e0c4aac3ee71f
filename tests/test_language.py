"""Plain English: banned words and docstring openings, in code, docs, tests, benchmarks and examples."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

NOT_YET_REWRITTEN: tuple[str, ...] = ()
"""Files and folders that the check skips for now; the list only shrinks, and is empty in a release."""

BANNED_WORDS = re.compile(
    r"\b((?<!\.)told|tells|said|whoever|nobody|somebody|mended|mends|rubbish|anew|for\s+ever|ran\s+away|runs?\s+away|at\s+rest"
    r"|what\s+becomes\s+of|what\s+is\s+made\s+of|where\s+there\s+is\s+one|worth\s+a\s+word|come\s+to\s+nothing"
    r"|as\s+soon\s+as\s+that\s+is\s+wanted)\b",
    re.IGNORECASE,
)

BANNED_OPENINGS = re.compile(r"(how|what|where|when|which|who|whoever|whose|why|nothing|everything|everybody)\b", re.I)
"""A docstring says what its object is or does; it does not open with a riddle."""

NOUN_OPENINGS = re.compile(r"(a|an|the|no|one|some|every|each|all|its|has|is|does)\b", re.I)
"""Beside those, a function's docstring opens with a verb, or with "Whether" if it answers yes or no."""


PROSE = ("*.md", "docs/**/*.md", "docs/**/*.py", "benchmarks/*.md", "benchmarks/*.py")


def paths(pattern: str) -> list[str]:
    """Return the files to check, relative to the root, without those not yet rewritten and this one."""
    found = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob(pattern))
    done = [
        path for path in found if not any(path == each or path.startswith(f"{each}/") for each in NOT_YET_REWRITTEN)
    ]
    return [path for path in done if path != "tests/test_language.py" and "__pycache__" not in path]


def openings(tree: ast.Module, *, strict: bool) -> Iterator[tuple[int, str, re.Pattern[str]]]:
    """Yield each docstring's line, first line and the openings that are banned there; a test may state a fact."""
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for node in ast.walk(tree):
        if isinstance(node, kinds) and (doc := ast.get_docstring(node)):
            yield node.body[0].lineno, doc.splitlines()[0], BANNED_OPENINGS
            if strict and not isinstance(node, ast.Module | ast.ClassDef) and not _is_property(node):
                yield node.body[0].lineno, doc.splitlines()[0], NOUN_OPENINGS


def _is_property(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any("property" in ast.unparse(each) for each in function.decorator_list)


@pytest.mark.parametrize(
    "pattern",
    ["src/**/*.py*", "src/**/*.toml", "tests/**/*.py", "examples/*.py", *PROSE],
)
def test_no_banned_word_stands_in(pattern):
    found = [
        f"{path}:{text.count(chr(10), 0, match.start()) + 1}: {match[0]}"
        for path in paths(pattern)
        for text in [(ROOT / path).read_text()]
        for match in BANNED_WORDS.finditer(text)
    ]
    assert not found, "\n".join(["write these in plain English:", *found])


@pytest.mark.parametrize("pattern", ["src/**/*.py", "tests/**/*.py", "benchmarks/*.py", "examples/*.py"])
def test_no_docstring_opens_with_a_riddle_in(pattern):
    found = [
        f"{path}:{line}: {first}"
        for path in paths(pattern)
        for line, first, banned in openings(ast.parse((ROOT / path).read_text()), strict=path.startswith("src"))
        if banned.match(first)
    ]
    assert not found, "\n".join(["open these docstrings with a verb phrase, or with a noun for a class:", *found])


@pytest.mark.parametrize("text", ["it was told so", "chains ran\naway", "Whoever asks"])
def test_banned_words_are_found_in(text):
    assert BANNED_WORDS.search(text)
    assert not BANNED_WORDS.search("foretold, _said and toldness are other words")
