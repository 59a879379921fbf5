"""Those who have to prove something first: who is sent to sign in or enrol, and who is only told so (authorize 9)."""

import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from pomerium_agent.authorize.accept import preferred, wants_page
from pomerium_agent.authorize.decide import Case, Decision
from pomerium_agent.authorize.gather import Question
from pomerium_agent.authorize.loop import Cause, LoopDetector, causes_of
from pomerium_agent.authorize.rules import Rules
from pomerium_agent.authorize.traced import parent_of
from pomerium_agent.authorize.urls import current_url, page_url
from pomerium_agent.errors import HandoffRejected
from pomerium_agent.handoff import nonce
from pomerium_agent.handoff.sign_in import SignIn, stateful_url, stateless_url
from pomerium_agent.handoff.signed import signed_url
from pomerium_agent.policy import Kind
from pomerium_agent.runtime.latest import Latest
from pomerium_agent.sessions.sources import Presented, find_cookie

LOOP = "Signing in leads nowhere"
NO_LOGIN = "Nobody can sign in just now"
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


SignInUrl = Callable[[Rules, SignIn, datetime], str]  # empty: nobody can sign in now


@dataclass(frozen=True, slots=True, kw_only=True)
class Denial:
    """What a visitor is told who does not pass."""

    status: int
    message: str
    location: str = ""
    login_url: str = ""  # for those who cannot be redirected
    cookies: tuple[str, ...] = ()  # Set-Cookie headers
    causes: tuple[Cause, ...] = ()  # of a login that leads nowhere
    script: bool = False  # it was no navigation of a browser, so a page is of no use (W1)


class SignInLinks:
    """Where a login begins: a signed URL in the stateful flow, a sealed one in the stateless (authenticate 4.2, 5.1).

    `server_key` is the public key of the hosted service, which somebody else fetches: a check waits for nobody.
    """

    def __init__(self, server_key: Latest[bytes | None], version: str) -> None:
        self._server_key = server_key
        self._version = version

    def __call__(self, rules: Rules, sign_in: SignIn, now: datetime) -> str:
        """Empty when nobody can sign in now."""
        if not rules.stateless:
            return signed_sign_in(rules, sign_in, now)
        receiver = self._server_key.value
        if receiver is None or not rules.shared_key:
            return ""
        try:
            return stateless_url(
                rules.authenticate_url,
                sign_in,
                shared_secret=rules.shared_key,
                server_key=receiver,
                now=now,
                version=self._version,
                request_uuid=str(uuid.uuid4()),
            )
        except HandoffRejected:  # it is no key
            return ""


def signed_sign_in(rules: Rules, sign_in: SignIn, now: datetime) -> str:
    """The start of the stateful flow: a URL of the authenticate service, signed with the shared key."""
    if not rules.authenticate_url or not rules.shared_key:
        return ""
    return stateful_url(rules.authenticate_url, sign_in, shared_secret=rules.shared_key, now=now)


def denial_of(
    case: Case,
    decision: Decision,
    rules: Rules,
    sign_in_url: SignInUrl = signed_sign_in,
    loops: LoopDetector | None = None,
) -> Denial:
    """What becomes of a request that is not allowed. `loops` keeps browsers from going round in circles."""
    if decision.kind not in (Kind.LOGIN, Kind.ENROLL):
        return Denial(status=decision.status, message=decision.message)
    script = is_script(case.question)
    redirects = not script and is_redirectable(case.question, case.who.presented)
    known = login_cookie(case.question, rules.cookie_name)
    cookies: tuple[str, ...] = ()
    if decision.kind is Kind.ENROLL:
        url = _enrolment(case, decision, rules)
    else:
        cookie = known or nonce.new_cookie()
        cookies = (nonce.set_cookie(rules.cookie_name, cookie),)  # a known one too: it must outlive this login
        url = _login(case, rules, sign_in_url, script, cookie)
        if not url and rules.stateless and redirects:
            return Denial(status=503, message=NO_LOGIN)
    if not url:
        return Denial(status=401, message="Unauthenticated", script=script)
    if (
        redirects
        and decision.kind is Kind.LOGIN
        and loops is not None
        and loops.loops(known, case.question.route_id, case.now)
    ):
        causes = causes_of(case.question, case.who.presented, rules, _idp_id(case, rules), case.now)
        return Denial(status=429, message=LOOP, login_url=url, causes=causes)
    if redirects:
        return Denial(status=302, message="Login", location=url, cookies=cookies)
    return Denial(status=401, message="Unauthenticated", login_url=url, script=script, cookies=cookies)


def login_cookie(question: Question, session_cookie: str) -> str:
    """What the browser that asks was given when it first began a login; empty when that is not so."""
    name = nonce.cookie_name(session_cookie)
    for line in question.lines or (("cookie", question.headers.get("cookie", "")),):
        if line[0] == "cookie" and name in line[1]:
            value = find_cookie(line[1], name) or ""
            return value if nonce.is_cookie(value) else ""
    return ""


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


def _login(case: Case, rules: Rules, sign_in_url: SignInUrl, script: bool, cookie: str) -> str:
    question, route = case.question, case.route
    parent = parent_of(question)
    traceparent = parent.traceparent if parent is not None else question.headers.get("traceparent", "")
    return_url = page_url(question) if script else current_url(question)
    host = return_url.removeprefix("https://").partition("/")[0]
    sign_in = SignIn(
        redirect_uri=return_url,
        callback_uri=nonce.callback_url(rules.shared_key, cookie, host),
        idp_id=_idp_id(case, rules),
        additional_hosts=route.depends_on if route is not None else (),
        trace=(("pomerium_traceparent", traceparent),) if _TRACEPARENT.fullmatch(traceparent) else (),
    )
    return sign_in_url(rules, sign_in, case.now)


def _idp_id(case: Case, rules: Rules) -> str:
    """Whose sessions count for this request (A-6)."""
    if case.route is not None:
        return case.route.idp_id or rules.default_idp_id
    return rules.idp_of_host.get(case.question.hostname, rules.default_idp_id)


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
