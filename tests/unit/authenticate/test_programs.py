"""Programs that let somebody log in for them (authenticate 8.6)."""

from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest

from pomerium_agent.handoff.sealed import open_query, read_sealed
from tests.unit.authenticate.stage import APP, SERVER, SESSION_COOKIE, hosted, scene
from tests.unit.authenticate.test_hosted_login import profile

LOGIN = f"https://{APP}/.pomerium/api/v1/login"
PROGRAM = "http://127.0.0.1:9/cb?x=1"


def asking(target: str) -> str:
    return f"{LOGIN}?pomerium_redirect_uri={quote(target, safe='')}"


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("http://localhost:1234/", 200),
        ("https://LOCALHOST/", 200),
        ("http://127.0.0.1:9", 200),
        ("http://[::1]:9", 200),
        ("http://127.8.8.8/", 200),
        ("https://evil-localhost.com/", 400),
        ("https://localhost.evil.com/", 400),
        ("https://localhost@evil.com/", 400),
        ("https://evil.com\\@localhost/", 400),
        ("https://10.0.0.1/", 400),
        ("https://app.example.com/", 400),
        ("ftp://localhost/", 400),
        ("localhost", 400),
        ("", 400),
    ],
)
async def test_who_may_be_answered(tmp_path: Path, target: str, status: int) -> None:
    """N-42."""
    async with scene(tmp_path) as stage:
        assert (await stage.browser.get(asking(target))).status == status


async def test_what_is_no_question(tmp_path: Path) -> None:
    """N-42: 405 and 404."""
    async with scene(tmp_path) as stage:
        posted = await stage.browser.get(asking(PROGRAM), method="POST")
        head = await stage.browser.get(asking(PROGRAM), method="HEAD")
        bare = await stage.browser.get(LOGIN)

        assert (posted.status, head.status, bare.status) == (405, 405, 404)


async def test_the_list_is_configured(tmp_path: Path) -> None:
    async with scene(tmp_path, login={"programmatic_domains": ("tools.example.org",)}) as stage:
        listed = await stage.browser.get(asking("https://tools.example.org:8443/x"))
        below = await stage.browser.get(asking("https://a.tools.example.org/"))
        local = await stage.browser.get(asking(PROGRAM))

        assert (listed.status, below.status, local.status) == (200, 400, 400)


async def test_a_program_gets_its_handle_by_our_own_pages(tmp_path: Path) -> None:
    """5.3: and the browser that helped, which proved nothing, gets no cookie."""
    async with scene(tmp_path) as stage:
        asked = await stage.browser.get(asking(PROGRAM))
        url = await stage.to_callback(asked.text)
        landed = await stage.browser.get(url)
        again = await stage.browser.get(url)

        assert asked.headers["Content-Type"] == "text/plain; charset=utf-8"
        assert landed.location.startswith("http://127.0.0.1:9/cb?")
        assert (landed.query["x"], landed.cookies) == ("1", [])
        assert again.status == 400  # N-15: single use all the same
        stage.browser.jar[APP, "/", SESSION_COOKIE] = landed.query["pomerium_jwt"]
        assert stage.browser.handle(APP).user_id == "ada"


async def test_a_program_gets_its_handle_by_the_hosted_service(tmp_path: Path) -> None:
    """4.2, 7; N-15."""
    async with hosted(tmp_path) as (stage, _):
        asked = await stage.browser.get(asking(PROGRAM))
        sealed = read_sealed(urlsplit(asked.text).query)
        assert sealed is not None
        inner = open_query(sealed, SERVER)
        url = stage.hosted_answer(asked.text, profile(stage))
        landed = await stage.browser.get(url)
        again = await stage.browser.get(url)

        assert (inner["pomerium_programmatic"], inner["pomerium_callback_uri"]) == (
            "true",
            f"https://{APP}/.pomerium/callback/",
        )
        assert (landed.status, again.status) == (302, 400)
        assert landed.cookies == []
        assert landed.query["pomerium_jwt"]


async def test_a_login_is_not_a_programs_by_a_word_beside_it(tmp_path: Path) -> None:
    """N-8: the exemption of programs from the cookie must be sealed or signed."""
    async with hosted(tmp_path) as (stage, _):
        url = stage.hosted_answer(stage.hosted_url(), profile(stage))

        answer = await stage.another_browser().get(f"{url}&pomerium_programmatic=true")

        assert answer.status == 400


async def test_a_key_that_nobody_knows_yet_is_told(tmp_path: Path) -> None:
    async with hosted(tmp_path) as (stage, server):
        server.answers = 500
        stage.change_login(internal_url=f"{server.url}/")

        assert (await stage.browser.get(asking(PROGRAM))).status == 503


async def test_a_program_cannot_be_sent_where_the_list_no_longer_allows(tmp_path: Path) -> None:
    async with hosted(tmp_path) as (stage, _):
        asked = await stage.browser.get(asking(PROGRAM))
        url = stage.hosted_answer(asked.text, profile(stage))
        stage.change_login(programmatic_domains=())

        assert (await stage.browser.get(url)).status == 400
