"""The colours and pictures of an organisation, taken only when they are what they should be, and kept readable."""

import colorsys
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from pomerium_agent.look.markup import NOTHING, Html, is_picture, tag, text

_COLOR = re.compile(
    r"#(?:[0-9a-fA-F]{3,4}|[0-9a-fA-F]{6}|[0-9a-fA-F]{8})|[a-zA-Z]{3,24}|(?:rgb|hsl)a?\([0-9.,%/ ]{1,40}\)"
)
_NUMBERS = re.compile(r"(\d{1,3}(?:\.\d{1,4})?)(%?)")
CARD = {"light": "#ffffff", "dark": "#17191f"}  # what links stand on
READABLE = 4.5  # WCAG 2, level AA, text
INKS = ("#ffffff", "#000000")  # of the words on a button

Rgb = tuple[float, float, float]  # each from 0 to 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Branding:
    """How an organisation wants its pages to look; anything that is not what it should be is left out."""

    primary_color: str = ""
    secondary_color: str = ""
    dark_primary_color: str = ""
    dark_secondary_color: str = ""
    logo_url: str = ""
    favicon_url: str = ""
    first_paragraph: str = ""


PLAIN = Branding()


def read_branding(words: Mapping[str, str]) -> Branding:
    """The branding among the settings, by the names it has there."""
    return Branding(
        primary_color=words.get("primary_color", ""),
        secondary_color=words.get("secondary_color", ""),
        dark_primary_color=words.get("darkmode_primary_color", ""),
        dark_secondary_color=words.get("darkmode_secondary_color", ""),
        logo_url=words.get("logo_url", ""),
        favicon_url=words.get("favicon_url", ""),
        first_paragraph=words.get("error_message_first_paragraph", ""),
    )


@lru_cache(maxsize=64)
def brand_style(branding: Branding) -> str:
    """The colours of the organisation, if they are colours; text stays readable where we can work it out."""
    light = branding.primary_color if _COLOR.fullmatch(branding.primary_color) else ""
    dark = branding.dark_primary_color if _COLOR.fullmatch(branding.dark_primary_color) else light
    styles = f":root {{ --accent: {light}{_derived(light, 'light')} }}\n" if light else ""
    if dark:
        styles += f"@media (prefers-color-scheme: dark) {{ :root {{ --accent: {dark}{_derived(dark, 'dark')} }} }}\n"
    for scheme, color in (("light", branding.secondary_color), ("dark", branding.dark_secondary_color)):
        if _COLOR.fullmatch(color):
            styles += f"@media (prefers-color-scheme: {scheme}) {{ :root {{ --line: {color} }} }}\n"
    return styles


def logo(branding: Branding) -> Html:
    return tag("img", class_="logo", src=branding.logo_url, alt="") if is_picture(branding.logo_url) else NOTHING


def favicon(branding: Branding) -> Html:
    """The organisation's, or explicitly none, so that no browser goes looking for one behind the login."""
    url = branding.favicon_url if is_picture(branding.favicon_url) else "data:,"
    return Html(f'<link rel="icon" href="{text(url)}">\n')


def _derived(color: str, scheme: str) -> str:
    """The ink of buttons filled with `color`, and the shade of it in which words can be read on a card."""
    rgb = parse_color(color)
    if rgb is None:
        return ""
    ink = max(INKS, key=lambda ink: contrast(_rgb(ink), rgb))
    return f"; --on-accent: {ink}; --link: {_hex(_readable(rgb, _rgb(CARD[scheme])))}"


def _readable(color: Rgb, ground: Rgb) -> Rgb:
    """`color`, moved towards black or white by as much as it takes to be read on `ground`."""
    towards = 0.0 if luminance(ground) > 0.5 else 1.0
    for step in range(21):
        share = step / 20
        shade = tuple(part + (towards - part) * share for part in color)
        mixed: Rgb = (shade[0], shade[1], shade[2])
        if contrast(mixed, ground) >= READABLE:
            return mixed
    return (towards, towards, towards)


def parse_color(color: str) -> Rgb | None:
    """The colour without its transparency; None for names, whose meaning we leave to the browser."""
    if color.startswith("#"):
        return _rgb(color)
    parts = [(float(number), bool(percent)) for number, percent in _NUMBERS.findall(color)]
    if len(parts) < 3:
        return None
    if color.startswith("hsl"):
        saturation, lightness = (min(number / 100, 1.0) for number, _ in parts[1:3])
        return colorsys.hls_to_rgb(parts[0][0] % 360 / 360, lightness, saturation)
    red, green, blue = (min(number / (100 if percent else 255), 1.0) for number, percent in parts[:3])
    return (red, green, blue)


def _rgb(color: str) -> Rgb:
    digits = color[1:]
    if len(digits) < 6:
        digits = "".join(digit * 2 for digit in digits)
    red, green, blue = (int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4))
    return (red, green, blue)


def _hex(color: Rgb) -> str:
    return "#" + "".join(f"{round(part * 255):02x}" for part in color)


def contrast(one: Rgb, other: Rgb) -> float:
    """The contrast ratio of WCAG 2, from 1 to 21."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def luminance(color: Rgb) -> float:
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in color)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
