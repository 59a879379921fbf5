"""Messages fit to be shown: fields marked `sensitive` in the wire contract are blanked (R-1).

For eyes other than the operator's, more is: fields that nobody marked, and in which people put secrets all the same.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from pomerium_agent.pb.pomerium import config_pb2

BLANK = "***"
_SENSITIVE: Any = config_pb2.sensitive  # our generated stubs type extensions as plain descriptors
# Not marked, since not every value in them is a secret: headers of API keys, bodies, keys of service accounts.
OFTEN_SECRET = frozenset(
    f"pomerium.config.{name}"
    for name in (
        "HealthCheck.Payload.binary",
        "HealthCheck.Payload.text",
        "Route.set_request_headers",
        "Route.set_response_headers",
        "RouteDirectResponse.body",
        "RouteRewriteHeader.value",
        "Settings.directory_provider_options",
        "Settings.google_cloud_serverless_authentication_service_account",
        "Settings.otel_exporter_otlp_headers",
        "Settings.otel_exporter_otlp_traces_headers",
        "Settings.request_params",
        "Settings.set_response_headers",
        "UpstreamOAuth2.authorization_url_params",
    )
)
M = TypeVar("M", bound=Message)


def redacted(message: M, *, for_strangers: bool = False) -> M:
    """A copy of the message, at any depth without what option 91501 marks; that something was set stays visible.

    For strangers also without what is often secret.
    """
    copy = type(message)()
    copy.CopyFrom(message)
    for holder, field in list(_secret_fields(copy, often=for_strangers)):
        _blank_field(holder, field)
    return copy


def secrets_of(message: Message) -> Iterator[str | bytes]:
    """The values that `redacted` would blank for strangers, wherever else they may turn up."""
    for holder, field in _secret_fields(message, often=True):
        yield from _texts(getattr(holder, field.name))


def _texts(value: Any) -> Iterator[str | bytes]:
    if isinstance(value, str | bytes):
        yield value
    elif isinstance(value, Message):
        for field, inner in value.ListFields():
            if field.message_type is not None or field.type in (
                FieldDescriptor.TYPE_STRING,
                FieldDescriptor.TYPE_BYTES,
            ):
                yield from _texts(inner)
    elif isinstance(value, Mapping | Sequence):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(each)


def _secret_fields(message: Message, *, often: bool) -> Iterator[tuple[Message, Any]]:
    """Each that is set, with the message that holds it."""
    for field, value in message.ListFields():
        if field.GetOptions().Extensions[_SENSITIVE] or (often and field.full_name in OFTEN_SECRET):
            yield message, field
        elif field.message_type is None:
            continue
        elif field.message_type.GetOptions().map_entry:
            if field.message_type.fields_by_name["value"].message_type is not None:
                for item in value.values():
                    yield from _secret_fields(item, often=often)
        elif field.is_repeated:
            for item in value:
                yield from _secret_fields(item, often=often)
        else:
            yield from _secret_fields(value, often=often)


def _blank_field(message: Message, field: Any) -> None:
    """Strings and bytes become `***`, in a map under their names; of a message or list only its presence stays."""
    blank: object = BLANK.encode() if field.type == FieldDescriptor.TYPE_BYTES else BLANK
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        entries = getattr(message, field.name)
        for name in entries:
            entries[name] = BLANK
    elif field.message_type is not None:
        message.ClearField(field.name)
        getattr(message, field.name).SetInParent()
    elif field.is_repeated:
        count = len(getattr(message, field.name))
        message.ClearField(field.name)
        getattr(message, field.name).extend([blank] * count)
    else:
        setattr(message, field.name, blank)
