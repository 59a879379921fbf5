"""Payloads as the JSON that the reference keeps in the database, and back (databroker 11.5; D-27, D-28).

    {"@type": "type.googleapis.com/user.User", "id": "u1", "name": "Ada"}            an ordinary message
    {"@type": "type.googleapis.com/google.protobuf.Struct", "value": {"k": "v"}}     a well-known type
    {}                                                                               an empty Any

Fields that a message does not have here are lost on the way, as they are in the reference. A type that is unknown
here cannot be written as its JSON; it is wrapped whole into a Struct, which the reference takes for what it is: a
payload of another type than it looks for (V15).
"""

import base64
import binascii
import json
from collections.abc import Mapping

from google.protobuf import any_pb2, empty_pb2, json_format, struct_pb2
from google.protobuf.message import DecodeError

from pomerium_agent.databroker.messages import message_class
from pomerium_agent.errors import InvalidRequest
from pomerium_agent.records import Payload, pack, type_url

OPAQUE = "pomerium-agent/opaque"  # the one key of a Struct that holds what we could not decode
TEXT_IN_LOOP = 65_536  # characters up to which encoding or decoding is no work worth a thread
PLAIN_BELOW = 1e21  # from here on JSON numbers are written with an exponent
_STRUCT = type_url(struct_pb2.Struct)
_EMPTY = type_url(empty_pb2.Empty)


def encode(payload: Payload) -> str:
    """The JSON to store. Raises InvalidRequest for what PostgreSQL or JSON cannot hold (D-36)."""
    if payload.type_url and message_class(payload.type_url) is None:
        return _dump({"@type": _STRUCT, "value": {OPAQUE: _opaque(payload)}})
    message = any_pb2.Any(type_url=payload.type_url, value=payload.value)
    try:
        fields = json_format.MessageToDict(message)
    except (ValueError, TypeError, DecodeError, RecursionError) as error:
        raise InvalidRequest(
            f"data of type {payload.type_url!r} cannot be stored: its bytes are no such message, "
            "it holds a number that is none, or something inside is of an unknown type"
        ) from error
    if payload.type_url == _EMPTY:
        fields["value"] = {}
    return _dump(_plain(fields))


def decode(text: str | None) -> Payload | None:
    """The payload in stored JSON; None for a type that is unknown here, for none at all, and for what is no JSON."""
    if text is None:
        return None
    try:
        fields = json.loads(text)
        opaque = _read_opaque(fields)
        if opaque is not None:
            return opaque
        message = json_format.ParseDict(fields, any_pb2.Any(), ignore_unknown_fields=True)
    except (ValueError, TypeError, LookupError, AttributeError, json_format.ParseError, RecursionError):
        return None
    # Not the bytes that the parser put into the Any: those of messages with maps are in no certain order.
    return _deterministic(message)


def placeholder(id: str) -> Payload:
    """What stands in a stream of changes for data that is missing or unreadable (D-29)."""
    value = struct_pb2.Value()
    value.struct_value["id"] = id
    return pack(value)


def _deterministic(message: any_pb2.Any) -> Payload:
    cls = message_class(message.type_url) if message.type_url else None
    if cls is None:
        return Payload(message.type_url, message.value)
    inner = cls.FromString(message.value)
    return Payload(message.type_url, inner.SerializeToString(deterministic=True))


def _dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _plain(value: object) -> object:
    """Whole numbers without a fraction, as the reference writes them: filters compare text (databroker 6)."""
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) < PLAIN_BELOW else value
    if isinstance(value, str):
        if "\0" in value:
            raise InvalidRequest("data with the character U+0000 in a text cannot be stored")
        return value
    if isinstance(value, Mapping):
        return {_plain(key): _plain(member) for key, member in value.items()}
    if isinstance(value, list):
        return [_plain(member) for member in value]
    return value


def _opaque(payload: Payload) -> dict[str, str]:
    if "\0" in payload.type_url:
        raise InvalidRequest("data with the character U+0000 in its type cannot be stored")
    return {"typeUrl": payload.type_url, "value": base64.b64encode(payload.value).decode()}


def _read_opaque(fields: object) -> Payload | None:
    if not isinstance(fields, dict) or fields.get("@type") != _STRUCT:
        return None
    value = fields.get("value")
    wrapped = value.get(OPAQUE) if isinstance(value, dict) and len(value) == 1 else None
    if not isinstance(wrapped, dict) or wrapped.keys() != {"typeUrl", "value"}:
        return None
    try:
        return Payload(str(wrapped["typeUrl"]), base64.b64decode(str(wrapped["value"]), validate=True))
    except binascii.Error:
        return None
