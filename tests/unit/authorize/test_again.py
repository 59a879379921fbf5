"""The short way to remembered answers reads the same as the long one, and is bounded."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pomerium_agent.authorize.admit import ok_response
from pomerium_agent.authorize.again import MAX_CARRIED, CarriedMemory, is_usual
from pomerium_agent.authorize.cookies import removal, without_cookie
from pomerium_agent.authorize.gather import Glance, Question, gather
from pomerium_agent.authorize.who import STRANGER
from pomerium_agent.pb.envoy.service.auth.v3.external_auth_pb2 import CheckRequest
from pomerium_agent.sessions.handle import Handle
from tests.unit.authorize.asking import PEOPLE, Answer, cookie, question, room, route, token, with_route

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NAMES = (
    "checksum",
    "chain",
    "headers",
    "host",
    "internal",
    "ip_text",
    "method",
    "query",
    "raw_path",
    "request_id",
    "route_id",
    "scheme",
)
HANDLE = Handle(id="s-ada")


@given(
    path=TEXT | st.just("/a?b=c?d"),
    headers=st.dictionaries(TEXT, TEXT, max_size=4),
    fields=st.fixed_dictionaries(
        {
            "method": TEXT,
            "host": TEXT,
            "scheme": TEXT,
            "route_id": TEXT,
            "internal": st.booleans(),
            "ip": TEXT,
            "chain": TEXT,
        }
    ),
)
def test_a_glance_says_what_a_question_says(path: str, headers: dict[str, str], fields: dict[str, Any]) -> None:
    request = CheckRequest.FromString(question(path, headers, **fields))

    glance, whole = Glance(request), gather(request)

    assert {name: getattr(glance, name) for name in NAMES} == {name: getattr(whole, name) for name in NAMES}


@given(data=st.binary(max_size=60))
def test_a_glance_never_fails(data: bytes) -> None:
    request = CheckRequest()
    request.attributes.request.http.path = data.decode("latin-1")

    is_usual(Glance(request))


@pytest.mark.parametrize(
    ("asked", "usual"),
    [
        ({"path": "/?a=b"}, True),
        ({"path": "/%41"}, True),
        ({"path": "/?pomerium_session=x"}, False),
        ({"path": "/?pomerium%5fsession=x"}, False),
        ({"internal": True}, False),
    ],
    ids=str,
)
def test_a_handle_in_the_query_takes_the_long_way(asked: dict[str, Any], usual: bool) -> None:
    assert is_usual(Glance(CheckRequest.FromString(question(**asked)))) is usual


def test_what_was_carried_is_bounded_and_forgets_what_was_not_used() -> None:
    memory = CarriedMemory(2)

    def keep(line: str) -> None:
        memory.keep(Question({"cookie": line}), STRANGER.presented, HANDLE, b"")

    def known(line: str) -> bool:
        return memory.find(Glance(CheckRequest.FromString(question(headers={"cookie": line})))) is not None

    keep("a")
    keep("b")
    assert known("a")
    keep("c")
    keep("x" * (MAX_CARRIED + 1))
    assert (known("a"), known("b"), known("c"), len(memory)) == (True, False, True, 2)


async def test_credentials_that_are_not_good_are_not_remembered() -> None:
    async with room() as here:
        for bad in ("_pomerium=x.y.z", "a=b", ""):
            here.ask(headers={"cookie": bad})
        assert len(here.checker._generation.carried) == 0
        here.ask(headers=cookie("s-ada"))
        assert len(here.checker._generation.carried) == 1


async def test_another_providers_handle_for_a_session_that_is_remembered_is_still_no_handle_there() -> None:
    """A-6: a handle is remembered for every route, and whose sessions count is a matter of each."""
    rules = with_route(route(id="r2", idp_id="idp-2"))
    here_only, there_too = cookie("s-ada", issued_at=7), cookie("s-ada", idp_id="", issued_at=7)
    async with room(rules) as here:
        for _ in range(2):
            assert here.ask(headers=here_only).allowed
            assert here.ask(headers=there_too, route_id="r2").allowed

        assert here.ask(headers=here_only, route_id="r2").status == 302


async def test_a_handle_that_is_ahead_of_the_records_waits_for_them_though_it_is_remembered() -> None:
    """A-7, A-8: what was confirmed of one data set says nothing of the next one, which may not have it yet."""
    async with room() as here:
        ahead = cookie("s-ada", databroker_server_version=5, databroker_record_version=1_000_000)
        for _ in range(2):
            assert (await here.ask_and_wait(headers=ahead)).allowed
        assert isinstance(here.checker.check(question(headers=ahead)), bytes)

        await here.stage.backend.clear()
        await here.stage.put(*PEOPLE)

        waited = here.checker.check(question(headers=ahead))
        assert not isinstance(waited, bytes)
        assert Answer(await waited).allowed


async def test_the_answer_takes_the_session_cookie_off_each_time() -> None:
    """Authorize 24."""
    others = {"cookie": f"theme=dark; _pomerium={token('s-ada')}; a=b"}
    alone = {"cookie": f"_pomerium={token('s-ada')}"}
    async with room() as here:
        for _ in range(3):  # anew, from memory, and by the short way
            assert here.ask(headers=others).headers["cookie"] == "theme=dark; a=b"
            assert "cookie" in here.ask(headers=alone).removed


async def test_a_route_that_sets_the_cookie_header_has_its_way() -> None:
    async with room(with_route(route(set_request_headers={"Cookie": "mine=1"}))) as here:
        for _ in range(3):
            answer = here.ask(headers=cookie("s-ada"))
            assert (answer.headers["cookie"], "cookie" in answer.removed) == ("mine=1", False)


@pytest.mark.parametrize(
    ("line", "left"),
    [
        ("_pomerium=x", ""),
        ("a=1; _pomerium=x; b=2", "a=1; b=2"),
        ("_pomerium=x;_pomerium=y ;c", "c"),
        ("a=1; \t_pomerium =x", "a=1"),
        ("a=_pomerium; _pomerium", None),  # nothing of ours
        ("_pomerium_csrf=x", None),
        ("a=1, _pomerium=x", None),  # left to the script
        ("_pomerium=x; b=\u00fc", None),
        ("_pomerium=x;" + "b" * 9000, None),
    ],
)
def test_only_the_session_cookie_goes(line: str, left: str | None) -> None:
    assert without_cookie(line, "_pomerium") == left


@given(value=st.text(st.characters(codec="ascii", exclude_characters=";,= \t\n\r\f\v"), min_size=1, max_size=300))
def test_what_takes_the_cookie_off_is_a_message_like_any_other(value: str) -> None:
    left = f"a={value}"
    assert removal(f"_pomerium=x; {left}", "_pomerium") == ok_response({"cookie": left})
    assert removal("_pomerium=x", "_pomerium") == ok_response({}, ("cookie",))


@given(line=st.text(st.sampled_from("_pomeriu=;, \tx\x1f"), max_size=40) | TEXT)
def test_no_cookie_header_is_too_strange(line: str) -> None:
    left = without_cookie(line, "_pomerium")
    assert left is None or without_cookie(left, "_pomerium") is None
