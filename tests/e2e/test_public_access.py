"""The fields of a route that say who comes in, and what upstreams learn of them: each one through a real Envoy."""

import json
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from google.protobuf.struct_pb2 import ListValue, Value
from joserfc import jwt
from joserfc.jwk import ECKey

from pomerium_agent.pb.pomerium import config_pb2
from tests.e2e.gate import Gate, bearer, open_gate
from tests.fakes.session_records import directory_user, session, user

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

PREFLIGHT = {"Origin": "https://app.test", "Access-Control-Request-Method": "PUT"}
GROUPS = ["engineers", "ops", "payroll"]
PEOPLE = [
    session("ada", "ada", claims={"team": ["blue"]}),
    session("eve", "eve"),
    user("ada", "ada@example.com"),
    user("eve", "eve@elsewhere.test"),
    directory_user("ada", group_ids=GROUPS),
]


def route(name: str, **fields: object) -> config_pb2.Route:
    made = config_pb2.Route(id=name, to=["UPSTREAM"], **fields)  # type: ignore[arg-type]  # whatever a route has
    setattr(made, "from", f"http://{name}.test")
    return made


def routes() -> Iterator[config_pb2.Route]:
    yield route("any", allow_any_authenticated_user=True)
    yield route("users", allowed_users=["ada@example.com"])
    yield route("ids", allowed_users=["eve"])
    yield route("domains", allowed_domains=["example.com"])
    claims = {"team": ListValue(values=[Value(string_value="blue"), Value(string_value="green")])}
    yield route("claims", allowed_idp_claims=claims)
    yield route("nobody")
    yield route("preflight", cors_allow_preflight=True)
    yield route("told", allow_any_authenticated_user=True, pass_identity_headers=True)
    yield route(
        "apart",
        allow_any_authenticated_user=True,
        pass_identity_headers=True,
        jwt_issuer_format="IssuerHostOnly",
        jwt_groups_filter=["payroll"],
    )


async def test_fields_of_a_route_let_in_whom_they_name_and_tell_the_upstream_what_they_say() -> None:
    """A1, R-9, R-11, R-15, routes 1.2 (4, 6, 10, 25, 32, 33, 65, 66), 1.6, 1.7 (36, 63, 119, 139)."""
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    settings = config_pb2.Settings(
        signing_key=pem,
        jwt_claims_headers={"X-Email": "email"},
        jwt_groups_filter=["engineers"],
        jwt_issuer_format="IssuerURI",
    )
    async with open_gate(*routes(), settings=settings, records=PEOPLE) as gate:
        assert await who_comes_in(gate) == {
            "any": (401, 200, 200),
            "users": (401, 200, 403),
            "ids": (401, 403, 200),
            "domains": (401, 200, 403),
            "claims": (401, 200, 403),
            "nobody": (403, 403, 403),
            "preflight": (403, 403, 403),
        }
        assert await preflights(gate) == {"preflight": 200, "nobody": 403, "any": 401}

        ordinary = await gate.get("any.test", "/a?b=c", authorization=bearer("ada"), x_email="forged")
        assert json.loads(ordinary.text)["path"] == "/a?b=c"
        assert ordinary.seen["host"] == f"127.0.0.1:{gate.upstream}"
        assert ordinary.seen["x-forwarded-host"] == "any.test"
        assert ordinary.seen.keys().isdisjoint({"x-email", "x-pomerium-jwt-assertion", "authorization"})

        told = await gate.get("told.test", authorization=bearer("ada"))
        assert told.seen["x-email"] == "ada@example.com"
        keys = ECKey.import_key(pem)
        claims = jwt.decode(told.seen["x-pomerium-jwt-assertion"], keys, algorithms=["ES256"]).claims
        assert (claims["iss"], claims["groups"]) == ("https://told.test/", ["engineers"])
        apart = (await gate.get("apart.test", authorization=bearer("ada"))).seen["x-pomerium-jwt-assertion"]
        claims = jwt.decode(apart, keys, algorithms=["ES256"]).claims
        assert (claims["iss"], claims["groups"]) == ("apart.test", ["engineers", "payroll"])


async def who_comes_in(gate: Gate) -> dict[str, tuple[int, ...]]:
    """A stranger's, ada's and eve's status on each host."""
    found = {}
    for host in ("any", "users", "ids", "domains", "claims", "nobody", "preflight"):
        stranger = await gate.get(f"{host}.test", accept="application/json")
        known = [await gate.get(f"{host}.test", authorization=bearer(name)) for name in ("ada", "eve")]
        found[host] = (stranger.status, *[answer.status for answer in known])
    return found


async def preflights(gate: Gate) -> dict[str, int]:
    """The status of a preflight of CORS, which carries no credentials."""
    found = {}
    for host in ("preflight", "nobody", "any"):
        headers = {"Host": f"{host}.test", "Accept": "application/json", **PREFLIGHT}
        async with gate.client.options(gate.url(), headers=headers) as response:
            found[host] = response.status
    return found
