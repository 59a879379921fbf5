"""Who is behind a session: lookup order, validity, impersonation, and what each reader gets to see."""

from datetime import datetime, timedelta
from math import inf

import pytest

from pomerium_agent.policy.facts import STRANGER, DeviceCredential
from pomerium_agent.records import Record
from pomerium_agent.sessions.handle import Handle
from pomerium_agent.sessions.identity import Impersonated, Resolved, resolve
from tests.fakes import session_records as people
from tests.fakes.session_records import NOW
from tests.unit.sessions.stage import Stage

PAST, SOON, LATER = NOW - timedelta(seconds=1), NOW + timedelta(minutes=1), NOW + timedelta(hours=1)
YEAR_ONE = people.GONE


async def resolved(*records: Record, id: str = "s", now: datetime = NOW) -> Resolved | None:
    stage = Stage()
    await stage.put(*records)
    async with stage.sessions() as sessions:
        return resolve(sessions, id, now)


async def known(*records: Record, id: str = "s", now: datetime = NOW) -> Resolved:
    found = await resolved(*records, id=id, now=now)
    assert found is not None
    return found


async def test_nobody_is_behind_an_unknown_id() -> None:
    """P-8."""
    assert await resolved() is None


async def test_a_session_is_found_with_its_user_directory_and_devices() -> None:
    """P-8, P-10, P-11, P-15."""
    found = await known(
        people.session(
            "s", "u", idp_id="idp", claims={"a": ["s"], "b": [1]}, devices=[("any", "c"), ("any", ""), ("x", "gone")]
        ),
        people.user("u", "u@x", claims={"a": ["u", "v"]}),
        people.directory_user("u", email="d@x", group_ids=["g", "h"]),
        people.directory_group("g", "Group"),
        people.credential("c", "e"),
        people.enrollment("e", "boss"),
    )

    identity = found.identity
    assert identity.present
    assert not identity.service_account
    assert (identity.session_id, identity.user_id, identity.email) == ("s", "u", "d@x")
    assert dict(identity.claims) == {"a": ("u", "v"), "b": (1,)}
    assert identity.groups == ("g", "h")
    assert identity.devices == (
        DeviceCredential(type_id="any", id="c", found=True, enrolled=True, approved=True),
        DeviceCredential(type_id="any"),
        DeviceCredential(type_id="x", id="gone"),
    )
    assert dict(found.session_claims) == {"a": ("s",), "b": (1,)}
    assert dict(found.user_claims) == {"a": ("u", "v")}
    assert dict(found.group_names) == {"g": "Group"}
    assert (found.actor_user_id, found.actor_email) == ("u", "u@x")
    assert found.valid_until == inf


async def test_a_missing_user_is_no_error() -> None:
    """Authorize 5."""
    found = await known(people.session("s", "u"))

    assert found.identity.present
    assert (found.identity.email, found.identity.groups, found.email) == ("", None, "")


@pytest.mark.parametrize(
    ("directory", "for_policies", "for_headers"),
    [(None, "u@x", "u@x"), ({"email": "d@x"}, "d@x", "d@x"), ({"email": ""}, "u@x", ""), ({}, "u@x", "u@x")],
)
async def test_policies_and_headers_prefer_the_directory_each_in_its_way(
    directory: dict[str, str] | None, for_policies: str, for_headers: str
) -> None:
    """P-10: if non-empty. Authorize 13: if the field exists."""
    records = [people.session("s", "u"), people.user("u", "u@x")]
    if directory is not None:
        records.append(people.directory_user("u", **directory))
    found = await known(*records)

    assert (found.identity.email, found.email) == (for_policies, for_headers)


async def test_a_directory_user_without_groups_is_not_a_missing_one() -> None:
    """P-15."""
    found = await known(people.session("s", "u"), people.directory_user("u", group_ids=[1, None, "g"]))
    none = await known(people.session("s", "u"), people.directory_user("u", group_ids="g"))

    assert found.identity.groups == ("g",)
    assert none.identity.groups == ()


# --- validity -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("times", "until"),
    [
        ({}, inf),
        ({"expires": SOON}, SOON.timestamp()),
        ({"expires": PAST}, None),
        ({"expires": YEAR_ONE}, inf),
        ({"token": "t", "token_expires": PAST}, None),
        ({"token_expires": PAST}, None),
        ({"token_expires": YEAR_ONE}, inf),
        ({"token_expires": PAST, "refresh": "r"}, inf),
        ({"token_expires": PAST, "refresh": "r", "refresh_disabled": True}, None),
        ({"token_expires": SOON, "refresh": "r", "refresh_disabled": True}, SOON.timestamp()),
        ({"token_expires": SOON, "refresh": "r", "expires": LATER}, LATER.timestamp()),
        ({"token_expires": SOON, "expires": LATER}, SOON.timestamp()),
        ({"token_expires": LATER, "expires": SOON}, SOON.timestamp()),
        ({"token_expires": PAST, "refresh": "r", "expires": PAST}, None),
    ],
)
async def test_a_session_is_valid_until_it_or_a_token_that_cannot_be_renewed_expires(
    times: dict[str, object], until: float | None
) -> None:
    """P-9, N-30, authorize 5."""
    found = await resolved(people.session("s", "u", **times))  # type: ignore[arg-type]  # a table of keywords

    assert (found.valid_until if found else None) == until


async def test_expiry_takes_effect_with_the_clock_and_not_with_a_record() -> None:
    """A-32."""
    records = (people.session("s", "u", expires=SOON),)
    found = await known(*records)

    assert found.holds(SOON - timedelta(microseconds=1))
    assert not found.holds(SOON)
    assert await resolved(*records, now=SOON + timedelta(microseconds=1)) is None


@pytest.mark.parametrize(("issued_at", "valid"), [(0, True), (-3600, True), (-3601, False)])
async def test_handles_of_sessions_age_and_those_of_service_accounts_do_not(issued_at: int, valid: bool) -> None:
    """W2."""
    stage = Stage()
    await stage.put(people.session("s", "u"), people.account("a", "u"))
    issued = int(NOW.timestamp()) + issued_at

    async with stage.sessions() as sessions:
        ours = resolve(sessions, Handle(id="s", issued_at=issued), NOW, handle_lifetime=timedelta(hours=1))
        account = resolve(sessions, Handle(id="a", issued_at=issued), NOW, handle_lifetime=timedelta(hours=1))
        undated = resolve(sessions, Handle(id="s"), NOW, handle_lifetime=timedelta(hours=1))

    assert (ours is not None) is valid
    assert ours is None or ours.valid_until == issued + 3600
    assert account is not None
    assert undated is not None


# --- service accounts ---------------------------------------------------------------------------------


async def test_a_service_account_has_a_user_and_no_claims_of_its_own() -> None:
    """P-8."""
    found = await known(people.account("s", "u", expires=LATER), people.user("u", "u@x", claims={"a": ["u"]}))

    assert found.service_account
    assert found.identity.service_account
    assert found.identity.devices == ()
    assert (found.session_id, found.user_id, found.email) == ("s", "u", "u@x")
    assert dict(found.session_claims) == {}
    assert dict(found.identity.claims) == {"a": ("u",)}
    assert found.valid_until == LATER.timestamp()


async def test_an_expired_service_account_is_nobody() -> None:
    """P-9."""
    assert await resolved(people.account("s", "u", expires=PAST)) is None


async def test_of_both_kinds_under_one_id_the_session_must_be_valid_and_the_account_is_who_acts() -> None:
    """A-7 looks up the session first, P-8 evaluates the service account first."""
    both = await known(people.session("s", "u", expires=LATER), people.account("s", "a", expires=SOON))
    account_expired = await known(people.session("s", "u"), people.account("s", "a", expires=PAST))

    assert (both.user_id, both.valid_until) == ("a", SOON.timestamp())
    assert account_expired.user_id == "u"
    assert await resolved(people.session("s", "u", expires=PAST), people.account("s", "a")) is None


# --- impersonation ------------------------------------------------------------------------------------


async def test_an_impersonated_session_lends_identity_and_the_original_keeps_the_responsibility() -> None:
    """A-11."""
    found = await known(
        people.session("s", "admin", as_session="t", claims={"k": ["admin"]}, token="theirs", expires=LATER),
        people.user("admin", "admin@x"),
        people.directory_user("admin", email="directory@x"),
        people.session("t", "u", claims={"k": ["u"]}, devices=[("any", "c")], expires=SOON),
        people.user("u", "u@x"),
        people.directory_user("u", email="d@x", group_ids=["g"]),
    )

    assert (found.session_id, found.actor_user_id, found.actor_email) == ("s", "admin", "admin@x")
    assert (found.identity.session_id, found.user_id, found.email) == ("t", "u", "d@x")
    assert dict(found.session_claims) == {"k": ("u",)}
    assert found.identity.devices == (DeviceCredential(type_id="any", id="c"),)
    assert found.impersonated == Impersonated(session_id="t", user_id="u", email="u@x")
    assert found.valid_until == SOON.timestamp()
    assert found.access_token == ""


@pytest.mark.parametrize("target", [None, people.session("t", "u", expires=PAST)])
async def test_a_missing_or_expired_target_never_falls_back_to_the_impersonator(target: Record | None) -> None:
    """P-8, A-11: the session is there, nobody is behind it."""
    records = [people.session("s", "admin", as_session="t"), people.user("admin", "admin@x")]
    found = await known(*records, *([target] if target else []))

    assert found.identity == STRANGER
    assert (found.user_id, found.email, dict(found.session_claims)) == ("", "", {})
    assert (found.session_id, found.actor_email) == ("s", "admin@x")


async def test_impersonation_goes_one_level() -> None:
    """P-8."""
    found = await known(
        people.session("s", "a", as_session="t"), people.session("t", "b", as_session="x"), people.session("x", "c")
    )

    assert found.user_id == "b"


async def test_an_expired_impersonator_is_nobody() -> None:
    assert await resolved(people.session("s", "a", as_session="t", expires=PAST), people.session("t", "b")) is None


async def test_an_impersonated_user_without_a_record_is_not_named_in_the_log() -> None:
    """Authorize 20."""
    found = await known(people.session("s", "a", as_session="t"), people.session("t", "b"))

    assert found.impersonated is None
    assert found.user_id == "b"


async def test_tokens_do_not_show_themselves() -> None:
    found = await known(people.session("s", "u", token="tell-nobody", id_token="tell-nobody-either"))

    assert (found.access_token, found.id_token) == ("tell-nobody", "tell-nobody-either")
    assert "tell-nobody" not in repr(found)
