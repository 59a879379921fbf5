"""The routes portal: exactly what this visitor would be let into (authenticate 8.4, N-43)."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_from_bytes

import pytest
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st

from pomerium_agent.authenticate.portal import listed
from pomerium_agent.authenticate.site import build_site
from pomerium_agent.authenticate.visit import Visit
from pomerium_agent.authenticate.visitor import Visitor
from pomerium_agent.authorize.decide import Case, decide
from pomerium_agent.authorize.from_config import RulesBuilder
from pomerium_agent.authorize.gather import Question
from pomerium_agent.authorize.who import Who
from pomerium_agent.config.snapshot import ConfigSnapshot, Route
from pomerium_agent.config.urls import parse_source
from pomerium_agent.look import PortalRoute
from pomerium_agent.pb.pomerium import config_pb2
from pomerium_agent.policy import Kind
from pomerium_agent.policy.facts import STRANGER, DeviceCredential, Identity
from pomerium_agent.sessions.handle import Handle, sign_handle
from pomerium_agent.sessions.identity import Resolved
from pomerium_agent.sessions.signer import Signer, derive_signing_key
from tests.fakes import session_records as records
from tests.fakes.config_records import compiled, config, route
from tests.unit.authenticate.stage import APP, AUTH, KEY, SESSION_COOKIE, Scene, scene

SIGNER = Signer(derive_signing_key(KEY))
NOON = datetime(2026, 8, 5, 12, 0, tzinfo=UTC)
PAGE, API = f"https://{APP}/.pomerium/routes", f"https://{APP}/.pomerium/api/v1/routes"
PEER = "10.1.2.3"


def made(from_: str, *rules: dict[str, Any], **fields: Any) -> config_pb2.Route:
    """A route, with one policy of these rules."""
    given = {"to": ["http://127.0.0.1:1"], **fields}
    if rules:
        given["policies"] = [{"source_ppl": json.dumps(rules)}]
    return route(from_=from_, **given)


def snapshot_of(*routes: config_pb2.Route) -> ConfigSnapshot:
    snapshot, faults = compiled(
        config(
            "c",
            *routes,
            authenticate_service_url=f"https://{AUTH}",
            idp_provider="oidc",
            idp_provider_url="https://idp.example",
            idp_client_id="usual",
            idp_client_secret="s",
        )
    )
    assert len(snapshot.routes) == len(routes), faults
    return snapshot


def shown(snapshot: ConfigSnapshot, resolved: Resolved, idp_id: str = "", host: str = APP) -> dict[str, PortalRoute]:
    request = make_mocked_request("GET", "/.pomerium/routes", {"Host": host, "X-Forwarded-For": f"9.9.9.9, {PEER}"})
    visit = Visit(request=request, site=build_site(snapshot, KEY))
    visitor = Visitor(Handle(id=resolved.session_id, idp_id=idp_id), resolved)
    return {route.id: route for route in listed(visit, visitor, NOON)}


def person(**fields: Any) -> Resolved:
    identity = Identity(**{"present": True, "session_id": "s", "user_id": "u", "email": "ada@example.com", **fields})
    return Resolved(session_id="s", service_account=False, identity=identity, version=1, email=identity.email)


def is_let_in(snapshot: ConfigSnapshot, route: Route, resolved: Resolved | None) -> bool:
    """What authorization itself says about the first page of a route; an enrolment on the way counts as in."""
    if route.public:
        return True
    rules = RulesBuilder(KEY, SIGNER).build(snapshot)
    path = route.match.value or "/"
    asked = Question({}, method="GET", host=route.source.host, raw_path=path, ip_text=PEER, route_id=route.id)
    case = Case(
        question=asked, route=rules.routes[route.id], who=Who(resolved=resolved), certificate_valid=True, now=NOON
    )
    return decide(case).kind in (Kind.ALLOWED, Kind.ENROLL)


def one(criterion: Any, action: str = "allow", operator: str = "and") -> dict[str, Any]:
    return {action: {operator: [criterion]}}


ADA, CORP = {"email": {"is": "ada@example.com"}}, {"domain": {"is": "example.com"}}
CRITERIA = (
    ADA,
    CORP,
    {"user": {"is": "u"}},
    {"authenticated_user": True},
    {"accept": True},
    {"reject": True},
    {"groups": {"has": "g1"}},
    {"claim/dept": "eng"},
    {"source_ip": "10.0.0.0/8"},
    {"source_ip": "9.9.9.9"},
    {"http_method": {"is": "GET"}},
    {"http_path": {"starts_with": "/admin"}},
    {"device": {"is": "any"}},
    {"device": {"approved": True}},
)
RULE = st.builds(one, st.sampled_from(CRITERIA), st.sampled_from(("allow", "deny")), st.sampled_from(("and", "not")))
FROMS = (
    "https://a.example.com",
    "https://b.example.com:8443",
    "https://*.w.example.com",
)
ROUTE = st.builds(
    lambda from_, rules, more: made(from_, *rules, **more),
    st.sampled_from(FROMS),
    st.lists(RULE, min_size=1, max_size=4),
    st.sampled_from(({}, {"prefix": "/admin"}, {"path": "/exactly"}, {"idp_client_id": "own"})),
)
OPEN = st.builds(
    lambda from_, field: made(from_, **{field: True}),
    st.sampled_from(FROMS),
    st.sampled_from(("allow_public_unauthenticated_access", "allow_any_authenticated_user")),
)
DEVICE = DeviceCredential(type_id="any", id="d", found=True, enrolled=True, approved=True)
PERSON = st.builds(
    person,
    email=st.sampled_from(("ada@example.com", "eve@evil.example", "")),
    user_id=st.sampled_from(("u", "v")),
    groups=st.sampled_from((None, (), ("g1",))),
    claims=st.sampled_from(({}, {"dept": ("eng",)})),
    devices=st.sampled_from(((), (DEVICE,))),
)
NOBODY_LEFT = Resolved(session_id="s", service_account=False, identity=STRANGER, version=1)  # stood for somebody gone


@given(st.lists(ROUTE | OPEN, min_size=1, max_size=4), PERSON | st.just(NOBODY_LEFT))
def test_a_route_is_listed_when_and_only_when_authorization_lets_the_visitor_in(
    routes: list[config_pb2.Route], resolved: Resolved
) -> None:
    """8.4, better than the reference: with deny rules, negations, devices, addresses, tunnels, own providers."""
    named = [config_pb2.Route.FromString(each.SerializeToString()) for each in routes]
    for number, each in enumerate(named):
        each.name = each.id = f"r{number}"
    snapshot = snapshot_of(*named)
    usual = snapshot.settings.login.provider.id
    expected = {
        route.id
        for route in snapshot.routes
        if not route.source.wildcard
        and is_let_in(snapshot, route, resolved if route.access.idp_client_id is None else None)
    }
    assert set(shown(snapshot, resolved, usual)) == expected


def test_service_accounts_count_with_every_provider() -> None:
    """A-6: their handles name none."""
    snapshot = snapshot_of(
        made("https://a.example.com", one(ADA)), made("https://b.example.com", one(ADA), idp_client_id="own")
    )
    assert len(shown(snapshot, person())) == 2
    assert len(shown(snapshot, person(), snapshot.settings.login.provider.id)) == 1


def test_the_portal_names_places_that_can_be_opened_from_where_the_visitor_is() -> None:
    snapshot = snapshot_of(
        made("https://a.example.com", one(ADA), prefix="/admin/"),
        made("https://b.example.com:9443", one(ADA)),
        made("https://r.example.com", one(ADA), regex="^/[a-z]+$"),
    )
    found = {route.host: route for route in shown(snapshot, person(), host="a.example.com:8443").values()}
    assert found["a.example.com:8443"].url == "https://a.example.com:8443/admin/"
    assert found["b.example.com:9443"].url == "https://b.example.com:9443/"
    assert found["r.example.com:8443"].url == "https://r.example.com:8443/"
    assert not any(route.connect_command for route in found.values())


@pytest.mark.parametrize(
    ("source", "command"),
    [
        ("tcp+https://ssh.example.com:22", "pomerium-cli tcp ssh.example.com:22"),
        ("udp+https://dns.example.com:53", "pomerium-cli udp dns.example.com:53"),
        (
            "tcp+https://door.example.com/db:5432/cache:6379",
            "pomerium-cli tcp tcp+https://door.example.com:8443/db:5432\n"
            "pomerium-cli tcp tcp+https://door.example.com:8443/cache:6379",
        ),
    ],
)
def test_a_tunnel_says_what_to_type(source: str, command: str) -> None:
    """8.4: and its policy is asked for what opens a tunnel, which is no GET."""
    snapshot = snapshot_of(made("https://a.example.com", one(ADA), one({"http_method": {"is": "GET"}}, action="deny")))
    assert not shown(snapshot, person())
    tunnel = replace(snapshot.routes[0], source=parse_source(source))
    [found] = shown(replace(snapshot, routes=(tunnel,)), person(), host="a.example.com:8443").values()
    assert (found.connect_command, found.url, found.kind) == (command, source, source[:3])


async def populate(stage: Scene) -> None:
    """Ada and a robot, and two routes of which one is hers."""
    snapshot = snapshot_of(
        made(f"https://{APP}", one(ADA), name="Wiki <b>", description='"quoted" & more'),
        made("https://other.example.com", one({"email": {"is": "eve@evil.example"}}), name="Secret"),
    )
    provider = stage.site.value.login.provider
    stage.site.set(replace(stage.site.value, routes=snapshot.routes))
    await stage.store.put(
        [
            records.session("s", "ada", idp_id=provider.id, token="access-secret", id_token="aaaa.bbbb.cccc"),
            records.user("ada", "ada@example.com"),
            records.account("robot", "robot"),
            records.user("robot", "ada@example.com"),
        ]
    )


def ada(stage: Scene) -> str:
    return sign_handle(Handle(id="s", user_id="ada", idp_id=stage.idp_id), KEY)


async def test_page_and_data_say_the_same_and_nobody_keeps_them(tmp_path: Path) -> None:
    """N-43: no-store, everything escaped, no token anywhere."""
    async with scene(tmp_path) as stage:
        await populate(stage)
        stage.browser.jar[APP, "/", SESSION_COOKIE] = ada(stage)
        page, data = await stage.browser.get(PAGE), await stage.browser.get(API)

        assert (page.status, data.status) == (200, 200)
        assert page.headers["Cache-Control"] == data.headers["Cache-Control"] == "no-store"
        [said] = json.loads(data.text)["routes"]
        assert said == {
            "id": said["id"],
            "name": "Wiki <b>",
            "type": "http",
            "from": f"https://{APP}/",
            "description": '"quoted" & more',
            "logo_url": "",
        }
        assert "Wiki &lt;b&gt;" in page.text
        for text in (page.text, data.text):
            assert "Secret" not in text
            assert not any(secret in text for secret in ("access-secret", "aaaa", ada(stage).rpartition(".")[2]))


@pytest.mark.parametrize(
    "query",
    ["wiki", "<script>alert(1)</script>", '"><img src=x>', "\0", "%", "a" * 60_000, "é", "\u202e", "&q=2;", "_" * 201],
)
async def test_anything_can_be_looked_for(tmp_path: Path, query: str) -> None:
    async with scene(tmp_path) as stage:
        await populate(stage)
        stage.browser.jar[APP, "/", SESSION_COOKIE] = ada(stage)
        page = await stage.browser.get(f"{PAGE}?q={quote(query, safe='')}")
        assert page.status == 200
        assert "<script>alert" not in page.text
        assert "<img src=x" not in page.text
        assert len(page.text) < 40_000


@given(st.binary(max_size=40), st.text("%&;=+q\\ab", max_size=20))
def test_whatever_a_query_holds_it_is_text(said: bytes, more: str) -> None:
    request = make_mocked_request("GET", f"/.pomerium/routes?{more}&q={quote_from_bytes(said)}")
    visit = Visit(request=request, site=build_site(snapshot_of(), KEY))
    assert visit.words("q").isascii() or visit.words("q").encode(errors="replace")
    if not more:
        assert visit.words("q") == said.decode(errors="replace")


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Pomerium TOKEN"},
        {"Authorization": "Bearer Pomerium-TOKEN"},
        {"X_Pomerium_Authorization": "TOKEN"},
    ],
)
async def test_programs_see_their_routes_too(tmp_path: Path, headers: dict[str, str]) -> None:
    """Authorize 4.1, 8.6: whom authorization knows by a header, the page behind it knows as well."""
    async with scene(tmp_path) as stage:
        await populate(stage)
        for token in (ada(stage), sign_handle(Handle(id="robot", user_id="robot"), KEY)):
            sent = {name: value.replace("TOKEN", token) for name, value in headers.items()}
            answer = await stage.browser.get(API, **sent)
            assert [each["name"] for each in json.loads(answer.text)["routes"]] == ["Wiki <b>"]
        by_query = await stage.browser.get(f"{API}?pomerium_session={ada(stage)}")
        assert by_query.status == 200


async def test_strangers_and_strange_handles_see_nothing(tmp_path: Path) -> None:
    """N-27, N-28, N-43: none, forged, of another provider, of somebody gone; and not where the portal is off."""
    async with scene(tmp_path) as stage:
        await populate(stage)
        for token in (
            "",
            "x.y.z",
            sign_handle(Handle(id="s", idp_id=stage.idp_id), bytes(32)[:31] + b"x"),
            sign_handle(Handle(id="s", idp_id="another"), KEY),
            sign_handle(Handle(id="gone", idp_id=stage.idp_id), KEY),
        ):
            stage.browser.jar[APP, "/", SESSION_COOKIE] = token
            assert (await stage.browser.get(API)).status == 404, token
        stage.browser.jar[APP, "/", SESSION_COOKIE] = ada(stage)
        assert (await stage.browser.get(API)).status == 200
        stage.change_login(portal=False)
        assert [(await stage.browser.get(url)).status for url in (PAGE, API)] == [404, 404]


async def test_methods(tmp_path: Path) -> None:
    """2.1: GET, and HEAD without a body; else 405."""
    async with scene(tmp_path) as stage:
        await populate(stage)
        stage.browser.jar[APP, "/", SESSION_COOKIE] = ada(stage)
        for url in (PAGE, API):
            head = await stage.browser.get(url, method="HEAD")
            assert (head.status, head.text, head.headers["Cache-Control"]) == (200, "", "no-store")
            assert [(await stage.browser.get(url, method=method)).status for method in ("POST", "PUT", "DELETE")] == [
                405,
                405,
                405,
            ]
