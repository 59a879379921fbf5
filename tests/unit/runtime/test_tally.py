"""What is counted at every request."""

from prometheus_client.metrics_core import Metric

from pomerium_agent.runtime.metrics import Metrics
from pomerium_agent.runtime.tally import BOUNDS, MOST_REASONS, Tally


def values(tally: Tally) -> dict[tuple[str, ...], float]:
    families: list[Metric] = list(tally.collect())
    return {(sample.name, *sample.labels.values()): sample.value for family in families for sample in family.samples}


def test_decisions_are_counted_by_outcome_and_reasons() -> None:
    tally = Tally()
    tally.cell("allow", ("email-ok",)).count += 2
    tally.cell("deny", ("claim-unauthorized", "email-unauthorized")).count += 1

    found = values(tally)

    assert found["authorize_decisions_total", "allow", "email-ok"] == 2
    assert found["authorize_decisions_total", "deny", "claim-unauthorized+email-unauthorized"] == 1


def test_times_fall_into_the_first_bucket_that_holds_them() -> None:
    tally = Tally()
    for nanoseconds in (BOUNDS[0], BOUNDS[0] + 1, BOUNDS[-1] + 1):
        tally.took(nanoseconds)

    found = values(tally)

    name = "authorize_decision_duration_seconds"
    assert [found[f"{name}_bucket", bound] for bound in ("1e-05", "2.5e-05", "2.5", "+Inf")] == [1, 2, 2, 3]
    assert found[f"{name}_count",] == 3
    assert found[f"{name}_sum",] == sum((BOUNDS[0], BOUNDS[0] + 1, BOUNDS[-1] + 1)) / 1e9


def test_reasons_that_somebody_makes_up_do_not_grow_without_end() -> None:
    tally = Tally()
    for number in range(2 * MOST_REASONS):
        tally.cell("deny", (f"made-up-{number}",)).count += 1

    found = values(tally)

    assert sum(value for key, value in found.items() if key[0] == "authorize_decisions_total") == 2 * MOST_REASONS
    assert sum(key[0] == "authorize_decisions_total" for key in found) == MOST_REASONS + 1
    assert found["authorize_decisions_total", "deny", "other"] == MOST_REASONS


def test_scrapers_see_the_names_with_the_prefix_of_pomerium_and_control_planes_without() -> None:
    """Zero link 14; the documentation of Pomerium says that each scraped metric has that prefix."""
    metrics = Metrics()
    metrics.policies.set(3)
    metrics.tally.remembered = 7

    assert b"\npolicy_count_total 3.0\n" in metrics.text()
    assert b"\npomerium_policy_count_total 3.0\n" in metrics.page()
    assert b"\npomerium_authorize_remembered_decisions_total 7.0\n" in metrics.page()
    lines = [line for line in metrics.page().decode().splitlines() if not line.startswith("#")]
    assert all(line.startswith("pomerium_") for line in lines)
