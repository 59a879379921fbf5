"""Nothing marked sensitive is ever shown (R-1)."""

from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.message_factory import GetMessageClass

from pomerium_agent.config.redact import OFTEN_SECRET, redacted, secrets_of
from pomerium_agent.pb.pomerium import config_pb2

SECRET = "hunter2"
SENSITIVE: Any = config_pb2.sensitive


def sensitive_fields() -> Iterator[tuple[Any, str]]:
    for descriptor in config_pb2.DESCRIPTOR.message_types_by_name.values():
        for message in (descriptor, *descriptor.nested_types):
            for field in message.fields:
                if field.GetOptions().Extensions[SENSITIVE]:
                    yield message, field.name


@pytest.mark.parametrize(("descriptor", "name"), list(sensitive_fields()), ids=lambda part: getattr(part, "name", part))
def test_a_sensitive_field_is_blanked_and_still_seen_to_be_set(descriptor: Any, name: str) -> None:

    message = GetMessageClass(descriptor)()
    field = descriptor.fields_by_name[name]
    if field.message_type is not None:
        getattr(message, name).values.append(SECRET)
    else:
        setattr(message, name, SECRET.encode() if isinstance(getattr(message, name), bytes) else SECRET)

    shown = redacted(message)

    assert SECRET not in str(shown)
    assert SECRET.encode() not in shown.SerializeToString()
    assert shown.ListFields()
    assert SECRET in str(message)


def test_secrets_are_found_at_any_depth_and_the_rest_stays() -> None:
    config = config_pb2.VersionedConfig()
    route = config.config.routes.add(id="r", tls_client_key=SECRET, idp_client_secret=SECRET)
    route.mcp.server.upstream_oauth2.client_secret = SECRET
    config.config.settings.certificates.add(id="c", key_bytes=SECRET.encode())
    config.config.settings.metrics_certificate.key_bytes = SECRET.encode()
    config.config.settings.identity_providers["p"].issuer = "https://issuer.example.com"
    config.config.settings.runtime_flags["mcp"] = True

    shown = str(redacted(config))

    assert SECRET not in shown
    assert "https://issuer.example.com" in shown
    assert 'id: "r"' in shown


def all_messages(descriptors: Any) -> Iterator[Any]:
    for descriptor in descriptors:
        yield descriptor
        yield from all_messages(descriptor.nested_types)


def often_secret() -> Iterator[Any]:
    for descriptor in all_messages(config_pb2.DESCRIPTOR.message_types_by_name.values()):
        for field in descriptor.fields:
            if field.full_name in OFTEN_SECRET:
                yield pytest.param(descriptor, field, id=field.full_name)


def test_each_field_that_is_often_secret_is_one() -> None:
    assert {each.id for each in often_secret()} == OFTEN_SECRET


@pytest.mark.parametrize(("descriptor", "field"), list(often_secret()))
def test_what_is_often_secret_is_blanked_for_strangers_only(descriptor: Any, field: Any) -> None:
    message = GetMessageClass(descriptor)()
    holder = getattr(message, field.name)
    if field.message_type is not None:
        holder.update({"key": SECRET})
    elif field.is_repeated:
        holder.append(SECRET)
    else:
        setattr(message, field.name, SECRET.encode() if isinstance(holder, bytes) else SECRET)

    assert redacted(message) == message
    assert SECRET.encode() not in redacted(message, for_strangers=True).SerializeToString()
    assert redacted(message, for_strangers=True).ListFields()
    assert list(secrets_of(message)) in ([SECRET], [SECRET.encode()])
