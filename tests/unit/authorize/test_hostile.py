"""No visitor gets in by mistake, breaks a check, or holds it up (A-2, A-14; fuzz)."""

import string
import time

import pytest
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pomerium_agent.authorize.accept import preferred, prefers_json, wants_page
from pomerium_agent.authorize.check import Checker
from pomerium_agent.authorize.decide import NEEDS_SESSION
from pomerium_agent.authorize.gather import Question, address, decoded_path, hostname
from pomerium_agent.authorize.urls import current_url
from pomerium_agent.databroker.memory import MemoryBackend
from pomerium_agent.handoff.query import parse_query
from pomerium_agent.look.markdown import render_markdown
from pomerium_agent.runtime.latest import Latest
from pomerium_agent.sessions.live import Sessions
from tests.fakes.clock import ManualClock
from tests.unit.authorize.asking import RULES, Answer, question, token

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
WIRE = st.text(string.printable, max_size=200)
NAMES = st.sampled_from(
    [
        *("accept", "authorization", "content-type", "cookie", "host", "origin", "referer", "sec-fetch-mode"),
        *("traceparent", "upgrade", "user-agent", "x-pomerium-authorization", "x-pomerium-jwt-assertion"),
        *("x-pomerium-jwt-assertion-for", "x-request-id", "x-requested-with", ":path", ":authority"),
    ]
)
FORGED = token("s-ada")[:-6] + "AAAAAA"
VALUES = st.one_of(
    TEXT,
    WIRE,
    st.sampled_from(["application/json", "*/*", "text/html", f"_pomerium={FORGED}", "Bearer ", "Pomerium "]),
)
CLOCK = ManualClock()


CHECKER = Checker(Latest(RULES), Sessions(MemoryBackend(CLOCK)), CLOCK)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    path=st.one_of(TEXT, WIRE).map(lambda text: "/" + text),
    headers=st.dictionaries(NAMES, VALUES, max_size=6),
    method=st.one_of(st.sampled_from(["GET", "POST", "OPTIONS", "CONNECT", ""]), TEXT),
    host=st.one_of(st.just("wiki.example.com"), TEXT),
    ip=st.one_of(st.just("192.0.2.1"), TEXT),
    chain=TEXT,
    internal=st.booleans(),
)
def test_nothing_that_a_visitor_sends_lets_them_in_or_breaks_the_check(
    path: str, headers: dict[str, str], method: str, host: str, ip: str, chain: str, internal: bool
) -> None:
    """A-2: a stranger stays one, in every form."""
    message = question(
        path,
        headers,
        method=method,
        host=host,
        ip=ip,
        chain=chain,
        internal=internal,
        route_id="" if internal else "r1",
    )

    raw = CHECKER.check(message)

    assert isinstance(raw, bytes)
    answer = Answer(raw)
    if internal:
        seen = decoded_path(path.partition("?")[0])
        assert answer.allowed is (bool(seen) and seen not in NEEDS_SESSION)
    else:
        assert not answer.allowed
        assert answer.status in (200, 302, 401)
        assert all(ord(c) >= 32 for value in answer.headers.values() for c in value)
        location = answer.headers.get("location", "https://authenticate.example.com/")
        assert location.startswith("https://authenticate.example.com/")


@settings(max_examples=300, deadline=None)
@given(message=st.binary(max_size=300))
def test_bytes_that_are_hardly_a_request_never_pass(message: bytes) -> None:
    try:
        raw = CHECKER.check(message)
    except DecodeError:
        return
    assert isinstance(raw, bytes)
    assert not Answer(raw).allowed


@given(accept=st.one_of(TEXT, WIRE))
def test_every_accept_has_an_answer(accept: str) -> None:
    """A-15."""
    assert preferred(accept, ("text/html",)) in (None, "text/html")
    assert not (wants_page(accept) and prefers_json(accept))


@pytest.mark.parametrize(
    "text",
    [
        "a/b;" * 20_000,
        'a/b;c="' * 20_000,
        "a/b; " + " " * 60_000,
        "a/b," * 16_000,
        "/" * 65_000,
        "%" * 65_000,
        "%41" * 20_000,
        "=&" * 30_000,
        ";" * 65_000,
        "_pomerium=" * 6_000,
        "*" * 65_000,
        "[" * 65_000,
        "`" * 65_000,
        ".".join(["e30"] * 20_000),
    ],
    ids=lambda text: text[:6],
)
def test_no_length_of_anything_takes_long(text: str) -> None:
    began = time.perf_counter()
    for name in ("accept", "cookie", "authorization", "referer", "x-pomerium-jwt-assertion", "traceparent"):
        raw = CHECKER.check(question("/?" + text, {name: text}))
        assert isinstance(raw, bytes)
        assert not Answer(raw).allowed
    render_markdown(text)

    assert time.perf_counter() - began < 3


@given(text=TEXT)
def test_parsers_are_total(text: str) -> None:
    assert isinstance(decoded_path(text), str)
    assert isinstance(hostname(text), str)
    address(text)
    parse_query(text)
    render_markdown(text)
    url = current_url(Question({}, host=text, raw_path=text, query=text))
    assert url.startswith("https://")
    assert url.isascii()
    assert url.isprintable()
