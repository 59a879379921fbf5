"""Whatever a field holds is shown as text, on every page (authenticate.md N-33, N-43; authorize.md A-17)."""

import html
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pomerium_agent.authorize.page import Page, render_page
from pomerium_agent.look import (
    Account,
    Bar,
    Branding,
    Cause,
    Consent,
    Device,
    Form,
    Message,
    PasswordForm,
    Portal,
    PortalRoute,
    SessionFacts,
    Trouble,
    confirm_sign_out,
    device_enrolled,
    login_loop,
    program_signed_in,
    render_account,
    render_consent,
    render_message,
    render_password_form,
    render_portal,
    sign_in_trouble,
)
from pomerium_agent.look.markup import is_link, is_picture, tag, text
from tests.unit.look.structure import Structure

NOW = datetime(2026, 5, 4, tzinfo=UTC)
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' autofocus onfocus='alert(1)",
    "</title></style></textarea><svg onload=alert(1)>",
    "<!--",
    "]]>&lt;b&gt;&#60;b&#62;",
    "javascript:alert(1)",
    "a\x00b\u202ec\ud800",
)
WORDS = st.one_of(
    st.text(min_size=1, max_size=60), st.sampled_from(HOSTILE), st.text("<>\"'&;=/ \nabc\x00", min_size=1, max_size=40)
)


def account(words: str) -> str:
    facts = SessionFacts(id=words, provider=words, since=NOW, expires=NOW)
    return render_account(
        Account(
            now=NOW,
            name=f"n{words}",
            email=f"e{words}",
            user_id=f"u{words}",
            session=facts,
            claims=((f"c{words}", (f"v{words}", f"w{words}")),),
            groups=(words,),
            devices=(Device(id=words, name=f"d{words}", kind=words, enrolled=NOW, remove=form(words)),),
            bar=Bar(site=f"s{words}", sign_out=form(words)),
        )
    )


def portal(words: str) -> str:
    routes = tuple(
        PortalRoute(
            id=words, name=f"n{words}", kind=kind, host=f"h{words}", description=f"d{words}", connect_command=run
        )
        for kind, run in (("http", ""), ("tcp", f"c{words}"))
    )
    return render_portal(Portal(routes=routes, query="", bar=Bar(site=f"s{words}")))


def message(words: str) -> str:
    said = Message(
        title=f"t{words}",
        text=f"x{words}",
        steps=(words, words),
        causes=(Cause(words, words), Cause(words, words)),
        request_id=f"r{words}",
        details=((words, words),),
    )
    return render_message(said)


def form(words: str) -> Form:
    return Form("/here", ((f"k{words}", words),))


PAGES: dict[str, Callable[[str], str]] = {
    "account": account,
    "portal": portal,
    "message": message,
    "search": lambda words: render_portal(Portal(routes=(PortalRoute(id="a"),), query="a" + "".join(words.split()))),
    "consent": lambda words: render_consent(
        Consent(cluster=f"c{words}", domain=words, form=form(words), email=f"e{words}", shared=(words,))
    ),
    "password": lambda words: render_password_form(
        PasswordForm(form=form(words), text=f"t{words}", email=f"m{words}", error=f"e{words}", note=f"n{words}")
    ),
    "trouble": lambda words: render_message(
        sign_in_trouble(Trouble.DENIED, request_id=f"r{words}", details=((words, words),))
    ),
    "loop": lambda words: render_message(login_loop((Cause(words, words),), host=f"h{words}", retry=form(words))),
    "sign out": lambda words: render_message(confirm_sign_out(form(words), email=f"e{words}")),
    "device": lambda words: render_message(device_enrolled(name=f"n{words}")),
    "program": lambda words: render_message(program_signed_in(email=f"e{words}")),
    "denied": lambda words: render_page(
        Page(status=403, title=f"t{words}", request_id=f"r{words}", signed_in_as=f"s{words}")
    ),
}


@pytest.mark.parametrize("name", PAGES)
@given(words=WORDS)
@example(words=HOSTILE[0])
@example(words=HOSTILE[1])
@example(words=HOSTILE[3])
@example(words=HOSTILE[-1])
def test_no_word_in_any_field_becomes_markup(name: str, words: str) -> None:
    hostile, harmless = Structure(PAGES[name](words)), Structure(PAGES[name]("word"))

    assert hostile.elements == harmless.elements
    assert not [attribute for _, attribute, _ in hostile.values if attribute.startswith("on") or attribute == "style"]


@pytest.mark.parametrize("name", PAGES)
def test_pages_can_be_sent_and_hide_nothing_of_what_they_were_given(name: str) -> None:
    words = "<b>&amp;\"'</b>"

    page = PAGES[name](words)

    page.encode()
    seen = Structure(page)
    assert words in seen.text or words in seen.all("input", "value") or f"a{words}" in seen.all("input", "value")


@given(words=WORDS)
def test_what_is_escaped_reads_as_it_was_but_for_what_is_unfit(words: str) -> None:
    shown = html.unescape(text(words))

    assert len(shown) == len(words)
    assert all(after in (before, "\ufffd") for before, after in zip(words, shown, strict=True))
    assert not set(shown) & set("\x00\x1b\u202e\u2066\ud800")


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        " javascript:alert(1)",
        "java\nscript:alert(1)",
        "//evil.example.com",
        "/\\evil.example.com",
        "/\t/evil.example.com",
        "data:text/html,<script>",
        "https://a/ b",
        "vbscript:x",
        "/a\x00b",
        "relative",
        "",
    ],
)
def test_an_address_that_leads_astray_is_left_out(url: str) -> None:
    assert not is_link(url)
    assert tag("a", "x", href=url) == "<a>x</a>"
    assert "action=" not in tag("form", action=url)


@pytest.mark.parametrize(
    "url", ["https://a.example.com/x?y=1&z#f", "http://localhost:80/", "/.pomerium/", "?q=a", "#x", "mailto:a@b.c"]
)
def test_an_address_of_the_web_is_a_link(url: str) -> None:
    assert Structure(tag("a", "x", href=url)).all("a", "href") == [url]


@pytest.mark.parametrize(
    "url", ["javascript:x", "data:text/html;base64,AA", 'https://a/"x', "//evil.example.com/x", "https://a/\x00b"]
)
def test_only_pictures_are_pictures(url: str) -> None:
    assert not is_picture(url)
    assert "src" not in tag("img", src=url)
    assert "<img" not in render_portal(Portal(routes=(PortalRoute(id="a", logo_url=url),)))


@given(words=WORDS)
def test_branding_changes_colours_and_pictures_and_nothing_else(words: str) -> None:
    branding = Branding(
        primary_color=words,
        secondary_color=words,
        dark_primary_color=words,
        dark_secondary_color=words,
        logo_url=words,
        favicon_url=words,
    )

    page = Structure(render_message(Message(title="Hello", branding=branding)))

    plain = Structure(render_message(Message(title="Hello")))
    assert [element for element in page.elements if element[0] not in ("header", "img")] == plain.elements
    assert page.all("img", "src") == ([words] if is_picture(words) else [])
