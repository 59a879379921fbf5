"""The text part of a query: is a piece of text anywhere in the strings of a record (D-9)?"""

from collections.abc import Iterable, Iterator, Mapping

from google.protobuf import any_pb2
from google.protobuf.message import Message

from pomerium_agent.databroker.messages import decode
from pomerium_agent.records import Payload

MAX_ANYS = 16  # an Any in an Any in an Any: bytes that unfold without end


def contains_text(data: Payload | None, text: str) -> bool:
    """Whether any string value of the payload contains `text`, upper or lower case; unknown types contain nothing.

    Lists, map values (V8), sub-messages and nested Anys are looked through.
    """
    message = decode(data)
    wanted = text.lower()
    return message is not None and any(wanted in found.lower() for found in _strings(message))


def _strings(message: Message) -> Iterator[str]:
    todo: list[tuple[object, int]] = [(message, 0)]
    while todo:
        value, anys = todo.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, any_pb2.Any):
            if anys < MAX_ANYS:
                todo.append((decode(Payload(value.type_url, value.value)), anys + 1))
        elif isinstance(value, Message):
            todo.extend((member, anys) for _, member in value.ListFields())
        elif isinstance(value, Mapping):
            todo.extend((member, anys) for member in value.values())
        elif isinstance(value, Iterable) and not isinstance(value, bytes):
            todo.extend((member, anys) for member in value)
