"""Routes to Kubernetes: the token that goes there, and nobody let in without one (routes 9.6, A-26)."""

from datetime import timedelta
from typing import Any

import pytest

from pomerium_agent.config.action import Forward, Unavailable
from pomerium_agent.config.snapshot import Fault, Route
from pomerium_agent.pb.pomerium import config_pb2
from tests.fakes.config_records import compiled, config, entity, route

INLINE: dict[str, Any] = {"kubernetes_service_account_token": " tok\n"}
FILE: dict[str, Any] = {"kubernetes_service_account_token_file": "/token"}


def one(files: dict[str, bytes] | None = None, **fields: Any) -> tuple[Route, tuple[Fault, ...]]:
    def read(path: str) -> bytes:
        if path not in (files or {}):
            raise FileNotFoundError(2, "no such file", path)
        return (files or {})[path]

    snapshot, faults = compiled(config("c", route(id="k", **fields)), read_file=read)
    return snapshot.routes[0], faults


@pytest.mark.parametrize(("fields", "files"), [(INLINE, {}), (FILE, {"/token": b"tok\r\n\n"})])
def test_the_token_comes_without_its_newlines(fields: dict[str, Any], files: dict[str, bytes]) -> None:
    found, faults = one(files, allow_any_authenticated_user=True, **fields)

    assert not faults
    assert found.kubernetes
    assert found.kubernetes_token == "tok"
    assert not found.access.policy.closed


def test_a_token_shows_itself_nowhere() -> None:
    found, _ = one(kubernetes_service_account_token="s3cret-token")

    assert "s3cret" not in repr(found)


def test_a_key_pair_brings_the_token_in_its_key() -> None:
    """R-3, field 85."""
    named = route(kubernetes_service_account_token_key_pair_id="kp")
    pair = config_pb2.KeyPair(id="kp", key=b"tok\n")

    snapshot, faults = compiled(config("c"), entity("r", named), entity("kp", pair))

    assert not faults
    assert snapshot.routes[0].kubernetes_token == "tok"


@pytest.mark.parametrize(
    ("fields", "files"),
    [
        ({"kubernetes_service_account_token": "\n"}, {}),
        ({"kubernetes_service_account_token": "a b"}, {}),
        ({"kubernetes_service_account_token": "a\r\nx-evil: 1"}, {}),
        ({"kubernetes_service_account_token": "é"}, {}),
        ({"kubernetes_service_account_token_key_pair_id": "gone"}, {}),
        (FILE, {}),
        (FILE, {"/token": b"\n"}),
        (FILE, {"/token": b"\xff\xfe"}),
    ],
)
def test_without_a_token_the_route_is_closed_and_says_so(fields: dict[str, Any], files: dict[str, bytes]) -> None:
    """A-26: nor does it become a route that knows nothing of Kubernetes."""
    found, faults = one(files, allow_any_authenticated_user=True, **fields)

    assert found.kubernetes
    assert found.access.policy.closed == "kubernetes-token-missing"
    assert [(fault.field, fault.warning) for fault in faults] == [(next(iter(fields)), False)]
    assert "xfe" not in str(faults[0])


def test_a_route_whose_token_is_gone_does_not_go_on_with_the_one_before() -> None:
    named = route(id="k", **FILE)
    before, _ = compiled(config("c", named), read_file=lambda path: b"tok")

    after, faults = compiled(config("c", named), previous=before)  # where no file may be read

    assert (after.routes[0].kubernetes_token, after.routes[0].access.policy.closed) == ("", "kubernetes-token-missing")
    assert len(faults) == 1


def test_another_content_of_the_file_is_another_route() -> None:
    """A-33: by its key everything that remembers anything of it starts anew."""
    first, _ = one({"/token": b"one"}, **FILE)
    second, _ = one({"/token": b"two"}, **FILE)

    assert first.key != second.key


def test_a_control_plane_takes_the_file_on_trust() -> None:
    snapshot, faults = compiled(config("c", route(allow_any_authenticated_user=True, **FILE)), read_file=None)

    assert not faults
    assert not snapshot.routes[0].access.policy.closed


@pytest.mark.parametrize(
    "fields", [INLINE, {"enable_google_cloud_serverless_authentication": True, "to": ["https://run.app"]}]
)
def test_what_needs_an_answer_of_ours_is_asked_about_though_it_is_open_to_everybody(fields: dict[str, Any]) -> None:
    """A-26: an open route asks nobody, and so could neither impersonate nor prove anything."""
    found, faults = one(allow_public_unauthenticated_access=True, **fields)

    assert not faults
    assert not found.public


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("remove_request_headers", ["X-A", "Impersonate-User"]),
        ("remove_request_headers", ["x-pomerium-impersonate-groups"]),
        ("set_request_headers", {"Authorization": "Bearer other"}),
        ("set_request_headers", {"impersonate-user": "root"}),
    ],
)
def test_no_route_unsays_on_whose_behalf_kubernetes_is_asked(field: str, value: Any) -> None:
    """A-26: the router takes headers off after authorization has set them."""
    found, faults = one(**{field: value}, **INLINE)

    assert isinstance(found.action, Unavailable)
    assert [fault.field for fault in faults] == [field]
    assert not one(**{field: value})[1]  # elsewhere they are headers like any other


def test_no_claim_is_called_so_either() -> None:
    _, faults = compiled(config("c", jwt_claims_headers={"Impersonate-User": "email"}))

    assert [fault.field for fault in faults] == ["jwt_claims_headers"]


def test_kubectl_may_talk_for_as_long_as_it_likes() -> None:
    """A13, R-10."""
    found, _ = one(**INLINE)

    assert isinstance(found.action, Forward)
    assert dict(found.action.upgrades) == {"websocket": True, "spdy/3.1": True}
    assert found.action.upstream.http1_only
    assert (found.action.timeout, found.action.idle_timeout) == (timedelta(0), timedelta(0))
