"""What those are told who do not pass, and who is sent to log in (authorize.md 8, 9)."""

import json
from dataclasses import replace
from urllib.parse import parse_qs, urlsplit

import pytest

from pomerium_agent.authorize.accept import prefers_json, wants_page
from pomerium_agent.authorize.decide import NO_IMPERSONATION
from pomerium_agent.authorize.page import Page, render_page
from pomerium_agent.config.kubernetes import TOKEN_MISSING
from pomerium_agent.config.trust import ClientTrust
from pomerium_agent.handoff.signed import url_signature
from pomerium_agent.look.branding import Branding
from pomerium_agent.look.markdown import render_markdown
from pomerium_agent.policy import Result, Trace
from tests.unit.authorize.asking import (
    ADA_ONLY,
    BROWSER,
    KEY,
    NOBODY,
    RULES,
    cookie,
    policy,
    room,
    route,
    token,
    with_route,
)

# Accept, redirected to the login, error body in JSON: the table of authorize.md 9.1.
ACCEPT = [
    ("", True, False),
    ("*/*", True, False),
    (BROWSER, True, False),
    ("application/json", False, True),
    ("application/json, text/plain, */*", False, True),
    ("application/json, text/html", False, True),
    ("text/html, application/json", True, False),
    ("application/json;q=0.9, text/html;q=0.8", False, True),
    ("application/json;q=0.8, */*;q=0.9", True, False),
    ("application/*", False, True),
    ("application/json, text/event-stream", False, True),
    ("text/*", True, False),
    ("text/plain", False, False),
    ("application/grpc+proto", False, False),
    ("text/event-stream", True, False),
    ("image/png", True, False),
    ("application/xml", True, False),
    ("image/avif,image/webp,*/*;q=0.8", True, False),
    ("application/json; charset=utf-8", True, False),
    ("application/vnd.api+json", True, False),
    ("application/problem+json", True, False),
    ("text/html;q=0", True, False),
    ("application/json;q=0", False, True),
    ("application/json;q=much", False, True),
    ("garbage", True, False),
    ("*/json", True, False),
    ("application/json, garbage", True, False),
]


@pytest.mark.parametrize(("accept", "redirected", "json_body"), ACCEPT)
async def test_accept_says_who_is_redirected_and_what_is_read(accept: str, redirected: bool, json_body: bool) -> None:
    """A-15."""
    assert wants_page(accept) is redirected
    assert prefers_json(accept) is json_body

    async with room() as here:
        answer = here.ask(headers={"accept": accept} if accept else {})

    assert answer.status == (302 if redirected else 401)
    assert (answer.headers["content-type"] == "application/json") is json_body


LOGIN = [
    ({}, "GET", 302),
    ({}, "HEAD", 302),
    ({}, "POST", 401),
    ({}, "OPTIONS", 401),
    ({}, "CONNECT", 401),
    ({"sec-fetch-mode": "navigate"}, "GET", 302),
    ({"sec-fetch-mode": "cors"}, "GET", 401),
    ({"sec-fetch-mode": "no-cors"}, "GET", 401),
    ({"sec-fetch-mode": "websocket"}, "GET", 401),
    ({"x-requested-with": "XMLHttpRequest"}, "GET", 401),
    ({"upgrade": "websocket", "connection": "Upgrade"}, "GET", 401),
    ({"content-type": "application/grpc"}, "GET", 401),
    ({"content-type": "application/grpc-web+proto"}, "GET", 401),
    ({"content-type": "application/grpc-web-text"}, "GET", 401),
    ({"content-type": "application/grpc-other"}, "GET", 302),
    ({"x-pomerium-authorization": "rubbish"}, "GET", 401),
    ({"authorization": "Pomerium rubbish"}, "GET", 401),
    ({"authorization": "Bearer Pomerium-rubbish"}, "GET", 401),
    ({"authorization": "Bearer rubbish"}, "GET", 302),
    ({"cookie": "_pomerium=rubbish"}, "GET", 302),
]


@pytest.mark.parametrize(("headers", "method", "status"), LOGIN)
async def test_only_a_browser_that_goes_somewhere_is_redirected(
    headers: dict[str, str], method: str, status: int
) -> None:
    """A-13, A-15, N-12, W1."""
    async with room() as here:
        answer = here.ask(headers=headers, method=method)

    assert answer.status == status
    assert ("location" in answer.headers) is (status == 302)


async def test_a_handle_in_the_query_is_not_redirected() -> None:
    """A-13, N-12: even an invalid one."""
    async with room() as here:
        assert here.ask("/?pomerium_session=rubbish").status == 401


async def test_the_way_to_the_login_is_signed_and_leads_back_here() -> None:
    """A-16, authenticate 3.3: whatever the visitor says of hosts and schemes."""
    forged = {
        "x-forwarded-host": "evil.example",
        "x-forwarded-proto": "http",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }
    rules = with_route(route(depends_on=tuple("abcdefg"), idp_id="idp-9"))
    async with room(rules) as here:
        answer = here.ask("/a%20b?z=1&b=%zz&a=2&c;d=1&a=1", forged, host="wiki.example.com:443", scheme="https")
        now = int(here.stage.clock.now().timestamp())

    location = answer.headers["location"]
    url, query = location.split("?")
    parameters = parse_qs(query)
    assert url == "https://authenticate.example.com/.pomerium/sign_in"
    assert parameters["pomerium_redirect_uri"] == ["https://wiki.example.com/a%20b?a=2&a=1&z=1"]
    assert parameters["pomerium_idp_id"] == ["idp-9"]
    assert parameters["pomerium_additional_hosts"] == ["a,b,c,d,e"]
    assert parameters["pomerium_traceparent"] == [forged["traceparent"]]
    assert parameters["pomerium_issued"] == [str(now)]
    assert parameters["pomerium_expiry"] == [str(now + 300)]
    unsigned = "&".join(pair for pair in query.split("&") if not pair.startswith("pomerium_signature="))
    assert parameters["pomerium_signature"] == [url_signature(f"{url}?{unsigned}{now} {now + 300}", KEY)]
    assert answer.headers["x-pomerium-intercepted-response"] == "true"


def test_a_url_is_signed_like_everybody_else_does_it() -> None:
    """V-1."""
    message = (
        "https://authenticate.example.com/.pomerium/sign_in?pomerium_additional_hosts=&pomerium_expiry=1700000300"
        "&pomerium_idp_id=idp-1&pomerium_issued=1700000000&pomerium_redirect_uri="
        "https%3A%2F%2Fapp.example.com%2Fa%3Fb%3Dc+d1700000000 1700000300"
    )

    assert url_signature(message, KEY) == "2jxY8yyVtp-MIdhhiYi5yDUSJ-J7cBjSa8uciLE2S2Y="


@pytest.mark.parametrize("path", ["/x\r\nset-cookie: a=b", "//evil.example/", "/\\evil", "/<script>", ""])
async def test_no_path_breaks_out_of_the_location(path: str) -> None:
    async with room() as here:
        location = here.ask(path).headers["location"]

    back = parse_qs(urlsplit(location).query)["pomerium_redirect_uri"][0]
    assert back.startswith("https://wiki.example.com/")
    assert back.isascii()
    assert back.isprintable()
    assert " " not in back


async def test_a_script_is_told_where_to_sign_in_and_comes_back_to_its_page() -> None:
    """W1: a page of another host is not believed."""
    fetch = {"sec-fetch-mode": "cors", "accept": "*/*", "referer": "https://wiki.example.com/page?x=1"}
    async with room() as here:
        told = json.loads(here.ask("/api", fetch).body)
        elsewhere = json.loads(here.ask("/api", {**fetch, "referer": "https://evil.example/"}).body)

    assert (told["error"], told["request_id"]) == ("Unauthenticated", "req-1")
    assert "pomerium_redirect_uri=https%3A%2F%2Fwiki.example.com%2Fpage%3Fx%3D1&" in told["login_url"]
    assert "pomerium_redirect_uri=https%3A%2F%2Fwiki.example.com%2Fapi&" in elsewhere["login_url"]


async def test_a_person_who_sends_a_form_gets_a_page_with_a_way_to_sign_in() -> None:
    """W1: it is a 401 all the same."""
    async with room() as here:
        answer = here.ask("/save", {"accept": BROWSER, "sec-fetch-mode": "navigate"}, method="POST")

    assert (answer.status, answer.headers["content-type"]) == (401, "text/html; charset=UTF-8")
    assert 'href="https://authenticate.example.com/.pomerium/sign_in?' in answer.body


async def test_without_a_login_service_nobody_is_sent_anywhere() -> None:
    async with room(replace(RULES, authenticate_url="")) as here:
        assert here.ask(headers={"accept": BROWSER}).status == 401


FORMS = [
    ({"user-agent": "kubectl/v1 (linux) kubernetes/abc", "accept": "text/html"}, "application/json"),
    ({"accept": "application/json", "content-type": "application/grpc"}, "application/json"),
    ({"content-type": "application/grpc"}, "application/grpc+json"),
    ({"content-type": "application/grpc+proto"}, "application/grpc+json"),
    ({"content-type": "application/grpc-web-text"}, "application/grpc-web+json"),
    ({"content-type": "application/grpc-web+proto"}, "application/grpc-web+json"),
    ({"content-type": "application/grpcish"}, "text/html; charset=UTF-8"),
    ({"accept": "text/plain"}, "text/html; charset=UTF-8"),
    ({}, "text/html; charset=UTF-8"),
]


@pytest.mark.parametrize(("headers", "content_type"), FORMS)
async def test_each_client_is_told_in_its_own_form(headers: dict[str, str], content_type: str) -> None:
    """A-14: the status stays, whatever the form."""
    async with room() as here:
        answer = here.ask(headers={**cookie("s-mallory"), **headers})

    assert answer.status == 403
    assert (answer.response.status.code, answer.response.status.message) == (7, "Access Denied")
    assert answer.headers["content-type"] == content_type


async def test_kubectl_is_told_in_its_own_words() -> None:
    """A-14, row 1: before everything else."""
    async with room() as here:
        answer = here.ask("/robots.txt", {**cookie("s-mallory"), "user-agent": "kubectl/v1 kubernetes/abc"})

    assert json.loads(answer.body) == {
        "apiVersion": "v1",
        "kind": "Status",
        "status": "Failure",
        "message": "Forbidden",
        "reason": "Forbidden",
        "code": 403,
    }


async def test_robots_are_told_to_stay_away_unless_they_may_pass() -> None:
    """A-14, row 2; authorize 18."""
    async with room() as here:
        told = here.ask("/robots.txt", {"accept": "application/json"})
        passing = here.ask("/robots.txt", cookie("s-ada"))

    assert (told.status, told.headers) == (200, {"content-type": "text/plain"})
    assert told.body == "User-agent: *\nDisallow: /"
    assert not told.allowed
    assert passing.allowed


async def test_a_grpc_client_is_told_in_headers() -> None:
    """A-14, rows 4 and 5."""
    async with room() as here:
        answer = here.ask(headers={**cookie("s-mallory"), "content-type": "application/grpc"})
        stranger = here.ask(headers={"content-type": "application/grpc"}, method="POST")

    assert (answer.headers["grpc-status"], answer.headers["grpc-message"], answer.body) == ("7", "Forbidden", "")
    assert (stranger.headers["grpc-status"], stranger.headers["grpc-message"]) == ("16", "Unauthenticated")


async def test_a_page_cannot_be_written_by_the_visitor() -> None:
    async with room() as here:
        answer = here.ask(headers={**cookie("s-mallory"), "x-request-id": "<script>"})

    assert "<script>" not in answer.body
    assert "&lt;script&gt;" in answer.body


async def test_reasons_are_shown_where_the_route_wants_it_and_nowhere_else() -> None:
    """A-17: on pages only, with Markdown that can do no harm."""
    words = {"explanation": "Only **staff** <img src=x>", "remediation": "[Ask](https://help.example.com/?a&b)"}
    private = route(policy=policy(NOBODY, id="p-1", **words))
    shown = replace(private, id="r2", show_error_details=True)
    async with room(with_route(shown, with_route(private))) as here:
        hidden = here.ask(headers=cookie("s-ada")).body
        page = here.ask(headers=cookie("s-ada"), route_id="r2").body
        data = here.ask(headers={**cookie("s-ada"), "accept": "application/json"}, route_id="r2").body

    assert "<strong>staff</strong> &lt;img src=x&gt;" in page
    assert '<a href="https://help.example.com/?a&amp;b" rel="noreferrer">Ask</a>' in page
    assert "staff" not in hidden
    assert "reject" not in hidden
    assert json.loads(data) == {"error": "Forbidden", "request_id": "req-1"}


async def test_a_route_without_words_of_its_own_says_what_is_missing() -> None:
    """A-17: only where the route enables details; the route's own policy has no id to be named by."""
    shown = route(id="r2", show_error_details=True)
    async with room(with_route(shown)) as here:
        page = here.ask(headers=cookie("s-mallory"), route_id="r2").body
        hidden = here.ask(headers=cookie("s-mallory"), route_id="r1").body

    assert "Your email address is not among those that this page is for." in page
    assert "Your email address" not in hidden


def test_a_policy_without_words_is_named_by_its_id_and_its_remedy_is_for_those_who_need_it() -> None:
    """Authorize 8: entries without an id are hidden."""
    yes, no = Result(True), Result(False)
    traces = (
        Trace("", "hidden", "hidden", no, no),
        Trace("p-1", "", "do this", no, no),
        Trace("p-2", "fine", "not needed", yes, no),
    )

    html = render_page(Page(status=403, title="Forbidden", traces=traces))

    assert "hidden" not in html
    assert "Policy ID <code>p-1</code>" in html
    assert "do this" in html
    assert "not needed" not in html


def test_colours_and_pictures_of_an_organisation_are_checked() -> None:
    good = Branding(primary_color="#a1b2c3", logo_url="https://cdn.example.com/logo.svg", first_paragraph="*Hello*")
    bad = Branding(primary_color="red}</style><script>", logo_url="javascript:alert(1)", favicon_url='"><script>')

    nice = render_page(Page(status=403, title="Forbidden", branding=good))
    plain = render_page(Page(status=403, title="Forbidden", branding=bad))

    assert "--accent: #a1b2c3" in nice
    assert 'src="https://cdn.example.com/logo.svg"' in nice
    assert "<p><em>Hello</em></p>" in nice
    assert "<script" not in plain
    assert "javascript:" not in plain
    assert "<img" not in plain


def test_a_page_loads_nothing_and_follows_the_system_in_light_and_dark() -> None:
    html = render_page(Page(status=403, title="Forbidden", request_id="id-1"))

    assert "prefers-color-scheme: dark" in html
    assert '<html lang="en">' in html
    assert "<h1>Forbidden</h1>" in html
    assert "id-1" in html
    assert "http" not in html.replace("http-equiv", "").replace("img-src https: http: data:", "")


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("a\n\nb", "<p>a</p><p>b</p>"),
        ("a\nb", "<p>a<br>\nb</p>"),
        ("*a* _b_ **c** `<d>`", "<p><em>a</em> <em>b</em> <strong>c</strong> <code>&lt;d&gt;</code></p>"),
        ("snake_case_name 2 * 3 * 4", "<p>snake_case_name 2 * 3 * 4</p>"),
        ("[x](javascript:alert(1))", "<p>[x](javascript:alert(1))</p>"),
        ('[x](https://a/"onclick=x)', "<p>[x](https://a/&quot;onclick=x)</p>"),
        ("[m](mailto:a@b.c)", '<p><a href="mailto:a@b.c" rel="noreferrer">m</a></p>'),
        ("<b>&", "<p>&lt;b&gt;&amp;</p>"),
        ("", ""),
    ],
)
def test_markdown_is_a_small_and_safe_part_of_it(text: str, html: str) -> None:
    """A-17."""
    assert render_markdown(text) == html


async def test_the_page_of_a_missing_certificate_says_so() -> None:
    """A-13: a status that only Pomerium knows can be sent."""
    text = '[{"deny": {"or": [{"invalid_client_certificate": 1}]}}]'
    async with room(with_route(route(text, client_trust=ClientTrust()))) as here:
        answer = here.ask()
        kubernetes = json.loads(here.ask(headers={"user-agent": "kubernetes/1"}).body)

    assert answer.status == 495
    assert "a valid client certificate is required to access this page" in answer.body
    assert (kubernetes["code"], kubernetes["reason"]) == (495, "Unauthorized")


async def test_what_a_handle_in_headers_may_not_do_is_told_with_401() -> None:
    """A program with a session that has expired."""
    async with room(with_route(route(ADA_ONLY))) as here:
        answer = here.ask(headers={"x-pomerium-authorization": token("s-gone"), "accept": "application/json"})

    assert answer.status == 401


def test_what_an_organisation_says_cannot_push_the_facts_of_a_request_out_of_their_place() -> None:
    odd = Branding(
        logo_url="https://a.example.com/\0", favicon_url="https://a.example.com/\0", first_paragraph="\0 *a*"
    )

    html = render_page(Page(status=403, title="Forbidden", request_id="id-1", branding=odd))

    assert "\0" not in html
    assert html.index("<h1>") < html.index("id-1") < html.index("</main>")


async def test_a_page_is_kept_nowhere_and_framed_by_nobody() -> None:
    """N-43: it says who the visitor is, and what they may not."""
    async with room() as here:
        for headers in (cookie("s-mallory"), {}):
            answer = here.ask(headers={"accept": BROWSER, **headers})
            assert answer.headers["cache-control"] == "no-store"
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize(
    "reason",
    [
        *(f"{what}-unauthorized" for what in ("claim", "date", "day-of-week", "domain", "email", "groups", "user")),
        *(f"{what}-unauthorized" for what in ("http-method", "http-path", "source-ip", "time-of-day")),
        *("reject", "policy-invalid", "policy-unsupported", "policy-missing"),
        *(TOKEN_MISSING, NO_IMPERSONATION),
    ],
)
def test_every_reason_of_a_refusal_has_words(reason: str) -> None:
    html = render_page(Page(status=403, title="Forbidden", reasons=(reason,)))
    assert "Why" in html
    assert reason not in html
