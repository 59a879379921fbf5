"""What changes, in plain words."""

from pathlib import Path

from pomerium_agent.console.core_config import parse_core_config
from pomerium_agent.console.diff import SHOWN, diff
from pomerium_agent.pb.pomerium import config_pb2

BEFORE = """
log_level: info
routes:
- {from: https://a.example.com, to: http://a.internal}
- {from: https://b.example.com, to: http://b.internal, prefix: /api}
- {from: https://c.example.com, redirect: {https_redirect: true}}
"""


def config(text: str) -> config_pb2.Config:
    return parse_core_config(text, "config.yaml", Path()).config


def lines(before: str, after: str) -> list[str]:
    return list(diff(config(before), config(after)).lines())


def test_the_same_configuration_differs_in_nothing() -> None:
    changes = diff(config(BEFORE), config("# a comment\n" + BEFORE.replace("info", '"info"')))

    assert not changes
    assert list(changes.lines()) == []


def test_a_new_route_a_lost_one_a_changed_one_and_a_setting_are_told_apart() -> None:
    after = """
    log_level: debug
    routes:
    - {from: https://a.example.com, to: http://a.internal, timeout: 5s, policy: {allow: {or: [accept: true]}}}
    - {from: https://c.example.com, redirect: {https_redirect: true}}
    - {from: https://d.example.com, response: {status: 204}, name: empty}
    """

    assert lines(BEFORE, after) == [
        "+ route empty: https://d.example.com → the answer 204",
        "- route https://b.example.com/api → http://b.internal",
        "~ route https://a.example.com → http://a.internal: timeout, policy",
        "~ settings: log_level",
    ]


def test_a_new_target_is_a_change_and_not_a_new_route() -> None:
    assert lines(BEFORE, BEFORE.replace("http://a.internal", "http://z.internal")) == [
        "~ route https://a.example.com → http://z.internal: to"
    ]


def test_an_empty_value_that_counts_is_seen() -> None:
    """Presence matters: an empty list of upgrades is not the same as none given (routes 1.2, 93)."""
    route = "routes:\n- {from: https://a.example.com, to: http://a%s}\n"

    assert lines(route % "", route % ", allow_upgrades: []") == [
        "~ route https://a.example.com → http://a: allow_upgrades"
    ]


def test_many_routes_are_counted_not_listed() -> None:
    many = "routes:\n" + "".join(f"- {{from: https://r{n}.example.com, to: http://r}}\n" for n in range(SHOWN + 5))

    said = lines("routes: []", many)

    assert len(said) == SHOWN + 1
    assert said[-1] == "+ and 5 more routes new"


def test_secrets_are_named_and_not_shown() -> None:
    said = lines("idp_client_secret: hunter2", "idp_client_secret: hunter3")

    assert said == ["~ settings: idp_client_secret"]
