"""A policy that comes only as Rego, evaluated with regopy where that is safe, and closed elsewhere (P-25, P-26)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pomerium_agent.policy.compile import Answer, Sure
from pomerium_agent.policy.complaints import Complaint
from pomerium_agent.policy.facts import DeviceCredential, Facts, Identity
from pomerium_agent.policy.rego_check import Unsuitable, check_rego
from pomerium_agent.policy.results import NO_DATA, NO_REASONS, NOTHING, POLICY_UNSUPPORTED, Result

_ENTRY = "pomerium_agent/answer"
# What is a set in Rego is a list in JSON, and no result at all (policy 11.1); what is undefined is an empty list.
_WRAPPER = """package pomerium_agent
import rego.v1
answer := {
  "allow": [x | x := data.pomerium.policy.allow; not is_set(x)],
  "deny": [x | x := data.pomerium.policy.deny; not is_set(x)],
}
lookup(kind, id) := found if { found := input.records[kind][id] } else := null

object_get(o, key, fallback) := object.get(o, key, fallback) if is_object(o)
"""
_CLOSED = Answer(NOTHING, Result(True, frozenset({POLICY_UNSUPPORTED})))


class Prepared(NamedTuple):
    """A script that can be asked, or why it cannot."""

    policy: "RegoPolicy | None"
    complaints: tuple[Complaint, ...] = ()


@dataclass(frozen=True, slots=True)
class RegoPolicy:
    """One script. It answers in half a millisecond, and denies whenever it has no clear answer."""

    reads: frozenset[str]
    _denies: bool
    _engine: Any = field(repr=False)
    _bundle: Any = field(repr=False)

    @property
    def personal(self) -> bool:
        """Whether it asks who is there."""
        return "identity" in self.reads

    def evaluate(self, facts: Facts) -> Answer:
        """Total: an error of the engine, and a deny rule without a value, deny."""
        import regopy  # an extra; it is there, since a policy was made

        try:
            self._engine.set_input(regopy.Input(script_input(facts)))
            output = self._engine.query_bundle_entrypoint(self._bundle, _ENTRY)
            found = json.loads(str(output))["expressions"][0] if output.ok() else None
        except (regopy.RegoError, ValueError, LookupError, TypeError):
            return _CLOSED
        if not isinstance(found, dict) or (self._denies and not found.get("deny")):
            return _CLOSED
        return Answer(_result(found.get("allow")), _result(found.get("deny")))

    def certain(self, facts: Facts) -> tuple[Sure, Sure]:
        """Of a stranger nothing is certain to a script that looks at who is there (D1)."""
        if self.personal:
            return None, None
        allow, deny = self.evaluate(facts)
        return allow.value, deny.value


def compile_rego(script: str, *, source: str) -> Prepared:
    """Prepare a script within the limits of policy 11; None, with the reason, when it is beyond them. Never raises."""
    try:
        checked = check_rego(script)
    except Unsuitable as why:
        return _refused(source, f"this Rego cannot be evaluated here: {why}", "give the policy as PPL too")
    try:
        import regopy  # an extra
    except (ImportError, OSError):  # OSError: its library does not load on this system
        return _refused(source, "Rego cannot be evaluated without regopy", "install pomerium-agent[rego]")
    try:
        engine = regopy.Interpreter()
        engine.log_level = regopy.LogLevel.NONE
        engine.add_module("answer", _WRAPPER)
        engine.add_module("policy", checked.source)
        bundle = engine.build(None, [_ENTRY])
    except (regopy.RegoError, ValueError):
        return _refused(source, "this Rego cannot be read", "give the policy as PPL too")
    if not bundle.ok():
        return _refused(source, "this Rego cannot be compiled", "give the policy as PPL too")
    complaints: tuple[Complaint, ...] = ()
    if checked.denies and "default deny" not in script:
        reason = "when deny has no value, the request is denied"
        complaints = (Complaint(1, "", reason, "add: default deny := false", source, warning=True),)
    return Prepared(RegoPolicy(checked.reads, checked.denies, engine, bundle), complaints)


def _refused(source: str, reason: str, remedy: str) -> Prepared:
    return Prepared(None, (Complaint(1, "", reason, remedy, source),))


def _result(found: object) -> Result:
    """The result forms of policy 11.1."""
    value = found[0] if isinstance(found, list) and found else False
    if isinstance(value, bool):
        return Result(value)
    if not isinstance(value, list) or not value:
        return NOTHING
    reasons, data = NO_REASONS, NO_DATA
    if len(value) > 1 and isinstance(value[1], list):
        reasons = frozenset(reason for reason in value[1] if isinstance(reason, str))
    if len(value) > 2 and isinstance(value[2], dict):
        data = value[2]
    return Result(value[0] is True, reasons, data)


def script_input(facts: Facts) -> dict[str, Any]:
    """The input that policy 11.1 names, as far as scripts may read it, and the records that they may look up."""
    request, identity = facts.request, facts.identity
    return {
        "http": {
            "method": request.method,
            "host": request.host,
            "hostname": request.host.rpartition(":")[0] if request.host.rpartition(":")[2].isdigit() else request.host,
            "path": request.path,
            "raw_path": request.raw_path,
            "raw_query": request.query,
            "headers": {canonical(name): value for name, value in request.headers.items()},
            "ip": "" if request.ip is None else str(request.ip),
        },
        "ssh": {"username": request.ssh_username},
        "session": {"id": identity.session_id, "user_id": identity.user_id},
        "is_valid_client_certificate": request.certificate_valid,
        "records": _records(identity),
    }


def canonical(name: str) -> str:
    """A header's name as Go writes it."""
    return "-".join(part.capitalize() for part in name.split("-"))


def _records(identity: Identity) -> Mapping[str, Mapping[str, Any]]:
    """The records behind an identity, as the reference shows them: snake case, nothing empty."""
    if not identity.present:
        return {}
    claims = {name: list(values) for name, values in identity.claims.items()}
    session = {"id": identity.session_id, "user_id": identity.user_id}
    user = _filled({"id": identity.user_id, "email": identity.email, "claims": claims})
    found: dict[str, dict[str, Any]] = {"type.googleapis.com/user.User": {identity.user_id: user}}
    if identity.groups is not None:
        directory = _filled({"id": identity.user_id, "email": identity.email, "group_ids": list(identity.groups)})
        found["pomerium.io/DirectoryUser"] = {identity.user_id: directory}
    if identity.service_account:
        found["type.googleapis.com/user.ServiceAccount"] = {identity.session_id: _filled(session)}
        return found
    devices = [{"type_id": each.type_id, "Credential": {"Id": each.id}} for each in identity.devices]
    record = _filled(session | {"claims": claims, "device_credentials": devices})
    known = [each for each in identity.devices if each.found]
    return found | {
        "type.googleapis.com/session.Session": {identity.session_id: record},
        "type.googleapis.com/pomerium.device.Credential": {
            each.id: {"id": each.id, "type_id": each.type_id, "enrollment_id": f"enrollment-{each.id}"}
            for each in known
        },
        "type.googleapis.com/pomerium.device.Enrollment": {
            f"enrollment-{each.id}": _enrollment(each) for each in known if each.enrolled
        },
    }


def _enrollment(device: DeviceCredential) -> dict[str, Any]:
    return _filled({"id": f"enrollment-{device.id}", "approved_by": "somebody" if device.approved else ""})


def _filled(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if value}
