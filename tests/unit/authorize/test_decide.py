"""One check from bytes to bytes: who may pass, and what those who may not are told (authorize.md 8, 9.1)."""

import json

import pytest
from google.protobuf.message import DecodeError

from pomerium_agent.authorize.accept import prefers_json
from pomerium_agent.authorize.check import check
from pomerium_agent.authorize.decide import NEEDS_SESSION, Decision
from pomerium_agent.authorize.gather import Facts
from pomerium_agent.authorize.respond import respond
from pomerium_agent.pb.envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse, DeniedHttpResponse


def ask(path: str = "/", *, internal: bool = False, **headers: str) -> CheckResponse:
    request = CheckRequest()
    http = request.attributes.request.http
    http.method, http.host, http.path = "GET", "wiki.example.com", path
    http.headers["x-request-id"] = "id-1"
    for name, value in headers.items():
        http.headers[name.replace("_", "-")] = value
    request.attributes.context_extensions["internal"] = "true" if internal else "false"
    request.attributes.context_extensions["route_id"] = "" if internal else "route-1"
    return CheckResponse.FromString(check(request.SerializeToString()))


def headers_of(denied: DeniedHttpResponse) -> dict[str, str]:
    return {option.header.key: option.header.value for option in denied.headers}


def test_what_no_rule_allows_is_denied() -> None:
    """R-9, A-2: until there are policies, nothing but the agent's own pages passes."""
    answer = ask()

    assert answer.status.code == 7
    assert answer.status.message == "Access Denied"
    assert answer.denied_response.status.code == 403


@pytest.mark.parametrize("path", ["/ping", "/healthz", "/.pomerium/", "/.well-known/pomerium/jwks.json?x=1"])
def test_internal_routes_pass(path: str) -> None:
    """R-8, A-28, routes.md 8.4."""
    answer = ask(path, internal=True)

    assert answer.status.code == 0
    assert answer.HasField("ok_response")


@pytest.mark.parametrize("path", [*sorted(NEEDS_SESSION), "/.pomerium/%75ser", "/.pomerium/user?x=1", "/.pomerium/%ff"])
def test_internal_pages_about_the_visitor_need_a_session(path: str) -> None:
    """A-28."""
    assert ask(path, internal=True).denied_response.status.code == 403


def test_an_internal_path_on_a_route_that_is_not_internal_gains_nothing() -> None:
    """A-1: only what our configuration says of the route counts."""
    assert ask("/ping", x_internal="true").denied_response.status.code == 403


def test_a_request_without_attributes_is_denied() -> None:
    assert CheckResponse.FromString(check(b"")).denied_response.status.code == 403


def test_bytes_that_are_no_request_are_an_error() -> None:
    with pytest.raises(DecodeError):
        check(b"\xff")


def test_a_browser_is_told_on_a_page() -> None:
    """A-14, row 6."""
    denied = ask(accept="text/html,*/*;q=0.8").denied_response

    assert headers_of(denied) == {
        "content-type": "text/html; charset=UTF-8",
        "x-pomerium-intercepted-response": "true",
    }
    assert "403 Forbidden" in denied.body
    assert "id-1" in denied.body


def test_a_page_cannot_be_written_by_the_visitor() -> None:
    denied = ask(x_request_id="<script>").denied_response

    assert "<script>" not in denied.body
    assert "&lt;script&gt;" in denied.body


def test_a_program_is_told_in_json() -> None:
    """A-14, row 3."""
    denied = ask(accept="application/json").denied_response

    assert headers_of(denied) == {"content-type": "application/json"}
    assert json.loads(denied.body) == {"error": "Forbidden", "request_id": "id-1"}


@pytest.mark.parametrize(
    ("content_type", "answer"),
    [
        ("application/grpc", "application/grpc+json"),
        ("application/grpc+proto", "application/grpc+json"),
        ("application/grpc-web-text", "application/grpc-web+json"),
        ("application/grpc-web+proto", "application/grpc-web+json"),
    ],
)
def test_a_grpc_client_is_told_in_headers(content_type: str, answer: str) -> None:
    """A-14, rows 4 and 5: the HTTP status stays."""
    denied = ask(content_type=content_type).denied_response

    assert denied.status.code == 403
    assert denied.body == ""
    assert headers_of(denied) == {"content-type": answer, "grpc-status": "7", "grpc-message": "Forbidden"}


def test_kubectl_is_told_in_its_own_words() -> None:
    """A-14, row 1: before everything else."""
    denied = ask("/robots.txt", user_agent="kubectl/v1 (linux) kubernetes/abc", accept="text/html").denied_response

    assert denied.status.code == 403
    assert json.loads(denied.body) == {
        "apiVersion": "v1",
        "kind": "Status",
        "status": "Failure",
        "message": "Forbidden",
        "reason": "Forbidden",
        "code": 403,
    }


def test_robots_are_told_to_stay_away() -> None:
    """A-14, row 2."""
    denied = ask("/robots.txt").denied_response

    assert denied.status.code == 200
    assert headers_of(denied) == {"content-type": "text/plain"}
    assert denied.body == "User-agent: *\nDisallow: /"


def test_a_status_that_only_pomerium_knows_can_be_sent() -> None:
    """A-13."""
    message = "a valid client certificate is required to access this page"
    facts = Facts(headers={})

    denied = respond(facts, Decision(allowed=False, reason="test", status=495, message=message)).denied_response

    assert denied.status.code == 495
    assert f"495 {message}" in denied.body


@pytest.mark.parametrize(
    ("accept", "json_body"),
    [
        ("", False),
        ("*/*", False),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", False),
        ("application/json", True),
        ("application/json, text/plain, */*", True),
        ("application/json, text/html", True),
        ("text/html, application/json", False),
        ("application/json;q=0.9, text/html;q=0.8", True),
        ("application/json;q=0.8, */*;q=0.9", False),
        ("application/*", True),
        ("application/json, text/event-stream", True),
        ("text/*", False),
        ("text/plain", False),
        ("application/grpc+proto", False),
        ("text/event-stream", False),
        ("image/png", False),
        ("application/xml", False),
        ("image/avif,image/webp,*/*;q=0.8", False),
        ("application/json; charset=utf-8", False),
        ("application/vnd.api+json", False),
        ("application/problem+json", False),
        ("text/html;q=0", False),
        ("application/json;q=0", True),
        ("application/json;q=much", True),
        ("garbage", False),
        ("*/json", False),
        ("application/json, garbage", False),
    ],
)
def test_the_form_of_an_error_follows_accept(accept: str, json_body: bool) -> None:
    """A-15: the table of authorize.md 9.1."""
    assert prefers_json(accept) is json_body
