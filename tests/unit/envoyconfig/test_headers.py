"""Headers and their precedence (routes 5)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pomerium_agent.config.snapshot import Settings
from pomerium_agent.envoyconfig.headers import (
    added_request_headers,
    global_response_headers,
    removed_request_headers,
    request_value,
    response_headers,
    response_value,
)
from tests.fakes.snapshots import ANY_CERTIFICATE, certificate, route


@pytest.mark.parametrize(
    ("configured", "told"),
    [
        ("100% ok", "100%% ok"),
        ("%REQ(x-request-id)%", "%REQ(x-request-id)%"),
        ("%REQ(:authority?x-b):20%!", "%REQ(:authority?x-b):20%!"),
        ("from %DOWNSTREAM_REMOTE_ADDRESS% at 5%", "from %DOWNSTREAM_REMOTE_ADDRESS% at 5%%"),
        ("100%% ok", "100%% ok"),
        ("%NOPE%", "%%NOPE%%"),
        ("%REQ(x y)%", "%%REQ(x y)%%"),
        ("%FILE_CONTENT(/etc/passwd)%", "%%FILE_CONTENT(/etc/passwd)%%"),
        ("", ""),
    ],
)
def test_a_percent_sign_is_text_unless_it_begins_a_known_command(configured: str, told: str) -> None:
    """R-12."""
    assert response_value(configured) == told


@given(st.text(alphabet="%()REQ:x- 1", max_size=40))
def test_escaping_what_was_escaped_changes_nothing(value: str) -> None:
    once = response_value(value)

    assert response_value(once) == once


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ('${pomerium.request.headers["User-Agent"]}', "%REQ(User-Agent)%"),
        ("${pomerium.request.headers['X-A']}", "%REQ(X-A)%"),
        ("a ${pomerium.jwt} b", "a  b"),
        ("$pomerium.access_token.", "."),
        ("costs $$5, 100%", "costs $5, 100%%"),
        ("costs $5", "costs $5"),
        ("${unknown}", ""),
        ("${not closed", "${not closed"),
        ('${pomerium.request.headers["a)% %REQ(b"]}', ""),
        ("%REQ(cookie)%", "%%REQ(cookie)%%"),
    ],
)
def test_a_template_on_a_public_route_is_filled_in_by_envoy_alone(template: str, told: str) -> None:
    assert request_value(template) == told


def test_the_defaults_are_those_of_pomerium() -> None:
    """R-13."""
    assert global_response_headers(Settings(certificates=(ANY_CERTIFICATE,))) == {
        "X-Frame-Options": "SAMEORIGIN",
        "X-XSS-Protection": "1; mode=block",
        "Strict-Transport-Security": "max-age=31536000; includeSubDomains; preload",
    }


def test_nobody_is_held_to_https_by_a_certificate_nobody_chose() -> None:
    """R-13."""
    fallback = certificate("*")
    settings = Settings(certificates=(type(fallback)(id="f", chain="", key="", self_signed_fallback=True),))

    assert "Strict-Transport-Security" not in global_response_headers(settings)
    assert "Strict-Transport-Security" not in global_response_headers(Settings())


def test_configured_headers_replace_the_defaults_and_disable_empties_them() -> None:
    """R-13."""
    assert global_response_headers(Settings(set_response_headers={"X-A": "1"})) == {"X-A": "1"}
    assert global_response_headers(Settings(set_response_headers={"X-A": "1", "disable": "true"})) == {}


def test_a_routes_response_headers_win_whatever_their_case_and_come_sorted() -> None:
    merged = response_headers({"X-B": "global", "X-A": "global"}, {"x-b": "route"})

    assert merged == (("X-A", "global"), ("x-b", "route"))
    assert response_headers({"X-A": "1"}, {"disable": "", "X-B": "2"}) == ()


def test_identity_headers_never_pass_unverified() -> None:
    """R-11: on a public route not even when identity headers are wanted, since nobody verified them."""
    ours = ("x-email", "x-pomerium-jwt-assertion", "x-pomerium-jwt-assertion-for")

    for each in (route(), route(public=True), route(public=True, pass_identity_headers=True)):
        assert removed_request_headers(each, pass_identity=False, claims=["X-Email"]) == ours
    assert removed_request_headers(route(pass_identity_headers=True), pass_identity=False, claims=["X-Email"]) == ()
    assert removed_request_headers(route(), pass_identity=True, claims=["X-Email"]) == ()
    assert removed_request_headers(route(pass_identity_headers=False), pass_identity=True, claims=[]) == ours[1:]


def test_what_the_operator_removes_comes_first_and_each_name_once() -> None:
    removing = route(remove_request_headers=("Cookie", "cookie", "X-Pomerium-Jwt-Assertion"))

    assert removed_request_headers(removing, pass_identity=False, claims=()) == (
        "Cookie",
        "X-Pomerium-Jwt-Assertion",
        "x-pomerium-jwt-assertion-for",
    )


def test_remove_beats_set() -> None:
    """R-11."""
    public = route(public=True, set_request_headers={"X-B": "2", "X-A": "1", "X-Pomerium-Reproxy-Policy": "3"})

    assert added_request_headers(public, ("x-b",)) == (("X-A", "1"),)


def test_what_others_set_is_set_by_the_authorization_service() -> None:
    assert added_request_headers(route(set_request_headers={"X-A": "${pomerium.jwt}"}), ()) == ()
