"""Queries as SQL, and what callers may try with them (databroker 6; D-21, D-36; C22)."""

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pomerium_agent.databroker.filters import And, Equals, Not, Or
from pomerium_agent.databroker.postgres import open_postgres
from pomerium_agent.databroker.postgres.filters import MAX_PARAMETERS, Conditions, lower_camel_case
from pomerium_agent.errors import InvalidRequest, RecordNotFound
from pomerium_agent.records import Record
from pomerium_agent.runtime.clock import SystemClock
from pomerium_agent.runtime.health import Health
from tests.contract.stores import SESSION, found_ids, gone, origin, session, so_far, struct, user
from tests.fakes.postgres import Postgres


def test_a_field_is_found_under_its_name_in_json() -> None:
    """Databroker 6: each segment in lowerCamelCase."""
    assert [lower_camel_case(name) for name in ("id", "user_id", "a_b_c", "userId", "")] == [
        "id",
        "userId",
        "aBC",
        "userId",
        "",
    ]


def test_values_of_one_field_are_one_comparison() -> None:
    conditions = Conditions()
    either = Or((Equals(("id",), "a"), Equals(("id",), "b"), Equals(("$index",), "10.0.0.1")))

    where = conditions.where("t", And((either, Not(Equals(("x_y", "z"), "1")))))

    assert conditions.parameters == ["t", ["a", "b"], ["10.0.0.1/32"], ["xY", "z"], ["1"]]
    assert where.count("$") == 5
    assert not any(value in where for value in ("10.0", "xY"))


def test_a_filter_without_end_is_refused() -> None:
    terms = tuple(And((Equals((f"f{n}",), "1"), Equals(("g",), "2"))) for n in range(MAX_PARAMETERS))

    with pytest.raises(InvalidRequest, match="comparisons"):
        Conditions().where("", Or(terms))


async def test_every_field_is_found_indexed_or_not_and_not_is_understood(postgres: Postgres) -> None:
    """C22, databroker 6: what memory cannot look up, the database can."""
    async with postgres.database() as database, open_postgres(database.url, SystemClock(), Health()) as backend:
        await backend.put([session("1", "ada", subject="s"), session("2", "grace"), session("3"), user("4")])
        await backend.put([struct("x", "5", {"n": 1, "b": True, "s": "ada"}), struct("x", "6", {"n": 1.5})])

        for type, filter, ids in (
            (SESSION, {"user_id": "ada"}, ["1"]),
            (SESSION, {"id_token": {"subject": "s"}}, ["1"]),
            (SESSION, {"$not": {"user_id": "ada"}}, ["2", "3"]),
            (SESSION, {"$not": [{"id": "1"}, {"id": "2"}]}, ["3"]),
            ("x", {"value": {"n": 1}}, ["5"]),
            ("x", {"value": {"n": 1.5}}, ["6"]),
            ("x", {"value": {"b": True}}, ["5"]),
        ):
            assert await found_ids(backend, type, filter) == ids, filter


async def test_a_character_that_no_text_can_hold_is_refused_or_found_nowhere(postgres: Postgres) -> None:
    """D-36: never an error of the database."""
    async with postgres.database() as database, open_postgres(database.url, SystemClock(), Health()) as backend:
        cursor = await origin(backend)
        for record in (struct("a\0", "1"), struct("a", "1\0"), struct("a", "1", {"k": "\0"}), gone("a", "\0")):
            with pytest.raises(InvalidRequest, match=r"U\+0000"):
                await backend.put([struct("a", "before"), record])
        with pytest.raises(InvalidRequest, match="no data"):
            await backend.put([struct("a", "before"), Record(type="a", id="1")])
        with pytest.raises(RecordNotFound):
            await backend.get("a\0", "1")

        assert await so_far(backend, cursor) == []
        assert await found_ids(backend, "a\0") == await found_ids(backend, "", {"i\0d": "1", "id": "\0"}) == []
        assert (await backend.latest("a\0"))[1] == ()


words = st.one_of(
    st.text(max_size=8), st.sampled_from(["$index", "id", "type", "'", '"', ";--", "$1", "{}", "\\", "\0"])
)
filters = st.dictionaries(
    words,
    st.recursive(
        st.one_of(words, st.none(), st.booleans(), st.floats(), st.integers()),
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(words, inner, max_size=3)),
        max_leaves=8,
    ),
    max_size=4,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(tried=st.lists(st.tuples(words, filters, words), min_size=10, max_size=10))
def test_whatever_is_asked_the_database_understands_it(
    postgres: Postgres, tried: list[tuple[str, dict[str, object], str]]
) -> None:
    """D-21: an answer, or InvalidRequest; nothing of a filter is ever taken for SQL."""

    async def check() -> None:
        async with postgres.database() as database, open_postgres(database.url, SystemClock(), Health()) as backend:
            await backend.put([session("1", "ada"), struct("x", "2", {"$index": {"cidr": "10.0.0.0/8"}})])
            for type, filter, text in tried:
                try:
                    await backend.query(type, filter=filter, text=text, limit=10)
                except InvalidRequest:
                    continue

    asyncio.run(check())


async def test_the_address_of_a_record_is_kept_beside_it_where_it_has_one(postgres: Postgres) -> None:
    """D-30."""
    async with postgres.database() as database, open_postgres(database.url, SystemClock(), Health()) as backend:
        await backend.put([struct("net", "1", {"$index": {"cidr": "10.1.0.0/16"}}), struct("net", "2", {"a": "b"})])
        async with database.connect() as connection:
            rows = await connection.fetch("select id, index_cidr::text from pomerium.records order by id")

        assert [tuple(row) for row in rows] == [("1", "10.1.0.0/16"), ("2", None)]
        assert await found_ids(backend, "net", {"$index": "10.1.2.3"}) == ["1"]
