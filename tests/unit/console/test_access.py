"""Who gains access and who loses it, in words (policy 3.2, 6, 10)."""

import base64
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pomerium_agent.console.compare import Comparison, compare
from pomerium_agent.console.core_config import parse_core_config
from pomerium_agent.console.core_export import export_core
from pomerium_agent.pb.pomerium import config_pb2
from tests.fakes.client_certificates import root
from tests.fakes.console import NOW

ROUTE = "routes:\n- {from: https://a.example.com, to: http://a, id: a...}\n"


def config(access: str) -> config_pb2.Config:
    found = parse_core_config(ROUTE.replace("...", f", {access}" if access else ""), "file.yaml", Path())
    assert not found.refused, found.complaints
    return found.config


def policy(rules: str) -> str:
    return f"policy: {rules}"


def rule(action: str, operator: str, *criteria: str) -> str:
    terms = ", ".join(f"{{{each}}}" for each in criteria)
    return f"{{{action}: {{{operator}: [{terms}]}}}}"


def allow(*criteria: str) -> str:
    return policy(rule("allow", "or", *criteria))


def both(*rules: str) -> str:
    return policy(f"[{', '.join(rules)}]")


def compared(before: str, after: str) -> Comparison:
    return compare(config(before), config(after), NOW)


def told(before: str, after: str) -> list[str]:
    """What is said of access, without the line that names the route."""
    found = compared(before, after)
    return [line.strip() for each in found.access for line in list(each.lines())[1:]]


PUBLIC, ANY_USER = "allow_public_unauthenticated_access: true", "allow_any_authenticated_user: true"
ADA, EVE, DOMAIN = "email: {is: ada@example.com}", "email: {is: eve@example.com}", "domain: {is: example.com}"
OPS, ROLE = "groups: {has: ops}", "claim/role: admin"


@pytest.mark.parametrize(
    ("before", "after", "lines"),
    [
        ("", PUBLIC, ["+ gains access: anybody, without signing in"]),
        (PUBLIC, "", ["- loses access: anybody, without signing in", "- loses access: everybody who signs in"]),
        (PUBLIC, ANY_USER, ["- loses access: anybody, without signing in"]),
        (ANY_USER, PUBLIC, ["+ gains access: anybody, without signing in"]),
        ("", ANY_USER, ["+ gains access: everybody who signs in"]),
        (ANY_USER, allow(ADA), ["- loses access: everybody who signs in"]),
        (allow(ADA), ANY_USER, ["+ gains access: everybody who signs in"]),
        (allow(ADA), allow(ADA, EVE), ["+ gains access: eve@example.com"]),
        (allow(ADA, EVE), allow(EVE), ["- loses access: ada@example.com"]),
        ("allowed_users: [ada@example.com]", allow(ADA), ["- loses access: the user ada@example.com"]),
        ("allowed_domains: [example.com]", allow(DOMAIN), []),
        (allow(ADA), allow(DOMAIN), ["+ gains access: people with an e-mail address in example.com"]),
        (allow(DOMAIN, ADA), allow(DOMAIN), []),
        (allow(DOMAIN), allow(ADA), ["- loses access: people with an e-mail address in example.com"]),
        (allow(OPS), allow(ROLE), [
            "+ gains access: holders of the claim role with admin",
            "- loses access: members of the group ops",
        ]),
        (allow(OPS), policy(rule("allow", "and", OPS, ROLE)), ["- loses access: members of the group ops"]),
        ("", policy(rule("allow", "and", OPS, ADA)), [
            "+ gains access: members of the group ops and ada@example.com",
        ]),
        (allow(OPS), both(rule("allow", "or", OPS), rule("deny", "or", EVE)), [
            "- loses access: members of the group ops and eve@example.com",
        ]),
        (ANY_USER, both(rule("allow", "or", "authenticated_user: true"), rule("deny", "or", EVE)), [
            "- loses access: eve@example.com",
        ]),
        (allow(OPS), policy(rule("allow", "and", OPS, "http_method: {is: GET}")), [
            "- loses access: members of the group ops (for some requests)",
        ]),
        (allow(OPS), both(rule("allow", "or", OPS), rule("deny", "or", "source_ip: 10.0.0.0/8")), [
            "- loses access: members of the group ops (for some requests)",
        ]),
        (PUBLIC, policy(rule("allow", "nor", EVE)), [
            "- loses access: anybody, without signing in",
            "- loses access: eve@example.com",
        ]),
        (allow(ADA), allow(ADA) + ", regex: '(?!x)'", ["- loses access: ada@example.com"]),
    ],
)  # fmt: skip
def test_gains_and_losses_are_told_in_words(before: str, after: str, lines: list[str]) -> None:
    assert told(before, after) == lines


def test_a_new_route_and_one_that_is_gone_are_about_access_too() -> None:
    nothing = config_pb2.Config()

    assert [each.gains for each in compare(nothing, config(allow(ADA)), NOW).access] == [("ada@example.com",)]
    assert [each.loses for each in compare(config(allow(ADA)), nothing, NOW).access] == [("ada@example.com",)]
    assert compare(nothing, config(""), NOW).access == ()


def test_a_change_that_is_not_about_access_says_nothing_of_it() -> None:
    found = compared(allow(ADA), allow(ADA) + ", timeout: 5s")

    assert found
    assert found.access == ()


def test_a_setting_that_every_route_hangs_on_is_followed_to_the_routes() -> None:
    """Policy 10, P-20: with a client authority, those without a good certificate are denied."""
    before = config(allow(ADA))
    after = config_pb2.Config.FromString(before.SerializeToString())
    after.settings.downstream_mtls.ca = base64.b64encode(root("ca").pem.encode()).decode()

    (change,) = compare(before, after, NOW).access

    assert change.loses == ("ada@example.com (for some requests)",)


def test_rego_is_not_guessed_at() -> None:
    before, after = config(allow(ADA)), config("")
    for each in (before, after):
        del each.routes[0].policies[:]
    before.routes[0].policies.add(rego=["package pomerium.policy\nallow = true"])
    after.routes[0].policies.add(rego=["package pomerium.policy\nallow = false"])

    (change,) = compare(before, after, NOW).access

    assert "Rego" in change.note
    assert (change.gains, change.loses) == ((), ())


criteria = st.sampled_from(
    [ADA, EVE, DOMAIN, OPS, ROLE, "accept: true", "authenticated_user: true", "http_method: {is: GET}"]
)
documents = st.lists(
    st.builds(
        lambda action, operator, terms: rule(action, operator, *terms),
        st.sampled_from(["allow", "deny"]),
        st.sampled_from(["and", "or", "not", "nor"]),
        st.lists(criteria, min_size=1, max_size=3),
    ),
    min_size=1,
    max_size=3,
)


@given(documents)
def test_nothing_changes_from_a_policy_to_itself(rules: list[str]) -> None:
    text = both(*rules)

    assert compared(text, f"{text}, timeout: 1s").access == ()


@given(documents, documents)
def test_what_one_way_gains_the_other_way_loses(one: list[str], other: list[str]) -> None:
    there = compared(both(*one), both(*other)).access
    back = compared(both(*other), both(*one)).access

    assert [bool(each.gains) for each in there] == [bool(each.loses) for each in back]


def test_of_many_people_those_who_changed_are_asked_first() -> None:
    users = [f"u{number}@example.com" for number in range(10_000)]
    before = config(f"allowed_users: [{', '.join(users)}]")
    after = config(f"allowed_users: [{', '.join([*users[1:], 'new@example.com'])}]")

    (change,) = compare(before, after, NOW).access

    assert set(change.gains) == {"new@example.com", "the user new@example.com"}
    assert set(change.loses) == {"u0@example.com", "the user u0@example.com"}
    assert "more people" in change.note
    after = config(f"allowed_users: [{', '.join(users)}], timeout: 1s")
    assert compare(before, after, NOW).access == ()


def test_certificates_that_are_no_text_do_not_stop_an_export() -> None:
    settings = config_pb2.Settings(log_level="info")
    for _ in range(2):
        settings.certificates.add(cert_bytes=b"\xff", key_bytes=b"\xff")

    exported = export_core(config_pb2.Config(settings=settings))

    assert exported.text == "log_level: info\n"
    assert exported.notes == ("settings: certificates are left out: it is not text",)
