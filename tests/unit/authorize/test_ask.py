"""`explain` inside: which route a request meets, what is made of a description, and what the answer says of it."""

import json
import re
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import yaml

from pomerium_agent.authorize.ask import Hypothetical, explain_denied, explain_request, read_claim, read_hypothetical
from pomerium_agent.authorize.decide import Case, decide
from pomerium_agent.authorize.denials import MAX_CHAIN, Denials, Denied
from pomerium_agent.authorize.gather import Question
from pomerium_agent.authorize.locate import asks_for_udp, locate, normalized
from pomerium_agent.authorize.rules import RouteRules as Rules
from pomerium_agent.config.action import Unavailable
from pomerium_agent.config.snapshot import Access, ConfigSnapshot, EscapedSlashes, Fault, Route, Settings
from pomerium_agent.config.source import Match, MatchKind
from pomerium_agent.config.trust import ClientCertificates
from pomerium_agent.envoyconfig.route import RouteContext, checksum
from pomerium_agent.envoyconfig.virtual_hosts import internal_route_bytes
from pomerium_agent.errors import InvalidRequest
from pomerium_agent.pb.envoy.config.route.v3 import route_components_pb2 as pb
from pomerium_agent.policy import Kind, RoutePolicy, RouteRules, build_route_policy
from tests.fakes.client_certificates import chain_of, root
from tests.fakes.people import FP, NOON, PEOPLE, facts_of
from tests.fakes.snapshots import route

EXAMPLES = yaml.safe_load((Path(__file__).parents[1] / "policy" / "examples.yaml").read_text())
ROWS = {row["n"]: row for row in EXAMPLES["rows"]}
ENGINEERS = '[{"allow": {"and": [{"groups": {"has": "engineers"}}]}}]'
ANYBODY = '[{"allow": {"and": [{"accept": true}]}}]'
NOW = datetime(2026, 8, 5, 12, 0, tzinfo=UTC)
CLIENTS = root("clients", begins=NOW - timedelta(days=1), ends=NOW + timedelta(days=2))
DEV = CLIENTS.sign("dev", begins=NOW - timedelta(days=1), ends=NOW + timedelta(days=2))


def policy(text: str) -> RoutePolicy:
    built, _ = build_route_policy(RouteRules(policies=(text,)), source="test")
    return built


def guarded(text: str = ENGINEERS, **changes: Any) -> Route:
    return route(access=Access(policy=policy(text)), **changes)


def snapshot(*routes: Route, **settings: Any) -> ConfigSnapshot:
    return ConfigSnapshot(settings=Settings(**settings), routes=routes)


def asked(url: str = "https://app.example.com/", **said: Any) -> Hypothetical:
    return read_hypothetical({"url": url, **said}, NOW)


def chosen(config: ConfigSnapshot, url: str, method: str = "") -> str:
    request = asked(url, **{"method": method} if method else {})
    path = normalized(request.path, config.settings)
    assert path is not None
    udp = asks_for_udp(request.headers)
    found = locate(config, host=request.host, path=path, method=request.method, udp=udp)
    return "own" if found.internal else found.route.id if found.route is not None else ""


def matching(kind: MatchKind, value: str) -> Match:
    return Match(kind, value)


# --- which route ------------------------------------------------------------------------------------

HOSTS = (
    route("docs", "https://docs.example.com", match=matching(MatchKind.PREFIX, "/guide")),
    route("docs-8443", "https://docs.example.com:8443"),
    route("six", "https://[::1]"),
    route("tunnel", "tcp+https://ssh.example.com:22", match=Match(MatchKind.CONNECT)),
    route("datagrams", "udp+https://ssh.example.com:22", match=Match(MatchKind.CONNECT)),
    route("wide", "https://*.example.com"),
    route("narrow", "https://*.z.example.com"),
)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://docs.example.com/guide/a", "docs"),
        ("https://DOCS.Example.com/guide/a", "docs"),
        ("https://docs.example.com:443/guide", "docs"),
        ("https://docs.example.com:9000/guide", "docs"),
        ("https://docs.example.com:8443/other", "docs-8443"),
        # A host with routes of its own never falls back to a wildcard (routes 3.6).
        ("https://docs.example.com/other", ""),
        ("https://other.example.com/", "wide"),
        ("https://other.example.com:9000/", "wide"),
        ("https://a.z.example.com/", "narrow"),
        ("https://A.Z.example.com/", "narrow"),
        ("https://example.com/", ""),
        ("https://[::1]:8443/", "six"),
        ("tcp+https://ssh.example.com:22", "tunnel"),
        ("udp+https://ssh.example.com:22", "datagrams"),
        ("https://ssh.example.com:22/", ""),
        ("https://nobody.example.org/healthz", "own"),
        ("https://docs.example.com/.pomerium/jwt", "own"),
        ("https://other.example.com/.pomeriumx", "wide"),
    ],
)
def test_the_host_chooses_exact_before_wildcard(url: str, expected: str) -> None:
    """Routes 3.2, 3.6, R-8."""
    assert chosen(snapshot(*HOSTS), url) == expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://docs.example.com/guide", "docs"),
        ("https://docs.example.com:9000/guide", "wide-of-9000"),
        ("https://other.example.com/", "wide"),
        ("https://other.example.com:444/", ""),
        ("https://login.example.com/", "own"),
        ("https://login.example.com:444/", ""),
    ],
)
def test_ports_count_where_the_settings_say_so(url: str, expected: str) -> None:
    """Routes 3.2: match_any_incoming_port."""
    routes = (*HOSTS, route("wide-of-9000", "https://*.example.com:9000"))
    config = snapshot(*routes, match_any_incoming_port=False, hosts_of_authenticate=("login.example.com",))

    assert chosen(config, url) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/exact", "path"),
        ("/exact?q=1", "path"),
        ("/exact/", "rest"),
        ("/v1/x", "regex"),
        ("/v1/x/y", "rest"),  # a regex has to match the whole path
        ("/admin", "admin"),
        ("/administrator", "admin"),
        ("/a/../admin", "admin"),
        ("//admin", "admin"),
        ("/%2e%2e/admin", "admin"),
        ("/%61dmin", "admin"),
    ],
)
def test_the_first_matching_route_wins(path: str, expected: str) -> None:
    """Routes 3.4, 3.5."""
    config = snapshot(
        route("path", match=matching(MatchKind.PATH, "/exact")),
        route("regex", match=matching(MatchKind.REGEX, "/v[0-9]/[a-z]+")),
        route("admin", match=matching(MatchKind.PREFIX, "/admin")),
        route("rest"),
        route("never"),
    )

    assert chosen(config, f"https://app.example.com{path}") == expected


def test_a_page_is_our_own_exactly_where_envoy_is_told_so() -> None:
    """R-8: this list and the one of the route table are the same."""
    context = RouteContext.of(snapshot())
    table = pb.VirtualHost.FromString(internal_route_bytes(context, authenticate=True))
    config = snapshot(hosts_of_authenticate=("login.example.com",))

    for each in table.routes:
        path = each.match.path or each.match.path_separated_prefix
        assert chosen(config, f"https://login.example.com{path}") == "own", path
        if each.match.path_separated_prefix:
            assert chosen(config, f"https://login.example.com{path}/x") == "own"
    assert len(table.routes) == 7


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        (EscapedSlashes.REJECT_REQUEST, None),
        (EscapedSlashes.KEEP_UNCHANGED, "/a%2Fb"),
        (EscapedSlashes.UNESCAPE_AND_FORWARD, "/a/b"),
        (EscapedSlashes.UNESCAPE_AND_REDIRECT, "/a/b"),
    ],
)
def test_escaped_slashes_are_treated_as_the_settings_say(action: EscapedSlashes, expected: str | None) -> None:
    settings = Settings(escaped_slashes=action)

    assert normalized("/a%2Fb", settings) == expected
    assert normalized("/x/./y/..//z/%2E", settings) == "/x/z/"
    told = explain_request(snapshot(guarded(), escaped_slashes=action), asked("https://app.example.com/a%2fb"))
    assert (told["status"] == 400) == (expected is None)


# --- what is made of a description --------------------------------------------------------------------


def test_a_description_becomes_the_facts_of_a_request() -> None:
    request = asked(
        "https://App.Example.com:444/a%20b?c=d#e",
        method="POST",
        headers={"Origin": "https://x"},
        ip="::ffff:192.0.2.1",
        email="ada@example.com",
        groups=["g1"],
        claims={"level": 3, "roles": ["a", "b"]},
    )
    facts = request.facts(request.path)

    assert (facts.request.method, facts.request.host) == ("POST", "app.example.com:444")
    assert (facts.request.path, facts.request.raw_path, facts.request.query) == ("/a b", "/a%20b", "c=d")
    assert facts.request.headers == {"origin": "https://x"}
    assert facts.request.ip == ip_address("192.0.2.1")
    assert facts.now == NOW
    who = facts.identity
    assert (who.present, who.email, who.groups) == (True, "ada@example.com", ("g1",))
    assert who.claims == {"level": (3,), "roles": ("a", "b")}
    assert who.user_id  # whoever is signed in has one


def test_without_a_word_about_who_asks_it_is_a_stranger() -> None:
    assert not asked().identity.present
    assert asked(groups=[]).identity.present
    assert asked(user="u1").identity.groups is None  # P-15: not the same as being in no group


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({}, "url: it is missing"),
        ({"url": "app.example.com"}, "url:"),
        ({"url": "https://"}, "url:"),
        ({"url": "https://a:b/"}, "url:"),
        ({"url": "ssh://a/"}, "url:"),
        ({"url": "https://[::1/"}, "url:"),
        ({"url": 5}, "url: 5 is not a text"),
        ({"url": "https://a/", "ip": "10.0.0.0/8"}, "ip:"),
        ({"url": "https://a/", "groups": "g"}, "groups:"),
        ({"url": "https://a/", "claims": ["a"]}, "claims:"),
        ({"url": "https://a/", "headers": {"a": 1}}, "headers:"),
        ({"url": "https://a/", "e-mail": "a@b.c"}, "did you mean email?"),
    ],
)
def test_a_description_that_cannot_be_read_says_where(said: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(words)):
        read_hypothetical(said, NOW)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("3", 3), ("true", True), ('"3"', "3"), ("eng", "eng"), ("NaN", "NaN"), ('["a", 1]', ["a", 1]), ("", "")],
)
def test_the_value_of_a_claim_is_json_where_it_can_be(text: str, expected: object) -> None:
    """P-12: a number never equals a text."""
    assert read_claim(text) == expected


# --- what the answer says ---------------------------------------------------------------------------

OUTCOMES = {
    "allow": ("allow", 200),
    "login": ("login", 302),
    "device": ("enroll", 302),
    "403": ("deny", 403),
    "450": ("deny", 450),
    "495": ("deny", 495),
}


@pytest.mark.parametrize("number", [8, 12, 14, 21, 22, 36, 47, 48, 57, 64, 68, 72, 79, 80, 81, 87, 94])
def test_examples_are_decided_as_the_table_has_them(number: int) -> None:
    """Policy 14, through the JSON."""
    row = ROWS[number]
    facts = facts_of(row["who"], row["request"])
    own_ca = None if facts.request.certificate_valid else CLIENTS.pem
    rules = Access(policy=policy(row["policy"].replace("FP", FP)), client_ca=own_ca)
    config = snapshot(route(access=rules, id="r1"))
    denied = Denied(
        request_id="id-1",
        at=NOON,
        route_id="r1",
        route_checksum=checksum(config.routes[0]),
        kind=Kind.DENIED,
        status=403,
        reasons=(),
        session_id=PEOPLE[row["who"]].session_id,
        facts=facts,
    )

    told = json.loads(json.dumps(explain_denied(config, denied)))

    assert (told["decision"], told["status"]) == OUTCOMES[row.get("safe", row["outcome"])]
    assert (told["allow_reasons"], told["deny_reasons"]) == (sorted(row["allow"][1]), sorted(row["deny"][1]))
    assert (told["allow"], told["deny"]) == (row["allow"][0], row["deny"][0])
    assert told["then"]["request_id"] == "id-1"
    assert told["note"] == ""


def test_each_criterion_says_what_it_read_and_what_would_help() -> None:
    told = explain_request(snapshot(guarded(name="Wiki")), asked(email="bob@example.com", groups=["sales"]))

    assert (told["decision"], told["status"]) == ("deny", 403)
    assert told["route"] == {
        "id": "r1",
        "name": "Wiki",
        "from": "https://app.example.com",
        "match": {"kind": "prefix", "value": "/"},
    }
    [criterion] = told["policies"][0]["rules"][0]["blocks"][0]["criteria"]
    assert (criterion["criterion"], criterion["data"], criterion["saw"]) == (
        "groups",
        {"has": "engineers"},
        ["sales"],
    )
    assert (criterion["value"], criterion["reasons"]) == (False, ["groups-unauthorized"])
    assert [(each["kind"], each["value"]) for each in told["change"]] == [("join", "engineers")]


def test_a_stranger_has_to_sign_in_first() -> None:
    told = explain_request(snapshot(guarded()), asked())

    assert (told["decision"], told["status"], told["identity"]) == ("login", 302, None)
    assert [each["kind"] for each in told["change"]] == ["sign-in", "join"]


def test_every_answer_has_every_key() -> None:
    """What a program reads is there whatever the answer is."""
    fault = Fault(subject="route r2", field="regex", reason="it is wrong", remedy="correct it", route_id="r2")
    config = snapshot(
        guarded(),
        guarded(ANYBODY, id="open", url="https://open.example.com", public=True),
        route("r2", "https://bad.example.com", Unavailable(fault_id=fault.id), public=True),
    )

    answers = {
        url: explain_request(config, asked(url), (fault,))
        for url in (
            "https://app.example.com/",
            "https://app.example.com/a%2fb",
            "https://app.example.com/.pomerium/user",
            "https://app.example.com/.pomerium/",
            "https://open.example.com/",
            "https://bad.example.com/",
            "https://nobody.example.com/",
        )
    }

    assert [(told["decision"], told["status"]) for told in answers.values()] == [
        ("login", 302),
        ("deny", 400),
        ("login", 302),
        ("allow", 200),
        ("allow", 200),
        ("deny", 503),
        ("deny", 404),
    ]
    assert len({tuple(sorted(told)) for told in answers.values()}) == 1
    assert [told["public"] for told in answers.values()] == [False, False, False, True, True, False, False]
    assert answers["https://bad.example.com/"]["fault"]["reason"] == "it is wrong"
    assert answers["https://nobody.example.com/"]["route"] is None
    assert "no route answers to the host" in answers["https://nobody.example.com/"]["note"]


def test_a_path_that_no_route_of_the_host_matches_is_said_as_such() -> None:
    config = snapshot(guarded(match=matching(MatchKind.PREFIX, "/a")))

    told = explain_request(config, asked("https://app.example.com/b"))

    assert (told["status"], told["deny_reasons"]) == (404, ["route-not-found"])
    assert 'the one route on the host "app.example.com" does not match the path "/b"' in told["note"]


def test_a_route_closed_by_its_policy_names_the_fault() -> None:
    """P-27."""
    closed = route(access=Access(policy=RoutePolicy(closed="policy-invalid")))
    fault = Fault(subject="route r1", field="policy", reason="no such criterion", remedy="correct it", route_id="r1")

    told = explain_request(snapshot(closed), asked(user="u1"), (fault,))

    assert (told["status"], told["closed"], told["change"]) == (403, "policy-invalid", None)
    assert told["fault"]["reason"] == "no such criterion"


def test_a_kubernetes_route_wants_somebody_to_impersonate() -> None:
    """A-26: as the decision itself has it."""
    config = snapshot(guarded('[{"allow": {"and": [{"authenticated_user": true}]}}]', kubernetes=True))

    nobody = explain_request(config, asked(user="u1"))
    somebody = explain_request(config, asked(user="u1", email="ada@example.com"))

    assert (nobody["decision"], nobody["deny_reasons"]) == ("deny", ["kubernetes-user-missing"])
    assert somebody["decision"] == "allow"


def test_a_name_that_no_header_would_carry_is_nobody_to_impersonate() -> None:
    """A-26: as the decision itself has it; and it knows of an address that the directory says is empty."""
    config = snapshot(guarded('[{"allow": {"and": [{"authenticated_user": true}]}}]', kubernetes=True))
    known = asked(user="u1", email="ada@example.com").facts("/")

    odd = [explain_request(config, asked(user="u1", email=email)) for email in ("a\nb", " a@example.com", "a\x00")]
    then = explain_denied(config, denial(facts=known, reasons=("kubernetes-user-missing",)))

    for told in (*odd, then):
        assert (told["decision"], told["deny_reasons"]) == ("deny", ["kubernetes-user-missing"])


def denial(**changes: Any) -> Denied:
    fields: dict[str, Any] = {
        "request_id": "id-1",
        "at": NOON,
        "route_id": "r1",
        "route_checksum": 0,
        "kind": Kind.DENIED,
        "status": 403,
        "reasons": ("groups-unauthorized",),
        "session_id": "sB",
        "facts": facts_of("B", {}),
    }
    return Denied(**fields | changes)


def test_a_denial_is_decided_by_what_is_in_force_now() -> None:
    told = explain_denied(snapshot(guarded(ANYBODY)), denial())

    assert (told["decision"], told["then"]["decision"]) == ("allow", "deny")
    assert "has changed since" in told["note"]


REQUIRED = '[{"allow": {"and": [{"accept": 1}]}}, {"deny": {"or": [{"invalid_client_certificate": 1}]}}]'


def test_a_request_that_nobody_made_presents_no_certificate() -> None:
    """A-18: where one is needed, it would be turned away, and elsewhere not for that."""
    needed = snapshot(guarded(REQUIRED), client_certificates=ClientCertificates(ca=CLIENTS.pem))

    told = explain_request(needed, asked())

    assert (told["status"], told["deny_reasons"]) == (495, ["client-certificate-required"])
    assert explain_request(snapshot(guarded(REQUIRED)), asked())["decision"] == "allow"


@pytest.mark.parametrize(
    ("ca", "at", "expected"),
    [
        (CLIENTS.pem, NOW, "allow"),
        (root("others").pem, NOW, "deny"),
        ("", NOW, "deny"),
        (None, NOW, "allow"),
        (CLIENTS.pem, NOW + timedelta(days=3), "deny"),
    ],
    ids=["the authority is trusted now", "another", "it cannot be read", "none is judged", "expired then"],
)
def test_a_denied_certificate_is_judged_by_what_is_in_force_now(ca: str | None, at: datetime, expected: str) -> None:
    """A-18: and at the time of the denial, as everything else."""
    denials = Denials()
    asked_then = Question(headers={"x-request-id": "id-1"}, route_id="r1", chain=chain_of(DEV))
    case = Case(question=asked_then, route=Rules(id="r1", policy=policy(REQUIRED)), now=at)
    denials.add(case, decide(case))
    denied = denials.find("id-1")
    assert denied is not None
    assert denied.reasons == ("invalid-client-certificate",)

    told = explain_denied(snapshot(guarded(REQUIRED, id="r1"), client_certificates=ClientCertificates(ca=ca)), denied)

    assert told["decision"] == expected


def test_of_a_chain_too_long_to_keep_the_verdict_of_then_is_told() -> None:
    """A-18."""
    long = chain_of(DEV) + "%0A" * MAX_CHAIN
    denials = Denials()
    asked_then = Question(headers={"x-request-id": "id-1"}, route_id="r1", chain=long)
    case = Case(question=asked_then, route=Rules(id="r1", policy=policy(REQUIRED)), now=NOW)
    denials.add(case, decide(case))
    denied = denials.find("id-1")
    assert denied is not None
    assert denied.chain == ""

    told = explain_denied(snapshot(guarded(REQUIRED, id="r1")), denied)

    assert told["deny_reasons"] == ["invalid-client-certificate"]


def test_a_denial_whose_route_is_gone_is_still_told() -> None:
    told = explain_denied(snapshot(), denial())

    assert (told["decision"], told["status"]) == ("deny", 404)
    assert told["then"]["reasons"] == ["groups-unauthorized"]
    assert "not in the configuration" in told["note"]


def test_a_denial_for_bad_credentials_is_not_the_policys() -> None:
    """A-9."""
    told = explain_denied(snapshot(guarded(ANYBODY)), denial(status=400, reasons=("invalid-credentials",)))

    assert (told["decision"], told["status"], told["policies"]) == ("deny", 400, [])
    assert "before any policy" in told["note"]
