"""From a denial to the answer that Envoy understands, in the form the client can read (authorize.md 8, A-14)."""

import json
from http import HTTPStatus
from typing import NamedTuple

from pomerium_agent.authorize.accept import prefers_json
from pomerium_agent.authorize.decide import CERTIFICATE_TEXT, Case, Decision
from pomerium_agent.authorize.login import Denial, is_form, is_grpc, is_grpc_web
from pomerium_agent.authorize.page import Page, on_the_way, render_page
from pomerium_agent.authorize.rules import Rules
from pomerium_agent.look import Cause, login_loop, render_message, security_headers
from pomerium_agent.pb.envoy.config.core.v3.base_pb2 import HeaderValueOption
from pomerium_agent.pb.envoy.service.auth.v3.external_auth_pb2 import CheckResponse

PERMISSION_DENIED = 7
GRPC_STATUS = {400: 13, 401: 16, 403: 7, 404: 12, 429: 14, 502: 14, 503: 14, 504: 14}  # others: 2, UNKNOWN
KUBERNETES_REASON = {401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 450: "Unauthorized", 495: "Unauthorized"}
PHRASES = {status.value: status.phrase for status in HTTPStatus} | {450: "device not authorized", 495: CERTIFICATE_TEXT}
ANSWERED = "answered"
RETRY_SECONDS = "5"
JSON = ("content-type", "application/json")
PAGE = (
    ("content-type", "text/html; charset=UTF-8"),
    ("x-pomerium-intercepted-response", "true"),
    *((name.lower(), value) for name, value in security_headers().items()),  # it names the visitor: kept nowhere
)


class Form(NamedTuple):
    """An answer to the client."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: str


def respond(case: Case, decision: Decision, denial: Denial, rules: Rules) -> bytes:
    """The whole answer to a request that does not pass, as Envoy wants it."""
    form = render(case, decision, denial, rules)
    response = CheckResponse()
    response.status.code = PERMISSION_DENIED
    response.status.message = "Access Denied"
    denied = response.denied_response
    denied.status.code = form.status  # type: ignore[assignment]  # 450 and 495 are not in Envoy's enum, which is open
    denied.body = form.body
    if form.status == 503:
        response.dynamic_metadata.update({ANSWERED: True})  # or Envoy would take it for our silence
    for name, value in form.headers:
        option = denied.headers.add(append_action=HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD)
        option.header.key, option.header.value = name, value
    return response.SerializeToString()


def render(case: Case, decision: Decision, denial: Denial, rules: Rules) -> Form:
    """The first form that fits the client."""
    question = case.question
    headers = question.headers
    more = (
        *((("location", denial.location),) if denial.location else ()),
        *(("set-cookie", cookie) for cookie in denial.cookies),
        *((("retry-after", RETRY_SECONDS),) if denial.status == 503 else ()),
    )
    if "kubernetes/" in headers.get("user-agent", ""):
        return Form(denial.status, (JSON, *more), _kubernetes(denial))
    if question.path == "/robots.txt":
        return Form(200, (("content-type", "text/plain"),), "User-agent: *\nDisallow: /")
    if prefers_json(headers.get("accept", "")):
        return Form(denial.status, (JSON, *more), _json(case, denial))
    content_type = headers.get("content-type", "")
    if is_grpc(content_type) or is_grpc_web(content_type):
        kind = "application/grpc+json" if is_grpc(content_type) else "application/grpc-web+json"
        code = str(GRPC_STATUS.get(denial.status, 2))
        grpc = (("content-type", kind), ("grpc-status", code), ("grpc-message", denial.message))
        return Form(denial.status, grpc, "")
    if denial.script and not is_form(question):
        return Form(denial.status, (JSON, *more), _json(case, denial))
    return Form(denial.status, (*PAGE, *more), _page(case, decision, denial, rules))


def _json(case: Case, denial: Denial) -> str:
    body = {"error": denial.message, "request_id": case.question.request_id}
    if denial.script and denial.login_url:
        body["login_url"] = denial.login_url
    return json.dumps(body)


def _kubernetes(denial: Denial) -> str:
    """A Status object, which kubectl shows as it is."""
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Status",
            "status": "Failure",
            "message": denial.message,
            "reason": KUBERNETES_REASON.get(denial.status, ""),
            "code": denial.status,
        }
    )


def _page(case: Case, decision: Decision, denial: Denial, rules: Rules) -> str:
    """Reasons stay inside, unless the route wants its visitors to know them (A-17)."""
    if denial.location:
        return on_the_way(denial.location)
    if denial.causes:
        found = [Cause(*cause.value) for cause in denial.causes]
        return render_message(
            login_loop(
                found,
                host=case.question.url_host,
                retry=denial.login_url,
                request_id=case.question.request_id,
                branding=rules.branding,
            )
        )
    resolved, route = case.who.resolved, case.route
    tells = route is not None and route.show_error_details
    return render_page(
        Page(
            status=denial.status,
            title=PHRASES.get(denial.status, denial.message),
            request_id=case.question.request_id,
            signed_in_as=resolved.email if resolved is not None else "",
            action_url=denial.location or denial.login_url,
            traces=decision.verdict.traces if tells else (),
            reasons=decision.reasons if tells and denial.status == 403 else (),
            branding=rules.branding,
        )
    )
