"""What the policies would say, and why: to a request that somebody imagines, and to one that was denied. Pure."""

import ipaddress
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import MappingProxyType
from typing import Any
from urllib.parse import quote, urlsplit

from pomerium_agent.authorize.client_trust import judge
from pomerium_agent.authorize.decide import (
    BAD_CREDENTIALS,
    NEEDS_SESSION,
    NO_IMPERSONATION,
    POMERIUM_ROUTE,
    UNREADABLE,
    reads_path,
)
from pomerium_agent.authorize.denials import Denied
from pomerium_agent.authorize.gather import address, decoded_path
from pomerium_agent.authorize.locate import CONNECT, Located, asks_for_udp, locate, normalized
from pomerium_agent.config.action import Unavailable
from pomerium_agent.config.kubernetes import names_somebody
from pomerium_agent.config.snapshot import ConfigSnapshot, Fault, Route
from pomerium_agent.config.urls import ascii_host
from pomerium_agent.envoyconfig.route import checksum
from pomerium_agent.envoyconfig.virtual_hosts import has_port
from pomerium_agent.errors import InvalidRequest
from pomerium_agent.policy import Change, explain
from pomerium_agent.policy.change import SOMEBODY
from pomerium_agent.policy.complaints import did_you_mean, shown
from pomerium_agent.policy.explain import seen
from pomerium_agent.policy.facts import STRANGER, Facts, Identity, Request
from pomerium_agent.policy.results import ROUTE_NOT_FOUND, UNAUTHENTICATED

NONE: Mapping[str, Any] = MappingProxyType({})
SCHEMES = {"https": "https", "http": "http", "wss": "https", "ws": "http"}
TUNNELS = ("tcp+https", "tcp+http", "udp+https", "udp+http")
FOR_UDP = MappingProxyType({"upgrade": "connect-udp"})  # what a request for a UDP tunnel is known by
DEFAULT_PORTS = {"https": 443, "http": 80}
WORDS = ("url", "method", "headers", "ip", "user", "email", "groups", "claims")
PATH_REFUSED = "path-refused"
ROUTE_UNAVAILABLE = "route-unavailable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hypothetical:
    """A request that nobody made. `identity` is a stranger unless anything is said of who asks."""

    scheme: str = "https"
    host: str  # as a client sends it: with the port, unless the scheme implies it
    path: str = "/"  # percent-encoded, without the query
    query: str = ""
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=lambda: NONE)
    ip: ipaddress.IPv4Address | ipaddress.IPv6Address | None = None
    identity: Identity = STRANGER
    now: datetime

    def facts(self, path: str) -> Facts:
        """What policies may look at, once the path is normalized."""
        request = Request(
            method=self.method,
            scheme=self.scheme,
            host=self.host,
            path=decoded_path(path),
            raw_path=path,
            query=self.query,
            headers=self.headers,
            ip=self.ip,
        )
        return Facts(request, self.identity, now=self.now)


# --- from words to a request ----------------------------------------------------------------------


def read_hypothetical(said: Mapping[str, object], now: datetime) -> Hypothetical:
    """A request from its description in JSON; `WORDS` are the keys. Raises InvalidRequest with what to write."""
    for key in said:
        if key not in WORDS:
            remedy = did_you_mean(key, WORDS, otherwise=f"use {', '.join(WORDS)}")
            raise InvalidRequest(f"{shown(key)} is not a part of a request; {remedy}")
    url = _text(said, "url")
    if not url:
        raise InvalidRequest("url: it is missing; give the URL that is asked for, for example https://app.example.com/")
    scheme, host, path, query = _read_url(url)
    tunnel, udp = scheme in TUNNELS, scheme.startswith("udp+")
    headers = _object(said, "headers")
    if not all(isinstance(value, str) for value in headers.values()):
        raise InvalidRequest("headers: each has one text; join repeated ones with a comma")
    return Hypothetical(
        scheme="https" if tunnel else scheme,
        host=host,
        path=_masque_path(host) if udp else path,
        query=query,
        method=_text(said, "method") or (CONNECT if tunnel and not udp else "GET"),
        headers={**{name.lower(): str(value) for name, value in headers.items()}, **(FOR_UDP if udp else NONE)},
        ip=_read_ip(_text(said, "ip")),
        identity=_read_identity(said),
        now=now,
    )


def _masque_path(target: str) -> str:
    """Where a tunnel to this host and port is asked for (RFC 9298, 2), as Envoy shows it to policies."""
    host, port = target.rpartition(":")[::2] if has_port(target) else (target, "443")
    return f"/.well-known/masque/udp/{quote(host.strip('[]'), safe='')}/{port}/"


def _read_url(url: str) -> tuple[str, str, str, str]:
    """Scheme, host as sent, path as sent, query."""
    try:
        parts = urlsplit(url)
        port = parts.port
        name = parts.hostname or ""
        host = f"[{ipaddress.IPv6Address(name)}]" if parts.netloc.rpartition("@")[2].startswith("[") else _ascii(name)
    except ValueError:
        raise InvalidRequest(f"url: {shown(url)} cannot be read; write it as https://host:port/path") from None
    scheme = SCHEMES.get(parts.scheme, parts.scheme)
    if "://" not in url or not host or scheme not in (*DEFAULT_PORTS, *TUNNELS):
        raise InvalidRequest(f"url: {shown(url)} is no URL that a route can have; write it as https://host/path")
    if scheme in TUNNELS and parts.path.strip("/"):
        return scheme, parts.path.strip("/").lower(), "/", ""  # a target behind a shared front host
    sent = host if port in (None, DEFAULT_PORTS.get(scheme)) else f"{host}:{port}"
    return scheme, sent, quote(parts.path, safe="%/:?#[]@!$&'()*+,;=~\\^|{}`\"<>") or "/", parts.query


def _ascii(name: str) -> str:
    return ascii_host(name) if name else ""


def _read_ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    found = address(text) if text else None
    if text and found is None:
        raise InvalidRequest(f"ip: {shown(text)} is not an IP address; write it without a port, as 192.0.2.1")
    return found


def _read_identity(said: Mapping[str, object]) -> Identity:
    """Somebody, as soon as anything is said of them. Without groups there is no directory record either (P-15)."""
    user, email, claims = _text(said, "user"), _text(said, "email"), _object(said, "claims")
    groups = said.get("groups")
    if groups is not None and not (isinstance(groups, list) and all(isinstance(group, str) for group in groups)):
        raise InvalidRequest('groups: write a list of texts, as ["engineers"]')
    if not (user or email or claims or isinstance(groups, list)):
        return STRANGER
    return Identity(
        present=True,
        session_id=SOMEBODY,
        user_id=user or SOMEBODY,
        email=email,
        claims={name: tuple(value) if isinstance(value, list) else (value,) for name, value in claims.items()},
        groups=tuple(groups) if isinstance(groups, list) else None,
    )


def _text(said: Mapping[str, object], name: str) -> str:
    value = said.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidRequest(f"{name}: {shown(value)} is not a text; put it in quotes")
    return value


def _object(said: Mapping[str, object], name: str) -> Mapping[str, object]:
    value = said.get(name)
    if value is None:
        return NONE
    if not isinstance(value, dict):
        raise InvalidRequest(f'{name}: {shown(value)} is not an object; write {{"name": "value"}}')
    return value


def read_claim(text: str) -> object:
    """The value of a claim as a person types it: JSON where it is (3, true, "3", ["a"]), else the text itself."""
    try:
        return json.loads(text, parse_constant=lambda _: text)
    except (ValueError, RecursionError):
        return text


# --- from a request to an answer --------------------------------------------------------------------


def explain_request(snapshot: ConfigSnapshot, asked: Hypothetical, faults: Sequence[Fault] = ()) -> dict[str, Any]:
    """What would become of a request, and why, as JSON-ready values."""
    path = normalized(asked.path, snapshot.settings)
    facts = asked.facts(path or "")
    if path is None:
        note = "the path holds an escaped slash, and the settings have Envoy refuse those"
        return _answer(facts, "deny", 400, deny_reasons=(PATH_REFUSED,), note=note)
    found = locate(snapshot, host=asked.host, path=path, method=asked.method, udp=asks_for_udp(asked.headers))
    if found.internal:
        return _own_page(facts)
    if found.route is None:
        return _not_found(facts, found)
    return _explained(found.route, _judged(facts, snapshot, found.route, ""), faults)


def explain_denied(snapshot: ConfigSnapshot, denied: Denied, faults: Sequence[Fault] = ()) -> dict[str, Any]:
    """A denial decided once more, by what is in force now; `then` is what it was."""
    route = next((route for route in snapshot.routes if route.id == denied.route_id), None)
    if BAD_CREDENTIALS in denied.reasons:
        note = "the credentials that the request carried were refused before any policy was asked"
        told = _answer(denied.facts, "deny", denied.status, deny_reasons=denied.reasons, route=route, note=note)
    elif route is not None:
        facts = denied.facts
        if denied.chain or facts.request.certificate is None:
            facts = _judged(facts, snapshot, route, denied.chain)
        # That the directory has an empty address, which then counts, is not among the facts of a policy.
        told = _explained(route, facts, faults, named=NO_IMPERSONATION not in denied.reasons)
        if not isinstance(route.action, Unavailable) and checksum(route) != denied.route_checksum:
            told["note"] = "the route has changed since; this is what it says now"
    elif denied.route_id:
        note = f"the route {denied.route_id} is not in the configuration that is in force"
        told = _answer(denied.facts, "deny", 404, deny_reasons=(ROUTE_NOT_FOUND,), note=note)
    else:
        told = _own_page(denied.facts)
    then = {
        "request_id": denied.request_id,
        "at": denied.at.isoformat(),
        "decision": "deny" if denied.kind.value == "certificate" else denied.kind.value,
        "status": denied.status,
        "reasons": list(denied.reasons),
        "session_id": denied.session_id,
    }
    return told | {"then": then}


def _judged(facts: Facts, snapshot: ConfigSnapshot, route: Route, chain: str) -> Facts:
    """The facts, with the verdict on a client certificate by what is in force now; a chain of "" is none (A-18)."""
    trust = snapshot.settings.client_certificates.trust(route.access.client_ca)
    valid = judge(trust, chain, facts.now).valid
    return replace(facts, request=replace(facts.request, certificate_valid=valid))


def _explained(route: Route, facts: Facts, faults: Sequence[Fault], *, named: bool = True) -> dict[str, Any]:
    if isinstance(route.action, Unavailable):
        return _aside(route, route.action.fault_id, facts, faults)
    if facts.request.raw_path and not facts.request.path and reads_path(route.access.policies):
        note = "a policy looks at the path, and this one has an escape that stands for no text"
        return _answer(facts, "deny", 400, route=route, deny_reasons=UNREADABLE.reasons, note=note)
    said = explain(route.access.policy, facts).to_json()
    for policy in route.access.also:
        if said["decision"] == "allow":
            said = explain(policy, facts).to_json()
    told = _answer(facts, "deny", 403, route=route) | said
    fault = next((each for each in faults if each.route_id == route.id and not each.warning), None)
    if fault is not None:
        told |= {"fault": _told_fault(fault), "note": "the newest version of the route has a fault"}
    if told["decision"] == "allow" and route.kubernetes and not (named and names_somebody(facts.identity.email)):
        note = "a Kubernetes route impersonates its visitors, and this one has no e-mail address to do it with"
        change = Change("sign-in") if not facts.identity.present else None
        told |= {"decision": "deny", "status": 403, "reasons": [NO_IMPERSONATION], "note": note}
        told |= {"deny": True, "deny_reasons": [NO_IMPERSONATION], "change": [change.to_json()] if change else None}
    return told


def _aside(route: Route, fault_id: str, facts: Facts, faults: Sequence[Fault]) -> dict[str, Any]:
    """A route that stands aside tells everybody so, whoever they are."""
    fault = next((each for each in faults if each.id == fault_id), None)
    note = "the route stands aside because of a fault in its configuration"
    answer = _answer(facts, "deny", 503, route=route, deny_reasons=(ROUTE_UNAVAILABLE,), note=note)
    return answer | {"public": False, "fault": {"id": fault_id} if fault is None else _told_fault(fault)}


def _told_fault(fault: Fault) -> dict[str, Any]:
    told = {"id": fault.id, "subject": fault.subject, "field": fault.field}
    return told | {"reason": fault.reason, "remedy": fault.remedy}


def _not_found(facts: Facts, found: Located) -> dict[str, Any]:
    host, path = shown(facts.request.host), shown(facts.request.raw_path)
    if not found.on_host:
        note = f"no route answers to the host {host}"
    else:
        note = f"none of the {found.on_host} routes on the host {host} matches the path {path}"
        if found.on_host == 1:
            note = f"the one route on the host {host} does not match the path {path}"
    return _answer(facts, "deny", 404, deny_reasons=(ROUTE_NOT_FOUND,), note=note)


def _own_page(facts: Facts) -> dict[str, Any]:
    """The agent's own pages ask no policy (authorize 17)."""
    path, note = facts.request.path, "this is a page of the agent's own, which no policy is asked about"
    if (not path or path in NEEDS_SESSION) and not facts.identity.present:
        change = [Change("sign-in").to_json()]
        answer = _answer(facts, "login", 302, allow_reasons=(UNAUTHENTICATED,), note=note)
        return answer | {"change": change}
    answer = _answer(facts, "allow", 200, allow_reasons=(POMERIUM_ROUTE,), note=note)
    return answer | {"public": path not in NEEDS_SESSION, "change": []}


def _answer(
    facts: Facts,
    decision: str,
    status: int,
    *,
    route: Route | None = None,
    allow_reasons: Sequence[str] = (),
    deny_reasons: Sequence[str] = (),
    note: str = "",
) -> dict[str, Any]:
    """The whole object, so that every key is there in every case."""
    return {
        "decision": decision,
        "status": status,
        "reasons": sorted({*allow_reasons, *deny_reasons}),
        "note": note,
        "route": _told_route(route),
        "public": route is not None and route.public,
        "request": _told_request(facts.request),
        "identity": _told_identity(facts.identity),
        "allow": decision == "allow",
        "deny": bool(deny_reasons),
        "allow_reasons": sorted(allow_reasons),
        "deny_reasons": sorted(deny_reasons),
        "closed": "",
        "unproven": False,
        "policies": [],
        "change": None,
        "fault": None,
        "then": None,
    }


def _told_route(route: Route | None) -> dict[str, Any] | None:
    if route is None:
        return None
    match = {"kind": route.match.kind.value, "value": route.match.value}
    return {"id": route.id, "name": route.name, "from": route.source.url, "match": match}


def _told_request(request: Request) -> dict[str, Any]:
    query = f"?{request.query}" if request.query else ""
    url = f"{request.scheme}://{request.host}{request.raw_path}{query}"
    return {"method": request.method, "url": url, "path": request.path, "ip": seen(request.ip)}


def _told_identity(identity: Identity) -> dict[str, Any] | None:
    """None for a stranger; groups are None where there is no directory record."""
    if not identity.present:
        return None
    return {
        "user": identity.user_id,
        "email": identity.email,
        "groups": None if identity.groups is None else list(identity.groups),
        "claims": seen(identity.claims),
        "service_account": identity.service_account,
    }
