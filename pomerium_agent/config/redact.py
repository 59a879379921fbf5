"""Messages fit to be shown: fields marked `sensitive` in the wire contract are blanked (R-1)."""

from typing import Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from pomerium_agent.pb.pomerium import config_pb2

BLANK = "***"
_SENSITIVE: Any = config_pb2.sensitive  # our generated stubs type extensions as plain descriptors
M = TypeVar("M", bound=Message)


def redacted(message: M) -> M:
    """A copy of the message, at any depth without what option 91501 marks; that something was set stays visible."""
    copy = type(message)()
    copy.CopyFrom(message)
    _blank(copy)
    return copy


def _blank(message: Message) -> None:
    for field, value in message.ListFields():
        if field.GetOptions().Extensions[_SENSITIVE]:
            _blank_field(message, field)
        elif field.message_type is None:
            continue
        elif field.message_type.GetOptions().map_entry:
            if field.message_type.fields_by_name["value"].message_type is not None:
                for item in value.values():
                    _blank(item)
        elif field.is_repeated:
            for item in value:
                _blank(item)
        else:
            _blank(value)


def _blank_field(message: Message, field: Any) -> None:
    """Strings and bytes become `***`; a sensitive message or list keeps nothing but its presence."""
    blank: object = BLANK.encode() if field.type == FieldDescriptor.TYPE_BYTES else BLANK
    if field.message_type is not None:
        message.ClearField(field.name)
        getattr(message, field.name).SetInParent()
    elif field.is_repeated:
        count = len(getattr(message, field.name))
        message.ClearField(field.name)
        getattr(message, field.name).extend([blank] * count)
    else:
        setattr(message, field.name, blank)
