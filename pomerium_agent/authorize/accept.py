"""Which form a client wants its answer in: the Accept algorithm of authorize.md 9.1."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105  # a token of the HTTP grammar, not a secret
_RANGE = re.compile(rf"\s*({_TOKEN})/({_TOKEN})\s*((?:;\s*{_TOKEN}\s*=\s*(?:{_TOKEN}|\"[^\"]*\")\s*)*)$")
_PARAMETER = re.compile(rf";\s*({_TOKEN})\s*=\s*({_TOKEN}|\"[^\"]*\")")

REDIRECTABLE = (
    "text/html",
    "application/json",
    "text/plain",
    "application/grpc-web-text",
    "application/grpc-web+proto",
    "application/grpc+proto",
)
MAX_ACCEPT = 4096  # characters; what is longer says nothing


@dataclass(frozen=True, slots=True)
class _Range:
    type: str
    subtype: str
    plain: bool  # no parameter but q
    weight: float


def preferred(accept: str, candidates: Sequence[str]) -> str | None:
    """The candidate that `accept` prefers; None when it accepts none of them, is empty or does not parse."""
    ranges = _parse(accept)
    for wanted in sorted(ranges, key=lambda r: -r.weight):  # stable: equal weights keep the client's order
        for candidate in candidates:
            if _matches(wanted, candidate):
                return candidate
    return None


def prefers_json(accept: str) -> bool:
    """Whether an error body should be JSON rather than a page."""
    return preferred(accept, ("text/html", "application/json")) == "application/json"


def wants_page(accept: str) -> bool:
    """Whether a redirect to the login page is of any use to whoever sent this (A-15)."""
    return preferred(accept, REDIRECTABLE) in (None, "text/html")


def _matches(wanted: _Range, candidate: str) -> bool:
    if wanted.type == "*":
        return wanted.subtype == "*"
    kind, _, subtype = candidate.partition("/")
    if wanted.type != kind:
        return False
    return wanted.subtype == "*" or (wanted.subtype == subtype and wanted.plain)


def _parse(accept: str) -> list[_Range]:
    """The ranges of the header; none at all when any of them is not a media range."""
    if len(accept) > MAX_ACCEPT:
        return []
    ranges = []
    for text in accept.lower().split(","):
        match = _RANGE.match(text)
        if match is None or (match[1] == "*" and match[2] != "*"):
            return []
        parameters = dict(_PARAMETER.findall(match[3]))
        quality = _quality(parameters.pop("q", ""))
        specific = 0.0 if match[1] == "*" else 0.00001 if match[2] == "*" else 0.00002
        ranges.append(_Range(match[1], match[2], not parameters, quality + 0.0001 * len(parameters) + specific))
    return ranges


def _quality(text: str) -> float:
    """`q`; absent, unreadable and zero all count as 1, as the reference has it."""
    try:
        return float(text) or 1.0
    except ValueError:
        return 1.0
