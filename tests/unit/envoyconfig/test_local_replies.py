"""What a client reads when Envoy answers by itself (routes 8.2, R-18)."""

import re

import pytest

from pomerium_agent.envoyconfig import pages
from pomerium_agent.envoyconfig.local_replies import build_local_replies
from pomerium_agent.look import Branding
from tests.fakes.snapshots import snapshot

_FLAGS = "DC DF DI DO DPE DT FI IH LH LR NC NFCF NR OM RFCF RL RLSE SI UC UF UH UMSDR UO UPE UR URX UT"
ALL_FLAGS = set(_FLAGS.split())
PAGES = [pages.NOT_FOUND, pages.UNREACHABLE, pages.TOO_SLOW, pages.STALLED, pages.NO_DECISION, pages.OTHER]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.title)
def test_a_page_has_no_percent_sign_that_envoy_would_trip_over(page: pages.Page) -> None:
    """R-12, R-18: one stray sign and Envoy refuses the listener."""
    rest = pages.render(page).replace("%%", "")
    commands = re.findall(r"%[A-Z_]+%", rest)

    assert set(commands) == {"%RESPONSE_CODE%", "%RESPONSE_CODE_DETAILS%", "%RESPONSE_FLAGS%", "%STREAM_ID%"}
    assert "%" not in re.sub(r"%[A-Z_]+%", "", rest)
    assert "http://" not in rest
    assert "https://" not in rest
    assert "prefers-color-scheme:dark" in rest


def test_a_page_takes_the_colours_pictures_and_words_of_the_house_and_escapes_them() -> None:
    """R-12: a stray sign in the branding would cost every visitor the listener, and markup must stay text."""
    branding = Branding(
        primary_color="hsl(210, 100%, 40%)",
        logo_url="https://x.example/%41.svg",
        favicon_url="javascript:alert(1)",
        first_paragraph="**100%** <script>alert(1)</script>",
    )

    page = pages.render(pages.NOT_FOUND, branding)

    assert "%" not in re.sub(r"%[A-Z_]+%", "", page.replace("%%", ""))
    assert "hsl(210, 100%%, 40%%)" in page
    assert "https://x.example/%%41.svg" in page
    assert "<strong>100%%</strong>" in page
    assert "<script" not in page
    assert "javascript:" not in page
    assert len(pages.render(pages.NOT_FOUND)) < len(page)


def test_every_failure_has_an_answer_for_every_kind_of_client() -> None:
    mappers = build_local_replies(snapshot().settings).mappers

    for kind in ("plain", "json", "grpc", None):
        flags: set[str] = set()
        for mapper in mappers:
            parts = list(mapper.filter.and_filter.filters) or [mapper.filter]
            wanted = [
                p.metadata_filter.matcher.value.string_match.exact for p in parts if p.HasField("metadata_filter")
            ]
            if wanted == ([kind] if kind else []):
                flags |= {flag for p in parts for flag in p.response_flag_filter.flags}
        assert flags >= ALL_FLAGS, kind


def test_refusals_of_the_authorization_service_are_left_alone() -> None:
    """Only UAEX together with 503 is ours to fill, and of those none that says that it was answered."""
    mine = [
        list(mapper.filter.and_filter.filters)
        for mapper in build_local_replies(snapshot().settings).mappers
        if "UAEX" in str(mapper.filter)
    ]

    assert len(mine) == 4  # HTML, text, JSON and gRPC
    for parts in mine:
        inner = [part for each in parts for part in (each.and_filter.filters or [each])]
        assert [
            p.status_code_filter.comparison.value.default_value for p in inner if p.HasField("status_code_filter")
        ] == [503]
        said = [
            (p.metadata_filter.matcher.value.bool_match, p.metadata_filter.match_if_key_not_found.value)
            for p in inner
            if [segment.key for segment in p.metadata_filter.matcher.path] == ["answered"]
        ]
        assert said == [(False, True)]


@pytest.mark.parametrize(
    ("flag", "code"),
    [("IH", 3), ("NR", 5), ("UT", 4), ("UC", 1), ("RL", 8), ("UPE", 13), ("DPE", 2), ("UH", 14), ("NC", 14)],
)
def test_grpc_clients_get_a_status_that_fits(flag: str, code: int) -> None:
    [mapper] = [
        mapper
        for mapper in build_local_replies(snapshot().settings).mappers
        if any(h.header.key == "grpc-status" for h in mapper.headers_to_add)
        and any(flag in part.response_flag_filter.flags for part in mapper.filter.and_filter.filters)
    ]

    assert {h.header.value for h in mapper.headers_to_add if h.header.key == "grpc-status"} == {str(code)}


@pytest.mark.parametrize(
    ("details", "grpc_status", "title"),
    [
        ("local_rate_limited", "8", "Too many requests"),
        ("max_duration_timeout", "4", "The application took too long"),
        ("request_overall_timeout", "4", "The request took too long to arrive"),
    ],
)
def test_what_envoy_has_no_flag_for_is_told_in_the_words_of_the_client(
    details: str, grpc_status: str, title: str
) -> None:
    """R-18: a limit, which is flagged only once it was answered, and timeouts of the connection manager."""
    found = [
        mapper
        for mapper in build_local_replies(snapshot().settings).mappers
        if any(p.extension_filter.name == details for p in (mapper.filter, *mapper.filter.and_filter.filters))
    ]

    kinds = [mapper.body_format_override.content_type.partition(";")[0] for mapper in found]
    assert kinds == ["text/plain", "application/json", "application/grpc+json", "text/html"]
    assert ("grpc-status", grpc_status) in {(h.header.key, h.header.value) for h in found[2].headers_to_add}
    assert title in found[3].body_format_override.text_format_source.inline_string


def test_answers_carry_the_headers_of_every_answer() -> None:
    for mapper in build_local_replies(snapshot(set_response_headers={"X-A": "5%"}).settings).mappers:
        assert [h.header.value for h in mapper.headers_to_add if h.header.key == "X-A"] == ["5%%"]
