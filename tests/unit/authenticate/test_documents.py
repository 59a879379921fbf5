"""What anybody may read (authenticate 2.1, 3.5)."""

import json
from pathlib import Path

from pomerium_agent.handoff.hpke import public_bytes
from pomerium_agent.handoff.keys import hpke_key
from tests.unit.authenticate.stage import APP, AUTH, KEY, scene


async def test_the_public_key_of_the_cluster(tmp_path: Path) -> None:
    """N-10, V-2: raw bytes and the stated headers."""
    async with (
        scene(tmp_path) as stage,
        stage.browser.http.get(f"http://{APP}/.well-known/pomerium/hpke-public-key") as got,
    ):
        assert await got.read() == public_bytes(hpke_key(KEY))
        assert got.headers["Content-Type"] == "application/octet-stream"
        assert got.headers["Content-Length"] == "32"
        assert got.headers["Cache-Control"] == "max-age=60"
        assert got.headers["ETag"] == '"f43ba1ff9111bea5"'
        assert got.headers["Access-Control-Allow-Origin"] == "*"


async def test_a_known_public_key_is_not_sent_again(tmp_path: Path) -> None:
    """N-10."""
    async with scene(tmp_path) as stage:
        url = f"https://{APP}/.well-known/pomerium/hpke-public-key"

        assert (await stage.browser.get(url, If_None_Match='"f43ba1ff9111bea5"')).status == 304


async def test_where_logins_return_to(tmp_path: Path) -> None:
    """2.1."""
    async with scene(tmp_path) as stage:
        got = await stage.browser.get(f"https://{APP}/.well-known/pomerium")

        assert json.loads(got.text) == {
            "issuer": f"https://{APP}/",
            "authentication_callback_endpoint": f"https://{AUTH}/oauth2/callback",
            "jwks_uri": f"https://{APP}/.well-known/pomerium/jwks.json",
            "frontchannel_logout_uri": f"https://{APP}/.pomerium/sign_out",
        }
