"""The pages in docs/reference are what the table of fields and the tests say."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pomerium_agent.config.reference import SETTINGS_TOPICS

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
LINK = re.compile(r"\]\(([^):]+\.md)(?:#([^)]+))?\)")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("reference")
    subprocess.run([sys.executable, ROOT / "tools" / "reference.py", target], check=True, cwd=ROOT)
    return target


def pages(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*.md")}


def test_the_reference_has_the_pages_that_make_reference_writes_and_no_others(written: Path) -> None:
    assert pages(REFERENCE) == pages(written), "run `make reference`, and remove what it does not write"


@pytest.mark.parametrize("page", sorted(pages(REFERENCE)), ids=str)
def test_a_page_of_the_reference_is_as_make_reference_writes_it(written: Path, page: Path) -> None:
    assert (REFERENCE / page).read_text() == (written / page).read_text(), "run `make reference`"


def test_each_group_of_settings_has_a_page_and_the_overview_leads_to_each_field() -> None:
    followed = {
        ((REFERENCE / path).read_text().splitlines()[2], field)
        for path, field in LINK.findall((REFERENCE / "settings.md").read_text())
        if field
    }

    assert followed == {(f"# {topic.title}", field.name) for topic in SETTINGS_TOPICS for field in topic.fields}
    assert all(topic.about for topic in SETTINGS_TOPICS)


@pytest.mark.parametrize("page", sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]), ids=lambda p: p.name)
def test_links_among_the_pages_lead_to_pages_and_headings_that_are_there(page: Path) -> None:
    for path, heading in LINK.findall(page.read_text()):
        target = (page.parent / path).resolve()
        assert target.is_file(), path
        assert not heading or heading in headings(target), f"{path}#{heading}"


def headings(page: Path) -> set[str]:
    """The anchors that a page has: its headings in lower case, without punctuation, with hyphens for blanks."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
