"""The envelope: what goes in comes out, and what cannot be read is nothing (records)."""

from pomerium_agent.pb.pomerium import session_pb2, user_pb2
from pomerium_agent.records import Payload, Record, pack, record_from_message, record_to_message, type_url, unpack
from tests.fakes.clock import ManualClock


def test_a_packed_message_is_unpacked_only_as_what_it_is() -> None:
    session = session_pb2.Session(id="a")

    assert unpack(pack(session), session_pb2.Session) == session
    assert unpack(pack(session), user_pb2.User) is None
    assert unpack(None, session_pb2.Session) is None


def test_bytes_that_are_no_message_unpack_to_nothing() -> None:
    assert unpack(Payload(type_url(session_pb2.Session), b"\xff"), session_pb2.Session) is None


def test_a_record_survives_the_wire() -> None:
    now = ManualClock().now()
    for record in (
        Record(type="a", id="1"),
        Record(type="a", id="1", data=Payload(), version=2**63, modified_at=now),
        Record(type="a", id="1", data=pack(session_pb2.Session(id="x")), version=7, modified_at=now).as_deleted(now),
    ):
        assert record_from_message(record_to_message(record)) == record
