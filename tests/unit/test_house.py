"""The house keeps its own rules, as far as a test can tell."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULE_LINES = 500


def modules() -> Iterator[Path]:
    for path in sorted((ROOT / "pomerium_agent").rglob("*.py")):
        if "pb" not in path.relative_to(ROOT).parts:
            yield path


@pytest.mark.parametrize("path", list(modules()), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_says_what_it_is_and_fits_in_the_head(path: Path) -> None:
    text = path.read_text()

    assert len(text.splitlines()) <= MODULE_LINES
    assert ast.get_docstring(ast.parse(text)) or not text.strip(), "open with one sentence"


@pytest.mark.parametrize(
    "path", [p for p in modules() if p.name == "__init__.py"], ids=lambda path: str(path.relative_to(ROOT))
)
def test_a_package_only_names_what_it_offers(path: Path) -> None:
    body = ast.parse(path.read_text()).body
    allowed = (ast.Import, ast.ImportFrom, ast.Assign, ast.Expr)

    assert [ast.unparse(node) for node in body if not isinstance(node, allowed)] == []
