"""What people configure, and what Envoy is told of it, to the letter: one file per example of routes 15 (R-32).

`make golden` writes the expected halves again; a person reads the difference.
"""

import json
import os

import pytest

from tests.fakes.golden import DASHES, Case, cases, shown


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.path.stem)
def test_a_configuration_becomes_exactly_this(case: Case) -> None:
    built = json.dumps(shown(case.document), indent=1, ensure_ascii=False, sort_keys=True) + "\n"

    if os.environ.get("GOLDEN") == "write":
        case.path.write_text(case.given + DASHES + built)
        return
    assert built == case.expected


def test_every_example_of_the_specification_that_can_be_served_is_here() -> None:
    wanted = {f"a{number:02}" for number in (1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12, 14, 15, 16, 17, 18)}

    assert wanted <= {case.path.stem.partition("_")[0] for case in cases()}
