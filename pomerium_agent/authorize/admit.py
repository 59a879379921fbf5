"""What an allowed request carries on its way: identity headers, assertion, templates, and nothing that could lie.

The order is that of authorize 12. Whatever a visitor may have sent under these names is overwritten or removed (A-19).
"""

import hashlib
from collections.abc import Iterator, Mapping
from math import inf
from typing import Any, NamedTuple
from urllib.parse import quote

from pomerium_agent.authorize.certificate import leaf_of
from pomerium_agent.authorize.decide import NEEDS_SESSION, Case
from pomerium_agent.authorize.forwarded import assertion_for
from pomerium_agent.authorize.rules import RouteRules, Rules, Template
from pomerium_agent.config.templates import Reference
from pomerium_agent.envoyconfig.rate_limits import USER
from pomerium_agent.pb.envoy.config.core.v3.base_pb2 import HeaderValueOption
from pomerium_agent.pb.envoy.service.auth.v3.external_auth_pb2 import CheckResponse
from pomerium_agent.sessions.assertion import (
    ASSERTION,
    ASSERTION_FOR,
    REUSED,
    Assertions,
    AssertionSettings,
    assertion_payload,
)
from pomerium_agent.sessions.claims import claim_headers
from pomerium_agent.sessions.sources import (
    BEARER_POMERIUM_PREFIX,
    HANDLE_HEADER,
    POMERIUM_PREFIX,
    QUERY_PARAMETER,
)

AUTHORIZATION = "authorization"
# Envoy cannot be told repeated headers, so the groups travel in this one; a filter makes lines of them (authorize 16).
IMPERSONATE_GROUPS = "x-pomerium-impersonate-groups"
SERVERLESS = "x-serverless-authorization"
ROUTING_KEY = "x-pomerium-routing-key"
JWT_REFERENCE = Reference(("pomerium", "jwt"))
REQUEST_HEADERS = ("pomerium", "request", "headers")
OWN_PAGES = NEEDS_SESSION | {"/.pomerium", "/.pomerium/"}  # of the internal ones, those that say who is there
_BREAKS = {code: " " for code in (*range(9), *range(10, 32), 127)}


class Admission(NamedTuple):
    """The answer, and until when it is true (seconds since the epoch) unless something changes."""

    answer: bytes
    until: float = inf
    removed_groups: int = 0


def assertion_settings(route: RouteRules | None, rules: Rules) -> AssertionSettings:
    """What assertions say on this route."""
    claims = tuple(dict.fromkeys(rules.jwt_claims_headers.values()))
    if route is None:
        return AssertionSettings(claims=claims)
    return AssertionSettings(issuer_uri=route.issuer_uri, claims=claims, groups_filter=route.groups_filter)


def needs_assertion(route: RouteRules) -> bool:
    """Whether anybody gets to see the assertion (W5)."""
    return route.pass_identity_headers or any(JWT_REFERENCE in template for _, template in route.set_request_headers)


def admit(case: Case, rules: Rules, assertions: Assertions | None, serverless_token: str = "") -> Admission:
    """The answer to a request that passes."""
    if case.route is None:
        return _admit_internal(case, rules, assertions)
    writing = _Writing(case, case.route, rules, assertions)
    writing.identity()
    if case.route.kubernetes:
        writing.kubernetes()
    if case.route.serverless_audience:
        writing.serverless(serverless_token)
    if case.route.affinity:
        writing.add(ROUTING_KEY, hashlib.sha256(writing.session_id.encode()).hexdigest())
    for name, template in case.route.set_request_headers:
        writing.add(name, writing.render(template))
    writing.forwarded()
    writing.strip()
    return writing.admission()


def _admit_internal(case: Case, rules: Rules, assertions: Assertions | None) -> Admission:
    """Our own pages learn who is there where they need it, and nothing from the visitor's mouth elsewhere."""
    if case.question.path not in OWN_PAGES or case.who.resolved is None or assertions is None:
        return OPEN
    made = assertions.make(case.who.resolved, case.question.hostname, assertion_settings(None, rules), case.now)
    until = min(case.who.resolved.valid_until, made.payload["iat"] + REUSED.total_seconds())
    return Admission(ok_response({ASSERTION: made.jwt}, (ASSERTION_FOR,)), until, made.removed_groups)


def ok_response(
    headers: Mapping[str, str],
    removed: tuple[str, ...] = (),
    *,
    without_parameters: tuple[str, ...] = (),
    counted_as: str = "",
) -> bytes:
    """Envoy's permission, with headers that are set whatever was there before, and for whom a rate limit counts."""
    response = CheckResponse()
    ok = response.ok_response
    ok.SetInParent()
    for name, value in headers.items():
        option = ok.headers.add(append_action=HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD, keep_empty_value=not value)
        option.header.key, option.header.value = name, value
    ok.headers_to_remove.extend(removed)
    ok.query_parameters_to_remove.extend(without_parameters)
    if counted_as:
        response.dynamic_metadata.update({USER: counted_as})
    return response.SerializeToString()


OPEN = Admission(ok_response({}, (ASSERTION, ASSERTION_FOR)))


class _Writing:
    """The headers of one answer, as they are put together."""

    def __init__(self, case: Case, route: RouteRules, rules: Rules, assertions: Assertions | None) -> None:
        self._case = case
        self._route = route
        self._rules = rules
        self._headers: dict[str, str] = {}
        self._removed: list[str] = []
        resolved = case.who.resolved
        self.session_id = resolved.session_id if resolved is not None else ""
        self._user_id = resolved.user_id if resolved is not None else ""
        self._until = resolved.valid_until if resolved is not None else inf
        self._jwt = ""
        self._removed_groups = 0
        self._payload: Mapping[str, Any] = {}
        settings = assertion_settings(route, rules)
        if needs_assertion(route) and assertions is not None:
            made = assertions.make(resolved, case.question.hostname, settings, case.now)
            self._jwt, self._payload, self._removed_groups = made.jwt, made.payload, made.removed_groups
            self._until = min(self._until, made.payload["iat"] + REUSED.total_seconds())
        elif route.pass_identity_headers or route.kubernetes:
            self._payload, self._removed_groups = assertion_payload(
                resolved, case.question.hostname, settings, case.now, ""
            )

    def add(self, name: str, value: str) -> None:
        """Set a header; several values for one name are joined (authorize 12)."""
        name = name.lower()
        if not value.isprintable():  # which is asked faster than characters are exchanged
            value = value.translate(_BREAKS)
        self._headers[name] = f"{self._headers[name]},{value}" if name in self._headers else value

    def identity(self) -> None:
        """Who it is, if the upstream is to know; else nothing of the kind reaches it (A-19, A-20)."""
        if not self._route.pass_identity_headers:
            self._removed += [ASSERTION, ASSERTION_FOR, *(name.lower() for name in self._rules.jwt_claims_headers)]
            return
        self.add(ASSERTION, self._jwt)
        for name, value in claim_headers(self._payload, self._rules.jwt_claims_headers).items():
            self.add(name, value)

    def kubernetes(self) -> None:
        """The token of a service account, never without a user to be (A-26); `decide` has seen to that."""
        self.add(AUTHORIZATION, f"Bearer {self._route.kubernetes_token.strip()}")
        self.add("impersonate-user", str(self._payload["email"]))
        # One that a header would not carry as it is might arrive as another one.
        groups = (str(group) for group in self._payload["groups"])
        whole = (group for group in groups if group == group.strip() and group.isprintable())
        self.add(IMPERSONATE_GROUPS, ",".join(quote(group, safe=" !#$&'()*+-./:;<=>?@[]^_`{|}~") for group in whole))

    def serverless(self, token: str) -> None:
        """Google's proof of who we are; without one the request goes on without (authorize 16)."""
        if token:
            self.add(SERVERLESS, f"Bearer {token}")
        else:
            self._removed.append(SERVERLESS)

    def forwarded(self) -> None:
        """On whose behalf a service calls, when that is proven."""
        if not self._route.pass_identity_headers:
            return
        proven = assertion_for(self._case.question, self._rules.public_keys, self._case.now)
        if proven:
            self._headers[ASSERTION_FOR] = proven
        else:
            self._removed.append(ASSERTION_FOR)

    def strip(self) -> None:
        """Take off what was meant for us (authorize 24); the session cookie is taken off by a filter."""
        self._removed.append(HANDLE_HEADER)
        if carries_handle(self._case.question.headers.get(AUTHORIZATION, "")) and AUTHORIZATION not in self._headers:
            self._removed.append(AUTHORIZATION)

    def render(self, template: Template) -> str:
        """A template, filled in once (A-27)."""
        return "".join(part if isinstance(part, str) else self._value(part.path) for part in template)

    def admission(self) -> Admission:
        headers = {name: value for name, value in self._headers.items() if name not in self._removed}
        removed = tuple(dict.fromkeys(self._removed))
        parameters = (QUERY_PARAMETER,) if self._case.who.presented.in_query else ()
        counted_as = self._user_id if self._route.limits_users else ""
        answer = ok_response(headers, removed, without_parameters=parameters, counted_as=counted_as)
        return Admission(answer, self._until, self._removed_groups)

    def _value(self, path: tuple[str, ...]) -> str:
        if len(path) == 4 and path[:3] == REQUEST_HEADERS:
            return self._case.question.headers.get(path[3].lower(), "")
        if len(path) != 2 or path[0] != "pomerium":
            return ""
        name, resolved = path[1], self._case.who.resolved
        if name == "jwt":
            return self._jwt
        if name in ("access_token", "id_token"):
            return str(getattr(resolved, name)) if resolved is not None else ""
        return ",".join(self._of_certificate(name))

    def _of_certificate(self, name: str) -> Iterator[str]:
        leaf = leaf_of(self._case.question.chain)
        if leaf is None:
            return
        if name == "client_cert_fingerprint":
            yield leaf.fingerprint
        elif name == "client_cert_san_dns":
            yield from (each for each in leaf.dns_names if "," not in each)
        elif name == "client_cert_san_email":
            yield from (each for each in leaf.emails if "," not in each)


def carries_handle(authorization: str) -> bool:
    """Whether an `Authorization` is meant for us and not for the upstream."""
    if authorization.startswith(POMERIUM_PREFIX):
        return True
    return authorization[:7].lower() == "bearer " and authorization[7:].startswith(BEARER_POMERIUM_PREFIX[7:])
