"""The pages in docs/reference are what the table of fields and the tests say."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ("coverage.md", "routes.md", "settings.md")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("reference")
    subprocess.run([sys.executable, ROOT / "tools" / "reference.py", target], check=True, cwd=ROOT)
    return target


@pytest.mark.parametrize("name", PAGES)
def test_a_page_of_the_reference_is_as_make_reference_writes_it(written: Path, name: str) -> None:
    checked_in = (ROOT / "docs" / "reference" / name).read_text()

    assert (written / name).read_text() == checked_in, "run `make reference`"
