"""An explanation as a person reads it: the decision, each policy with what it read and wanted, what would change it."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

Told = Mapping[str, Any]

HEADLINES = {
    "allow": "let in",
    "deny": "denied",
    "login": "has to sign in",
    "enroll": "has to enroll a device",
}
CHANGES = {
    "sign-in": "once signed in",
    "join": "with group {value}",
    "leave": "without group {value}",
    "claim": "with claim {name}={value}",
    "only-claim": "with claim {name}={value} and no other value of it",
    "no-claim": "without claim {name}={value}",
    "domain": "with an e-mail address in {value}",
    "email": "with the e-mail address {value}",
    "user": "as the user {value}",
}


def explained(told: Told) -> list[str]:
    """The lines of the text. Nothing that a visitor wrote can steer the terminal."""
    return [_printable(line) for line in _lines(told)]


def _lines(told: Told) -> Iterator[str]:
    request, reasons = told["request"], told["reasons"]
    why = f": {', '.join(reasons)}" if reasons else ""
    yield f"{HEADLINES.get(told['decision'], told['decision'])} ({told['status']}){why}"
    yield ""
    yield f"  request  {request['method']} {request['url']}{_from(request['ip'])}"
    yield f"  by       {_who(told['identity'])}"
    yield f"  route    {_route(told['route'])}"
    if told["public"]:
        yield "  public   nobody is asked who they are"
    if told["then"] is not None:
        then = told["then"]
        outcome = HEADLINES.get(then["decision"], then["decision"])
        yield f"  then     {then['at']}: {outcome} ({then['status']}): {', '.join(then['reasons']) or 'no reason'}"
    if told["note"]:
        yield f"  note     {told['note']}"
    if told["closed"]:
        yield f"  closed   {told['closed']}: a policy of this route cannot be used, so nobody passes"
    if told["unproven"]:
        yield "  note     only a stranger fits this policy by being unknown; they have to sign in first"
    if told["fault"] is not None:
        yield f"  fault    {_fault(told['fault'])}"
    for policy in _telling(told["policies"]):
        yield ""
        yield from _policy(policy)
    change = _change(told)
    if change:
        yield ""
        yield change


def _from(ip: object) -> str:
    return f" from {ip}" if ip else ""


def _who(identity: Told | None) -> str:
    if identity is None:
        return "a stranger"
    parts = [part for part in (identity["email"], f"user {identity['user']}") if part]
    groups = identity["groups"]
    parts.append("no directory record" if groups is None else f"groups {', '.join(groups) or 'none'}")
    parts += [f"{name}={_value(values)}" for name, values in sorted(identity["claims"].items())]
    return ", ".join(parts)


def _route(route: Told | None) -> str:
    if route is None:
        return "none"
    named = f"{route['name']} ({route['id']})" if route["name"] else route["id"]
    match = route["match"]
    where = "" if match["kind"] == "connect" else f", {match['kind']} {match['value']}"
    return f"{named}: {route['from']}{where}"


def _fault(fault: Told) -> str:
    if "reason" not in fault:
        return str(fault["id"])
    return f"{fault['subject']}: {fault['field']}: {fault['reason']}; {fault['remedy']} [{fault['id']}]"


def _telling(policies: Sequence[Told]) -> Sequence[Told]:
    """A route without allow fields has an own policy without rules, which is worth a line only when it is all."""
    return [each for each in policies if each["id"] or each["rules"] or each["language"] == "rego"] or policies


def _policy(policy: Told) -> Iterator[str]:
    yield f"policy {policy['id']}" if policy["id"] else "the route's own policy"
    for name in ("explanation", "remediation"):
        if policy[name]:
            yield f"  {name}: {' '.join(policy[name].split())}"
    if policy["language"] == "rego":
        for action in ("allow", "deny"):
            yield f"  {_mark(policy[action]['value'])} {action} (Rego)  {', '.join(policy[action]['reasons'])}"
    elif not policy["rules"]:
        yield "  no rules, so it lets nobody in"
    for rule in policy["rules"]:
        yield f"  {_mark(rule['value'])} {rule['action']}"
        for block in rule["blocks"]:
            yield f"    {_mark(block['value'])} {block['operator']}"
            yield from _criteria(block["criteria"])


def _criteria(criteria: Iterable[Told]) -> Iterator[str]:
    for each in criteria:
        yield (
            f"      {_mark(each['value'])} {each['criterion']}: wants {_value(each['data'])}, "
            f"read {_value(each['saw'])}  ({', '.join(each['reasons']) or 'no reason'})"
        )


def _change(told: Told) -> str:
    """The smallest change in words; nothing when the request is let in."""
    if told["decision"] == "allow":
        return ""
    if told["change"]:
        return f"would be let in {', '.join(_wish(each) for each in told['change'])}"
    if told["policies"] or told["closed"]:
        return "no other identity that the policies speak of would be let in"
    return ""


def _wish(change: Told) -> str:
    words = CHANGES.get(change["kind"], "")
    return words.format(name=change["name"], value=change["value"]) if words else str(change["text"])


def _mark(value: bool) -> str:
    return "✓" if value else "✗"


def _value(value: object) -> str:
    """JSON without the quotes of plain words."""
    if value is None or value == []:
        return "nothing"
    if isinstance(value, str) and value and value.isprintable() and value == value.strip():
        return value
    if isinstance(value, dict) and len(value) == 1:
        ((operator, data),) = value.items()
        return f"{operator} {_value(data)}"
    return json.dumps(value, ensure_ascii=False)


def _printable(line: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
