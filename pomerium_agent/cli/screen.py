"""The one screen of `pomerium-agent status`, from two looks at a replica. Pure."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from pomerium_agent.cli.plain import plain
from pomerium_agent.cli.status import ago, in_force

SOON = 14  # days before its end from which a certificate is worth a word
UNKNOWN = "not known yet"
Seen = Mapping[str, Any]


def screen(found: Seen, before: Seen | None = None) -> Iterator[str]:
    """Its lines; `before` is the look before this one, for the requests per second.

    Much of it was written by a control plane, a server of the network, or a visitor.
    """
    return map(plain, _lines(found, before))


def _lines(found: Seen, before: Seen | None) -> Iterator[str]:
    config, pids, statuses = found["config"], found["pids"], found["statuses"]
    now = datetime.fromisoformat(found["at"])
    yield f"replica       {found['instance']} on {found['host']}, version {found['version']}"
    yield f"cluster       {found['cluster'] or UNKNOWN}, organization {found['organization'] or UNKNOWN}"
    yield f"processes     keeper {pids['keeper']}, agent {pids['agent']}, envoy {pids['envoy'] or 'not running'}"
    yield f"console       {'connected' if found['connected'] else 'NOT connected'}"
    if found.get("token", {}).get("fingerprint"):  # an agent before this release does not say
        yield f"token         {found['token']['fingerprint']}, from {found['token']['source']}"
    since = f", in force since {found['in_force_since']}{ago(found['in_force_since'], now)}" * bool(
        found["in_force_since"]
    )
    yield f"config        {in_force(config, now)}{since}"
    yield f"databroker    {_check(statuses.get('storage.backend'), 'backend')}"
    yield f"lease         {_check(statuses.get('zero.lease'), 'role')}"
    yield f"envoy         {_check(statuses.get('envoy.server'))}, {_rate(found, before)}"
    yield f"sessions      {'not known yet' if found['sessions'] is None else found['sessions']}"
    for each in found["certificates"]:
        yield f"certificate   {', '.join(each['names']) or 'without names'}: {_days(each)}"
    for fault in config["faults"]:
        word = "note" if fault["warning"] else "FAULT"
        yield f"{word:<13} {fault['subject']}: {fault['field']}: {fault['reason']}; {fault['remedy']} [{fault['id']}]"
    for name, report in statuses.items():
        if report["error"]:
            yield f"check         {name}: {'; '.join(report['error'].splitlines())}"


def _check(report: Seen | None, attribute: str = "") -> str:
    if report is None:
        return "not known yet"
    if report["error"]:
        return "TROUBLE, see below"
    said = report["attributes"].get(attribute, "")
    return str(said) or str(report["status"]).lower()


def _rate(found: Seen, before: Seen | None) -> str:
    total = found["requests"]
    if total is None:
        return "and does not tell its requests"
    if before is None or before["requests"] is None or before["requests"] > total:
        return f"{total} requests"
    seconds = (datetime.fromisoformat(found["at"]) - datetime.fromisoformat(before["at"])).total_seconds()
    if seconds <= 0:
        return f"{total} requests"
    return f"{total} requests, {(total - before['requests']) / seconds:.1f} a second"


def _days(certificate: Seen) -> str:
    days = certificate["days"]
    if certificate["self_signed_fallback"]:
        return "self-signed, since no certificate is configured; browsers warn of it"
    if days < 0:
        return f"EXPIRED at {certificate['not_after']}"
    return f"{'ONLY ' if days < SOON else ''}{days} days left"
