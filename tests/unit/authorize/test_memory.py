"""A remembered answer is what a fresh one would be, whatever happened in between (A-32, A-33)."""

import asyncio
import io
import json
import re
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import structlog
from cryptography.x509 import DNSName
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pomerium_agent.authorize.check import Checker
from pomerium_agent.authorize.decide import ALLOWED_INTERNAL
from pomerium_agent.authorize.memory import Memory, Remembered
from pomerium_agent.authorize.rules import DEFAULT_LOG_FIELDS, RouteRules, Rules
from pomerium_agent.authorize.who import STRANGER
from pomerium_agent.config.trust import ClientTrust, NamePattern, NameType
from pomerium_agent.policy import RouteRules as AllowFields
from pomerium_agent.policy import build_route_policy
from pomerium_agent.records import Record
from pomerium_agent.runtime.log import configure_logging
from pomerium_agent.settings import Secret
from tests.fakes import session_records as people
from tests.fakes.client_certificates import named, root
from tests.fakes.clock import settle
from tests.unit.authorize.asking import (
    ADA_ONLY,
    ANYBODY,
    NOBODY,
    PEOPLE,
    RULES,
    Answer,
    Room,
    cookie,
    payload_of,
    question,
    room,
    route,
    token,
    with_route,
)

NOW = people.NOW
LATER = NOW + timedelta(seconds=200)
SOON = NOW + timedelta(seconds=70)

POLICIES = (
    ADA_ONLY,
    ANYBODY,
    NOBODY,
    '[{"allow": {"and": [{"authenticated_user": true}]}}]',
    '[{"allow": {"and": [{"groups": {"has": "g1"}}]}}]',
    '[{"allow": {"or": [{"claim/family": "Lovelace"}]}, "deny": {"or": [{"http_path": {"starts_with": "/no"}}]}}]',
    '[{"allow": {"or": [{"http_method": {"is": "GET"}}, {"cors_preflight": true}]}}]',
    '[{"allow": {"or": [{"source_ip": "10.0.0.0/8"}]}}]',
    '[{"allow": {"and": [{"device": {"approved": true}}]}}]',
    '[{"allow": {"or": [{"time_of_day": {"timezone": "UTC", "before": "00:01"}}]}}]',
    '[{"allow": {"and": [{"accept": 1}]}, "deny": {"or": [{"invalid_client_certificate": true}]}}]',
    '[{"allow": {"or": [{"client_certificate": {"san_dns": "dev.example.com"}}, {"email": "ada@example.com"}]}}]',
    '[{"allow": {"not": [{"invalid_client_certificate": true}]}}]',
)
CLIENTS = root("clients", begins=NOW - timedelta(days=1), ends=NOW + timedelta(seconds=260))
OTHERS = root("clients", begins=NOW - timedelta(days=1), ends=NOW + timedelta(days=1))
DEV_NAME = named(DNSName("dev.example.com"))
DEV = CLIENTS.sign("dev", DEV_NAME, begins=NOW, ends=NOW + timedelta(days=1))
SHORT = CLIENTS.sign("short", begins=NOW + timedelta(seconds=20), ends=NOW + timedelta(seconds=100))
FOREIGN = OTHERS.sign("dev", DEV_NAME, begins=NOW, ends=NOW + timedelta(seconds=140))
CHAINS = ("", DEV.pem, SHORT.pem, FOREIGN.pem, SHORT.pem + DEV.pem, "rubbish")
TRUSTS = (
    None,
    None,
    ClientTrust(),
    ClientTrust(ca=CLIENTS.pem),
    ClientTrust(ca=CLIENTS.pem + OTHERS.pem),
    ClientTrust(ca=CLIENTS.pem, crl=CLIENTS.crl(DEV)),
    ClientTrust(ca=CLIENTS.pem, names=(NamePattern(NameType.DNS, "dev.*"),)),
)
HEADERS = {
    "X-Agent": '${pomerium.request.headers["user-agent"]}',
    "X-Jwt": "${pomerium.jwt}",
    "X-Access": "${pomerium.access_token}",
    "X-Print": "${pomerium.client_cert_fingerprint}",
}
ROUTES = st.builds(
    lambda text, identity, templates, idp, groups, trust, token: route(
        text,
        pass_identity_headers=identity,
        set_request_headers={name: HEADERS[name] for name in templates},
        idp_id=idp,
        groups_filter=frozenset(groups),
        affinity=identity,
        client_trust=trust,
        kubernetes=token is not None,
        kubernetes_token=Secret(token or ""),
    ),
    st.sampled_from(POLICIES),
    st.booleans(),
    st.sets(st.sampled_from(sorted(HEADERS))),
    st.sampled_from(["", "", "", "idp-2"]),
    st.sampled_from([(), ("g1",)]),
    st.sampled_from(TRUSTS),
    st.sampled_from([None, None, "tok-1", "tok-2", ""]),
)
CONFIGURATIONS = st.builds(
    lambda changed, lifetime, fields: replace(with_route(changed), handle_lifetime=lifetime, log_fields=fields),
    ROUTES,
    st.sampled_from([None, None, timedelta(seconds=100)]),
    st.sampled_from([DEFAULT_LOG_FIELDS, DEFAULT_LOG_FIELDS, ("query", "id-token-claims"), ("headers", "path")]),
)
RECORDS = st.sampled_from(
    [
        *PEOPLE,
        people.gone(PEOPLE[0]),
        people.session("s-ada", "u-ada", expires=LATER, idp_id="idp-1"),
        people.session("s-ada", "u-ada", token="t2", token_expires=SOON, devices=[("any", "d1")]),
        people.session("s-ada", "u-mallory", claims={"family": ["Lovelace"]}),
        people.session("s-mallory", "u-mallory", as_session="s-ada"),
        people.account("sa", "u-ada"),
        people.account("sa", "u-ada", expires=LATER),
        people.user("u-ada", "ada@elsewhere.example"),
        people.user("u-mallory", "ada@example.com"),
        people.directory_user("u-ada", email="", group_ids=["g2"]),
        people.gone(people.directory_user("u-ada")),
        people.directory_group("g1", "Renamed"),
        people.credential("d1", "e1"),
        people.enrollment("e1", "boss"),
        people.enrollment("e1"),
    ]
)
ISSUED = int(NOW.timestamp())
# Asked after every step; the others after some of them.
CARRIED: tuple[Mapping[str, str], ...] = (
    {},
    cookie("s-ada"),
    cookie("s-ada", issued_at=ISSUED),
    cookie("s-ada", issued_at=ISSUED + 90),
    cookie("s-mallory"),
    cookie("sa", idp_id=""),
    {"cookie": "_pomerium=rubbish", "authorization": f"Pomerium {token('s-ada')}"},
    {**cookie("s-ada"), "x-pomerium-authorization": token("s-mallory")},
    {**cookie("s-ada"), "authorization": "Bearer x"},
    {**cookie("s-ada"), "x-pomerium-jwt-assertion": "forged"},
)
VARIED: tuple[dict[str, Any], ...] = (
    {"path": "/no"},
    {"method": "POST"},
    {"ip": "10.0.0.1"},
    {"headers": {**cookie("s-ada"), "user-agent": "a"}},
    {"headers": {"origin": "https://a", "access-control-request-method": "PUT"}, "method": "OPTIONS"},
    {"chain": DEV.pem},
    {"chain": SHORT.pem},
    {"chain": FOREIGN.pem},
)
QUESTIONS = st.builds(
    lambda carried, agent, origin, more: (carried | agent | origin, more),
    st.sampled_from(CARRIED),
    st.sampled_from([{}, {"user-agent": "a"}, {"user-agent": "b"}]),
    st.sampled_from([{}, {"origin": "https://a", "access-control-request-method": "PUT"}]),
    st.fixed_dictionaries(
        {
            "path": st.sampled_from(["/", "/no", "/no?pomerium_session=x", "/?a=b"]),
            "method": st.sampled_from(["GET", "OPTIONS", "POST"]),
            "ip": st.sampled_from(["10.0.0.1", "192.0.2.1"]),
            "chain": st.sampled_from(CHAINS),
            "host": st.sampled_from(["wiki.example.com", "wiki.example.com:8443", "other.example.com"]),
        }
    ),
)
STEPS = st.lists(
    st.one_of(
        QUESTIONS.map(lambda asked: ("ask", asked)),
        QUESTIONS.map(lambda asked: ("ask", asked)),
        RECORDS.map(lambda record: ("record", record)),
        CONFIGURATIONS.map(lambda rules: ("rules", rules)),
        st.sampled_from([1.0, 30.0, 75.0, 150.0]).map(lambda seconds: ("wait", seconds)),
    ),
    min_size=8,
    max_size=16,
)


ECHO = re.compile(r"login_nonce%3D[\w%-]+|pomerium_signature=[\w%-]+")


def told(message: bytes, time: float) -> object:
    """An answer but for the parts of an assertion that differ each time one is signed."""
    answer = Answer(message)
    headers: dict[str, Any] = dict(answer.headers)
    for name in ("x-pomerium-jwt-assertion", "x-jwt"):
        if headers.get(name):
            payload = payload_of(headers[name])
            assert payload["iat"] <= time < payload["exp"] - 149
            headers[name] = {key: value for key, value in payload.items() if key not in ("iat", "exp", "jti")}
    body = answer.body
    if headers.pop("set-cookie", "").startswith("__Host-_pomerium_login="):
        # A login that begins has a new cookie each time, and its echo is in the link.
        body = ECHO.sub("", body)
        headers["location"] = ECHO.sub("", headers.get("location", ""))
    return answer.status, headers, answer.removed, answer.without_parameters, body


def written(lines: io.StringIO) -> dict[str, Any]:
    """The one line that was written, but for its time."""
    (line,) = [json.loads(each) for each in lines.getvalue().splitlines()]
    lines.seek(0)
    lines.truncate()
    return {**line, "time": ""}


async def compare(here: Room, steps: list[tuple[str, Any]], lines: io.StringIO) -> None:
    fresh = Checker(here.rules, here.sessions, here.stage.clock, remembered=0)
    always = [question(headers=carried) for carried in CARRIED]
    always += [question(**{"path": "/", "headers": cookie("s-ada")} | varied) for varied in VARIED]
    asked: list[bytes] = []
    for kind, what in steps:
        if kind == "record":
            await here.stage.put(what)
        elif kind == "rules":
            here.rules.set(what)
        elif kind == "wait":
            here.stage.clock.jump(what)
        else:
            headers, more = what
            asked.append(question(headers=headers, **more))
        for message in (*always, *asked[-6:]):
            answer, line = here.checker.check(message), written(lines)
            expected, expected_line = fresh.check(message), written(lines)
            assert line == expected_line
            time = here.stage.clock.now().timestamp()
            assert isinstance(answer, bytes)
            assert isinstance(expected, bytes)
            assert told(answer, time) == told(expected, time)


@pytest.mark.timeout(300)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rules=CONFIGURATIONS, steps=STEPS)
def test_what_is_remembered_is_what_would_be_said_anew(rules: Rules, steps: list[tuple[str, Any]]) -> None:
    """A-32, A-33: under changes of records, of the configuration, and of the clock."""

    async def run() -> None:
        async with room(rules) as here:
            written(lines) if lines.getvalue() else None
            await compare(here, steps, lines)

    lines = io.StringIO()
    try:
        with redirect_stdout(lines):
            configure_logging("info", service="agent")
        asyncio.run(run())
    finally:
        structlog.reset_defaults()


def remembered(here: Room) -> int:
    return len(here.checker._generation.memory)


async def test_a_repeated_request_is_answered_from_memory() -> None:
    async with room() as here:
        first = here.ask("/a", cookie("s-ada"))
        again = here.ask("/b", cookie("s-ada"))

        assert first.allowed
        assert again.allowed
        assert remembered(here) == 1


async def test_strangers_share_an_answer() -> None:
    async with room(with_route(route(ANYBODY))) as here:
        assert here.ask(ip="192.0.2.1").allowed
        assert here.ask(ip="192.0.2.2").allowed
        assert remembered(here) == 1


@pytest.mark.parametrize("change", [people.gone(PEOPLE[0]), people.user("u-ada", "x@example.com")], ids=str)
async def test_a_revoked_session_is_out_with_its_next_request(change: Record) -> None:
    """A-32."""
    records = tuple(record for record in PEOPLE if not record.type.endswith("DirectoryUser"))
    async with room(records=records) as here:
        assert here.ask(headers=cookie("s-ada")).allowed
        await here.stage.put(change)
        assert not here.ask(headers=cookie("s-ada")).allowed


async def test_an_expiry_takes_effect_at_its_moment() -> None:
    """A-32: no event tells of it."""
    records = (*PEOPLE[1:], people.session("s-ada", "u-ada", expires=SOON, idp_id="idp-1"))
    async with room(records=records) as here:
        assert here.ask(headers=cookie("s-ada")).allowed
        here.stage.clock.jump(69)
        assert here.ask(headers=cookie("s-ada")).allowed
        here.stage.clock.jump(2)
        assert here.ask(headers=cookie("s-ada")).status == 302


async def test_a_remembered_certificate_is_out_with_its_last_second() -> None:
    """A-18, A-32: for as long as it is good, it is not judged again; a client without one gets nothing of it."""
    rules = with_route(route(POLICIES[-3], client_trust=ClientTrust(ca=CLIENTS.pem)))
    async with room(rules) as here:
        here.stage.clock.jump(30)
        assert here.ask(chain=SHORT.pem).allowed
        assert remembered(here) == 1
        assert here.ask().status == 495
        assert here.ask(chain=FOREIGN.pem).status == 495
        here.stage.clock.jump(70.9)
        assert here.ask(chain=SHORT.pem).allowed
        assert remembered(here) == 1
        here.stage.clock.jump(0.2)
        assert here.ask(chain=SHORT.pem).status == 495


async def test_denials_are_decided_anew() -> None:
    async with room() as here:
        here.ask(headers=cookie("s-mallory"))
        here.ask()
        assert remembered(here) == 0


@pytest.mark.parametrize(
    "changed",
    [
        route('[{"allow": {"or": [{"time_of_day": {"timezone": "UTC", "before": "23:59"}}]}}]'),
        route(ANYBODY, serverless_audience="https://run.example.com"),
        route(ANYBODY, set_request_headers={"X-A": '${pomerium.request.headers["x-a"]}'}),
    ],
    ids=["time", "serverless", "header"],
)
async def test_what_an_answer_depends_on_is_never_left_out(changed: RouteRules) -> None:
    async with room(with_route(changed)) as here:
        one = here.ask(headers={"x-a": "1"})
        two = here.ask(headers={"x-a": "2"})

        assert one.allowed
        assert (one.headers.get("x-a"), two.headers.get("x-a")) in ((None, None), ("1", "2"))
        assert remembered(here) in (0, 2)


def test_the_memory_is_bounded_and_forgets_what_was_not_used() -> None:
    memory = Memory(2)
    answer = Remembered(b"x", 10.0, STRANGER, ALLOWED_INTERNAL, 0)

    memory.keep("a", answer)
    memory.keep("b", answer)
    memory.find("a", 1.0)
    memory.keep("c", answer)

    assert len(memory) == 2
    assert memory.find("a", 1.0) is not None
    assert memory.find("b", 1.0) is None
    assert memory.find("c", 10.0) is None  # no longer true


async def test_another_token_of_a_service_account_goes_along_from_the_next_request_on() -> None:
    """A-26, A-33: what was remembered with the token before is never said again."""
    rules = with_route(route(ANYBODY, kubernetes=True, kubernetes_token=Secret("one")))
    async with room(rules) as here:
        before = [here.ask(headers=cookie("s-ada")).headers["authorization"] for _ in range(2)]
        assert remembered(here) == 1
        here.rules.set(with_route(route(ANYBODY, kubernetes=True, kubernetes_token=Secret("two"))))
        after = here.ask(headers=cookie("s-ada")).headers["authorization"]
        here.rules.set(with_route(route(ANYBODY, kubernetes=True)))

        assert here.ask(headers=cookie("s-ada")).status == 403

    assert (before, after) == (["Bearer one"] * 2, "Bearer two")


async def test_a_route_that_was_closed_is_closed_at_once() -> None:
    """A-33."""
    closed, _ = build_route_policy(AllowFields(policies=("no policy",)), source="test")
    async with room() as here:
        assert here.ask(headers=cookie("s-ada")).allowed
        here.rules.set(with_route(route(policy=closed), RULES))
        assert here.ask(headers=cookie("s-ada")).status == 403
        await settle()


async def test_an_account_that_was_taken_back_is_not_remembered_as_allowed() -> None:
    """A-32: what was lent for a control plane that is away ends with the loan, whatever was decided meanwhile."""
    anybody = with_route(route('[{"allow": {"and": [{"authenticated_user": true}]}}]'))
    carried = cookie("robot", idp_id="")
    async with room(anybody, records=()) as at:
        assert not at.ask(headers=carried).allowed
        at.sessions.lend([people.account("robot", "u"), people.account("stays", "u")], at.stage.clock.now())
        assert [at.ask(headers=carried).allowed for _ in range(3)] == [True, True, True]
        assert at.ask(headers=cookie("stays", idp_id="")).allowed
        await at.stage.put(people.account("stays", "u"))

        await at.sessions.take_back()

        assert not at.ask(headers=carried).allowed
        assert at.ask(headers=cookie("stays", idp_id="")).allowed
