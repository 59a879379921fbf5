"""The `device` criterion (policy 8.1, P-21)."""

from pomerium_agent.policy.compiling import Check, Compiling, Look, Place
from pomerium_agent.policy.complaints import did_you_mean, shown
from pomerium_agent.policy.document import Term
from pomerium_agent.policy.facts import DeviceCredential, Facts
from pomerium_agent.policy.results import DEVICE_UNAUTHENTICATED, DEVICE_UNAUTHORIZED, UNAUTHENTICATED, Result
from pomerium_agent.policy.yaml_marks import Mapping

_KEYS = ("is", "type", "approved")
_NONE = DeviceCredential(type_id="")


def device_check(term: Term, ask: Compiling) -> tuple[Check, Look] | None:
    """The check and what it looks at; None after a complaint."""
    asked = _asked(term, ask)
    if asked is None:
        return None
    type_id = str(asked.get("type", "any"))
    with_id, with_type, with_approval = "is" in asked, "type" in asked, "approved" in asked
    wanted_id, approval = asked.get("is"), _truthy(asked.get("approved"))

    def result(value: bool, reason: str) -> Result:
        return Result(value, frozenset({reason}), {"device_type": type_id})

    ok, unauthorized = result(True, "device-ok"), result(False, DEVICE_UNAUTHORIZED)
    unknown, nobody = result(False, DEVICE_UNAUTHENTICATED), result(False, UNAUTHENTICATED)

    def find(facts: Facts) -> DeviceCredential:
        return next((each for each in facts.identity.devices if each.type_id == type_id and each.id), _NONE)

    def check(facts: Facts) -> Result:
        device = find(facts)
        enrolled = device.found and device.enrolled
        if (
            (not with_id or (device.found and device.id == wanted_id))
            and (not with_type or device.found)
            and (not with_approval or (enrolled and device.approved) is approval)
        ):
            return ok
        if not facts.identity.present:
            return nobody
        return unauthorized if enrolled else unknown

    def look(facts: Facts) -> object:
        device = find(facts)
        if not device.found:
            return None
        return {"id": device.id, "type": device.type_id, "enrolled": device.enrolled, "approved": device.approved}

    return check, look


def _asked(term: Term, ask: Compiling) -> dict[str, object] | None:
    if not isinstance(term.data, Mapping):
        ask.refuse(Place(term.line, term.path), "device needs an object", "write, for example, device: {type: any}")
        return None
    asked = term.plain()
    assert isinstance(asked, dict)  # noqa: S101  # of a mapping
    complete = True
    for name, value in asked.items():
        here = Place(term.data.lines[name], f"{term.path}.{name}")
        if name not in _KEYS:
            ask.refuse(
                here,
                f"device has no key {shown(name)}",
                did_you_mean(name, _KEYS, otherwise="use is, type or approved"),
            )
            complete = False
        elif name != "approved" and not isinstance(value, str):
            ask.refuse(here, f"{name} must be a text, not {shown(value)}", "put it in quotes")
            complete = False
    if not asked:
        ask.warn(
            Place(term.line, term.path),
            "a device without any key asks for nothing",
            "write, for example, device: {type: any}",
        )
    return asked if complete else None


def _truthy(value: object) -> bool:
    """As JavaScript has it: "false", {} and [] are true."""
    return value is not None and value is not False and value not in (0, "")
