"""Field masks over protobuf data (databroker 5: Patch; D-16); what backends do with them is in tests/contract."""

import pytest
from google.protobuf.message import Message

from pomerium_agent.databroker.patch import patch_payload
from pomerium_agent.errors import InvalidRequest
from pomerium_agent.pb.pomerium import config_pb2, device_pb2, session_pb2
from pomerium_agent.records import Payload, pack


def session(**fields: object) -> session_pb2.Session:
    return session_pb2.Session(**fields)  # type: ignore[arg-type]  # any field, said by the test in clear


def patched(stored: Message, wanted: Message, *fields: str) -> Message:
    result = type(stored)()
    result.ParseFromString(patch_payload(pack(stored), pack(wanted), fields).value)
    return result


def test_lists_and_maps_are_replaced_as_a_whole() -> None:
    before = session(id="a", audience=["x", "y"], device_credentials=[{"type_id": "t"}])
    before.claims["old"].values.add().string_value = "1"
    wanted = session(audience=["z"], device_credentials=[{"type_id": "u"}, {"type_id": "v"}])
    wanted.claims["new"].values.add().string_value = "2"

    after = patched(before, wanted, "audience", "claims", "device_credentials")

    expected = session(id="a", audience=["z"], device_credentials=[{"type_id": "u"}, {"type_id": "v"}])
    expected.claims["new"].CopyFrom(wanted.claims["new"])
    assert after == expected


def test_a_sub_field_is_copied_into_a_parent_that_was_not_there() -> None:
    after = patched(session(id="a"), session(id_token={"subject": "s", "issuer": "i"}), "id_token.subject")

    assert after == session(id="a", id_token={"subject": "s"})


def test_a_sub_field_without_parent_on_either_side_is_left_alone() -> None:
    after = patched(session(id="a"), session(user_id="u"), "id_token.subject", "user_id")

    assert isinstance(after, session_pb2.Session)
    assert not after.HasField("id_token")
    assert after.user_id == "u"


def test_a_sub_field_whose_parent_the_request_lacks_is_cleared() -> None:
    before = session(id_token={"subject": "s", "issuer": "i"})

    assert patched(before, session(), "id_token.subject") == session(id_token={"issuer": "i"})


def test_a_parent_that_only_the_request_has_comes_even_when_its_sub_field_is_empty() -> None:
    after = patched(session(id="a"), session(id_token={"issuer": "i"}), "id_token.issued_at")

    assert after == session(id="a", id_token={})


def test_an_empty_message_that_is_present_stays_present() -> None:
    after = patched(session(id="a"), session(oauth_token={}), "oauth_token")

    assert after == session(id="a", oauth_token={})


def test_optional_scalars_keep_the_difference_between_empty_and_absent() -> None:
    before = session(impersonate_session_id="other")

    assert patched(before, session(impersonate_session_id=""), "impersonate_session_id") == session(
        impersonate_session_id=""
    )
    assert patched(before, session(), "impersonate_session_id") == session()


def test_a_member_of_a_oneof_takes_the_place_of_the_other() -> None:
    credential = session_pb2.Session.DeviceCredential

    assert patched(credential(type_id="t", id="x"), credential(unavailable={}), "unavailable") == credential(
        type_id="t", unavailable={}
    )
    assert patched(credential(id="x"), credential(), "unavailable") == credential(id="x")


def test_fields_that_this_process_does_not_know_survive() -> None:
    unknown = b"\xfa\x3f\x03new"  # field 1023, three bytes
    stored = Payload(pack(session()).type_url, session(id="a").SerializeToString() + unknown)

    result = patch_payload(stored, pack(session(user_id="u")), ["user_id"])

    assert result.value == session(id="a", user_id="u").SerializeToString(deterministic=True) + unknown


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        ("nope", "no 'nope'"),
        ("id_token.nope", r"session\.IDToken has no 'nope'"),
        ("userId", "no 'userId'"),
        ("id.x", "'id' is no single message"),
        ("claims.x", "'claims' is no single message"),
        ("device_credentials.type_id", "no single message"),
        ("id_token.", "no ''"),
    ],
)
def test_a_mask_that_leads_nowhere_is_named(mask: str, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        patch_payload(pack(session()), pack(session()), [mask])


@pytest.mark.parametrize(
    "wanted",
    [
        None,
        Payload(),
        Payload("type.googleapis.com/no.such.Message"),
        Payload("type.googleapis.com/session.Session", b"\xff"),
        pack(device_pb2.Type()),
        pack(config_pb2.Config()),
    ],
)
def test_data_of_another_or_an_unknown_type_is_refused(wanted: Payload | None) -> None:
    with pytest.raises(InvalidRequest):
        patch_payload(pack(session()), wanted, ["id"])
    with pytest.raises(InvalidRequest):
        patch_payload(wanted, pack(session()), ["id"])
