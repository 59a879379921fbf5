"""Colours that can be read, and headers that hold a page to what it is (authenticate.md 2.3)."""

import base64
import colorsys
import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pomerium_agent.look import Branding, Portal, render_portal, security_headers
from pomerium_agent.look.branding import CARD, brand_style, contrast, parse_color
from pomerium_agent.look.style import DARK, HUES, LIGHT

SCHEMES = {"light": LIGHT, "dark": DARK}


def ratio(one: str, other: str) -> float:
    first, second = parse_color(one), parse_color(other)
    assert first is not None
    assert second is not None
    return contrast(first, second)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("ink", ["ink", "soft", "link", "good", "warn", "bad"])
@pytest.mark.parametrize("ground", ["paper", "card"])
def test_words_can_be_read_in_both_schemes(scheme: str, ink: str, ground: str) -> None:
    colors = SCHEMES[scheme]

    assert ratio(colors[ink], colors[ground]) >= 4.5
    assert ratio(colors["accent"], colors["on-accent"]) >= 4.5
    assert ratio(colors["edge"], colors[ground]) >= 3  # outlines of fields


def test_links_of_an_organisation_are_judged_on_the_card_they_stand_on() -> None:
    assert {scheme: colors["card"] for scheme, colors in SCHEMES.items()} == CARD


@pytest.mark.parametrize("hue", HUES)
def test_monograms_can_be_read(hue: int) -> None:
    def color(saturation: float, lightness: float) -> tuple[float, float, float]:
        return colorsys.hls_to_rgb(hue / 360, lightness, saturation)

    assert contrast(color(0.65, 0.92), color(0.60, 0.29)) >= 4.5
    assert contrast(color(0.32, 0.22), color(0.80, 0.84)) >= 4.5


@given(color=st.from_regex(r"#(?:[0-9a-f]{3}|[0-9a-fA-F]{6})", fullmatch=True))
def test_whatever_colour_an_organisation_has_its_buttons_and_links_can_be_read(color: str) -> None:
    style = brand_style(Branding(primary_color=color))

    light, dark = style.splitlines()
    assert f"--accent: {color}" in light
    for line, card in ((light, CARD["light"]), (dark, CARD["dark"])):
        ink, link = re.findall(r"--(?:on-accent|link): (#[0-9a-f]{6})", line)
        assert ratio(color, ink) >= 4.5
        assert ratio(link, card) >= 4.4  # rounded to eight bits


@pytest.mark.parametrize(
    ("color", "same"),
    [
        ("rgb(255, 0, 0)", "#ff0000"),
        ("rgba(0 128 0 / 50%)", "#008000"),
        ("hsl(240, 100%, 50%)", "#0000ff"),
        ("rgb(100% 0% 0%)", "#f00"),
    ],
)
def test_colours_are_understood_however_they_are_written(color: str, same: str) -> None:
    assert parse_color(color) == pytest.approx(parse_color(same), abs=0.01)


@pytest.mark.parametrize("color", ["rebeccapurple", "rgb(,,)", "hsl(1)", "rgb(...)"])
def test_a_colour_we_cannot_work_out_is_left_to_the_browser(color: str) -> None:
    assert parse_color(color) is None
    assert "--link" not in brand_style(Branding(primary_color=color))


@given(color=st.text("rgbahsl(0123456789.,%/ )#", max_size=30))
def test_reading_colours_is_total(color: str) -> None:
    brand_style(Branding(primary_color=color, dark_primary_color=color))


def test_the_policy_allows_exactly_the_script_on_the_page() -> None:
    html = render_portal(Portal())
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()

    policy = security_headers()["Content-Security-Policy"]

    assert f"script-src 'sha256-{digest}';" in policy
    assert "script-src 'unsafe-inline'" not in policy
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "form-action 'self';" in policy


def test_answers_to_forms_may_lead_where_the_caller_says_and_nowhere_else() -> None:
    """Chromium applies form-action to the redirects after a post as well."""
    wanted = (
        "https://idp.example.com/authorize?x=1",
        "https://idp.example.com/other",
        "http://localhost:8080/done",
        "javascript:alert(1)",
        "https://evil.example.com; script-src *",
        "https://[::1]:1/",
        "https://host:99999999/",
        "/relative",
        "",
    )

    policy = security_headers(form_action=wanted)["Content-Security-Policy"]

    assert "form-action 'self' https://idp.example.com http://localhost:8080;" in policy
    assert "evil" not in policy


@given(url=st.one_of(st.text(), st.text().map("https://".__add__), st.text("a.;' */:?#[]", max_size=20)))
def test_no_address_can_write_into_the_policy(url: str) -> None:
    policy = security_headers(form_action=(url,))["Content-Security-Policy"]

    assert policy.count(";") == security_headers()["Content-Security-Policy"].count(";")
    assert policy.isascii()
    assert policy.isprintable()


def test_what_is_personal_is_kept_nowhere_and_our_own_forms_carry_their_origin() -> None:
    """N-43; authenticate 2.3."""
    headers = security_headers()

    assert headers["Cache-Control"] == "no-store"
    assert headers["Referrer-Policy"] == "same-origin"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert security_headers(personal=False)["Cache-Control"] == "no-cache, must-revalidate"
