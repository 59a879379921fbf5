"""A configuration as text, and back: import, export, import is a fixed point (zero link 17)."""

import json
from pathlib import Path
from typing import TypeVar, cast

import pytest
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from pomerium_agent.console.core_config import CoreConfig, parse_core_config, read_core_config
from pomerium_agent.console.core_export import FILE_FIELDS, duration_text, export_core
from pomerium_agent.console.core_keys import LEFT_OUT, ROUTE_COMPUTED, RUNTIME_FLAGS, SETTINGS_COMPUTED
from pomerium_agent.pb.pomerium import config_pb2
from tests.fakes.any_message import TEXTS, any_message
from tests.fakes.console import MIXED, QUICKSTART

M = TypeVar("M", bound=Message)

DECIDED_ELSEWHERE = frozenset({*LEFT_OUT, *SETTINGS_COMPUTED, "console_login_keys", "runtime_flags", "certificates"})
ROUTE_LOSSES = frozenset({*FILE_FIELDS, *ROUTE_COMPUTED, "policies", "ppl_policies", "ssh_policy"})

criteria = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
policies = st.lists(st.fixed_dictionaries({"allow": st.fixed_dictionaries({"or": st.lists(criteria, max_size=3)})}))


@st.composite
def configs(draw: st.DrawFn) -> config_pb2.Config:
    """What a file can say, and much that nobody would write."""
    config = config_pb2.Config()
    settings = _drawn(draw, config_pb2.Settings(), DECIDED_ELSEWHERE)
    if settings.ListFields():
        config.settings.MergeFrom(settings)
    for flag in draw(st.lists(st.sampled_from(sorted(RUNTIME_FLAGS)), max_size=1)):
        config.settings.runtime_flags.update({**RUNTIME_FLAGS, flag: draw(st.booleans())})
    for _ in range(draw(st.integers(0, 2))):
        config.settings.certificates.add(
            cert_bytes=f"-----BEGIN X-----\n{draw(TEXTS)}".encode(), key_bytes=b"-----BEGIN Y-----\nabc\n"
        )
    for number in range(draw(st.integers(0, 3))):
        route = config.routes.add()
        route.MergeFrom(_drawn(draw, route, ROUTE_LOSSES))
        route.id = f"{number}{draw(TEXTS)}"
        policy = draw(st.none() | policies)
        if policy is not None:
            route.policies.add(source_ppl=json.dumps(policy, ensure_ascii=False, separators=(",", ":")))
    return config


def _drawn(draw: st.DrawFn, like: M, without: frozenset[str]) -> M:
    return cast(M, draw(any_message(cast(Descriptor, like.DESCRIPTOR), without=without)))


def read(text: str) -> CoreConfig:
    found = parse_core_config(text, "exported.yaml", Path("/nonexistent"))
    assert not found.refused, [str(each) for each in found.complaints]
    return found


@given(configs())
def test_what_is_exported_is_read_back_as_the_same_configuration(config: config_pb2.Config) -> None:
    """Zero link 17."""
    exported = export_core(config)

    again = read(exported.text).config

    if not exported.notes:
        assert again == config
    assert read(export_core(again).text).config == again


@pytest.mark.parametrize("sample", [QUICKSTART, MIXED])
def test_a_real_file_comes_back_whole(sample: Path) -> None:
    config = read_core_config(sample).config

    exported = export_core(config)

    assert exported.notes == ()
    assert read(exported.text).config == config


def test_several_policies_become_one_with_all_their_rules() -> None:
    """Policy 3.2: what any of them allows is allowed, what any of them denies is denied."""
    config = config_pb2.Config()
    route = config.routes.add(to=["http://a"], **{"from": "https://a.example.com"})
    route.policies.add(source_ppl='{"allow":{"or":[{"email":{"is":"ada@example.com"}}]}}', name="people")
    route.policies.add(source_ppl="deny: {or: [{email: {is: eve@example.com}}]}", rego=["package x"])

    exported = export_core(config)

    (again,) = read(exported.text).config.routes
    (policy,) = again.policies
    assert json.loads(policy.source_ppl) == [
        {"allow": {"or": [{"email": {"is": "ada@example.com"}}]}},
        {"deny": {"or": [{"email": {"is": "eve@example.com"}}]}},
    ]
    assert exported.notes == ("route https://a.example.com → http://a: name of a policy cannot be said",)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (config_pb2.Route(policies=[config_pb2.Policy(rego=["package pomerium"])]), "written in Rego"),
        (config_pb2.Route(policies=[config_pb2.Policy(allowed_users=["ada"])]), "has allowed_users"),
        (config_pb2.Route(policies=[config_pb2.Policy(source_ppl='{"deny":{},"deny":{}}')]), "a key twice"),
        (config_pb2.Route(policies=[config_pb2.Policy(source_ppl="[")]), "neither JSON nor YAML"),
        (config_pb2.Route(policy_ids=["p"]), "kept elsewhere"),
        (config_pb2.Route(tls_downstream_client_ca_key_pair_id="k"), "kept elsewhere"),
        (config_pb2.Route(tls_downstream_client_ca_file="/ca.pem"), "file of another machine"),
    ],
)
def test_a_route_that_would_be_more_open_than_it_was_is_left_out(more: config_pb2.Route, why: str) -> None:
    config = config_pb2.Config()
    config.routes.add(to=["http://a"], allow_any_authenticated_user=True, **{"from": "https://a.example.com"})
    config.routes[0].MergeFrom(more)

    exported = export_core(config)

    assert exported.text == "{}\n"
    assert len(exported.notes) == 1
    assert "is left out" in exported.notes[0]
    assert why in exported.notes[0]


def test_what_a_cluster_decides_for_itself_is_named_and_not_written() -> None:
    config = config_pb2.Config()
    config.settings.shared_secret = "hunter2"
    config.settings.log_level = "info"

    exported = export_core(config)

    assert exported.text == "log_level: info\n"
    assert exported.notes == ("settings: shared_secret is left out: it is decided elsewhere",)
    assert "hunter2" not in repr(exported)


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [(0, "0s"), (1, "0.000000001s"), (90 * 10**9, "90s"), (-(5 * 10**8), "-0.5s"), (10**12, "1000s")],
)
def test_a_duration_is_exact(nanoseconds: int, text: str) -> None:
    assert duration_text(nanoseconds) == text
