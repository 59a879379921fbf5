"""The little language of `set_request_headers`: text with references such as `${pomerium.jwt}` (routes 5).

`${a.b["c"]}` and the short `$a.b` are references, `$$` is a dollar sign, and a dollar sign that begins
neither is itself. What a reference means is decided by whoever renders the template: for a request that
nobody authenticated, Envoy; for others, the authorization service.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_STEPS = rf"""{_NAME}(?:\.{_NAME}|\["[^"\]]*"\]|\['[^'\]]*'\])*"""
_TOKEN = re.compile(
    rf"\$(?:(?P<dollar>\$)|\{{\s*(?P<long>{_STEPS})\s*\}}|\{{(?P<broken>[^}}]*)\}}|(?P<short>{_STEPS}))"
)
_STEP = re.compile(rf"""(?:\.|^)({_NAME})|\["([^"\]]*)"\]|\['([^'\]]*)'\]""")


@dataclass(frozen=True, slots=True)
class Reference:
    """A value to be filled in: `${pomerium.request.headers["X"]}` is ("pomerium", "request", "headers", "X")."""

    path: tuple[str, ...]


def parse_template(template: str) -> tuple[str | Reference, ...]:
    """Text and references in order; never fails, since an unknown reference simply renders as nothing."""
    parts: list[str | Reference] = []
    end = 0
    for token in _TOKEN.finditer(template):
        parts.append(template[end : token.start()])
        end = token.end()
        if token["dollar"]:
            parts.append("$")
        else:
            parts.append(Reference(_path(token["long"] or token["short"] or "")))
    parts.append(template[end:])
    return tuple(part for part in parts if part != "")


def asks_who(templates: Iterable[str]) -> bool:
    """Whether any of them needs to know who makes the request, and not only what it is."""
    references = (part for each in templates for part in parse_template(each) if isinstance(part, Reference))
    return any(part.path[:1] == ("pomerium",) and part.path[1:2] != ("request",) for part in references)


def _path(steps: str) -> tuple[str, ...]:
    return tuple(next(part for part in step.groups() if part is not None) for step in _STEP.finditer(steps))
