"""Every record type that Pomerium stores is known by name (databroker 13 and 15, D-44)."""

import pytest
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from pomerium_agent.databroker.messages import decode, message_class
from pomerium_agent.records import Payload, pack

STORED = [
    *("session.Session", "session.SessionBindingRequest", "session.SessionBinding", "session.IdentityBinding"),
    *("user.User", "user.ServiceAccount"),
    *("pomerium.device.Type", "pomerium.device.Enrollment", "pomerium.device.Credential"),
    "pomerium.device.OwnerCredentialRecord",
    "pomerium.events.LastError",
    *("oauth21.AuthorizationRequest", "oauth21.MCPRefreshToken", "oauth21.UpstreamMCPToken"),
    *("oauth21.PendingUpstreamAuth", "oauth21.UpstreamOAuthClient"),
    "ietf.rfc7591.v1.ClientRegistration",
    *("pomerium.config.Config", "pomerium.config.VersionedConfig", "pomerium.config.KeyPair"),
    *("pomerium.config.Route", "pomerium.config.Policy", "pomerium.config.Settings"),
    *("google.protobuf.Struct", "google.protobuf.Value", "google.protobuf.Any", "google.protobuf.Timestamp"),
]


@pytest.mark.parametrize("name", STORED)
def test_a_stored_type_is_known_by_its_url(name: str) -> None:
    """D-44."""
    cls = message_class(f"type.googleapis.com/{name}")

    assert cls is not None
    assert cls.DESCRIPTOR.full_name == name


def test_what_cannot_be_decoded_is_nothing() -> None:
    assert decode(None) is None
    assert decode(Payload()) is None
    assert decode(Payload("type.googleapis.com/no.such.Message", b"")) is None
    assert decode(Payload("type.googleapis.com/session.Session", b"\xff")) is None


def test_a_payload_is_decoded_by_its_type() -> None:
    assert decode(pack(Timestamp(seconds=5))) == Timestamp(seconds=5)
    assert decode(pack(Struct())) == Struct()
