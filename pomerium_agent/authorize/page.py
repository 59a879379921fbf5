"""The page that a person sees who may not pass: what happened, what to do about it, and the request id."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from pomerium_agent.look.branding import PLAIN, Branding
from pomerium_agent.look.markdown import render_markdown
from pomerium_agent.look.markup import NOTHING, Html, join, tag
from pomerium_agent.look.shell import Action, actions, foot, single
from pomerium_agent.policy import Trace

TEXTS = {
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

# What a policy answers for a criterion that is not met, as its route may tell its visitors.
REASONS = {
    "claim-unauthorized": "What your identity provider says about you is not what this page asks for.",
    "domain-unauthorized": "Your email address is not at a domain that this page is for.",
    "email-unauthorized": "Your email address is not among those that this page is for.",
    "groups-unauthorized": "You are in none of the groups that this page is for.",
    "user-unauthorized": "You are not among the people that this page is for.",
    "source-ip-unauthorized": "This page cannot be opened from where you are on the network.",
    "http-method-unauthorized": "This is not something that may be done on this page.",
    "http-path-unauthorized": "This part of the site is not open to you.",
    "day-of-week-unauthorized": "This page is closed on this day of the week.",
    "time-of-day-unauthorized": "This page is closed at this time of day.",
    "date-unauthorized": "This page is not open on this date.",
    "reject": "This page is closed to everybody, or to you in particular.",
    "policy-missing": "No rules say who may open this page, so nobody is let in.",
    "kubernetes-token-missing": "What is needed to reach the cluster behind this page is missing, so nobody is let in.",
    "kubernetes-user-missing": "You have no email address here by which the cluster behind this page could know you.",
    "policy-invalid": "The rules of this page cannot be read, so nobody is let in until they are mended.",
    "policy-unsupported": "The rules of this page cannot be applied here, so nobody is let in.",
}

POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src https: http: data:; base-uri 'none'; form-action 'none'"
)

_GAP = Html("\0")  # which no text on a page can hold


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What one page says."""

    status: int
    title: str
    request_id: str = ""
    signed_in_as: str = ""
    action_url: str = ""  # where signing in begins
    traces: Sequence[Trace] = ()
    reasons: Sequence[str] = ()  # of the refusal; shown where no policy has words of its own
    branding: Branding = PLAIN


def on_the_way(location: str) -> str:
    """For those few who are shown a redirect; everybody else is on their way already, so it is short."""
    link = tag("p", "Please ", tag("a", "sign in", href=location), ".")
    return f'<!DOCTYPE html>\n<html lang="en">\n<title>Signing in</title>\n{link}\n</html>\n'


def render_page(page: Page) -> str:
    """The page as HTML. Nothing in it can be written by the visitor; it loads nothing but a chosen logo (A-17)."""
    before, after = _frame(page.status, page.title, page.branding)
    action = actions(Action("Sign in", page.action_url)) if page.action_url else NOTHING
    return "".join((before, action, _why(page.traces, page.reasons), _foot(page), after))


@lru_cache(maxsize=64)
def _frame(status: int, title: str, branding: Branding) -> tuple[str, str]:
    """What all pages of one status have in common: what comes before the facts of this request, and what after."""
    html = single(
        f"{status} {title}",
        tag("p", str(status), class_="status"),
        tag("h1", title),
        _markdown(branding.first_paragraph),
        tag("p", TEXTS.get(status, "This request cannot be served.")),
        tag("p", HINTS[status], class_="soft") if status in HINTS else NOTHING,
        _GAP,
        branding=branding,
        roomy=True,
        policy=POLICY,
    )
    before, _, after = html.partition(_GAP)
    return before, after


def _foot(page: Page) -> Html:
    """Who the visitor is to us, and what to quote when they ask for help."""
    whose = tag(
        "p",
        "You are signed in as ",
        tag("strong", page.signed_in_as),
        ". ",
        tag("a", "Your account", href="/.pomerium/"),
    )
    return foot(page.request_id, (), *([whose] if page.signed_in_as else []))


def _why(traces: Sequence[Trace], reasons: Sequence[str]) -> Html:
    """What each policy has to say for itself; those without an id are the route's own, and have reasons only."""
    items = [_trace(trace) for trace in traces if trace.id]
    items = items or [tag("li", REASONS[reason], class_="no") for reason in reasons if reason in REASONS]
    return join((tag("h2", "Why", class_="heading"), tag("ul", *items, class_="traces"))) if items else NOTHING


def _trace(trace: Trace) -> Html:
    refuses = trace.deny.value or not trace.allow.value
    verdict = "Denies" if trace.deny.value else "Allows" if trace.allow.value else "Does not allow"
    explanation = _markdown(trace.explanation) or tag("p", "Policy ID ", tag("code", trace.id))
    remedy = tag("div", _markdown(trace.remediation), class_="remedy") if refuses and trace.remediation else NOTHING
    return tag("li", tag("strong", verdict), explanation, remedy, class_="no" if refuses else "yes")


def _markdown(words: str) -> Html:
    return Html(render_markdown(words))
