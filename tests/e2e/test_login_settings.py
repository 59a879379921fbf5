"""Settings of logging in that change what browsers get and where they end, through a real Envoy and a provider."""

import json
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import aiohttp
import pytest

from pomerium_agent.demo.playground import free_port
from tests.e2e.world import World, eventually, open_world
from tests.fakes.oidc_provider import ADA, Browser, OidcClient, needs_oidc_provider, run_oidc_provider
from tests.fakes.private_ca import PrivateCa
from tests.fakes.token_issuer import TokenIssuer

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

SETTINGS = """
authenticate_service_url: https://authenticate.DOMAIN:PORT
idp_provider: oidc
idp_provider_url: ISSUER
idp_client_id: agent
idp_client_secret: SECRET
"""
LOGIN = (
    SETTINGS
    + """
cookie_domain: DOMAIN
cookie_http_only: false
cookie_expire: 1h
signout_redirect_url: https://after.DOMAIN:PORT/bye
"""
)
ROUTE = """
name: NAME
from: https://NAME.DOMAIN
to: UPSTREAM
allow_any_authenticated_user: true
"""
DESCRIBED = f"{ROUTE}description: Where all is written\nlogo_url: https://assets.example.com/notes.svg\n"
OTHER_CLIENT = f'{ROUTE}idp_client_id: second\nidp_client_secret: "another secret, 2"\n'
CHAIN = f'{ROUTE}depends_on: ["wiki.DOMAIN:PORT"]\n'


def filled(text: str, world: World, port: int, issuer: str, secret: str) -> str:
    text = text.replace("DOMAIN", world.domain).replace("PORT", str(port))
    return text.replace("ISSUER", issuer).replace("SECRET", json.dumps(secret))


@needs_oidc_provider
async def test_the_cookie_the_client_of_a_route_the_portal_and_the_way_out_are_as_configured() -> None:
    """Routes 1.2 (55, 56, 67, 68, 71), 1.7 (18, 20, 21, 93)."""
    port = free_port()
    async with open_world() as world:
        login, after = f"https://authenticate.{world.domain}:{port}", f"https://after.{world.domain}:{port}/bye"
        callback = (f"{login}/oauth2/callback",)
        clients = [
            OidcClient(redirect_uris=callback, post_logout_redirect_uris=(after,)),
            OidcClient(id="second", secret="another secret, 2", redirect_uris=callback),
        ]
        async with run_oidc_provider(clients) as provider:
            settings = filled(LOGIN, world, port, provider.issuer, clients[0].secret)
            routes = [
                ROUTE.replace("NAME", "wiki"),
                DESCRIBED.replace("NAME", "notes"),
                OTHER_CLIENT.replace("NAME", "apart"),
                CHAIN.replace("NAME", "chain").replace("PORT", str(port)),
            ]
            await world.apply(*routes, settings=settings)
            async with (
                world.cluster.replica(port=port) as replica,
                aiohttp.ClientSession(
                    connector=world.client.connector, connector_owner=False, cookie_jar=aiohttp.CookieJar(unsafe=True)
                ) as http,
            ):
                browser = Browser(http)

                async def ask(host: str, path: str = "/") -> tuple[int, str, str]:
                    url = world.url(replica, host, path)
                    async with http.get(url, headers={"Accept": "text/html"}, allow_redirects=False) as answer:
                        return answer.status, answer.headers.get("Location", ""), await answer.text()

                async def login_is_served() -> bool:
                    return (await ask("wiki"))[0] == 302

                await eventually("logins begin", login_is_served)
                # On the way to a route, its visitor is made known at the hosts that its pages ask for things.
                _, begins, _ = await ask("chain", "/in")
                assert parse_qs(urlsplit(begins).query)["pomerium_additional_hosts"] == [f"wiki.{world.domain}:{port}"]
                await browser.log_in(begins, ADA, until=world.url(replica, "chain", "/in"))
                assert any(url.startswith(world.url(replica, "wiki", "/.pomerium/callback")) for url in browser.visited)

                # One cookie for all hosts of the domain, which scripts may read, for an hour.
                [cookie] = [each for each in http.cookie_jar if each.key == "_pomerium"]
                assert (cookie["domain"], bool(cookie["httponly"])) == (world.domain, False)
                lasts = (parsedate_to_datetime(cookie["expires"]) - datetime.now(UTC)).total_seconds()
                assert 1800 < lasts <= 3600
                assert (await ask("notes"))[0] == 200  # where nobody logged in

                shown = json.loads((await ask("notes", "/.pomerium/api/v1/routes"))[2])["routes"]
                [notes] = [each for each in shown if each["name"] == "notes"]
                assert notes["description"] == "Where all is written"
                assert notes["logo_url"] == "https://assets.example.com/notes.svg"

                # A route with a client of its own: the provider knows it, and by its secret gives us the tokens.
                browser.visited.clear()
                status, begins, _ = await ask("apart", "/in")
                assert status == 302
                await browser.log_in(begins, ADA, until=world.url(replica, "apart", "/in"))
                asked = [parse_qs(urlsplit(url).query) for url in browser.visited if "/auth?" in url]
                assert {query["client_id"][0] for query in asked} == {"second"}
                assert (await ask("apart"))[0] == 200

                _, begins, _ = await ask("wiki", "/in")
                if begins:  # there is one cookie, and it is the other client's now
                    await browser.log_in(begins, ADA, until=world.url(replica, "wiki", "/in"))
                by_hand = {"Sec-Fetch-Site": "none"}
                leaves = world.url(replica, "wiki", "/.pomerium/sign_out")
                async with http.get(leaves, headers=by_hand, allow_redirects=False) as answer:
                    onward = answer.headers["Location"]
                ended = await browser.go(onward, until=after)
                assert ended.startswith(after)
                assert (await ask("wiki"))[0] == 302


async def test_access_tokens_open_a_route_only_if_they_are_meant_for_it(tmp_path: Path) -> None:
    """Routes 1.2 (69), 1.7 (137, 138): by the audiences of the settings, and by those of the route beside them."""
    port, ours = free_port(), PrivateCa("ours")
    (tmp_path / "ca.pem").write_bytes(ours.pem)
    inside = ours.issue("localhost")  # where the replica asks itself, since no name server knows the cluster's domain
    async with open_world() as world, TokenIssuer().serve() as issuer:
        settings = filled(SETTINGS, world, port, issuer.url, "secret") + (
            f"authenticate_internal_service_url: https://localhost:{port}\n"
            f"certificates: {json.dumps([{'cert': inside.certificate.decode(), 'key': inside.key.decode()}])}\n"
            "bearer_token_format: idp_access_token\nidp_access_token_allowed_audiences: [wiki, notes]\n"
        )
        only_notes = f"{ROUTE}idp_access_token_allowed_audiences: [notes]\n"
        await world.apply(ROUTE.replace("NAME", "wiki"), only_notes.replace("NAME", "notes"), settings=settings)
        trust = {"SSL_CERT_FILE": str(tmp_path / "ca.pem")}
        async with world.cluster.replica(port=port, environment=trust) as replica:

            async def ask(host: str, token: str) -> int:
                headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
                return (await world.get(replica, host, headers=headers)).status

            tokens = {
                "wiki": issuer.token(aud="wiki"),
                "notes": issuer.token(aud=["notes", "more"]),
                "others": issuer.token(aud="others"),
                "forged": TokenIssuer().token(aud="notes", key=issuer.ec, alg="ES256"),
            }
            found = {name: [await ask(host, token) for host in ("wiki", "notes")] for name, token in tokens.items()}
            again = {name: [await ask(host, token) for host in ("wiki", "notes")] for name, token in tokens.items()}

    assert found == {"wiki": [200, 403], "notes": [200, 200], "others": [403, 403], "forged": [403, 403]}
    assert again == found
