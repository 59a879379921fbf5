"""The account page: who the visitor is to us, and how we know (authenticate.md 8.3). It never shows a token (N-43)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from pomerium_agent.look.branding import PLAIN, Branding
from pomerium_agent.look.icons import Icon
from pomerium_agent.look.markup import NOTHING, Html, join, tag
from pomerium_agent.look.shell import EMPTY_BAR, Bar, Form, button, facts, notice, wide
from pomerium_agent.look.words import HIDDEN, exactly, initials, moment, monogram, without_tokens

_SECRET_CLAIM = re.compile(r"(?is)(?:.*[_:/.-])?(?:token|secret|password|cookie|nonce)(?:_hash)?|(?:at|c|s)_hash")
_TIME_CLAIMS = frozenset({"auth_time", "exp", "iat", "nbf", "updated_at"})
_LATEST = 253402300799  # the last second a datetime can say


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionFacts:
    """What the visitor may know about their session."""

    id: str
    provider: str = ""
    since: datetime | None = None
    expires: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """An enrolled device."""

    id: str
    kind: str = ""
    name: str = ""
    enrolled: datetime | None = None
    current: bool = False  # this session was proved with it
    remove: Form | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What the account page says."""

    now: datetime
    name: str = ""
    email: str = ""
    user_id: str = ""
    session: SessionFacts | None = None
    claims: Sequence[tuple[str, Sequence[str]]] = ()  # name and values, in the order they are shown
    groups: Sequence[str] = ()
    devices: Sequence[Device] = ()
    enroll_url: str = ""  # where a device is added
    impersonated: bool = False  # the session shown is somebody else's
    bar: Bar = EMPTY_BAR
    branding: Branding = PLAIN


def render_account(account: Account) -> str:
    """The page as HTML, in which nothing is markup that came from outside."""
    return wide(
        "Your account",
        account.bar,
        _who(account),
        _impersonation(account),
        _session(account),
        _groups(account.groups),
        _devices(account),
        _claims(account.claims),
        branding=account.branding,
        current="Account",
        narrower=True,
    )


def _who(account: Account) -> Html:
    title = account.name or account.email or "Your account"
    return tag(
        "div",
        monogram(initials(account.name, account.email), account.user_id or account.email),
        tag(
            "div",
            tag("h1", tag("bdi", title)),
            tag("p", tag("bdi", account.email), class_="soft") if account.email not in ("", title) else NOTHING,
        ),
        class_="top who",
    )


def _impersonation(account: Account) -> Html:
    if not account.impersonated:
        return NOTHING
    words = "You are impersonating this person: pages see you as them until your own session ends or you stop it."
    return notice(Icon.WARNING, words)


def _session(account: Account) -> Html:
    rows: list[tuple[str, Html]] = []
    if account.user_id:
        rows.append(("User id", tag("code", account.user_id)))
    session = account.session
    if session is None:
        return _panel("Session", tag("p", "There is no session.", class_="soft"), _facts(rows))
    if session.provider:
        rows.append(("Signed in with", tag("span", session.provider)))
    if session.since is not None:
        rows.append(("Signed in", moment(session.since, account.now)))
    if session.expires is not None:
        rows.append(("Expires" if session.expires > account.now else "Expired", moment(session.expires, account.now)))
    rows.append(("Session id", tag("code", session.id)))
    return _panel("Session", _facts(rows))


def _facts(rows: Sequence[tuple[str, Html]]) -> Html:
    return facts(tuple(rows)) if rows else NOTHING


def _groups(groups: Sequence[str]) -> Html:
    if not groups:
        return NOTHING
    return _panel("Groups", tag("ul", *(tag("li", group, class_="pill plain") for group in groups), class_="tags"))


def _devices(account: Account) -> Html:
    if not account.devices and not account.enroll_url:
        return NOTHING
    rows = tag("ul", *(_device(device, account.now) for device in account.devices), class_="rows")
    add = tag("div", button("Add a device", account.enroll_url, quiet=True), class_="actions")
    return _panel(
        "Devices",
        rows if account.devices else tag("p", "No device is enrolled yet.", class_="soft"),
        add if account.enroll_url else NOTHING,
    )


def _device(device: Device, now: datetime) -> Html:
    title: list[str] = [tag("strong", device.name or device.kind or "Device")]
    if device.current:
        title += [" ", tag("span", "This device", class_="pill good")]
    lines: list[str] = [tag("p", *title)]
    if device.enrolled is not None:
        lines.append(tag("p", "Enrolled ", moment(device.enrolled, now), class_="small"))
    lines.append(tag("p", tag("code", device.id), class_="soft small"))
    return tag("li", tag("div", *lines), button("Remove", device.remove, quiet=True) if device.remove else NOTHING)


def _claims(claims: Sequence[tuple[str, Sequence[str]]]) -> Html:
    if not claims:
        return NOTHING
    head = tag(
        "thead", tag("tr", *(tag("th", tag("span", word, class_="seen"), scope="col") for word in ("Claim", "Value")))
    )
    body = tag("tbody", *(_claim(name, values) for name, values in claims))
    return _panel(
        "Claims",
        tag("p", "What your identity provider says about you. Policies may ask for any of it.", class_="soft small"),
        tag("table", head, body, class_="claims"),
    )


def _claim(name: str, values: Sequence[str]) -> Html:
    shown = [_value(name, value) for value in values]
    cell = shown[0] if len(shown) == 1 else tag("ul", *(tag("li", value) for value in shown))
    return tag("tr", tag("th", tag("code", name), scope="row"), tag("td", cell))


def _value(name: str, value: str) -> Html:
    """A claim's value as it is; times also in words of the calendar; whatever could be a token is only named."""
    if _SECRET_CLAIM.fullmatch(name):
        return tag("em", HIDDEN, class_="soft")
    if name in _TIME_CLAIMS and value.isascii() and value.isdigit() and len(value) < 13 and int(value) <= _LATEST:
        when = datetime.fromtimestamp(int(value), UTC)
        return join((value, " ", exactly(when, class_="soft small")))
    return tag("span", without_tokens(value))


def _panel(title: str, *parts: str) -> Html:
    return tag("section", tag("h2", title), *parts, class_="card panel")
