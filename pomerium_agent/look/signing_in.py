"""Pages on the way in: consent, a form for name and password, and what can go wrong at the sign-in."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from pomerium_agent.look.branding import PLAIN, Branding
from pomerium_agent.look.icons import Icon, badge
from pomerium_agent.look.markup import NOTHING, Html, tag
from pomerium_agent.look.message import Cause, Message
from pomerium_agent.look.shell import Action, Facts, Form, foot, notice, post_form, single
from pomerium_agent.look.words import initials, monogram

CHOICE, CONTINUE, CANCEL = "choice", "continue", "cancel"  # the field and what the two buttons say in it


@dataclass(frozen=True, slots=True, kw_only=True)
class Consent:
    """A cluster asks the hosted console, for the first time, who somebody is."""

    cluster: str
    domain: str
    form: Form  # gets `choice`: `continue` or `cancel`
    email: str = ""  # who is signed in
    shared: Sequence[str] = ("your name and email address", "your groups", "the id of your account")
    request_id: str = ""
    branding: Branding = PLAIN


@dataclass(frozen=True, slots=True, kw_only=True)
class PasswordForm:
    """Name and password, for a provider that has its own form. It gets `email` and `password`."""

    form: Form
    title: str = "Sign in"
    text: str = ""
    email: str = ""  # as typed before; the password is never shown again
    error: str = ""
    note: str = ""
    request_id: str = ""
    branding: Branding = PLAIN


def render_consent(consent: Consent) -> str:
    """The page as HTML: who asks, where that is, what they would learn, yes and no."""
    site = tag(
        "div",
        monogram(initials(consent.cluster), consent.domain),
        tag(
            "p", tag("strong", tag("bdi", consent.cluster)), tag("br"), tag("bdi", consent.domain, class_="soft small")
        ),
        class_="site",
    )
    buttons = [
        tag("button", label, class_=name, type="submit", name=CHOICE, value=value)
        for label, name, value in (("Continue", "action", CONTINUE), ("Cancel", "quiet", CANCEL))
    ]
    whose = tag("p", "You are signed in as ", tag("strong", tag("bdi", consent.email)), ".", class_="soft small")
    return single(
        f"{consent.cluster} wants to know who you are",
        badge(Icon.PERSON),
        tag("h1", tag("bdi", consent.cluster), " wants to know who you are"),
        site,
        tag("p", "If you continue, it will be told:", class_="soft"),
        tag("ul", *(tag("li", item) for item in consent.shared), class_="steps"),
        post_form(consent.form, tag("div", *buttons, class_="actions")),
        foot(consent.request_id, (), whose if consent.email else NOTHING),
        branding=consent.branding,
    )


def render_password_form(page: PasswordForm) -> str:
    """The page as HTML."""
    invalid = bool(page.error)
    return single(
        page.title,
        badge(Icon.LOCK),
        tag("h1", page.title),
        tag("p", page.text, class_="soft") if page.text else NOTHING,
        tag("div", notice(Icon.ERROR, page.error, alert=True), id="error") if invalid else NOTHING,
        post_form(
            page.form,
            _field("Email", "email", "email", page.email, "username", invalid=invalid, focus=not page.email),
            _field("Password", "password", "password", "", "current-password", invalid=invalid, focus=bool(page.email)),
            tag("button", "Sign in", class_="action wide-action", type="submit"),
            name="stack",
        ),
        foot(page.request_id, (), *([tag("p", page.note)] if page.note else [])),
        branding=page.branding,
    )


def _field(label: str, name: str, kind: str, value: str, complete: str, *, invalid: bool, focus: bool) -> Html:
    box = tag(
        "input",
        class_="field",
        type=kind,
        name=name,
        value=value or False,
        autocomplete=complete,
        autocapitalize="none",
        required=True,
        autofocus=focus,
        aria_invalid="true" if invalid else False,
        aria_describedby="error" if invalid else False,
    )
    return tag("label", label, box)


class Trouble(Enum):
    """What can go wrong at the sign-in, as a visitor is told it: sign, title, text, what to do."""

    EXPIRED_LINK = (
        Icon.CLOCK,
        "This sign-in link has expired",
        "A sign-in has to be finished within a few minutes, and this one was not. Nothing is lost; start again.",
        (),
    )
    REPLAY = (
        Icon.LOOP,
        "This sign-in was already used",
        "Each sign-in works once. This happens after going back in the browser, or reloading its last step.",
        (),
    )
    COOKIE_BLOCKED = (
        Icon.WARNING,
        "Your browser did not send back our cookie",
        "We left a cookie when the sign-in began, and it did not come back, so we cannot tell that it was you.",
        (
            "Allow cookies for this site, and for the site you came from.",
            "Finish the sign-in in the browser and window in which you began it.",
            "Turn off extensions that remove cookies, and try again.",
        ),
    )
    CLOCK_WRONG = (
        Icon.CLOCK,
        "The clocks do not agree",
        "What one side signed just now lies in the future or the past for the other, so it is not accepted.",
        (
            "Let your device set its time by itself, and try again.",
            "If its time is right, tell whoever runs this site: one of their servers has the wrong time.",
        ),
    )
    WRONG_PROVIDER = (
        Icon.WARNING,
        "The sign-in came back from somewhere else",
        "This sign-in began with one identity provider and was answered by another. It was not accepted.",
        ("Start again, and keep to one sign-in at a time.",),
    )
    UNREACHABLE = (
        Icon.CLOUD,
        "The identity provider does not answer",
        "We could not ask your identity provider who you are. This is usually over in a minute.",
        (),
    )
    DENIED = (
        Icon.REFUSED,
        "The identity provider said no",
        "You were not signed in: either it was cancelled, or your account may not use this site.",
        ("Try again, with another account if you have one.", "Ask whoever runs this site to let your account in."),
    )
    FAILED = (
        Icon.WARNING,
        "Signing in did not work",
        "Something went wrong on our side. It has been written down under the request id below.",
        (),
    )


def sign_in_trouble(
    trouble: Trouble,
    *,
    retry: str | Form = "",
    home: str = "",
    request_id: str = "",
    details: Facts = (),
    branding: Branding = PLAIN,
) -> Message:
    """The page of `trouble`, ready to be rendered; `retry` begins the sign-in anew, `home` leads away from it."""
    icon, title, words, steps = trouble.value
    label = "Try again" if trouble is Trouble.UNREACHABLE else "Sign in again"
    return Message(
        title=title,
        text=words,
        icon=icon,
        steps=steps,
        primary=Action(label, retry) if retry else None,
        secondary=Action("Go to your applications", home) if home else None,
        request_id=request_id,
        details=details,
        branding=branding,
    )


def login_loop(
    causes: Sequence[Cause],
    *,
    host: str = "",
    retry: str | Form = "",
    request_id: str = "",
    details: Facts = (),
    branding: Branding = PLAIN,
) -> Message:
    """The page that ends a sign-in that goes round in circles; `causes` begin with the most likely one."""
    where = host or "the site"
    return Message(
        title="Signing in goes round in circles",
        text=f"You signed in, and {where} asked you to sign in again, several times in a row. We stopped it here.",
        icon=Icon.LOOP,
        causes=causes,
        primary=Action("Sign in again", retry) if retry else None,
        request_id=request_id,
        details=details,
        branding=branding,
    )
