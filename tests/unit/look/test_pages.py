"""What each page says and lets people do, and that everybody can use it (authenticate.md 8.2 to 8.6)."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from pomerium_agent.look import (
    Account,
    Action,
    Bar,
    Branding,
    Cause,
    Consent,
    Form,
    Message,
    PasswordForm,
    Portal,
    PortalRoute,
    SessionFacts,
    Trouble,
    confirm_sign_out,
    login_loop,
    render_account,
    render_consent,
    render_message,
    render_password_form,
    render_portal,
    sign_in_trouble,
    signed_out,
)
from pomerium_agent.look.portal import matches
from pomerium_agent.look.words import in_words, initials, monogram
from tests.unit.look.structure import Structure
from tools.pages import pages

NOW = datetime(2026, 5, 4, 9, 30, tzinfo=UTC)
FORM = Form("/.pomerium/go", (("csrf", "t0k3n"),))
GRAFANA = PortalRoute(id="1", name="Grafana", url="https://grafana.example.com", host="grafana.example.com")
ORDERS = PortalRoute(
    id="2",
    name="Orders",
    kind="tcp",
    host="db.example.com:5432",
    connect_command="pomerium-cli tcp db.example.com:5432",
)
SAMPLES = dict(pages())


@pytest.mark.parametrize("name", SAMPLES)
def test_every_page_has_one_heading_one_main_a_language_and_names_for_its_fields(name: str) -> None:
    page = Structure(SAMPLES[name])

    assert page.count("h1") == 1
    assert page.count("main") == 1
    assert page.count("title") == 1
    assert page.all("html", "lang") == ["en"]
    assert page.all("meta", "name") == ["viewport", "robots"]
    shown = [kind for kind in page.all("input", "type") if kind != "hidden"]
    assert page.count("label") == len(shown)
    assert page.count("img") == len(page.all("img", "alt"))
    assert page.count("svg") == len(page.all("svg", "aria-hidden"))


@pytest.mark.parametrize("name", SAMPLES)
def test_no_page_loads_anything_that_was_not_given_to_it(name: str) -> None:
    page = Structure(SAMPLES[name])

    assert not page.all("script", "src")
    assert page.all("link", "rel") == ["icon"]
    assert all(url.startswith("data:") for url in (*page.all("img", "src"), *page.all("link", "href")))


def test_the_account_page_says_who_and_since_when_and_how_to_leave() -> None:
    """Authenticate 8.3."""
    session = SessionFacts(
        id="s-1", provider="Okta", since=NOW - timedelta(hours=3), expires=NOW + timedelta(days=2, hours=1)
    )
    bar = Bar(portal_url="/.pomerium/routes", account_url="/.pomerium/", sign_out=FORM)

    page = Structure(
        render_account(Account(now=NOW, name="Ada Lovelace", email="ada@example.com", session=session, bar=bar))
    )

    assert "AL" in page.words
    for words in ("ada@example.com", "s-1", "Okta", "3 hours ago", "in 2 days"):
        assert words in page.text
    assert page.all("time", "datetime") == ["2026-05-04T06:30:00Z", "2026-05-06T10:30:00Z"]
    assert page.all("a", "href") == ["#content", "/.pomerium/routes", "/.pomerium/"]
    assert page.all("form", "method") == ["post"]
    assert page.all("input", "value") == ["t0k3n"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("access_token", "secret-1"),
        ("id_token", "secret-1"),
        ("urn:x:refresh_token", "secret-1"),
        ("at_hash", "secret-1"),
        ("nonce", "secret-1"),
        ("anything", "eyJhbGciOiJFUzI1NiJ9.secret-1.c2ln"),
        ("urn:example:token", "secret-1"),
        ("anything", "Bearer eyJhbGciOiJFUzI1NiJ9.secret-1.c2ln;"),
        ("anything", " eyJhbGciOiJFUzI1NiJ9.secret-1.c2ln\n"),
    ],
)
def test_a_claim_that_could_be_a_token_is_only_named(name: str, value: str) -> None:
    """N-33, N-43."""
    html = render_account(Account(now=NOW, claims=((name, (value,)),)))

    assert name in html
    assert "secret-1" not in html


def test_a_token_in_technical_details_is_taken_out() -> None:
    """N-33."""
    details = (("answer", "id_token=eyJhbGciOiJFUzI1NiJ9.c2VjcmV0.c2ln&state=1"),)

    page = Structure(render_message(Message(title="No", details=details)))

    assert "id_token=(hidden)&state=1" in page.words


def test_the_time_in_a_claim_can_be_read() -> None:
    claims = (("exp", ("1777887000",)), ("iat", ("99999999999999999999",)), ("auth_time", ("soon",)))

    page = Structure(render_account(Account(now=NOW, claims=claims)))

    assert page.all("time", "datetime") == ["2026-05-04T09:30:00Z"]


def test_an_impersonated_session_says_so() -> None:
    """Authenticate 8.3: `isImpersonated`."""
    assert "You are impersonating" in render_account(Account(now=NOW, impersonated=True))
    assert "impersonating" not in render_account(Account(now=NOW))


def test_the_portal_links_what_a_browser_opens_and_tells_how_to_reach_the_rest() -> None:
    """Authenticate 8.4."""
    page = Structure(render_portal(Portal(routes=(GRAFANA, ORDERS))))

    assert page.all("a", "href") == ["#content", "https://grafana.example.com"]
    assert "pomerium-cli tcp db.example.com:5432" in page.words
    assert "2 applications" in page.words
    assert "status" in page.all("p", "role")
    assert page.all("p", "aria-live") == ["polite"]


def test_without_a_script_the_portal_is_searched_by_asking_it_again() -> None:
    page = Structure(render_portal(Portal(routes=(GRAFANA, ORDERS), query="TCP  ord")))

    assert page.all("form", "method") == ["get"]
    assert page.all("input", "name") == ["q"]
    assert page.all("input", "value") == ["TCP  ord"]
    assert "1 of 2 applications" in page.words
    assert [("hidden" in names) for name, names in page.elements if name == "li"] == [True, False]


@pytest.mark.parametrize(("query", "fits"), [("", True), ("GRAF example", True), ("graf tcp", False), ("web", True)])
def test_every_word_of_a_query_has_to_be_found(query: str, fits: bool) -> None:
    assert matches(GRAFANA, query) is fits


def test_a_portal_with_nothing_in_it_says_whom_to_ask() -> None:
    page = Structure(render_portal(Portal()))

    assert "Nothing to open yet" in page.words
    assert page.count("input") == 0


def test_consent_names_who_asks_and_takes_yes_and_no() -> None:
    page = Structure(
        render_consent(Consent(cluster="Acme", domain="acme.example.com", form=FORM, email="a@example.com"))
    )

    assert "Acme wants to know who you are" in page.words
    for words in ("acme.example.com", "a@example.com", "your groups"):
        assert words in page.text
    assert page.all("button", "name") == ["choice", "choice"]
    assert page.all("button", "value") == ["continue", "cancel"]
    assert page.all("input", "value") == ["t0k3n"]


def test_a_password_is_never_sent_back_and_an_error_is_announced() -> None:
    page = Structure(render_password_form(PasswordForm(form=FORM, email="ada@example.com", error="No.")))

    assert page.all("input", "type") == ["hidden", "email", "password"]
    assert page.all("input", "value") == ["t0k3n", "ada@example.com"]
    assert page.all("input", "autocomplete") == ["username", "current-password"]
    assert page.all("input", "aria-invalid") == ["true", "true"]
    assert set(page.all("input", "aria-describedby")) == {"error"}
    assert "error" in page.all("div", "id")
    assert "alert" in page.all("div", "role")


@pytest.mark.parametrize("trouble", Trouble)
def test_every_trouble_says_what_happened_and_offers_to_start_again(trouble: Trouble) -> None:
    message = sign_in_trouble(trouble, retry=FORM, request_id="r-1", details=(("error", "invalid_grant"),))

    page = Structure(render_message(message))

    assert message.title in page.words
    assert page.all("form", "action") == ["/.pomerium/go"]
    assert "r-1" in page.words
    assert page.count("details") == 1
    assert "invalid_grant" in page.words


def test_a_loop_lists_its_causes_and_marks_the_first() -> None:
    causes = (Cause("Cookies", "Allow them."), Cause("Clock", "Set it."))

    page = Structure(render_message(login_loop(causes, host="wiki.example.com")))

    assert "wiki.example.com" in page.text
    found = [page.text.index(words) for words in ("Cookies", "Most likely", "Allow them.", "Clock", "Set it.")]
    assert found == sorted(found)
    assert page.text.count("Most likely") == 1


def test_signing_out_is_asked_by_post_and_leads_back_in() -> None:
    """Authenticate 8.2."""
    asked = Structure(render_message(confirm_sign_out(FORM, email="ada@example.com", back="/")))
    done = Structure(render_message(signed_out(sign_in_url="/.pomerium/sign_in")))

    assert asked.all("form", "method") == ["post"]
    assert asked.all("input", "value") == ["t0k3n"]
    assert asked.all("a", "href") == ["/"]
    assert done.all("a", "href") == ["/.pomerium/sign_in"]


def test_an_organisation_speaks_where_something_went_wrong() -> None:
    branding = Branding(first_paragraph="Ask **us**.")

    assert "<strong>us</strong>" in render_message(sign_in_trouble(Trouble.DENIED, branding=branding))
    assert "<strong>us</strong>" not in render_message(signed_out(branding=branding))


def test_a_token_against_forgery_stays_out_of_what_is_printed() -> None:
    message = Message(title="x", primary=Action("Go", FORM))

    assert "t0k3n" not in repr(message)
    assert "t0k3n" in render_message(replace(message, text="y"))


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "just now"),
        (-59, "just now"),
        (59, "in less than a minute"),
        (60, "in 1 minute"),
        (-7200, "2 hours ago"),
        (86399, "in 23 hours"),
        (-172800, "2 days ago"),
    ],
)
def test_distances_in_time_are_said_in_one_unit(seconds: int, words: str) -> None:
    assert in_words(timedelta(seconds=seconds)) == words


@pytest.mark.parametrize(
    ("name", "email", "letters"),
    [
        ("Ada Lovelace", "", "AL"),
        ("Ada King Lovelace", "", "AL"),
        ("Ada", "", "A"),
        ("", "grace.hopper@example.com", "GH"),
        ("(x) Émile", "", "É"),
        ("", "", "?"),
        ("<", "<@", "?"),
    ],
)
def test_people_without_a_picture_have_initials(name: str, email: str, letters: str) -> None:
    assert initials(name, email) == letters


def test_a_monogram_keeps_its_colour() -> None:
    assert monogram("A", "wiki") == monogram("A", "wiki")
    assert len({monogram("A", str(number)) for number in range(100)}) > 5
