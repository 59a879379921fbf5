"""A Config message as the public Core configuration format: what `core_config` reads, written. Pure.

What is read back is the same message (import, export, import is a fixed point), but for what the notes name.
"""

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, cast

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from pomerium_agent.console.core_config import match_hash
from pomerium_agent.console.core_keys import LEFT_OUT, ROUTE_COMPUTED, SETTINGS_COMPUTED
from pomerium_agent.console.core_text import Plain, to_yaml
from pomerium_agent.console.diff import route_label
from pomerium_agent.pb.pomerium import config_pb2
from pomerium_agent.policy.complaints import Complaint
from pomerium_agent.policy.yaml_marks import Marked, Sequence, read_yaml, to_plain

NANOSECONDS = 10**9
# Fields that name a file of some machine: the format has the same key, and reads the file when it is applied.
FILE_FIELDS = (
    "tls_custom_ca_file",
    "tls_client_cert_file",
    "tls_client_key_file",
    "tls_downstream_client_ca_file",
    "kubernetes_service_account_token_file",
)
# Fields that stand for something that another control plane keeps.
REFERENCES = (
    "policy_ids",
    "tls_custom_ca_key_pair_id",
    "tls_client_key_pair_id",
    "tls_downstream_client_ca_key_pair_id",
    "kubernetes_service_account_token_key_pair_id",
)
_POLICY_COMPUTED = (
    "namespace_id",
    "namespace_name",
    "originator_id",
    "created_at",
    "modified_at",
    "enforced_routes",
    "assigned_routes",
)
_POLICY_FIELDS = ("source_ppl", "rego")  # Rego that stands beside PPL was made from it
_POLICY_ABOUT = ("id", "name", "description", "explanation", "remediation")


@dataclass(frozen=True, slots=True)
class Exported:
    """A configuration as text, and what the text cannot say."""

    text: str = field(repr=False)  # it holds keys and secrets
    notes: tuple[str, ...]


class _Unsayable(Exception):
    """A value that the format has no words for."""


def export_core(config: config_pb2.Config) -> Exported:
    """The configuration as YAML. A route whose policy cannot be said is left out: without it, it would be open."""
    writer = _Writer()
    document = writer.settings(config.settings)
    routes = [written for route in config.routes if (written := writer.route(route)) is not None]
    if routes:
        document["routes"] = routes
    return Exported(to_yaml(document) if document else "{}\n", tuple(writer.notes))


@dataclass(slots=True)
class _Writer:
    notes: list[str] = field(default_factory=list)

    def settings(self, settings: config_pb2.Settings) -> dict[str, Plain]:
        written: dict[str, Plain] = {}
        for each, value in settings.ListFields():
            name = each.name
            if name in SETTINGS_COMPUTED or name in LEFT_OUT or name == "console_login_keys":
                self.notes.append(f"settings: {name} is left out: it is decided elsewhere")
            elif name == "certificates":
                try:
                    written |= _certificates(settings)
                except _Unsayable as error:
                    self.notes.append(f"settings: certificates are left out: {error}")
            elif name == "metrics_certificate":
                written["metrics_certificate"] = _base64(value.cert_bytes)
                written["metrics_certificate_key"] = _base64(value.key_bytes)
            else:
                self.put(written, each, value, "settings")
        return written

    def route(self, route: config_pb2.Route) -> dict[str, Plain] | None:
        label = route_label(route)
        written: dict[str, Plain] = {}
        for each, value in route.ListFields():
            name = each.name
            if name == "id" and value == match_hash(route):
                continue  # it is made again from what the route matches
            if name in REFERENCES or name in FILE_FIELDS:
                what = "refers to what is kept elsewhere" if name in REFERENCES else "names a file of another machine"
                self.notes.append(f"route {label} is left out: {name} {what}")
                return None
            if name in ("policies", *ROUTE_COMPUTED):
                continue
            self.put(written, each, value, f"route {label}")
        try:
            policy = self.policy(route, label)
        except _Unsayable as error:
            self.notes.append(f"route {label} is left out: {error}")
            return None
        if policy is not None:
            written["policy"] = policy
        return written

    def policy(self, route: config_pb2.Route, label: str) -> Plain:
        """All policies of a route as one: a rule is a rule, in whichever of them it stands (policy 3.2)."""
        rules: list[Plain] = []
        for policy in route.policies:
            names = [each.name for each, _ in policy.ListFields()]
            about = [name for name in names if name in _POLICY_ABOUT]
            if about:
                self.notes.append(f"route {label}: {', '.join(about)} of a policy cannot be said")
            rest = [name for name in names if name not in (*_POLICY_FIELDS, *_POLICY_ABOUT, *_POLICY_COMPUTED)]
            if rest:
                raise _Unsayable(f"a policy of it has {', '.join(rest)}")
            if not policy.source_ppl.strip():
                if policy.rego:
                    raise _Unsayable("a policy of it is written in Rego")
                continue
            found = _policy(policy.source_ppl)
            if len(route.policies) == 1:
                return found
            rules.extend(found if isinstance(found, list) else [found])
        return rules or None

    def put(self, written: dict[str, Plain], each: FieldDescriptor, value: Any, path: str) -> None:
        try:
            written[each.name] = self.field(each, value, f"{path}.{each.name}")
        except _Unsayable as error:
            self.notes.append(f"{path}: {each.name} is left out: {error}")

    def field(self, each: FieldDescriptor, value: Any, path: str) -> Plain:
        kind = each.message_type
        if kind is not None and kind.GetOptions().map_entry:
            inner = kind.fields_by_name["value"]
            return {str(key): self.one(inner, value[key], path) for key in sorted(value)}
        if each.is_repeated:
            return [self.one(each, item, path) for item in value]
        return self.one(each, value, path)

    def one(self, each: FieldDescriptor, value: Any, path: str) -> Plain:
        if each.message_type is not None:
            return self.message(value, path)
        if each.enum_type is not None:
            return _enum(each.enum_type, value)
        if isinstance(value, bytes):
            return _decoded(value)
        return cast(Plain, value)

    def message(self, message: Message, path: str) -> Plain:
        special = _BY_TYPE.get(message.DESCRIPTOR.full_name)
        if special is not None:
            return special(message)
        written: dict[str, Plain] = {}
        for each, value in message.ListFields():
            self.put(written, each, value, path)
        return written


def duration_text(nanoseconds: int) -> str:
    """A duration as the format writes it, exact to the nanosecond: `30s`, `0.25s`."""
    if abs(nanoseconds) >= 2**63:
        raise _Unsayable("it lasts for more than 292 years")
    return f"{(Decimal(nanoseconds) / NANOSECONDS).normalize():f}s"


def _duration(message: Message) -> Plain:
    assert isinstance(message, Duration)  # noqa: S101  # by the table below
    return duration_text(message.seconds * NANOSECONDS + message.nanos)


def _unwrapped(message: Message) -> Plain:
    return cast(Plain, message.value)  # type: ignore[attr-defined]  # every wrapper type has it


def _plain(message: Message) -> Plain:
    return cast(Plain, MessageToDict(message))


def _strings(message: Message) -> Plain:
    return list(message.values)  # type: ignore[attr-defined]  # both lists of strings have them


def _ppl(message: Message) -> Plain:
    assert isinstance(message, config_pb2.PPLPolicy)  # noqa: S101  # by the table below
    return _policy(_decoded(message.raw))


def _san(message: Message) -> Plain:
    """`{dns: PATTERN}` (routes 1.8)."""
    assert isinstance(message, config_pb2.SANMatcher)  # noqa: S101  # by the table below
    kind = _enum(config_pb2.SANMatcher.SANType.DESCRIPTOR, message.san_type)
    return {str(kind).lower(): message.pattern} if message.san_type else {"pattern": message.pattern}


def _time(_message: Message) -> Plain:
    raise _Unsayable("times are kept by the control plane")


_BY_TYPE: dict[str, Callable[[Message], Plain]] = {
    "google.protobuf.Duration": _duration,
    "google.protobuf.Struct": _plain,
    "google.protobuf.ListValue": _plain,
    "google.protobuf.Timestamp": _time,
    "google.protobuf.BoolValue": _unwrapped,
    "google.protobuf.UInt32Value": _unwrapped,
    "google.protobuf.UInt64Value": _unwrapped,
    "pomerium.config.Route.StringList": _strings,
    "pomerium.config.Settings.StringList": _strings,
    "pomerium.config.PPLPolicy": _ppl,
    "pomerium.config.SANMatcher": _san,
}


def _certificates(settings: config_pb2.Settings) -> dict[str, Plain]:
    """One certificate stands in two keys, as everybody reads it; several as PEM, which Pomerium keeps in files."""
    if len(settings.certificates) == 1:
        (only,) = settings.certificates
        return {"certificate": _base64(only.cert_bytes), "certificate_key": _base64(only.key_bytes)}
    pairs = [(_decoded(each.cert_bytes), _decoded(each.key_bytes)) for each in settings.certificates]
    return {"certificates": [{"cert": cert, "key": key} for cert, key in pairs]}


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _decoded(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise _Unsayable("it is not text") from None


def _enum(kind: EnumDescriptor, number: int) -> str:
    value = kind.values_by_number.get(number)
    if value is None:
        raise _Unsayable(f"{number} is none of its choices")
    return value.name


def _policy(text: str) -> Plain:
    """A PPL document as plain values. What nobody can read is not written down as if it could be."""
    try:
        return cast(Plain, json.loads(text, object_pairs_hook=_once))
    except ValueError:
        pass
    problems: list[Complaint]
    marked: Marked | None
    marked, problems = read_yaml(text, "")
    if marked is None or problems:
        raise _Unsayable("its policy is neither JSON nor YAML")
    plain = to_plain(marked, timestamps=True)
    return list(cast("list[Plain]", plain)) if isinstance(marked, Sequence) else cast(Plain, plain)


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """As `dict`, but a policy that names a key twice is not ours to read."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _Unsayable("its policy has a key twice")
    return found
