"""Copying the fields named by a mask from one payload over another (databroker 5: Patch; D-16)."""

from collections.abc import Sequence

from google.protobuf.message import Message

from pomerium_agent.databroker.messages import decode
from pomerium_agent.errors import InvalidRequest
from pomerium_agent.records import Payload


def patch_payload(stored: Payload | None, wanted: Payload | None, fields: Sequence[str]) -> Payload:
    """`stored` with the dotted proto fields `fields` as in `wanted`; a field that `wanted` does not set is cleared.

    A sub-field whose parent neither side has is left alone. Raises InvalidRequest when the two are not messages of
    one known type, or a path names a field that does not exist or leads through a list, a map or a scalar.
    """
    target, source = _decoded("the stored record", stored), _decoded("the request", wanted)
    if target.DESCRIPTOR is not source.DESCRIPTOR:
        raise InvalidRequest(
            f"patch: the stored record holds a {target.DESCRIPTOR.full_name}, "
            f"the request a {source.DESCRIPTOR.full_name}"
        )
    for field in fields:
        path = field.split(".")
        _check(target, path, field)
        _copy(source, target, path)
    return Payload(stored.type_url if stored else "", target.SerializeToString(deterministic=True))


def _decoded(whose: str, data: Payload | None) -> Message:
    message = decode(data)
    if message is None:
        kind = data.type_url if data is not None else ""
        raise InvalidRequest(f"patch: the data of {whose} is no message of a type known here: {kind or 'no type'}")
    return message


def _check(target: Message, path: Sequence[str], whole: str) -> None:
    descriptor = target.DESCRIPTOR
    for depth, name in enumerate(path):
        field = descriptor.fields_by_name.get(name)
        if field is None:
            raise InvalidRequest(f"patch: the field mask names {whole!r}, but {descriptor.full_name} has no {name!r}")
        if depth == len(path) - 1:
            return
        if field.is_repeated or field.message_type is None:
            raise InvalidRequest(f"patch: the field mask names {whole!r}, but {name!r} is no single message")
        descriptor = field.message_type


def _copy(source: Message, target: Message, path: Sequence[str]) -> None:
    name, rest = path[0], path[1:]
    field = target.DESCRIPTOR.fields_by_name[name]
    if rest:
        if source.HasField(name) or target.HasField(name):
            getattr(target, name).SetInParent()
            _copy(getattr(source, name), getattr(target, name), rest)
        return
    if field.has_presence and not source.HasField(name):
        target.ClearField(name)
    elif field.is_repeated:
        target.ClearField(name)
        getattr(target, name).MergeFrom(getattr(source, name))
    elif field.message_type is not None:
        getattr(target, name).CopyFrom(getattr(source, name))
    else:
        setattr(target, name, getattr(source, name))
