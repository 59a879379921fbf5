"""What the agent counts of itself."""

from pomerium_agent.runtime.metrics import Metrics


def test_what_is_counted_is_shown_by_its_name_and_only_once() -> None:
    """Names are those Pomerium has (zero link 14); two registries of one process know nothing of each other."""
    metrics, other = Metrics(), Metrics()
    metrics.policies.set(3)
    metrics.reports_sent.labels("health").inc(2)

    assert b"\npolicy_count_total 3.0\n" in metrics.text()
    assert b'\ncontrol_plane_reports_total{kind="health"} 2.0\n' in metrics.text()
    assert b"_created" not in metrics.text()
    assert b"\npolicy_count_total 0.0\n" in other.text()
    assert {"policy_count_total", "config_last_reload_success"} <= {family.name for family in metrics.collect()}
