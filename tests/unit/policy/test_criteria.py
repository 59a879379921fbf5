"""Each criterion by itself: what it reads, and what it makes of odd data."""

import base64
import struct
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from ipaddress import ip_address
from typing import Any

import pytest

from pomerium_agent.policy import Dialect, Result, compile_policy, parse_policy
from pomerium_agent.policy.compile import Compiled
from pomerium_agent.policy.facts import DeviceCredential, Facts, Identity, Request
from tests.fakes.people import FP, NOON, PEOPLE, X_CERTIFICATE, alice, facts_of


def compiled(criterion: Mapping[str, Any], dialect: Dialect = Dialect.SAFE, *, rule: str = "allow.and") -> Compiled:
    action, operator = rule.split(".")
    document, _ = parse_policy({action: {operator: [criterion]}}, source="p")
    assert document is not None
    return compile_policy(document, dialect=dialect)


def asked(criterion: Mapping[str, Any], facts: Facts, dialect: Dialect = Dialect.SAFE) -> Result:
    policy = compiled(criterion, dialect).policy
    assert policy is not None
    return policy.evaluate(facts).allow


def refused(criterion: Mapping[str, Any], dialect: Dialect = Dialect.SAFE) -> list[str]:
    return [f"{each.path}: {each.reason}" for each in compiled(criterion, dialect).complaints if not each.warning]


def warned(criterion: Mapping[str, Any]) -> list[str]:
    return [each.reason for each in compiled(criterion).complaints if each.warning]


def at(moment: datetime) -> Facts:
    return Facts(Request(), now=moment)


@pytest.mark.parametrize(
    ("criterion", "who", "value"),
    [
        ({"email": {"contains": "@"}}, "A", True),
        ({"email": {"contains": ""}}, "D", True),
        ({"email": {"not_in": ["x"]}}, "A", True),
        ({"email": {"contains": "@", "not": "alice@example.com"}}, "A", False),
        ({"domain": {"in": ["example.com"]}}, "A", True),
        ({"domain": {"not_in": ["x"]}}, "D", False),
        ({"user": {"starts_with": ""}}, "anon", False),
        ({"user": {"in": ["uA", 5]}}, "A", True),
        ({"claim/level": 3.0}, "A", True),
        ({"claim/level": True}, "A", False),
        ({"claim/level": {"exclude": "3"}}, "A", True),
        ({"claim": "x"}, "A", False),
        ({"claim": {"exclude": "x"}}, "A", True),
        ({"claim/dept.name": {"is": "eng", "exclude": "ops"}}, "A", True),
        ({"groups": {"has": "g-eng", "exclude": "g-x"}}, "C", True),
        ({"groups": {"is": "g-eng"}}, "C", False),
        ({"authenticated_user": None}, "svc", True),
        ({"pomerium_routes": True}, "A", False),
        ({"ssh_username_matches_email": 1}, "D", False),
    ],
    ids=repr,
)
def test_matchers_compare_exactly(criterion: Mapping[str, Any], who: str, value: bool) -> None:
    """P-10, P-11, P-12, P-13, P-14, P-15."""
    assert asked(criterion, facts_of(who, {})).value is value


@pytest.mark.parametrize(
    "criterion",
    [
        {"email": {}},
        {"email": ["a", "b"]},
        {"email": {"is": ["a"]}},
        {"email": {"not": ["a"]}},
        {"http_path": {"starts_with": ["/a"]}},
        {"groups": ["a", "b"]},
        {"groups": {"has": ["a", "b"]}},
        {"claim/x": {"exclude": ["a", "b"]}},
        {"client_certificate": {"san_dns": {}}},
    ],
    ids=repr,
)
def test_matchers_that_match_all_or_none_by_mistake_are_refused(criterion: Mapping[str, Any]) -> None:
    """D3, and the reference takes them."""
    assert refused(criterion)
    assert refused(criterion, Dialect.REFERENCE) == []


def test_a_list_in_short_form_never_matches_in_the_reference() -> None:
    """Policy 5."""
    facts = facts_of("A", {})

    assert asked({"email": ["alice@example.com"]}, facts, Dialect.REFERENCE).value is False
    assert asked({"claim/groups": {"exclude": ["eng", "ops"]}}, facts, Dialect.REFERENCE).value is True


@pytest.mark.parametrize(
    ("criterion", "reason"),
    [
        ({"email": "Ada@example.com"}, '"Ada@example.com" has upper case, and matches only if the identity has it too'),
        ({"domain": {"in": ["Example.com"]}}, '"Example.com" has upper case, and matches only if the identity has it'),
        ({"user": 5}, "a text never equals 5"),
        ({"user": {"in": [5]}}, "a text never equals 5"),
        ({"claim": "x"}, "claim without a name has no values"),
        ({"source_ip": []}, "an empty list holds no address"),
        ({"device": {}}, "a device without any key asks for nothing"),
    ],
    ids=repr,
)
def test_what_is_hardly_meant_is_warned_of(criterion: Mapping[str, Any], reason: str) -> None:
    """D6."""
    (said,) = warned(criterion)

    assert said.startswith(reason)


@pytest.mark.parametrize(
    ("listed", "ip", "value"),
    [
        ("10.0.0.0/8", "10.255.0.1", True),
        ("10.0.0.0/8", "11.0.0.1", False),
        ("::ffff:10.1.2.3", "10.1.2.3", True),
        ("::ffff:10.0.0.0/104", "10.9.9.9", True),
        ("10.1.2.3", "::ffff:10.1.2.3", True),
        ("::/0", "10.1.2.3", False),
        ("0.0.0.0/0", "2001:db8::1", False),
        ("0.0.0.0/0", "255.255.255.255", True),
        ("2001:db8::/33", "2001:db8:8000::1", False),
        ("2001:db8::1", "2001:db8::1", True),
    ],
)
def test_addresses_are_compared_by_what_they_mean(listed: str, ip: str, value: bool) -> None:
    """P-17."""
    assert asked({"source_ip": listed}, facts_of("anon", {"ip": ip})).value is value


def test_who_has_no_address_is_in_no_network() -> None:
    assert asked({"source_ip": "0.0.0.0/0"}, Facts(Request(ip=None), now=NOON)).value is False


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "10.0.0",
        "10.0.0.0/33",
        "10.0.0.0/255.0.0.0",
        "10.0.0.0/08",
        "010.0.0.1",
        "fe80::1%eth0",
        "a.example",
        "::1/129",
        "10.0.0.0/",
        " 10.0.0.1",
        "10.0.0.1\n",
        5,
        None,
        ["10.0.0.1"],
    ],
    ids=repr,
)
def test_what_is_no_address_is_refused(entry: object) -> None:
    assert refused({"source_ip": [entry]})


def test_every_address_that_is_none_is_named() -> None:
    assert refused({"source_ip": ["10.0.0.1", "x", "y"]}) == [
        'allow.and[0].source_ip[1]: "x" is neither an address nor a network',
        'allow.and[0].source_ip[2]: "y" is neither an address nor a network',
    ]


@pytest.mark.parametrize(
    ("criterion", "moment", "value"),
    [
        ({"date": {"after": "2026-08-05"}}, NOON, True),
        ({"date": {"after": "2026-08-05T12:00:00Z"}}, NOON, False),
        ({"date": {"before": "2026-08-05T15:00:00+02:00"}}, NOON, True),
        ({"date": {"after": "2026-01-01", "before": "2026-02-01"}}, NOON, False),
        ({"day_of_week": "*"}, NOON, True),
        ({"day_of_week": "wed"}, NOON, True),
        ({"day_of_week": "Monday, WEDNESDAY"}, NOON, True),
        ({"day_of_week": "fri-mon"}, NOON, False),
        ({"day_of_week": "sat-wed"}, NOON, True),
        ({"day_of_week": "wed"}, datetime(2026, 8, 6, 1, tzinfo=timezone(timedelta(hours=2))), True),
        ({"time_of_day": {"timezone": "UTC", "after": "11:59", "before": "12:00:00.000000001"}}, NOON, True),
        ({"time_of_day": {"timezone": "UTC", "after": "12:00"}}, NOON, False),
        ({"time_of_day": {"timezone": "UTC", "before": "12 PM"}}, NOON, False),
        ({"time_of_day": {"timezone": "UTC", "after": "12 AM"}}, NOON, True),
        ({"time_of_day": {"timezone": "America/New_York", "after": "8 AM", "before": "8:01AM"}}, NOON, False),
        ({"time_of_day": {"timezone": "America/New_York", "after": "7:59 AM", "before": "8:01AM"}}, NOON, True),
        ({"time_of_day": {"timezone": "UTC", "after": "22:00", "before": "06:00"}}, NOON, False),
        ({"time_of_day": {"timezone": "UTC"}}, NOON, True),
    ],
    ids=repr,
)
def test_dates_and_times_are_those_of_the_facts(criterion: Mapping[str, Any], moment: datetime, value: bool) -> None:
    """Policy 7, P-28."""
    result = asked(criterion, at(moment))

    (name,) = criterion
    reason = name.replace("_", "-") + ("-ok" if value else "-unauthorized")
    assert result[:2] == (value, frozenset({reason}))


@pytest.mark.parametrize(
    "criterion",
    [
        {"date": {}},
        {"date": "2026-01-01"},
        {"date": {"after": "soon"}},
        {"date": {"after": 2026}},
        {"date": {"until": "2026-01-01"}},
        {"day_of_week": ""},
        {"day_of_week": "m"},
        {"day_of_week": "mon-"},
        {"day_of_week": "mon,"},
        {"day_of_week": ["mon"]},
        {"time_of_day": {"after": "8 AM"}},
        {"time_of_day": {"timezone": "Mars/Olympus"}},
        {"time_of_day": {"timezone": "../etc/passwd"}},
        {"time_of_day": {"timezone": "America"}},
        {"time_of_day": {"timezone": "UTC", "after": "25:00"}},
        {"time_of_day": {"timezone": "UTC", "after": "13 PM"}},
        {"time_of_day": {"timezone": "UTC", "after": 8}},
    ],
    ids=repr,
)
def test_dates_and_times_that_are_none_are_refused(criterion: Mapping[str, Any]) -> None:
    assert refused(criterion)


@pytest.mark.parametrize(
    ("data", "device", "value", "reason"),
    [
        ({"type": "any"}, DeviceCredential(type_id="any", id="d", found=True), True, "device-ok"),
        ({"approved": True}, DeviceCredential(type_id="any", id="d", found=True), False, "device-unauthenticated"),
        ({"approved": "false"}, DeviceCredential(type_id="any", id="d", found=True), False, "device-unauthenticated"),
        ({"approved": []}, DeviceCredential(type_id="any", id="d"), False, "device-unauthenticated"),
        ({"approved": 0}, DeviceCredential(type_id="any", id="d"), True, "device-ok"),
        ({"approved": None}, DeviceCredential(type_id="any", id="d"), True, "device-ok"),
        ({"is": "d"}, DeviceCredential(type_id="any", id="d"), False, "device-unauthenticated"),
        ({"is": "d"}, DeviceCredential(type_id="any", id="d", found=True), True, "device-ok"),
        ({"type": "any"}, DeviceCredential(type_id="any", found=True), False, "device-unauthenticated"),
    ],
    ids=repr,
)
def test_a_device_is_judged_by_its_records(data: object, device: DeviceCredential, value: bool, reason: str) -> None:
    """P-21, policy 8.1."""
    result = asked({"device": data}, Facts(Request(), alice(device), now=NOON))

    assert result == Result(value, frozenset({reason}), {"device_type": "any"})


def test_the_greater_of_two_device_types_is_told() -> None:
    """Policy 3.2."""
    document, _ = parse_policy("allow: {or: [{device: {type: enclave_only}}, {device: {type: any}}]}", source="p")
    assert document is not None
    policy = compile_policy(document).policy
    assert policy is not None

    assert policy.evaluate(facts_of("A", {})).allow.data == {"device_type": "enclave_only"}


SPKI = X_CERTIFICATE.spki_hash


@pytest.mark.parametrize(
    ("data", "value"),
    [
        ({"fingerprint": ":".join(FP[i : i + 2].upper() for i in range(0, 64, 2))}, True),
        ({"fingerprint": ["00" * 32, FP]}, True),
        ({"fingerprint": []}, False),
        ({"spki_hash": SPKI}, True),
        ({"spki_hash": [SPKI], "fingerprint": "00" * 32}, False),
        ({"san_email": {"ends_with": "@example.com"}}, True),
        ({"san_uri": {"contains": ""}}, False),
        ({"san_dns": {"in": ["b.test", "c.test"]}}, True),
    ],
    ids=repr,
)
def test_a_certificate_is_what_was_presented(data: object, value: bool) -> None:
    """P-19, policy 8.2."""
    assert asked({"client_certificate": data}, facts_of("anon", {"certificate": "untrusted"})).value is value


@pytest.mark.parametrize(
    "data",
    [
        None,
        "x",
        {"fingerprint": FP.upper()},
        {"fingerprint": [5]},
        {"spki_hash": "AAAA"},
        {"spki_hash": "%"},
        {"spki_hash": SPKI.rstrip("=")},
        {"san_dns": {"not_in": ["a"]}},
    ],
    ids=repr,
)
def test_a_certificate_that_cannot_be_asked_for_is_refused(data: object) -> None:
    assert refused({"client_certificate": data})
    assert refused({"client_certificate": data}, Dialect.REFERENCE)


def public_key(kind: bytes = b"ssh-ed25519") -> tuple[bytes, str]:
    blob = struct.pack(">I", len(kind)) + kind + struct.pack(">I", 32) + bytes(32)
    return blob, f"{kind.decode()} {base64.b64encode(blob).decode()}"


def test_a_public_key_is_compared_by_its_bytes() -> None:
    blob, text = public_key()
    offered = Facts(Request(ssh_publickey=blob), now=NOON)

    assert asked({"ssh_publickey": [text + " ada@laptop"]}, offered).value is True
    assert asked({"ssh_publickey": f'# mine\ncommand="ls -l" {text}\n'}, offered).value is True
    assert asked({"ssh_publickey": text}, replace(offered, request=Request(ssh_publickey=b"x"))).value is False


@pytest.mark.parametrize(
    "data", ["", "ssh-ed25519", "ssh-ed25519 !", "ssh-rsa " + public_key()[1].split()[1], 5, [None]]
)
def test_what_is_no_public_key_is_refused(data: object) -> None:
    assert refused({"ssh_publickey": data})
    assert refused({"ssh_ca": data})


@pytest.mark.parametrize(
    ("method", "headers", "value"),
    [
        ("OPTIONS", {"origin": "https://a", "access-control-request-method": "PUT"}, True),
        ("OPTIONS", {"origin": "", "access-control-request-method": "PUT"}, False),
        ("OPTIONS", {"origin": "https://a", "access-control-request-method": ""}, False),
        ("OPTIONS", {}, False),
        ("GET", {"origin": "https://a", "access-control-request-method": "PUT"}, False),
        ("options", {"origin": "https://a", "access-control-request-method": "PUT"}, False),
    ],
)
def test_a_preflight_has_a_method_and_two_headers(method: str, headers: dict[str, str], value: bool) -> None:
    """P-18."""
    found = asked({"cors_preflight": True}, facts_of("anon", {"method": method, "headers": headers}))

    assert found == Result(value, frozenset({"cors-request" if value else "non-cors-request"}))


@pytest.mark.parametrize("method", ["", "tools/list", "tools/calls", "Tools/Call", "initialize"])
@pytest.mark.parametrize("matcher", ["drop", {"not": "drop"}, {"not_in": ["drop"]}, {"contains": ""}], ids=str)
def test_only_a_call_of_a_tool_is_one(method: str, matcher: Any) -> None:
    """P-22: negations do not make one of anything else."""
    found = asked({"mcp_tool": matcher}, facts_of("A", {"mcp": method, "tool": "query"}))

    assert found == Result(False, frozenset({"mcp-not-a-tool-call"}))


@pytest.mark.parametrize(
    "rule", ["allow.and", "allow.or", "allow.not", "allow.nor", "deny.and", "deny.or", "deny.not", "deny.nor"]
)
def test_an_ssh_certificate_lets_nobody_in_while_it_cannot_be_checked(rule: str) -> None:
    blob, text = public_key()
    policy = compiled({"ssh_ca": text}, rule=rule).policy
    assert policy is not None

    answer = policy.evaluate(Facts(Request(ssh_publickey=blob), now=NOON))

    closed = answer.deny if rule.startswith("deny") else answer.allow
    assert closed == Result(rule.startswith("deny"), frozenset({"policy-unsupported"}))


def test_records_of_other_sources_are_not_supported() -> None:
    """P-25, policy 7."""
    policy, complaints, unsupported = compiled({"record": {"type": "x", "field": "y", "is": "z"}})

    assert (policy, unsupported) == (None, True)
    assert len(complaints) == 1


def test_a_claim_of_an_ssh_user_is_named_by_a_text() -> None:
    assert refused({"ssh_username_matches_claim": 5})


@pytest.mark.parametrize(
    ("criterion", "reads"),
    [
        ({"http_method": "GET"}, {"method"}),
        ({"http_path": "/"}, {"path"}),
        ({"source_ip": "::1"}, {"ip"}),
        ({"cors_preflight": 1}, {"method", "headers"}),
        ({"invalid_client_certificate": 1}, {"certificate"}),
        ({"client_certificate": {}}, {"certificate"}),
        ({"email": "a"}, {"identity"}),
        ({"device": {"type": "any"}}, {"identity", "device"}),
        ({"day_of_week": "*"}, {"time"}),
        ({"mcp_tool": "x"}, {"mcp"}),
        ({"ssh_username_matches_email": 1}, {"identity", "ssh"}),
        ({"accept": 1}, set()),
    ],
    ids=lambda value: repr(sorted(value) if isinstance(value, set) else value),
)
def test_a_policy_says_what_it_reads(criterion: Mapping[str, Any], reads: set[str]) -> None:
    policy = compiled(criterion).policy

    assert policy is not None
    assert policy.reads == reads


def test_claims_may_hold_anything_and_are_compared_as_json() -> None:
    """P-12."""
    odd = Identity(present=True, user_id="u", claims={"x": ({"a": [1, True]}, None)})
    facts = Facts(Request(ip=ip_address("::1")), odd, now=NOON)

    assert asked({"claim/x": {"has": None}}, facts).value is True
    assert asked({"claim/x": {"has": {"a": [1.0, True]}}}, facts, Dialect.REFERENCE).value is True
    assert asked({"claim/x": {"has": {"a": [1, 1]}}}, facts, Dialect.REFERENCE).value is False


def test_time_zones_of_facts_do_not_matter() -> None:
    elsewhere = NOON.astimezone(timezone(timedelta(hours=9)))

    for criterion in (
        {"day_of_week": "wed"},
        {"time_of_day": {"timezone": "UTC", "after": "11:00", "before": "13:00"}},
    ):
        assert asked(criterion, at(elsewhere)) == asked(criterion, at(NOON.astimezone(UTC)))


def test_everybody_of_the_examples_is_somebody() -> None:
    assert {who for who, identity in PEOPLE.items() if not identity.present} == {"anon", "X"}
