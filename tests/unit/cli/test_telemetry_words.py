"""What `pomerium-agent telemetry show` says."""

from datetime import UTC, datetime

from pomerium_agent.cli.telemetry import told
from pomerium_agent.runtime.health import Report, Status
from pomerium_agent.runtime.metrics import Metrics
from pomerium_agent.zero import sent as memory
from pomerium_agent.zero.otlp_metrics import user_gauges
from pomerium_agent.zero.sent import Sent

AT = datetime(2030, 1, 1, tzinfo=UTC)
USER = {"lastSignedInAt": "2030-01-01T00:00:00Z", "pseudonymousEmail": "", "pseudonymousId": "cHNldWRvbnlt"}


def test_before_anything_was_sent_that_is_said() -> None:
    assert [line.split("  ")[0] for line in told(Sent().to_json())] == ["health", "metrics", "usage"]
    assert "never" in "".join(told(Sent().to_json()))


def test_everything_that_was_sent_is_shown_with_its_time() -> None:
    metrics = Metrics()
    sent = Sent(metrics)
    sent.health(Report("zero.connect", Status.RUNNING, "", {"k": "v"}), AT, AT)
    sent.health(Report("routes.reachable", Status.RUNNING, "a: DNS error\nb: \x1b[31m"), AT, AT)
    sent.exported([user_gauges({"dau": 3}, AT)], AT)
    sent.usage([USER], AT)

    lines = told(sent.to_json())

    assert lines == [
        "health     the latest report of each check",
        "  2030-01-01T00:00:00+00:00  routes.reachable: a: DNS error?b: ?[31m",
        "  2030-01-01T00:00:00+00:00  zero.connect: running k=v",
        "metrics    2030-01-01T00:00:00+00:00",
        "  pomerium-cluster  dau  3",
        "usage      2030-01-01T00:00:00+00:00  1 user",
        "  user cHNldWRvbnlt  email -  signed in 2030-01-01T00:00:00Z",
    ]
    assert b'control_plane_reports_total{kind="health"} 2.0' in metrics.text()


def test_what_is_remembered_is_bounded() -> None:
    sent = Sent()
    for number in range(memory.CHECKS_KEPT + 5):
        sent.health(Report(f"zero.resource-bundle.{number}"), AT, AT)
    sent.usage([USER] * (memory.USERS_KEPT + 5), AT)

    said = sent.to_json()

    assert isinstance(said["health"], list)
    assert len(said["health"]) == memory.CHECKS_KEPT
    assert f"1005 users, of whom {memory.USERS_KEPT} are shown" in "\n".join(told(said))
