"""The filter of a query: from the Struct a client sends to an expression that a backend can look up.

    {"id": "a"}                              id equals a
    {"id": ["a", "b"]}                       id equals a, or id equals b
    {"$or": [{"id": "a"}, {"$index": "a"}]}  either of the two
    {"a": {"b": 1}, "c": true}               a.b equals 1, and c equals true

Databroker 6 has the whole table (D-21). What cannot be read raises InvalidRequest; an operator that the protocol
knows and no backend can look up raises Unsupported.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from pomerium_agent.errors import InvalidRequest, Unsupported

MAX_DEPTH = 64  # well below what a Struct may nest; a filter that deep is a mistake or an attack
EXPONENT_FROM = 6  # from this power of ten on, Go's shortest form has an exponent: 1e+06
EQUALS = frozenset({"=", "==", "$eq", "$equals", "$is"})
UNSUPPORTED = frozenset(
    {
        "!=",
        "$doesNotEqual",
        ">",
        ">=",
        "<",
        "<=",
        "$after",
        "$before",
        "$onOrAfter",
        "$onOrBefore",
        "$contains",
        "$doesNotContain",
        "$startsWith",
        "$endsWith",
        "$isAnyOf",
        "$isEmpty",
        "$isNotEmpty",
    }
)


@dataclass(frozen=True, slots=True)
class Equals:
    """The field at `path` reads, as text, exactly `value`."""

    path: tuple[str, ...]
    value: str


@dataclass(frozen=True, slots=True)
class And:
    """All of `terms` hold."""

    terms: tuple["Expression", ...]


@dataclass(frozen=True, slots=True)
class Or:
    """One of `terms` holds; none does when there are none."""

    terms: tuple["Expression", ...]


@dataclass(frozen=True, slots=True)
class Not:
    """`term` does not hold."""

    term: "Expression"


Expression = Equals | And | Or | Not


def parse_filter(filter: Mapping[str, object] | None) -> Expression | None:
    """Read the filter of a query; None, and an empty one, select everything. Pure."""
    if not filter:
        return None
    return _object(filter, ())


def _object(value: Mapping[str, object], path: tuple[str, ...], depth: int = 0) -> Expression:
    """All members hold; they are taken in sorted order, so that equal filters are equal expressions."""
    if not value:
        raise InvalidRequest(f"filter: {_where(path)} holds an empty object, which compares nothing")
    return _one_or(And, tuple(_member(key, value[key], path, depth + 1) for key in sorted(value)))


def _member(key: str, value: object, path: tuple[str, ...], depth: int) -> Expression:
    if key in ("$and", "$or"):
        if not isinstance(value, list | tuple):
            raise InvalidRequest(f"filter: {key} at {_where(path)} needs a list")
        terms = tuple(_value(item, path, depth) for item in value)
        if key == "$or":
            return _one_or(Or, terms)
        if not terms:
            raise InvalidRequest(f"filter: $and at {_where(path)} has an empty list, which compares nothing")
        return _one_or(And, terms)
    if key == "$not":
        return Not(_value(value, path, depth))
    if key in EQUALS:
        return _value(value, path, depth)
    if key in UNSUPPORTED:
        raise Unsupported(f"filter: the operator {key} at {_where(path)} is not supported; use $eq, $and, $or")
    return _value(value, (*path, key), depth)


def _value(value: object, path: tuple[str, ...], depth: int) -> Expression:
    """A scalar is compared, a list is one of its items, an object goes deeper."""
    if depth > MAX_DEPTH:
        raise InvalidRequest(f"filter: nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, Mapping):
        return _object(value, path, depth)
    if isinstance(value, list | tuple):
        return _one_or(Or, tuple(_value(item, path, depth + 1) for item in value))
    if not path:
        raise InvalidRequest("filter: a value stands where a field name is expected")
    return Equals(path, as_text(value))


def _one_or(kind: type[And] | type[Or], terms: tuple[Expression, ...]) -> Expression:
    return terms[0] if len(terms) == 1 else kind(terms)


def _where(path: tuple[str, ...]) -> str:
    return repr(".".join(path)) if path else "the top"


def as_text(value: object) -> str:
    """A scalar as the text it is compared as: null is empty, numbers are in Go's shortest form."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return _number(float(value))
    if isinstance(value, str):
        return value
    raise InvalidRequest(f"filter: a value of kind {type(value).__name__} cannot be compared")


def _number(value: float) -> str:
    """What Go's strconv writes for format 'g' with the fewest digits that read back as the same number."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    sign, digit_tuple, tail = Decimal(repr(value)).as_tuple()
    if not isinstance(tail, int):
        raise TypeError(f"{value!r} is finite and has no exponent")
    written = "".join(map(str, digit_tuple))
    digits = written.rstrip("0") or "0"
    exponent = 0 if digits == "0" else len(written) + tail - 1  # of the first digit
    minus = "-" if sign else ""
    if -4 <= exponent < EXPONENT_FROM:
        return minus + _plain(digits, exponent)
    fraction = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{minus}{digits[0]}{fraction}e{'-' if exponent < 0 else '+'}{abs(exponent):02d}"


def _plain(digits: str, exponent: int) -> str:
    if exponent < 0:
        return "0." + "0" * (-exponent - 1) + digits
    whole, fraction = digits[: exponent + 1].ljust(exponent + 1, "0"), digits[exponent + 1 :]
    return f"{whole}.{fraction}" if fraction else whole
