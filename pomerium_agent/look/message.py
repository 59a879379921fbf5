"""A page that says one thing: what happened, what to try, and where to go from here."""

from collections.abc import Sequence
from dataclasses import dataclass

from pomerium_agent.look.branding import PLAIN, Branding
from pomerium_agent.look.icons import Icon, badge
from pomerium_agent.look.markdown import render_markdown
from pomerium_agent.look.markup import NOTHING, Html, join, tag
from pomerium_agent.look.shell import Action, Facts, actions, foot, single


@dataclass(frozen=True, slots=True)
class Cause:
    """What may be wrong, and what helps."""

    what: str
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What the page says. All of it is text."""

    title: str
    text: str = ""
    icon: Icon = Icon.LOCK
    steps: Sequence[str] = ()  # what to try, in this order
    causes: Sequence[Cause] = ()  # what may be wrong, most likely first
    primary: Action | None = None
    secondary: Action | None = None
    request_id: str = ""
    details: Facts = ()  # for whoever is asked for help; never a token or a cookie (N-33)
    branding: Branding = PLAIN


def render_message(message: Message) -> str:
    """The page as HTML. The organisation's own first paragraph stands on pages about something that went wrong."""
    trouble = message.icon.tone in ("warn", "bad")
    own = Html(render_markdown(message.branding.first_paragraph)) if trouble else NOTHING
    return single(
        message.title,
        badge(message.icon),
        tag("h1", message.title),
        own,
        tag("p", message.text, class_="soft") if message.text else NOTHING,
        _causes(message.causes),
        _steps(message.steps),
        actions(message.primary, message.secondary),
        foot(message.request_id, message.details),
        branding=message.branding,
        roomy=bool(message.causes),
    )


def _steps(steps: Sequence[str]) -> Html:
    if not steps:
        return NOTHING
    heading = tag("h2", "What you can do", class_="heading")
    return join((heading, tag("ul" if len(steps) == 1 else "ol", *(tag("li", step) for step in steps), class_="steps")))


def _causes(causes: Sequence[Cause]) -> Html:
    if not causes:
        return NOTHING
    first = tag("span", "Most likely", class_="pill warn") if len(causes) > 1 else NOTHING
    items = [
        tag("li", tag("h2", cause.what, *((" ", first) if not at else ())), tag("p", cause.remedy))
        for at, cause in enumerate(causes)
    ]
    return tag("ol", *items, class_="causes")
