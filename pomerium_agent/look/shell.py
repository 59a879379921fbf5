"""What every page has around it: the head, one card or a bar with a wide page below, links and forms as buttons."""

from dataclasses import dataclass, field

from pomerium_agent.look.branding import PLAIN, Branding, brand_style, favicon, logo
from pomerium_agent.look.icons import Icon, draw
from pomerium_agent.look.markup import NOTHING, Html, join, tag, text
from pomerium_agent.look.script import SCRIPT
from pomerium_agent.look.style import STYLE, WIDE
from pomerium_agent.look.words import without_tokens

Facts = tuple[tuple[str, str], ...]  # label and value


@dataclass(frozen=True, slots=True)
class Form:
    """Where a button posts to, and what it carries unseen: a token against forgery, a sealed state."""

    url: str
    fields: Facts = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Action:
    """Something a visitor can do next: follow a link, or post a form."""

    label: str
    to: str | Form


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """The bar on top of wide pages: whose site this is, the two pages of a visitor, and the way out."""

    site: str = ""  # the cluster's name or domain, shown unless there is a logo
    portal_url: str = ""
    account_url: str = ""
    sign_out: Form | None = None


EMPTY_BAR = Bar()


def document(title: str, body: Html, branding: Branding = PLAIN, *, style: str = STYLE, policy: str = "") -> str:
    """A whole page around `body`. `policy` is for pages whose headers are not ours to set."""
    meta = tag("meta", http_equiv="Content-Security-Policy", content=policy) if policy else NOTHING
    return "".join(
        (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n',
            meta,
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n',
            '<meta name="robots" content="noindex">\n',
            f"<title>{text(title)}</title>\n{favicon(branding)}<style>{style}{brand_style(branding)}</style>\n",
            f"</head>\n{body}</html>\n",
        )
    )


def single(
    title: str, *parts: str, branding: Branding = PLAIN, roomy: bool = False, policy: str = "", script: bool = False
) -> str:
    """A page of one card, for everything that says or asks one thing."""
    head = tag("header", sign) if (sign := logo(branding)) else NOTHING
    card = tag("main", *parts, class_="card roomy" if roomy else "card")
    return document(title, _body("single", head, card, script=script), branding, policy=policy)


def wide(title: str, bar: Bar, *parts: str, branding: Branding = PLAIN, current: str, narrower: bool = False) -> str:
    """A page below a bar, for everything that one looks around in."""
    main = tag("main", *parts, id="content", tabindex="-1", class_="wide narrower" if narrower else "wide")
    skip = tag("a", "Skip to the content", class_="skip", href="#content")
    body = _body("", skip, "\n", _bar(bar, branding, current), main, script=True)
    return document(title, body, branding, style=STYLE + WIDE)


def _body(name: str, *parts: str, script: bool) -> Html:
    last = Html(f"<script>{SCRIPT}</script>\n") if script else NOTHING
    return join((tag("body", "\n", *parts, last, class_=name or False), "\n"))


def _bar(bar: Bar, branding: Branding, current: str) -> Html:
    links = (("Applications", bar.portal_url), ("Account", bar.account_url))
    brand = logo(branding) or join((draw(Icon.LOCK), tag("span", bar.site or "Pomerium")))
    entries = [
        tag("a", label, href=url, aria_current="page" if label == current else False) for label, url in links if url
    ]
    return tag(
        "header",
        tag(
            "div",
            tag("div", brand, class_="brand"),
            tag("nav", *entries, aria_label="Pages") if entries else NOTHING,
            button("Sign out", bar.sign_out, quiet=True) if bar.sign_out else NOTHING,
        ),
        class_="bar",
    )


def actions(primary: Action | None, secondary: Action | None = None) -> Html:
    buttons = [
        button(action.label, action.to, quiet=quiet)
        for action, quiet in ((primary, False), (secondary, True))
        if action is not None
    ]
    return tag("div", *buttons, class_="actions") if buttons else NOTHING


def button(label: str, to: str | Form, *, quiet: bool = False) -> Html:
    """A link that looks like a button, or a form that is one; nothing that works only with a script."""
    name = "quiet" if quiet else "action"
    if isinstance(to, str):
        return tag("a", label, class_=name, href=to)
    return post_form(to, tag("button", label, class_=name, type="submit"))


def post_form(form: Form, *parts: str, name: str = "") -> Html:
    hidden = [tag("input", type="hidden", name=key, value=value) for key, value in form.fields]
    return tag("form", *hidden, *parts, method="post", action=form.url, class_=name or False)


def facts(pairs: Facts | tuple[tuple[str, Html], ...]) -> Html:
    return tag("dl", *(part for label, value in pairs for part in (tag("dt", label), tag("dd", value))), class_="facts")


def notice(icon: Icon, *words: str, alert: bool = False) -> Html:
    role = "alert" if alert else "note"
    return tag("div", draw(icon), tag("p", *words), class_=f"notice {icon.tone}", role=role)


def foot(request_id: str = "", details: Facts = (), *parts: str) -> Html:
    """What to quote when asking for help, below everything else."""
    lines = [part for part in parts if part]
    if request_id:
        lines.append(tag("p", "Request id: ", tag("code", request_id)))
    if details:
        coded = tuple((label, tag("code", without_tokens(value))) for label, value in details)
        lines.append(tag("details", tag("summary", "Technical details"), facts(coded)))
    return tag("footer", *lines, class_="foot") if lines else NOTHING
