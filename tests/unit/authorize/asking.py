"""Questions as Envoy asks them, a checker with a store in memory behind it, and answers taken apart."""

import base64
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from pomerium_agent.authorize.check import Checker
from pomerium_agent.authorize.rules import RouteRules, Rules
from pomerium_agent.config.templates import parse_template
from pomerium_agent.pb.envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from pomerium_agent.policy import RoutePolicy, SubPolicy, build_route_policy
from pomerium_agent.policy import RouteRules as AllowFields
from pomerium_agent.records import Record
from pomerium_agent.runtime.latest import Latest
from pomerium_agent.sessions.handle import Handle, sign_handle
from pomerium_agent.sessions.live import Sessions
from pomerium_agent.sessions.signer import Signer, derive_signing_key
from tests.fakes import session_records as people
from tests.unit.sessions.stage import Stage

KEY = bytes(range(32))
HOST = "wiki.example.com"
IDP = "idp-1"
SIGNER = Signer(derive_signing_key(KEY))
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"

ADA = (
    people.session("s-ada", "u-ada", claims={"name": ["Ada L."], "family": ["Lovelace"]}, idp_id=IDP),
    people.user("u-ada", "ada@example.com"),
    people.directory_user("u-ada", email="ada@example.com", group_ids=["g1", "g2"]),
    people.directory_group("g1", "Engineers"),
)
MALLORY = (people.session("s-mallory", "u-mallory", idp_id=IDP), people.user("u-mallory", "mallory@example.com"))
PEOPLE: tuple[Record, ...] = (*ADA, *MALLORY)

ADA_ONLY = '[{"allow": {"and": [{"email": {"is": "ada@example.com"}}]}}]'
ANYBODY = '[{"allow": {"and": [{"accept": true}]}}]'
NOBODY = '[{"allow": {"and": [{"reject": true}]}}]'


def policy(text: str, *, id: str = "", explanation: str = "", remediation: str = "") -> RoutePolicy:
    """A route's policy from PPL."""
    sub = SubPolicy(id=id, source_ppl=text, explanation=explanation, remediation=remediation)
    built, complaints = build_route_policy(AllowFields(sub_policies=(sub,)), source="test")
    assert not [each for each in complaints if not each.warning], complaints
    return built


def route(
    text: str = ADA_ONLY, id: str = "r1", set_request_headers: Mapping[str, str] | None = None, **more: Any
) -> RouteRules:
    templates = tuple((name, parse_template(value)) for name, value in (set_request_headers or {}).items())
    fields: dict[str, Any] = {"checksum": 7, "policy": policy(text), "set_request_headers": templates} | more
    return RouteRules(id=id, **fields)


RULES = Rules(
    routes={"r1": route()},
    shared_key=KEY,
    authenticate_url="https://authenticate.example.com",
    default_idp_id=IDP,
    signer=SIGNER,
    public_keys=(SIGNER.jwk,),
    jwt_claims_headers={"X-Pomerium-Claim-Email": "email", "X-Pomerium-Claim-Family": "family"},
)


def with_route(changed: RouteRules, rules: Rules = RULES) -> Rules:
    return replace(rules, routes={**rules.routes, changed.id: changed})


def cookie(session_id: str, **fields: Any) -> dict[str, str]:
    return {"cookie": f"a=b; _pomerium={token(session_id, **fields)}"}


def token(session_id: str, **fields: Any) -> str:
    return sign_handle(Handle(id=session_id, **{"idp_id": IDP} | fields), KEY)


def question(
    path: str = "/",
    headers: Mapping[str, str] | None = None,
    *,
    method: str = "GET",
    host: str = HOST,
    scheme: str = "https",
    route_id: str = "r1",
    checksum: str = "7",
    internal: bool = False,
    ip: str = "203.0.113.7",
    chain: str = "",
    lines: tuple[tuple[str, str], ...] = (),
) -> bytes:
    """A CheckRequest; with `lines`, as Envoy tells of headers that are not joined."""
    request = CheckRequest()
    attributes = request.attributes
    http = attributes.request.http
    http.method, http.host, http.path, http.scheme = method, host, path, scheme
    told = {"x-request-id": "req-1", **(headers or {})}
    if lines:
        for name, value in (*told.items(), *lines):
            line = http.header_map.headers.add()
            line.key, line.raw_value = name, value.encode()
    else:
        http.headers.update(told)
    attributes.source.address.socket_address.address = ip
    attributes.context_extensions.update(
        {"internal": "true" if internal else "false", "route_id": route_id, "route_checksum": checksum}
    )
    if chain:
        fields = attributes.metadata_context.filter_metadata["com.pomerium.client-certificate-info"].fields
        fields["chain"].string_value = quote(chain)
    return request.SerializeToString()


class Answer:
    """What Envoy is told."""

    def __init__(self, message: bytes) -> None:
        self.response = CheckResponse.FromString(message)
        self.denied = self.response.denied_response
        self.allowed = self.response.HasField("ok_response") and not self.response.status.code
        self.status = 200 if self.allowed else int(self.denied.status.code)
        options = self.response.ok_response.headers if self.allowed else self.denied.headers
        self.headers = {option.header.key: option.header.value for option in options}
        assert len(self.headers) == len(options), "Envoy keeps only the last of several"
        self.removed = tuple(self.response.ok_response.headers_to_remove)
        self.without_parameters = tuple(self.response.ok_response.query_parameters_to_remove)
        self.body = self.denied.body

    @property
    def assertion(self) -> dict[str, Any]:
        return payload_of(self.headers["x-pomerium-jwt-assertion"])

    def upstream(self, sent: Mapping[str, str]) -> dict[str, str]:
        """The headers that an upstream sees of those that were sent, by Envoy's rules."""
        seen = {name.lower(): value for name, value in sent.items()} | self.headers
        return {name: value for name, value in seen.items() if name not in self.removed}


def payload_of(jwt: str) -> dict[str, Any]:
    part = jwt.split(".")[1]
    parsed: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return parsed


class Room:
    """A checker, and what stands behind it."""

    def __init__(self, stage: Stage, sessions: Sessions, rules: Rules, **more: Any) -> None:
        self.stage = stage
        self.sessions = sessions
        self.rules = Latest(rules)
        self.checker = Checker(self.rules, sessions, stage.clock, **more)

    def ask(self, path: str = "/", headers: Mapping[str, str] | None = None, **more: Any) -> Answer:
        """The answer to a question for which nothing has to be fetched."""
        answer = self.checker.check(question(path, headers, **more))
        assert isinstance(answer, bytes)
        return Answer(answer)

    async def ask_and_wait(self, path: str = "/", headers: Mapping[str, str] | None = None, **more: Any) -> Answer:
        answer = self.checker.check(question(path, headers, **more))
        return Answer(answer if isinstance(answer, bytes) else await answer)


@asynccontextmanager
async def room(rules: Rules = RULES, *, records: tuple[Record, ...] = PEOPLE, **more: Any) -> AsyncIterator[Room]:
    """With everybody signed in."""
    stage = Stage()
    if records:
        await stage.backend.put(records)
    async with stage.sessions() as sessions:
        yield Room(stage, sessions, rules, **more)
