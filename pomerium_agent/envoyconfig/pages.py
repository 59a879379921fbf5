"""The page a browser is shown when Envoy itself has to answer: light and dark, nothing loaded from elsewhere."""

from dataclasses import dataclass
from html import escape as escape_html

from pomerium_agent.envoyconfig.headers import escape
from pomerium_agent.look import PLAIN, Branding
from pomerium_agent.look.branding import brand_style, favicon, logo
from pomerium_agent.look.markdown import render_markdown


@dataclass(frozen=True, slots=True)
class Page:
    """What one family of failures is called, and what somebody who sees it can do."""

    title: str
    advice: str


NOT_FOUND = Page("Nothing here", "No route leads to this address. Check the link, or ask whoever sent it to you.")
UNREACHABLE = Page(
    "The application does not answer",
    "It may be starting or restarting. Try again in a moment; nothing you did is lost here.",
)
TOO_SLOW = Page("The application took too long", "The request was given up. Try again, or ask for less at once.")
STALLED = Page(
    "The request took too long to arrive",
    "Your connection may be slow, or was interrupted. Try again, or send less at once.",
)
TOO_MANY = Page("Too many requests", "Please wait a moment and try again. Nothing is wrong with your account.")
NO_DECISION = Page(
    "Access cannot be checked right now", "Nobody is let in unchecked, so please wait a moment and try again."
)
OTHER = Page("This did not work", "The request could not be carried out. Try again in a moment.")

_STYLE = """
:root{color-scheme:light dark;--ink:#1c2430;--dim:#667085;--paper:#f6f7f9;--card:#fff;--line:#e2e5ea;--accent:#6f43e7}
@media(prefers-color-scheme:dark){
:root{--ink:#e9ecf2;--dim:#98a2b3;--paper:#10141b;--card:#181e27;--line:#2a323f;--accent:#a78bfa}}
*{box-sizing:border-box}
body{margin:0;min-height:100vh;display:grid;place-items:center;padding:1.5rem;background:var(--paper);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{width:100%;max-width:34rem;padding:2.25rem;background:var(--card);border:1px solid var(--line);
border-top:4px solid var(--accent);border-radius:.75rem}
.code{margin:0;color:var(--accent);font-weight:600;letter-spacing:.06em}
h1{margin:.35rem 0 .6rem;font-size:1.6rem;line-height:1.25}
p{margin:0}
dl{display:grid;grid-template-columns:auto 1fr;gap:.3rem 1rem;margin:1.75rem 0 0;padding-top:1.25rem;
border-top:1px solid var(--line);font-size:.82rem;color:var(--dim)}
dd{margin:0;overflow-wrap:anywhere;font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
"""


_LOGO = ".logo{display:block;max-width:12rem;max-height:3rem;margin:0 0 1.25rem}\n"


def render(page: Page, branding: Branding = PLAIN) -> str:
    """The page as Envoy's format string: text is escaped (`%` doubled), the facts are filled in by Envoy.

    The colours, pictures and words of an organisation are taken as on every other page (routes 1.7, rows 85 to 91).
    """
    title, advice = escape_html(page.title), escape_html(page.advice)
    picture, own = logo(branding), render_markdown(branding.first_paragraph)
    style = f"{_STYLE}{_LOGO if picture else ''}{brand_style(branding)}"
    icon = favicon(branding) if branding.favicon_url else ""
    parts = (
        ('<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n', ""),
        ('<meta name="viewport" content="width=device-width,initial-scale=1">\n', ""),
        ('<meta name="robots" content="noindex">\n<title>', "%RESPONSE_CODE%"),
        (f" · {title}</title>\n{icon}<style>{style}</style>\n</head>\n<body>\n<main>\n{picture}", ""),
        ('<p class="code">', "%RESPONSE_CODE%"),
        (f"</p>\n<h1>{title}</h1>\n{own}<p>{advice}</p>\n", ""),
        ("<dl>\n<dt>Reason</dt><dd>", "%RESPONSE_CODE_DETAILS% (%RESPONSE_FLAGS%)"),
        ("</dd>\n<dt>Request</dt><dd>", "%STREAM_ID%"),
        ("</dd>\n</dl>\n</main>\n</body>\n</html>\n", ""),
    )
    return "".join(escape(text) + command for text, command in parts)
