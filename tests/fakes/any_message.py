"""Messages of any type with anything in them, made by hypothesis from their descriptors."""

from typing import Any, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

TEXTS = st.one_of(
    st.sampled_from(
        [
            "",
            "no",
            "1:20",
            "0o17",
            "014",
            "~",
            "null",
            "2020-01-02",
            "a: b",
            "# x",
            "<<",
            "=",
            " x ",
            "x\n",
            "\n\n  y\n",
        ]
    ),
    st.text(max_size=12),
)
_NUMBERS = {
    FieldDescriptor.CPPTYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: st.integers(-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: st.integers(0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: st.integers(0, 2**64 - 1),
    FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
    FieldDescriptor.CPPTYPE_DOUBLE: st.floats(allow_nan=False, allow_infinity=False),
    FieldDescriptor.CPPTYPE_FLOAT: st.floats(allow_nan=False, allow_infinity=False, width=32),
}


@st.composite
def any_message(draw: st.DrawFn, kind: Descriptor, *, without: frozenset[str] = frozenset(), depth: int = 0) -> Message:
    """A message with a few of its fields set; fields named in `without` stay empty, however deep they lie."""
    message = GetMessageClass(kind)()
    fields = [each for each in kind.fields if each.name not in without]
    if not fields or depth > 3:
        return message
    few = draw(st.lists(st.sampled_from(fields), max_size=4, unique_by=lambda each: each.number))
    for each in few:
        _set(draw, message, each, without, depth)
    return message


def _set(draw: st.DrawFn, message: Message, each: FieldDescriptor, without: frozenset[str], depth: int) -> None:
    target = getattr(message, each.name)
    kind = each.message_type
    if kind is not None and kind.GetOptions().map_entry:
        value = kind.fields_by_name["value"]
        for key in draw(st.lists(TEXTS, max_size=3, unique=True)):
            if value.message_type is not None:
                target[key].CopyFrom(draw(_value(value.message_type, without, depth)))
            else:
                target[key] = draw(_scalar(value))
    elif each.is_repeated:
        for _ in range(draw(st.integers(0, 3))):
            if kind is not None:
                target.add().CopyFrom(draw(_value(kind, without, depth)))
            else:
                target.append(draw(_scalar(each)))
    elif kind is not None:
        target.CopyFrom(draw(_value(kind, without, depth)))
        target.SetInParent()
    else:
        setattr(message, each.name, draw(_scalar(each)))


def _value(kind: Descriptor, without: frozenset[str], depth: int) -> st.SearchStrategy[Message]:
    made = cast(Any, GetMessageClass(kind))
    if kind.full_name == "google.protobuf.Duration":
        return st.integers(-(2**62), 2**62).map(lambda ns: _duration(made(), ns))
    if kind.full_name == "google.protobuf.ListValue":
        return st.lists(TEXTS, max_size=3).map(lambda texts: made(values=[{"string_value": text} for text in texts]))
    if kind.full_name == "google.protobuf.Struct":
        return st.dictionaries(TEXTS, TEXTS, max_size=3).map(
            lambda found: made(fields={key: {"string_value": text} for key, text in found.items()})
        )
    return any_message(kind, without=without, depth=depth + 1)


def _duration(message: Any, nanoseconds: int) -> Message:
    message.FromNanoseconds(nanoseconds)
    return cast(Message, message)


def _scalar(each: FieldDescriptor) -> st.SearchStrategy[Any]:
    if each.enum_type is not None:
        return st.sampled_from([value.number for value in each.enum_type.values])
    if each.type == FieldDescriptor.TYPE_BYTES:
        return st.binary(max_size=12)
    if each.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return TEXTS
    return _NUMBERS[each.cpp_type]
