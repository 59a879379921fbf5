"""The promise of databroker.Backend: queries (databroker 5 and 6; C20-C23, D-8 to D-10, D-21, D-22)."""

from collections.abc import Mapping

import pytest

from pomerium_agent.databroker import Options
from pomerium_agent.errors import InvalidRequest, Unsupported
from tests.contract.stores import (
    DIRECTORY_USER,
    EVERYTHING,
    SESSION,
    USER,
    OpenStore,
    end,
    found_ids,
    gone,
    session,
    struct,
    user,
)

BY_USER = Options(indexable_fields=("user_id",))


async def test_a_page_is_cut_from_all_matches_in_order(open_store: OpenStore) -> None:
    """D-8."""
    async with open_store() as store:
        await store.backend.put([session(id) for id in "dbca"])

        for offset, limit, ids in ((0, 2, "ab"), (1, 2, "bc"), (3, 9, "d"), (4, 1, ""), (9, 9, ""), (0, 0, "")):
            found = await store.backend.query(SESSION, offset=offset, limit=limit)

            assert "".join(record.id for record in found.records) == ids
            assert found.total_count == 4
            assert (found.server_version, found.record_version) == (
                (await end(store.backend)).server_version,
                (await end(store.backend)).record_version,
            )


@pytest.mark.parametrize(("offset", "limit"), [(-1, 1), (0, -1), (-5, -5)])
async def test_a_negative_page_is_refused(open_store: OpenStore, offset: int, limit: int) -> None:
    """D-10."""
    async with open_store() as store:
        with pytest.raises(InvalidRequest, match="negative"):
            await store.backend.query(SESSION, offset=offset, limit=limit)


async def test_without_a_filter_everything_matches_in_order_of_type_and_id(open_store: OpenStore) -> None:
    """C23."""
    async with open_store() as store:
        await store.backend.put([user("2"), session("3"), user("1"), session("4")])

        assert await found_ids(store.backend, "") == ["3", "4", "1", "2"]
        assert await found_ids(store.backend, "", {}) == ["3", "4", "1", "2"]
        assert await found_ids(store.backend, USER) == ["1", "2"]
        assert await found_ids(store.backend, "no.such.Type") == []


async def test_text_is_found_in_all_string_values_whatever_its_case(open_store: OpenStore) -> None:
    """D-9, V8."""
    async with open_store() as store:
        await store.backend.put(
            [
                user("1", name="Ada LOVELACE"),
                user("2", email="Grace.Hopper@example.com"),
                session("3", subject="lovelace-at-idp"),
                struct("x", "4", {"deep": [{"list": ["", "Lovelace"]}]}),
                struct("x", "5", {"lovelace": 1}),
            ]
        )

        assert await found_ids(store.backend, "", text="lovelace") == ["3", "1", "4"]
        assert await found_ids(store.backend, USER, text="LOVE") == ["1"]
        assert await found_ids(store.backend, "", {"id": "1"}, text="hopper") == []
        found = await store.backend.query("", text="e", offset=1, limit=1)
        assert (len(found.records), found.total_count) == (1, 4)


async def test_ids_and_types_select_across_and_within_types(open_store: OpenStore) -> None:
    """C23."""
    async with open_store() as store:
        await store.backend.put([session("a"), session("b"), user("a"), user("c")])

        for type, filter, expected in (
            ("", {"id": "a"}, [(SESSION, "a"), (USER, "a")]),
            (USER, {"id": "a"}, [(USER, "a")]),
            ("", {"type": USER}, [(USER, "a"), (USER, "c")]),
            ("", {"type": USER, "id": ["a", "b"]}, [(USER, "a")]),
            ("", {"$or": [{"id": "b"}, {"id": "c"}]}, [(SESSION, "b"), (USER, "c")]),
            ("", {"id": []}, []),
            (SESSION, {"id": {"$eq": "b"}}, [(SESSION, "b")]),
            (SESSION, {"$and": [{"id": "a"}, {"id": "b"}]}, []),
        ):
            found = await store.backend.query(type, filter=filter, limit=EVERYTHING)
            assert [(record.type, record.id) for record in found.records] == expected, filter


async def test_an_indexed_field_follows_every_change_of_its_record(open_store: OpenStore) -> None:
    """C20."""
    async with open_store() as store:
        await store.backend.set_options(SESSION, BY_USER)

        await store.backend.put([session("1", "ada"), session("2", "ada"), session("3", "grace")])
        assert await found_ids(store.backend, SESSION, {"user_id": "ada"}) == ["1", "2"]

        await store.backend.put([session("1", "grace")])
        assert await found_ids(store.backend, SESSION, {"user_id": "ada"}) == ["2"]
        assert await found_ids(store.backend, SESSION, {"user_id": "grace"}) == ["1", "3"]

        await store.backend.patch([session("2", "grace")], ["user_id"])
        assert await found_ids(store.backend, SESSION, {"user_id": ["ada", "grace"]}) == ["1", "2", "3"]

        await store.backend.put([gone(SESSION, "1")])
        await store.backend.put([session("4", "grace")])
        assert await found_ids(store.backend, SESSION, {"user_id": "grace"}) == ["2", "3", "4"]


async def test_an_index_made_after_the_records_finds_them(open_store: OpenStore) -> None:
    """C20; a field that no message has does no harm."""
    async with open_store() as store:
        await store.backend.put([session("1", "ada", subject="s1"), session("2", "ada", subject="s2")])

        await store.backend.set_options(
            SESSION, Options(indexable_fields=("user_id", "no_such_field", "id_token.no_such", "id_token.subject"))
        )

        assert await found_ids(store.backend, SESSION, {"user_id": "ada"}) == ["1", "2"]
        assert await found_ids(store.backend, SESSION, {"no_such_field": "ada"}) == []
        assert await found_ids(store.backend, "", {"id_token": {"subject": "s2"}}) == ["2"]


async def test_a_nested_field_is_found_after_the_set_of_indexes_changed(open_store: OpenStore) -> None:
    """C21."""
    async with open_store() as store:
        await store.backend.put([session("1", "ada", subject="s")])
        await store.backend.set_options(SESSION, BY_USER)

        await store.backend.set_options(SESSION, Options(indexable_fields=("id_token.subject",)))
        await store.backend.put([session("2", "ada", subject="s")])

        assert await found_ids(store.backend, SESSION, {"id_token": {"subject": "s"}}) == ["1", "2"]
        assert await found_ids(store.backend, SESSION, {"nothing": {"here": "s"}}) == []


async def test_a_struct_field_is_found_under_value(open_store: OpenStore) -> None:
    """Databroker 6: where PostgreSQL has it, all backends have it."""
    async with open_store() as store:
        await store.backend.set_options(DIRECTORY_USER, Options(indexable_fields=("value.email",)))
        await store.backend.put([struct(DIRECTORY_USER, "1", {"email": "a@x"}), struct(DIRECTORY_USER, "2")])

        assert await found_ids(store.backend, DIRECTORY_USER, {"value": {"email": "a@x"}}) == ["1"]


async def test_a_missing_field_is_not_found_as_empty(open_store: OpenStore) -> None:
    """Databroker 6: missing fields are not indexed, as the contract of the index says."""
    async with open_store() as store:
        await store.backend.set_options(SESSION, BY_USER)
        await store.backend.put([session("1")])

        assert await found_ids(store.backend, SESSION, {"user_id": ""}) == []
        assert await found_ids(store.backend, SESSION, {"user_id": None}) == []


NETWORKS = {
    "ten": "10.0.0.0/8",
    "ten-one": "10.1.0.0/16",
    "host-bits": "10.1.2.3/24",
    "six": "2001:db8::/32",
    "six-host-bits": "2001:db8::1/48",
}


@pytest.mark.parametrize(
    ("address", "ids"),
    [
        ("10.1.2.200", ["host-bits", "ten", "ten-one"]),
        ("10.1.2.0/24", ["host-bits", "ten", "ten-one"]),
        ("10.1.99.7/16", ["ten", "ten-one"]),
        ("10.0.0.0/7", []),
        ("10.200.0.1", ["ten"]),
        ("192.0.2.1", []),
        ("2001:db8::99", ["six", "six-host-bits"]),
        ("2001:db8:1::/48", ["six"]),
        ("2001:DB8:1::5", ["six"]),
        ("not an address", []),
        ("", []),
        ("10.1.2.3/255.255.0.0", []),
    ],
)
async def test_an_address_finds_every_network_that_covers_it(
    open_store: OpenStore, address: str, ids: list[str]
) -> None:
    """C23, D-22, V10."""
    async with open_store() as store:
        records = [struct("net", id, {"$index": {"cidr": cidr}}) for id, cidr in NETWORKS.items()]
        bare = struct("net", "bare", {"$index": {"cidr": "10.1.2.200"}})
        odd = [struct("net", f"odd-{n}", {"$index": odd}) for n, odd in enumerate(("10.0.0.0/8", {"cidr": 8}, {}, []))]
        await store.backend.put(
            [*records, bare, *odd, struct("other", "ten-one-two", {"$index": {"cidr": "10.1.2.0/24"}})]
        )

        assert await found_ids(store.backend, "net", {"$index": address}) == ids


async def test_networks_are_found_across_and_within_types_and_follow_changes(open_store: OpenStore) -> None:
    """C23, V10: a closer network of another type hides nothing."""
    async with open_store() as store:
        await store.backend.put([struct("a", "wide", {"$index": {"cidr": "10.0.0.0/8"}})])
        await store.backend.put([struct("b", "close", {"$index": {"cidr": "10.1.0.0/16"}}), struct("b", "none")])

        assert await found_ids(store.backend, "", {"$index": "10.1.1.1"}) == ["wide", "close"]
        assert await found_ids(store.backend, "a", {"$index": "10.1.1.1"}) == ["wide"]
        lookup = {"$or": [{"id": "none"}, {"$index": "10.1.1.1"}]}
        assert await found_ids(store.backend, "b", lookup) == ["close", "none"]
        both = {"$and": [{"$or": [{"id": "wide"}, {"id": "none"}]}, {"$index": "10.1.1.1"}]}
        assert await found_ids(store.backend, "", both) == ["wide"]

        await store.backend.put([struct("a", "wide", {"$index": {"cidr": "192.0.2.0/24"}}), gone("b", "close")])

        assert await found_ids(store.backend, "", {"$index": "10.1.1.1"}) == []
        assert await found_ids(store.backend, "", {"$index": "192.0.2.5"}) == ["wide"]


@pytest.mark.parametrize(
    "filter", [{"$or": {"id": "a"}}, {"$and": "a"}, {"$eq": "a"}, {"id": {}}, {"$and": []}, {"id": {"$or": [{}]}}]
)
async def test_a_filter_that_cannot_be_read_is_refused(open_store: OpenStore, filter: Mapping[str, object]) -> None:
    """D-4."""
    async with open_store() as store:
        with pytest.raises(InvalidRequest, match="filter") as refusal:
            await store.backend.query("", filter=filter, limit=1)

        assert not isinstance(refusal.value, Unsupported)


async def test_an_operator_that_nobody_looks_up_is_refused_by_name(open_store: OpenStore) -> None:
    """D-4."""
    async with open_store() as store:
        with pytest.raises(Unsupported, match=r"\$startsWith"):
            await store.backend.query("", filter={"user_id": {"$startsWith": "a"}}, limit=1)
