"""Who may use a route: its allow fields and policies, prepared to be asked (policy 10, 11).

A policy that cannot be used closes its route, and no other (P-27): the route stands at its place and turns
everybody away, since a lost deny must not open it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import ListValue

from pomerium_agent.config.complaints import Complaints, Unusable
from pomerium_agent.config.snapshot import Access, BearerFormat
from pomerium_agent.pb.pomerium import config_pb2
from pomerium_agent.policy import PolicyCache, RouteRules, SubPolicy, build_route_policy
from pomerium_agent.settings import Secret

_FORMATS: Mapping[int, BearerFormat] = {
    config_pb2.BEARER_TOKEN_FORMAT_DEFAULT: BearerFormat.DEFAULT,
    config_pb2.BEARER_TOKEN_FORMAT_IDP_ACCESS_TOKEN: BearerFormat.ACCESS_TOKEN,
    config_pb2.BEARER_TOKEN_FORMAT_IDP_IDENTITY_TOKEN: BearerFormat.IDENTITY_TOKEN,
    config_pb2.BEARER_TOKEN_FORMAT_JWT: BearerFormat.JWT,
}
_NEWER = "update this replica, or use an older choice"


@dataclass(slots=True)
class PolicyMemory:
    """Policies prepared for the configuration before, so that equal texts are prepared once."""

    cache: PolicyCache = field(default_factory=PolicyCache)

    def turn(self) -> None:
        """A new configuration begins: what it does not use is forgotten after it."""
        self.cache = PolicyCache(self.cache)


def parse_access(
    route: config_pb2.Route,
    *,
    client_ca: str | None = None,
    client_certificates_required: bool = False,
    memory: PolicyMemory,
    complaints: Complaints,
) -> Access:
    """Prepare a route's policies; what is wrong with them becomes faults of the route.

    `client_ca`: the route's own authority for visitors' certificates. `client_certificates_required`: those without
    a good one are denied by default (P-20).
    """
    rules = RouteRules(
        public=route.allow_public_unauthenticated_access,
        cors=route.cors_allow_preflight,
        any_user=route.allow_any_authenticated_user,
        allowed_users=tuple(route.allowed_users),
        allowed_domains=tuple(route.allowed_domains),
        allowed_idp_claims=_claims(route.allowed_idp_claims),
        sub_policies=tuple(_sub_policy(policy) for policy in route.policies),
        default_deny=client_certificates_required,
    )
    policy, found = build_route_policy(rules, source="", cache=memory.cache)
    for each in found:
        add = complaints.warn if each.warning else complaints.refuse
        at = f", line {each.line}" if each.line else ""
        add("policy", f"{each.path}{at}: {each.reason}" if each.path else each.reason, each.remedy)
    return Access(
        policy=policy,
        client_ca=client_ca,
        show_error_details=route.show_error_details,
        issuer_uri=(route.jwt_issuer_format == config_pb2.IssuerURI) if route.HasField("jwt_issuer_format") else None,
        groups_filter=tuple(route.jwt_groups_filter),
        bearer_format=_FORMATS.get(route.bearer_token_format),
        identity_providers=tuple(route.identity_providers),
        depends_on=tuple(route.depends_on),
        idp_client_id=route.idp_client_id if route.HasField("idp_client_id") else None,
        idp_client_secret=Secret(route.idp_client_secret) if route.HasField("idp_client_secret") else None,
        access_token_audiences=(
            tuple(route.idp_access_token_allowed_audiences.values)
            if route.HasField("idp_access_token_allowed_audiences")
            else None
        ),
    )


def parse_bearer_format(value: int) -> BearerFormat:
    """The setting of the same name. Raises Unusable."""
    if value not in (config_pb2.BEARER_TOKEN_FORMAT_UNKNOWN, *_FORMATS):
        raise Unusable(f"{value} is not a known choice", _NEWER)
    return _FORMATS.get(value, BearerFormat.DEFAULT)


def parse_issuer_format(value: int) -> bool:
    """Whether assertions name their issuer by URL. Raises Unusable."""
    if value not in (config_pb2.IssuerHostOnly, config_pb2.IssuerURI):
        raise Unusable(f"{value} is not a known choice", _NEWER)
    return value == config_pb2.IssuerURI


def _sub_policy(policy: config_pb2.Policy) -> SubPolicy:
    return SubPolicy(
        id=policy.id or policy.name,
        explanation=policy.explanation,
        remediation=policy.remediation,
        source_ppl=policy.source_ppl,
        rego=tuple(policy.rego),
        allowed_users=tuple(policy.allowed_users),
        allowed_domains=tuple(policy.allowed_domains),
        allowed_idp_claims=_claims(policy.allowed_idp_claims),
    )


def _claims(claims: Mapping[str, ListValue]) -> Mapping[str, object]:
    return {name: MessageToDict(values) for name, values in claims.items()}
