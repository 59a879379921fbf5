"""Envoy's own rules for its messages, read from the `validate.rules` of their descriptors (routes 1.4, 13).

A message that breaks one of them poisons a whole CDS response, so it is found here, before anything is sent.
"""

import re
from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from pomerium_agent.pb.validate import validate_pb2

# (header value or name, strict) → what the text must match; Envoy's patterns.
_WELL_KNOWN = {
    (validate_pb2.HTTP_HEADER_NAME, True): re.compile(r":?[0-9a-zA-Z!#$%&'*+.^_|~\x60-]+"),
    (validate_pb2.HTTP_HEADER_NAME, False): re.compile(r"[^\x00\n\r]+"),
    (validate_pb2.HTTP_HEADER_VALUE, True): re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*"),
    (validate_pb2.HTTP_HEADER_VALUE, False): re.compile(r"[^\x00\n\r]*"),
}
_WRAPPED_NUMBERS = ("google.protobuf.UInt32Value", "google.protobuf.UInt64Value")
_DURATION = "google.protobuf.Duration"
# Our generated stubs type extensions as plain descriptors.
_RULES: Any = validate_pb2.rules
_REQUIRED: Any = validate_pb2.required


def violations(message: Message, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield (field, reason) for every rule the message breaks, at any depth."""
    for oneof in message.DESCRIPTOR.oneofs:
        if oneof.GetOptions().Extensions[_REQUIRED] and message.WhichOneof(oneof.name) is None:
            names = ", ".join(field.name for field in oneof.fields)
            yield path or oneof.name, f"one of {names} must be set"
    for field in message.DESCRIPTOR.fields:
        name = f"{path}.{field.name}" if path else field.name
        rules = field.GetOptions().Extensions[_RULES]
        if field.is_repeated:
            yield from _repeated(message, field, rules, name)
        elif field.message_type is not None:
            yield from _message(message, field, rules, name)
        elif not field.has_presence or message.HasField(field.name):
            yield from _scalar(getattr(message, field.name), field, rules, name)


def _repeated(message: Message, field: Any, rules: Any, name: str) -> Iterator[tuple[str, str]]:
    items = getattr(message, field.name)
    if rules.repeated.HasField("max_items") and len(items) > rules.repeated.max_items:
        yield name, f"it has more than {rules.repeated.max_items} entries"
    if rules.repeated.HasField("min_items") and len(items) < rules.repeated.min_items:
        yield name, f"it has fewer than {rules.repeated.min_items} entries"
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return
    for index, item in enumerate(items):
        if field.message_type is not None:
            yield from violations(item, f"{name}[{index}]")
        else:
            yield from _scalar(item, field, rules.repeated.items, f"{name}[{index}]")


def _message(message: Message, field: Any, rules: Any, name: str) -> Iterator[tuple[str, str]]:
    kind = field.message_type.full_name if field.message_type else ""
    if not message.HasField(field.name):
        if rules.message.required or rules.duration.required:
            yield name, "it is required"
        return
    value = getattr(message, field.name)
    if kind == _DURATION:
        yield from _duration(value, rules.duration, name)
    elif kind in _WRAPPED_NUMBERS:
        number = rules.uint32 if kind == _WRAPPED_NUMBERS[0] else rules.uint64
        yield from _number(value.value, number, name)
    else:
        yield from violations(value, name)


def _duration(value: Any, rules: Any, name: str) -> Iterator[tuple[str, str]]:
    """Envoy throws on any negative duration, whether a rule says so or not."""
    total = value.seconds * 1_000_000_000 + value.nanos
    if total < 0:
        yield name, "a duration cannot be negative"
    elif rules.HasField("gt") and total <= rules.gt.seconds * 1_000_000_000 + rules.gt.nanos:
        yield name, "the duration must be above zero"
    elif total and total < 1_000_000:
        yield name, "the duration is below one millisecond"
    elif value.seconds >= 9_223_372_036:
        yield name, "the duration is longer than 292 years"


def _scalar(value: Any, field: Any, rules: Any, name: str) -> Iterator[tuple[str, str]]:
    if field.enum_type is not None:
        if rules.enum.defined_only and value not in field.enum_type.values_by_number:
            yield name, f"{value} is not a known choice"
        if value in rules.enum.not_in:
            yield name, f"{field.enum_type.values_by_number[value].name} is not allowed"
    elif field.type == FieldDescriptor.TYPE_STRING:
        yield from _text(value, rules.string, name)
    elif field.type == FieldDescriptor.TYPE_UINT32:
        yield from _number(value, rules.uint32, name)


def _text(value: str, rules: Any, name: str) -> Iterator[tuple[str, str]]:
    if len(value) < rules.min_len:
        yield name, "it is required"
    elif value and rules.HasField("well_known_regex"):
        strict = rules.strict if rules.HasField("strict") else True
        if not _WELL_KNOWN[rules.well_known_regex, strict].fullmatch(value):
            yield name, "it has characters that cannot travel in a header"


def _number(value: int, rules: Any, name: str) -> Iterator[tuple[str, str]]:
    if rules.HasField("lte") and value > rules.lte:
        yield name, f"{value} is above {rules.lte}"
    if rules.HasField("lt") and value >= rules.lt:
        yield name, f"{value} is not below {rules.lt}"
    if rules.HasField("gte") and value < rules.gte:
        yield name, f"{value} is below {rules.gte}"
