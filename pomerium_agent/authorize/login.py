"""Those who have to prove something first: who is sent to sign in or enrol, and who is only told so (authorize 9)."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from pomerium_agent.authorize.accept import preferred, wants_page
from pomerium_agent.authorize.decide import Case, Decision
from pomerium_agent.authorize.gather import Question
from pomerium_agent.authorize.rules import Rules
from pomerium_agent.authorize.urls import current_url, page_url
from pomerium_agent.handoff.signed import signed_url
from pomerium_agent.policy import Kind
from pomerium_agent.sessions.sources import Presented

MAX_ADDITIONAL_HOSTS = 5
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


class SignIn(NamedTuple):
    """What the login has to know of the request that needs it."""

    return_url: str
    idp_id: str
    additional_hosts: tuple[str, ...]
    traceparent: str
    now: datetime


SignInUrl = Callable[[Rules, SignIn], str]  # empty: nobody can sign in


@dataclass(frozen=True, slots=True, kw_only=True)
class Denial:
    """What a visitor is told who does not pass."""

    status: int
    message: str
    location: str = ""
    login_url: str = ""  # for those who cannot be redirected
    script: bool = False  # it was no navigation of a browser, so a page is of no use (W1)


def signed_sign_in(rules: Rules, sign_in: SignIn) -> str:
    """The start of the stateful flow: a URL of the authenticate service, signed with the shared key."""
    if not rules.authenticate_url or not rules.shared_key:
        return ""
    parameters = [
        ("pomerium_additional_hosts", ",".join(sign_in.additional_hosts[:MAX_ADDITIONAL_HOSTS])),
        ("pomerium_idp_id", sign_in.idp_id),
        ("pomerium_redirect_uri", sign_in.return_url),
    ]
    if sign_in.traceparent:
        parameters.append(("pomerium_traceparent", sign_in.traceparent))
    return signed_url(
        f"{rules.authenticate_url.rstrip('/')}/.pomerium/sign_in", parameters, rules.shared_key, sign_in.now
    )


def denial_of(case: Case, decision: Decision, rules: Rules, sign_in_url: SignInUrl = signed_sign_in) -> Denial:
    """What becomes of a request that is not allowed."""
    if decision.kind not in (Kind.LOGIN, Kind.ENROLL):
        return Denial(status=decision.status, message=decision.message)
    script = is_script(case.question)
    redirects = not script and is_redirectable(case.question, case.who.presented)
    url = (
        _enrolment(case, decision, rules) if decision.kind is Kind.ENROLL else _login(case, rules, sign_in_url, script)
    )
    if redirects and url:
        return Denial(status=302, message="Login", location=url)
    return Denial(status=401, message="Unauthenticated", login_url=url, script=script)


def is_redirectable(question: Question, presented: Presented) -> bool:
    """Whether a browser is there that can follow a redirect and show a page (A-13, A-15)."""
    content_type = question.headers.get("content-type", "")
    if is_grpc(content_type) or is_grpc_web(content_type):
        return False
    if presented.in_headers or presented.in_query:
        return False
    return wants_page(question.headers.get("accept", ""))


def is_script(question: Question) -> bool:
    """Whether the request was made by a script, or is one that a redirect would destroy (W1)."""
    headers = question.headers
    mode = headers.get("sec-fetch-mode", "")
    return bool(
        (mode and mode != "navigate")
        or headers.get("x-requested-with")
        or headers.get("upgrade")
        or question.method not in ("GET", "HEAD")
    )


def is_form(question: Question) -> bool:
    """Whether a person sent off a form in a browser, and therefore reads pages."""
    headers = question.headers
    return (
        headers.get("sec-fetch-mode", "navigate") == "navigate"
        and not headers.get("x-requested-with")
        and not headers.get("upgrade")
        and preferred(headers.get("accept", ""), ("text/html",)) is not None
        and "text/html" in headers.get("accept", "").lower()
    )


def is_grpc(content_type: str) -> bool:
    return content_type == "application/grpc" or content_type.startswith("application/grpc+")


def is_grpc_web(content_type: str) -> bool:
    return content_type == "application/grpc-web-text" or content_type.startswith("application/grpc-web+")


def _login(case: Case, rules: Rules, sign_in_url: SignInUrl, script: bool) -> str:
    question, route = case.question, case.route
    traceparent = question.headers.get("traceparent", "")
    idp_id = route.idp_id if route is not None else rules.idp_of_host.get(question.hostname, "")
    return sign_in_url(
        rules,
        SignIn(
            return_url=page_url(question) if script else current_url(question),
            idp_id=idp_id or rules.default_idp_id,
            additional_hosts=route.depends_on if route is not None else (),
            traceparent=traceparent if _TRACEPARENT.fullmatch(traceparent) else "",
            now=case.now,
        ),
    )


def _enrolment(case: Case, decision: Decision, rules: Rules) -> str:
    """The page of this host where a device is enrolled or recognised (authorize 10)."""
    if not rules.shared_key:
        return ""
    verdict = decision.verdict
    device_type = verdict.allow.data.get("device_type") or verdict.deny.data.get("device_type") or "any"
    url = current_url(case.question)
    origin = url[: url.index("/", len("https://"))]
    parameters = (("pomerium_device_type", str(device_type)), ("pomerium_redirect_uri", url))
    return signed_url(f"{origin}/.pomerium/webauthn", parameters, rules.shared_key, case.now)
