"""Claims: how they are flattened at login, laid over each other, and written into a header. Pure."""

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

Claims = Mapping[str, tuple[Any, ...]]

NO_CLAIMS: Claims = MappingProxyType({})
LARGEST_PLAIN = 1e21  # integers below are written without an exponent


def flatten(claims: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    """Claims as an identity provider gives them, in the form that records hold (policy 4.2).

    Keys of nested objects are joined with dots, a list stays a list, a scalar becomes a list of one. An object that
    is inside a list stays an object; an empty object leaves nothing.
    """
    flat: dict[str, tuple[Any, ...]] = {}
    waiting: list[tuple[str, Mapping[str, Any]]] = [("", claims)]
    while waiting:  # no recursion: how deep they nest is decided elsewhere
        prefix, nested = waiting.pop()
        for key, value in nested.items():
            path = f"{prefix}{key}"
            if isinstance(value, Mapping):
                waiting.append((f"{path}.", value))
            elif isinstance(value, list | tuple):
                flat[path] = tuple(value)
            else:
                flat[path] = (value,)
    return flat


def overlay(session: Claims, user: Claims) -> Claims:
    """The claims that policies see: for a key in both, the user's whole list wins (P-11)."""
    if not user:
        return session
    if not session:
        return user
    return MappingProxyType({**session, **user})


def session_first(name: str, session: Claims, user: Claims) -> tuple[Any, ...] | None:
    """The claim that headers and the assertion carry: the session's, else the user's, else None (A-24)."""
    found = session.get(name)
    return found if found is not None else user.get(name)


def joined(values: Sequence[Any]) -> str:
    """A list of claim values as one text, joined with commas, without escaping (authorize 12)."""
    return ",".join(map(text, values))


def text(value: Any) -> str:
    """One claim value as text. Integers are plain, however large they are ([D] of authorize 12); nothing is empty."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return joined(value)
    if isinstance(value, Mapping):
        return json.dumps(thaw(value), separators=(",", ":"), sort_keys=True)
    return str(tidy_number(value))


def tidy_number(number: float) -> int | float | None:
    """A number of a protobuf Struct as what was meant: 3.0 is 3. What JSON cannot write is None."""
    if number != number or number in (float("inf"), float("-inf")):
        return None
    return int(number) if abs(number) < LARGEST_PLAIN and number == int(number) else number


def thaw(value: Any) -> Any:
    """A frozen value as JSON's own types."""
    if isinstance(value, Mapping):
        return {key: thaw(inner) for key, inner in value.items()}
    if isinstance(value, tuple | list):
        return [thaw(inner) for inner in value]
    return value


def claim_headers(payload: Mapping[str, Any], headers: Mapping[str, str]) -> dict[str, str]:
    """The value of each claim header (header name to claim name); empty without the claim, so that a forged one goes.

    `payload` is what the assertion says (authorize 12, row 2; A-19). Line breaks and NUL, which no header can carry,
    become spaces.
    """
    return {header: one_line(text(payload.get(claim))) for header, claim in headers.items()}


def one_line(value: str) -> str:
    """The text without the characters that would end a header."""
    return value if value.isprintable() else value.translate(_LINE_ENDS)


_LINE_ENDS = {ord("\r"): " ", ord("\n"): " ", 0: " "}
