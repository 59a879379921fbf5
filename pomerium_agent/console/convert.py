"""Marked values into protobuf messages, by the message's own descriptor, with every complaint and its line."""

import json
import math
import re
from collections.abc import Callable, Iterable
from decimal import Decimal
from functools import cache
from typing import Any, cast

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, OneofDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import ListValue, Struct

from pomerium_agent.pb.pomerium import config_pb2
from pomerium_agent.policy.complaints import Complaint, did_you_mean
from pomerium_agent.policy.yaml_marks import Mapping, Marked, Plain, Scalar, Sequence, to_plain

# How one key of one message is read when its name and type do not say it: the message, everything beside
# the key, the value, and its path.
Special = Callable[["Converter", Message, Mapping, Marked, str], None]

_NANOSECONDS = {
    "ns": 1,
    "us": 10**3,
    "\N{MICRO SIGN}s": 10**3,
    "\N{GREEK SMALL LETTER MU}s": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|\N{MICRO SIGN}s|\N{GREEK SMALL LETTER MU}s|ms|s|m|h)")
_INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}
_FLOATS = (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT)
# Envoy's messages are also known by their JSON names.
_BY_JSON_NAME_TOO = ("pomerium.config.HealthCheck", "pomerium.config.OutlierDetection")


class Converter:
    """Fills messages from marked values. `specials` is asked first, by message name, then by key."""

    def __init__(self, file: str, specials: dict[str, dict[str, Special]], complaints: list[Complaint]) -> None:
        self._file = file
        self._specials = specials
        self.complaints = complaints

    def complain(self, line: int, path: str, reason: str, remedy: str, *, warning: bool = False) -> None:
        """Note one thing that is wrong."""
        self.complaints.append(Complaint(line, path, reason, remedy, self._file, warning))

    def fill(self, message: Message, mapping: Mapping, path: str) -> None:
        """Set every field that the mapping has a key for; complain about keys that mean nothing."""
        kind = message.DESCRIPTOR
        specials = self._specials.get(kind.full_name, {})
        chosen: dict[str, str] = {}
        for key, marked in mapping.items.items():
            here = f"{path}.{key}" if path else key
            if key in specials:
                specials[key](self, message, mapping, marked, here)
                continue
            field = _field(cast(Descriptor, kind), key)
            if field is None:
                known = [*kind.fields_by_name, *specials]
                remedy = did_you_mean(key, known, otherwise=f"remove it; known here: {_listed(known)}")
                self.complain(mapping.lines[key], here, f"the key {key} means nothing here", remedy)
                continue
            if _is_exclusive(field):
                group = cast(OneofDescriptor, field.containing_oneof)
                if group.name in chosen:
                    self.complain(
                        mapping.lines[key], here, f"{chosen[group.name]} and {key} exclude each other", "keep one"
                    )
                    continue
                chosen[group.name] = key
            self.set(message, field, marked, here)

    def set(self, message: Message, field: FieldDescriptor, marked: Marked, path: str) -> None:
        """Set one field. `null` leaves it unset."""
        if isinstance(marked, Scalar) and marked.value is None:
            return
        if _is_map(field):
            self._map(message, field, marked, path)
        elif field.is_repeated:
            self._list(message, field, marked, path)
        elif field.message_type is not None:
            self._message(getattr(message, field.name), marked, path)
        else:
            value = self.scalar(field, marked, path)
            if value is not None:
                setattr(message, field.name, value)

    def mapping(self, marked: Marked, path: str) -> Mapping | None:
        """The value as a mapping, or a complaint."""
        if isinstance(marked, Mapping):
            return marked
        self.complain(marked.line, path, "this must be a mapping", "write `key: value` lines below it")
        return None

    def text(self, marked: Marked, path: str) -> str | None:
        """The value as a text, exactly as written, or a complaint."""
        if isinstance(marked, Scalar) and marked.value is not None:
            return marked.text
        self.complain(marked.line, path, "this must be a text", "write one value")
        return None

    def items(self, marked: Marked, path: str) -> list[tuple[Marked, str]]:
        """The items of a list, with their paths. One value stands for a list of one."""
        if isinstance(marked, Sequence):
            return [(item, f"{path}[{number}]") for number, item in enumerate(marked.items)]
        return [(marked, path)]

    def scalar(self, field: FieldDescriptor, marked: Marked, path: str) -> Any:
        """The value as what a scalar field holds; None after a complaint."""
        if not isinstance(marked, Scalar) or marked.value is None:
            self.complain(marked.line, path, "this must be one value", "write it on the line of its key")
            return None
        match field.cpp_type:
            case FieldDescriptor.CPPTYPE_STRING:
                return marked.text.encode() if field.type == FieldDescriptor.TYPE_BYTES else marked.text
            case FieldDescriptor.CPPTYPE_BOOL:
                return self._bool(field, marked, path)
            case FieldDescriptor.CPPTYPE_ENUM:
                return self._enum(_enum_of(field), marked, path)
            case kind if kind in _FLOATS:
                return self._float(field, marked, path)
            case kind:
                return self._integer(field, marked, path, *_INTEGERS[kind])

    def _bool(self, field: FieldDescriptor, marked: Scalar, path: str) -> bool | None:
        if isinstance(marked.value, bool):
            return marked.value
        if marked.text in ("true", "false"):  # quoted
            return marked.text == "true"
        self.complain(marked.line, path, f"{_shown(field, marked)} is neither true nor false", "write true or false")
        return None

    def _integer(self, field: FieldDescriptor, marked: Scalar, path: str, low: int, high: int) -> int | None:
        value = _number(marked)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int):
            self.complain(marked.line, path, f"{_shown(field, marked)} is not a whole number", "write digits only")
            return None
        if not low <= value <= high:
            self.complain(
                marked.line, path, f"{_shown(field, marked)} is out of range", f"give a number from {low} to {high}"
            )
            return None
        return value

    def _float(self, field: FieldDescriptor, marked: Scalar, path: str) -> float | None:
        value = _number(marked)
        if value is None or not math.isfinite(value):
            self.complain(marked.line, path, f"{_shown(field, marked)} is not a number", "write a number such as 0.5")
            return None
        return float(value)

    def _enum(self, kind: EnumDescriptor, marked: Scalar, path: str) -> int | None:
        words = enum_words(kind)
        number = words.get(_bare(marked.text))
        if number is None:
            shown = _listed(choices(kind))
            self.complain(marked.line, path, f"{marked.text!r} is not one of the choices", f"choose one of {shown}")
        return number

    def _list(self, message: Message, field: FieldDescriptor, marked: Marked, path: str) -> None:
        target = getattr(message, field.name)
        for item, here in self.items(marked, path):
            if field.message_type is not None:
                self._message(target.add(), item, here)
            else:
                value = self.scalar(field, item, here)
                if value is not None:
                    target.append(value)

    def _map(self, message: Message, field: FieldDescriptor, marked: Marked, path: str) -> None:
        mapping = self.mapping(marked, path)
        if mapping is None:
            return
        target = getattr(message, field.name)
        kind = field_named(cast(Descriptor, field.message_type), "value")
        for key, item in mapping.items.items():
            here = f"{path}.{key}"
            if kind.message_type is not None:
                self._message(target[key], item, here)
            elif (value := self.scalar(kind, item, here)) is not None:
                target[key] = value

    def _message(self, message: Message, marked: Marked, path: str) -> None:
        """Fill a nested message, by the rules of its type."""
        name = message.DESCRIPTOR.full_name
        if name in _BY_TYPE:
            _BY_TYPE[name](self, message, marked, path)
        elif (mapping := self.mapping(marked, path)) is not None:
            message.SetInParent()
            self.fill(message, mapping, path)

    def _duration(self, message: Message, marked: Marked, path: str) -> None:
        assert isinstance(message, Duration)  # noqa: S101  # by the table below
        nanoseconds = parse_duration(marked.text) if isinstance(marked, Scalar) else None
        if nanoseconds is None:
            shown = repr(marked.text) if isinstance(marked, Scalar) else "this"
            self.complain(
                marked.line, path, f"{shown} is not a duration", "write a number with its unit: 30s, 1h30m, 250ms"
            )
            return
        message.SetInParent()
        sign = -1 if nanoseconds < 0 else 1
        seconds, rest = divmod(abs(nanoseconds), 10**9)
        message.seconds, message.nanos = sign * seconds, sign * rest

    def _wrapped(self, message: Message, marked: Marked, path: str) -> None:
        value = self.scalar(field_named(message.DESCRIPTOR, "value"), marked, path)
        if value is not None:
            message.SetInParent()
            message.value = value  # type: ignore[attr-defined]  # every wrapper type has it

    def _strings(self, message: Message, marked: Marked, path: str) -> None:
        message.SetInParent()
        self._list(message, field_named(message.DESCRIPTOR, "values"), marked, path)

    def _struct(self, message: Message, marked: Marked, path: str) -> None:
        assert isinstance(message, Struct)  # noqa: S101  # by the table below
        if self.mapping(marked, path) is not None:
            message.SetInParent()
            json_format.ParseDict(cast("dict[str, Any]", to_plain(marked)), message)

    def _values(self, message: Message, marked: Marked, path: str) -> None:
        assert isinstance(message, ListValue)  # noqa: S101  # by the table below
        message.SetInParent()
        message.extend(cast("list[str]", [to_plain(item) for item, _ in self.items(marked, path)]))

    def _ppl(self, message: Message, marked: Marked, path: str) -> None:
        assert isinstance(message, config_pb2.PPLPolicy)  # noqa: S101  # by the table below
        text = self.policy(marked, path)
        if text is not None:
            message.raw = text.encode()

    def _computed(self, _message: Message, marked: Marked, path: str) -> None:
        self.complain(marked.line, path, "this is filled in by the control plane", "remove it")

    def policy(self, marked: Marked, path: str) -> str | None:
        """A PPL document as JSON text (policy 2). What its criteria mean is not looked at here."""
        rules = marked.items if isinstance(marked, Sequence) else (marked,)
        if not all(isinstance(rule, Mapping) for rule in rules):
            self.complain(
                marked.line,
                path,
                "a policy is one rule or a list of rules",
                "write `- allow:` with `or:` and a list of criteria below it",
            )
            return None
        found = to_plain(marked, timestamps=True)
        return json.dumps(found, ensure_ascii=False, separators=(",", ":"))


_BY_TYPE: dict[str, Callable[[Converter, Message, Marked, str], None]] = {
    "google.protobuf.Duration": Converter._duration,
    "google.protobuf.Struct": Converter._struct,
    "google.protobuf.ListValue": Converter._values,
    "google.protobuf.Timestamp": Converter._computed,
    "google.protobuf.BoolValue": Converter._wrapped,
    "google.protobuf.UInt32Value": Converter._wrapped,
    "google.protobuf.UInt64Value": Converter._wrapped,
    "pomerium.config.Route.StringList": Converter._strings,
    "pomerium.config.Settings.StringList": Converter._strings,
    "pomerium.config.PPLPolicy": Converter._ppl,
}


def parse_duration(text: str) -> int | None:
    """Nanoseconds of a duration as Go writes it: `1h30m`, `250ms`, `0`; None when it is none."""
    sign = -1 if text.startswith("-") else 1
    rest = text.removeprefix("-").removeprefix("+")
    if rest == "0":
        return 0
    if not rest or _PART.sub("", rest):
        return None
    total = sum(Decimal(number) * _NANOSECONDS[unit] for number, unit in _PART.findall(rest))
    return sign * int(total) if total < 2**63 else None


def enum_words(kind: EnumDescriptor) -> dict[str, int]:
    """Every word for a value of an enum: its whole name, or without what all names begin with; in any case."""
    words = zip(choices(kind), kind.values, strict=True)
    return {_bare(word): value.number for word, value in words} | {_bare(v.name): v.number for v in kind.values}


def choices(kind: EnumDescriptor) -> list[str]:
    """The names of an enum's values, without what all of them begin with where what is left is still a word."""
    names = [value.name for value in kind.values]
    first, last = min(names), max(names)
    common = next((i for i, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), 0)
    return [name[common:] if name[common:].isidentifier() else name for name in names]


def _bare(word: str) -> str:
    return word.lower().replace("_", "").replace("-", "")


def _shown(field: FieldDescriptor, marked: Scalar) -> str:
    """The value in a message, unless it is a secret."""
    sensitive = field.GetOptions().Extensions[cast(Any, config_pb2.sensitive)]
    return "this" if sensitive else repr(marked.text)


@cache  # one entry per field there is
def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


@cache  # likewise
def _is_exclusive(field: FieldDescriptor) -> bool:
    """Whether other fields exclude this one. (The underscored groups only give a field its presence.)"""
    return field.containing_oneof is not None and not field.containing_oneof.name.startswith("_")


def _number(marked: Scalar) -> int | float | None:
    value: Plain = marked.value
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return value
    try:
        return int(marked.text)  # quoted
    except ValueError:
        return None


def field_named(kind: object, name: str) -> FieldDescriptor:
    """A field that is known to be there. (A message's descriptor has two types in the stubs, and one in fact.)"""
    return cast(Descriptor, kind).fields_by_name[name]


def _field(kind: Descriptor, key: str) -> FieldDescriptor | None:
    field: FieldDescriptor | None = kind.fields_by_name.get(key)
    if field is None and kind.full_name.startswith(_BY_JSON_NAME_TOO):
        field = next((each for each in kind.fields if each.json_name == key), None)
    return field


def _enum_of(field: FieldDescriptor) -> EnumDescriptor:
    assert field.enum_type is not None  # noqa: S101  # its cpp_type says enum
    return field.enum_type


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
