"""Who may use a version of a route that stands in for another, or that Envoy still has (routes 10, 13, R-4, R-9)."""

import base64
from dataclasses import replace
from typing import Any

import pytest

from pomerium_agent.agent.blame import Blame
from pomerium_agent.authorize.decide import Case, decide
from pomerium_agent.authorize.from_config import OFFERED, RulesBuilder
from pomerium_agent.authorize.gather import Question
from pomerium_agent.authorize.who import STRANGER, Who
from pomerium_agent.config.action import Unavailable
from pomerium_agent.config.snapshot import ConfigSnapshot
from pomerium_agent.envoyconfig.client_certificates import Asking, asking
from pomerium_agent.policy import Kind
from pomerium_agent.policy.facts import Identity
from pomerium_agent.sessions.identity import Resolved
from tests.fakes.client_certificates import root
from tests.fakes.config_records import NOW, compiled, config, entity, route
from tests.unit.authorize.asking import ADA_ONLY, ANYBODY, KEY, NOBODY, SIGNER, cookie, policy, room, with_route
from tests.unit.authorize.asking import route as rules_of

OTHER_CA = base64.b64encode(root("Others").pem.encode()).decode()
CA = base64.b64encode(root("Visitors").pem.encode()).decode()
OPEN = {"id": "r", "allow_public_unauthenticated_access": True}
STRICT = {"downstream_mtls": {"enforcement": "REJECT_CONNECTION"}}


def builder() -> RulesBuilder:
    return RulesBuilder(shared_key=KEY, signer=SIGNER)


def decided(snapshot: ConfigSnapshot, email: str = "", *, certificate_valid: bool = False) -> Kind:
    """What somebody is told about the one route."""
    (rules,) = builder().build(snapshot).routes.values()
    identity = Identity(present=True, session_id="s", user_id="u", email=email)
    known = Resolved(session_id="s", service_account=False, identity=identity, version=1, email=email)
    who = Who(resolved=known) if email else STRANGER
    return decide(Case(question=Question({}), route=rules, who=who, certificate_valid=certificate_valid, now=NOW)).kind


def test_an_accepted_version_asks_for_the_certificates_that_the_settings_now_demand() -> None:
    """Whoever closes an open route with certificates, and makes a mistake in it, must not find it open."""
    settings = {"downstream_mtls": {"ca": CA}}
    faulty = config("c", route(**OPEN, timeout="-5s"), **settings)
    before, _ = compiled(config("c", route(**OPEN)))

    after, faults = compiled(faulty, previous=before)
    again, _ = compiled(faulty, previous=after)

    (kept,) = after.routes
    assert [fault for fault in faults if not fault.warning]
    assert kept.action == before.routes[0].action
    assert not kept.public
    assert again.routes[0].key == kept.key != before.routes[0].key
    assert decided(after) is Kind.CERTIFICATE
    assert decided(after, certificate_valid=True) is Kind.ALLOWED


@pytest.mark.parametrize(
    ("was", "meant"),
    [
        ({}, {"tls_downstream_client_ca": CA}),
        ({}, {"tls_downstream_client_ca": "@@"}),
        ({"tls_downstream_client_ca": CA}, {"tls_downstream_client_ca": OTHER_CA}),
        ({"tls_downstream_client_ca": CA}, {}),
        ({}, {"bearer_token_format": "BEARER_TOKEN_FORMAT_IDP_ACCESS_TOKEN"}),
        (
            {"idp_access_token_allowed_audiences": {"values": ["a", "b"]}},
            {"idp_access_token_allowed_audiences": {"values": ["a"]}},
        ),
        ({}, {"idp_client_id": "another", "idp_client_secret": "x"}),
    ],
)
def test_an_accepted_version_that_takes_other_evidence_does_not_stay(
    was: dict[str, Any], meant: dict[str, Any]
) -> None:
    """Neither version can say whom the other would have let in by it."""
    before, faults = compiled(config("c", route(**OPEN, **was)))
    assert not [fault for fault in faults if not fault.warning]

    after, _ = compiled(config("c", route(**OPEN, **meant, timeout="-5s")), previous=before)

    assert isinstance(after.routes[0].action, Unavailable)


def test_an_authority_that_cannot_be_read_any_more_is_asked_for_as_before() -> None:
    strict = {"id": "r", "allow_any_authenticated_user": True}
    before, _ = compiled(config("c", route(**strict, tls_downstream_client_ca=CA), **STRICT))

    after, faults = compiled(config("c", route(**strict, tls_downstream_client_ca="@@"), **STRICT), previous=before)

    assert [fault.field for fault in faults if not fault.warning] == ["tls_downstream_client_ca"]
    assert after.routes[0].action == before.routes[0].action
    assert after.routes[0].access.client_ca == before.routes[0].access.client_ca
    assert asking(after) is Asking.STRICTLY


def test_an_accepted_version_does_not_stay_for_one_that_lacks_a_policy() -> None:
    """It may have been the one that says no."""
    before, _ = compiled(entity("r", route(**OPEN)))
    lacking = entity("r", route(**OPEN, policy_ids=["gone"]))

    after, _ = compiled(lacking, previous=before)

    assert isinstance(after.routes[0].action, Unavailable)


def test_an_accepted_version_lets_in_nobody_whom_the_new_one_would_not() -> None:
    """And nobody whom it did not let in itself: the new policy may be for another upstream."""
    anybody = {"id": "r", "allow_any_authenticated_user": True}
    one = {"id": "r", "allowed_users": ["root@example.com"]}
    for first, second in ((anybody, one), (one, anybody)):
        before, _ = compiled(config("c", route(**first)))
        after, _ = compiled(config("c", route(**second, timeout="-5s")), previous=before)

        assert decided(after, "root@example.com") is Kind.ALLOWED
        assert decided(after, "eve@example.com") is Kind.DENIED
        # With a third version that is faulty too, the second one no longer counts.
        third, _ = compiled(config("c", route(**first, timeout="-5s")), previous=after)
        assert decided(third, "eve@example.com") is (Kind.ALLOWED if first is anybody else Kind.DENIED)


def test_one_faulty_route_does_not_turn_off_that_connections_are_rejected() -> None:
    """It may be the only one that brings an authority."""
    other = route(id="other", from_="https://other.example.com", allow_any_authenticated_user=True)
    faulty, faults = compiled(config("c", route(id="r", tls_downstream_client_ca=CA, timeout="-5s"), other, **STRICT))
    unreadable, _ = compiled(config("c", route(id="r", tls_downstream_client_ca="@@"), other, **STRICT))

    assert [fault for fault in faults if not fault.warning]
    assert asking(faulty) is Asking.STRICTLY
    # With one that cannot be read there would be no certificate at all that opens the other route.
    assert asking(unreadable) is Asking.NOT


async def test_a_question_about_a_former_version_is_allowed_only_if_both_allow_it() -> None:
    """A policy arrives before its route, which Envoy may refuse: a wider one must not open what was there."""
    for former, present in ((ADA_ONLY, ANYBODY), (ANYBODY, ADA_ONLY)):
        now = with_route(replace(rules_of(present), checksum=8))
        async with room(replace(now, former={("r1", 7): rules_of(former)})) as here:
            for _ in range(2):  # and nothing is remembered for the wrong version
                assert here.ask(headers=cookie("s-ada"), checksum="7").allowed
                assert not here.ask(headers=cookie("s-mallory"), checksum="7").allowed
                assert here.ask(headers=cookie("s-mallory"), checksum="8").allowed is (present is ANYBODY)


async def test_a_remembered_answer_is_not_one_about_another_version() -> None:
    now = with_route(replace(rules_of(ANYBODY), checksum=8))
    async with room(replace(now, former={("r1", 7): rules_of(NOBODY)})) as here:
        for _ in range(3):
            assert here.ask(headers=cookie("s-ada"), checksum="8").allowed
            assert not here.ask(headers=cookie("s-ada"), checksum="7").allowed


async def test_a_version_that_nobody_remembers_is_decided_by_the_present_one() -> None:
    """As by an agent that has just begun beside an Envoy that it knows nothing of."""
    async with room(with_route(replace(rules_of(ANYBODY), checksum=8))) as here:
        assert here.ask(headers=cookie("s-ada"), checksum="7").allowed
        assert here.ask(headers=cookie("s-ada"), checksum="").allowed


async def test_what_has_to_allow_as_well_is_part_of_what_is_remembered() -> None:
    """A-32: an answer by the method of the request is none for another method."""
    only_get = '[{"allow": {"and": [{"http_method": {"is": "GET"}}]}}]'
    async with room(with_route(replace(rules_of(ANYBODY), also=(policy(only_get),)))) as here:
        for _ in range(2):
            assert here.ask(headers=cookie("s-ada")).allowed
            assert not here.ask(headers=cookie("s-ada"), method="POST").allowed


def version(number: int) -> ConfigSnapshot:
    return compiled(config("c", route(id="r", timeout=f"{number}s", allow_any_authenticated_user=True)))[0]


def test_former_versions_are_kept_until_envoy_has_taken_a_newer_one() -> None:
    rules = builder()
    built = [rules.build(version(number)) for number in range(1, 4)]
    checksums = [each.routes["r"].checksum for each in built]

    assert {checksum for _, checksum in built[2].former} == set(checksums[:2])
    assert rules.build(version(3)).former.keys() == built[2].former.keys()
    rules.taken(built[1])
    assert {checksum for _, checksum in rules.build(version(4)).former} == set(checksums[1:])


def test_former_versions_do_not_pile_up_while_envoy_takes_nothing() -> None:
    rules = builder()
    in_force = rules.build(version(1))
    rules.taken(in_force)
    for number in range(2, 20):
        newest = rules.build(version(number))

    assert len(newest.former) == 1 + OFFERED
    assert ("r", in_force.routes["r"].checksum) in newest.former


async def test_the_headers_of_a_former_version_go_to_its_upstream() -> None:
    """And not those of the present one, which may be secrets of another upstream."""
    former = replace(rules_of(ANYBODY, set_request_headers={"X-Key": "old"}), client_trust=None)
    present = replace(rules_of(ANYBODY, set_request_headers={"X-Key": "new"}), checksum=8)
    async with room(replace(with_route(present), former={("r1", 7): former})) as here:
        assert here.ask(headers=cookie("s-ada"), checksum="7").headers["x-key"] == "old"
        assert here.ask(headers=cookie("s-ada"), checksum="8").headers["x-key"] == "new"


def test_what_envoy_refuses_keeps_what_it_stands_in_for() -> None:
    """A search for the route that Envoy refuses does not forget that there is a stricter one to come."""
    anybody = {"id": "r", "allow_any_authenticated_user": True}
    one = {"id": "r", "allowed_users": ["root@example.com"], "timeout": "-5s"}
    accepted, _ = compiled(config("c", route(**anybody)))
    blame = Blame()
    blame.accepted(accepted)
    wanted, _ = compiled(config("c", route(**one), route(id="new", from_="https://new.example.com")), previous=accepted)

    assert blame.rejected(wanted, "no")
    offered, _ = blame.arrange(wanted)

    kept = next(each for each in offered.routes if each.id == "r")
    assert decided(replace(offered, routes=(kept,)), "eve@example.com") is Kind.DENIED
    assert decided(replace(offered, routes=(kept,)), "root@example.com") is Kind.ALLOWED
