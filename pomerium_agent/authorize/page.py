"""The page that a person sees who may not pass: what happened, what to do about it, and the request id."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from html import escape

from pomerium_agent.authorize.markdown import render_markdown
from pomerium_agent.authorize.rules import Branding
from pomerium_agent.policy import Trace

_COLOR = re.compile(
    r"#(?:[0-9a-fA-F]{3,4}|[0-9a-fA-F]{6}|[0-9a-fA-F]{8})|[a-zA-Z]{3,24}|(?:rgb|hsl)a?\([0-9.,%/ ]{1,40}\)"
)
_PICTURE = re.compile(r"https?://[^\s\"'<>()\\]{1,2000}|data:image/[a-z+.-]{1,20};base64,[A-Za-z0-9+/=]{1,100000}")

TEXTS = {
    302: "This page needs you to be signed in. You are being taken to the sign-in page.",
    400: "The request carries two different proofs of who sent it, so nobody can tell which of them counts.",
    401: "This page needs you to be signed in.",
    403: "You are not allowed to open this page.",
    404: "There is nothing at this address. It may have been mistyped, or it is gone.",
    450: "This page may only be opened on devices that meet certain requirements, and yours does not.",
    503: "This page needs you to be signed in, and the service that signs people in cannot be reached just now.",
    495: "This page may only be opened with a certificate that your browser shows to the site; "
    "it showed none, or one that is not accepted.",
}
HINTS = {
    403: "If you think that you should be, tell whoever runs this site, and give them the request id below.",
    503: "Try again in a moment. Those who are signed in already are not affected.",
    450: "Contact your administrator for assistance, and give them the request id below.",
    495: "Install the certificate that you were given, close all windows of the browser, and try again.",
}

STYLE = """
:root { color-scheme: light dark; --ink: #1d2330; --soft: #5b6472; --paper: #f5f6f8; --card: #fff; --line: #dfe3e8;
  --accent: #5b3fd1 }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaf0; --soft: #9aa3b2; --paper: #12151c; --card: #1b202a;
  --line: #2c3340; --accent: #a996ff } }
* { box-sizing: border-box }
body { margin: 0; min-height: 100vh; display: grid; place-items: center; padding: 1.5rem; color: var(--ink);
  background: var(--paper); font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", sans-serif }
main { width: 100%; max-width: 38rem; padding: 2.25rem; background: var(--card); border: 1px solid var(--line);
  border-top: .3rem solid var(--accent); border-radius: .6rem }
.logo { display: block; max-height: 2.5rem; max-width: 12rem; margin-bottom: 1.5rem }
.status { margin: 0; color: var(--accent); font-weight: 600; font-variant-numeric: tabular-nums }
h1 { margin: .1rem 0 1rem; font-size: 1.6rem; line-height: 1.25; overflow-wrap: anywhere }
h2 { margin: 1.75rem 0 .25rem; font-size: 1rem }
p { margin: .6rem 0; overflow-wrap: anywhere }
a { color: var(--accent) }
a:focus-visible { outline: .15rem solid var(--accent); outline-offset: .15rem }
.action { display: inline-block; padding: .5rem 1.1rem; border-radius: .4rem; background: var(--accent);
  color: var(--card); text-decoration: none; font-weight: 600 }
ul.traces { list-style: none; margin: 0; padding: 0 }
.traces > li { padding: .6rem 0 .6rem 1rem; border-left: .2rem solid var(--line); margin: .75rem 0 }
.traces > li.no { border-color: var(--accent) }
.traces .remedy { color: var(--soft) }
code { font: .9em ui-monospace, monospace; background: var(--paper); padding: .1em .3em; border-radius: .25em }
footer { margin-top: 2rem; padding-top: 1rem; border-top: 1px solid var(--line); color: var(--soft);
  font-size: .875rem }
footer code { user-select: all; overflow-wrap: anywhere }
"""
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src https: http: data:; base-uri 'none'; form-action 'none'"
)

PLAIN = Branding()


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What one page says."""

    status: int
    title: str
    request_id: str = ""
    signed_in_as: str = ""
    action_url: str = ""  # where signing in begins
    traces: Sequence[Trace] = ()
    branding: Branding = PLAIN


def render_page(page: Page) -> str:
    """The page as HTML. Nothing in it can be written by the visitor; it loads nothing but a chosen logo (A-17)."""
    branding = page.branding
    title = escape(page.title)
    first = render_markdown(branding.first_paragraph) if branding.first_paragraph and page.status != 302 else ""
    parts = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n',
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n',
        '<meta name="robots" content="noindex">\n',
        f"<title>{page.status} {title}</title>\n{_favicon(branding)}<style>{STYLE}{_colors(branding)}</style>\n",
        f'</head>\n<body>\n<main>\n{_logo(branding)}<p class="status">{page.status}</p>\n<h1>{title}</h1>\n',
        f"{first}<p>{TEXTS.get(page.status, 'This request cannot be served.')}</p>\n",
        f"<p>{HINTS[page.status]}</p>\n" if page.status in HINTS else "",
        _action(page),
        _traces(page.traces),
        _footer(page),
        "</main>\n</body>\n</html>\n",
    ]
    return "".join(parts)


def _action(page: Page) -> str:
    return f'<p><a class="action" href="{escape(page.action_url)}">Sign in</a></p>\n' if page.action_url else ""


def _footer(page: Page) -> str:
    """Who the visitor is to us, and what to quote when they ask for help."""
    lines = []
    if page.signed_in_as:
        lines.append(
            f"<p>You are signed in as <strong>{escape(page.signed_in_as)}</strong>. "
            '<a href="/.pomerium/">Your account</a></p>\n'
        )
    if page.request_id:
        lines.append(f"<p>Request id: <code>{escape(page.request_id)}</code></p>\n")
    return f"<footer>\n{''.join(lines)}</footer>\n" if lines else ""


def _traces(traces: Sequence[Trace]) -> str:
    """What each policy has to say for itself; those without an id are the route's own and stay hidden."""
    items = [_trace(trace) for trace in traces if trace.id]
    return f'<h2>Why</h2>\n<ul class="traces">\n{"".join(items)}</ul>\n' if items else ""


def _trace(trace: Trace) -> str:
    refuses = trace.deny.value or not trace.allow.value
    verdict = "Denies" if trace.deny.value else "Allows" if trace.allow.value else "Does not allow"
    explanation = render_markdown(trace.explanation) or f"<p>Policy ID <code>{escape(trace.id)}</code></p>"
    remedy = f'<div class="remedy">{render_markdown(trace.remediation)}</div>' if refuses and trace.remediation else ""
    return f'<li class="{"no" if refuses else "yes"}"><strong>{verdict}</strong>{explanation}{remedy}</li>\n'


@lru_cache(maxsize=64)
def _colors(branding: Branding) -> str:
    """The colours of the organisation, if they are colours."""
    light = branding.primary_color if _COLOR.fullmatch(branding.primary_color) else ""
    dark = branding.dark_primary_color if _COLOR.fullmatch(branding.dark_primary_color) else ""
    styles = f":root {{ --accent: {light} }}\n" if light else ""
    if dark:
        styles += f"@media (prefers-color-scheme: dark) {{ :root {{ --accent: {dark} }} }}\n"
    for scheme, color in (("light", branding.secondary_color), ("dark", branding.dark_secondary_color)):
        if _COLOR.fullmatch(color):
            styles += f"@media (prefers-color-scheme: {scheme}) {{ :root {{ --line: {color} }} }}\n"
    return styles


def _logo(branding: Branding) -> str:
    url = branding.logo_url
    return f'<img class="logo" src="{escape(url)}" alt="">\n' if _PICTURE.fullmatch(url) else ""


def _favicon(branding: Branding) -> str:
    url = branding.favicon_url if _PICTURE.fullmatch(branding.favicon_url) else "data:,"
    return f'<link rel="icon" href="{escape(url)}">\n'
