"""The matchers of policy 5 as functions. Comparison is exact: no folding, no trimming, no coercion (P-12)."""

from collections.abc import Callable, Mapping, Sequence
from operator import methodcaller
from typing import Any, TypeVar

from pomerium_agent.policy.compiling import Compiling, Place
from pomerium_agent.policy.complaints import did_you_mean, shown
from pomerium_agent.policy.yaml_marks import Mapping as Object
from pomerium_agent.policy.yaml_marks import Marked, to_plain
from pomerium_agent.policy.yaml_marks import Sequence as List

Left = TypeVar("Left")
Test = Callable[[Left], bool]
StringTest = Callable[[str | None], bool]
ListTest = Callable[[Sequence[Any]], bool]

EXACT = ("is", "not", "in", "not_in")
PARTS = ("contains", "starts_with", "ends_with")


def same(left: object, right: object) -> bool:
    """Equality of JSON values: a boolean is no number, numbers are compared by value (P-12)."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, (int, float)) and isinstance(right, (int, float)):
        return left == right
    if isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    return type(left) is type(right) and left == right


def string_tests(data: Marked, place: Place, ask: Compiling) -> list[Test[str]] | None:
    """The conditions of a string matcher, for a left side that is defined; None after a complaint."""
    return _tests(data, place, ask, "is", _string_test, (*EXACT, *PARTS))


def string_matcher(data: Marked, place: Place, ask: Compiling) -> StringTest | None:
    """A string matcher; an undefined left side makes every operator false, negative ones too."""
    tests = string_tests(data, place, ask)
    if tests is None:
        return None
    only = together(tests)
    return lambda left: left is not None and only(left)


def together(tests: Sequence[Test[Any]]) -> Test[Any]:
    """All of these, for a left side that is defined."""
    if len(tests) == 1:
        return tests[0]
    conditions = tuple(tests)
    return lambda left: all([test(left) for test in conditions])


def list_matcher(data: Marked, place: Place, ask: Compiling) -> ListTest | None:
    """A string list matcher (P-14)."""
    tests = _tests(data, place, ask, "has", _list_test, ("has", "is", "exclude"))
    return None if tests is None else together(tests)


def _tests(
    data: Marked,
    place: Place,
    ask: Compiling,
    default: str,
    prepare: Callable[[str, Marked, Place, Compiling], Test[Any] | None],
    known: tuple[str, ...],
) -> list[Test[Any]] | None:
    """Several operators are ANDed (P-13); any datum but an object is the short form of the default one."""
    if not isinstance(data, Object):
        test = prepare(default, data, place, ask)
        return None if test is None else [test]
    if not data.items and ask.dialect.strict_matchers:
        ask.refuse(place, "an empty matcher matches everything", f"write {default}: and a value, or remove it")
        return None
    tests: list[Test[Any]] = []
    complete = True
    for name, datum in data.items.items():
        here = Place(data.lines[name], f"{place.path}.{name}")
        test = None
        if name in known:
            test = prepare(name, datum, here, ask)
        else:
            ask.refuse(
                here, f"there is no operator {shown(name)} here", did_you_mean(name, known, otherwise=_one_of(known))
            )
        if test is None:
            complete = False
        else:
            tests.append(test)
    return tests if complete else None


def _one_of(known: Sequence[str]) -> str:
    return f"use {', '.join(known[:-1])} or {known[-1]}"


def _string_test(name: str, data: Marked, place: Place, ask: Compiling) -> Test[str] | None:
    datum = to_plain(data, timestamps=True)
    if name in ("in", "not_in"):
        return _membership(name, data, datum, place, ask)
    if not _single(name, data, place, ask):
        return None
    if not isinstance(datum, str):
        never = name != "not"
        ask.warn(place, f"a text never equals {shown(datum)}", "put it in quotes")
        return lambda left: not never
    tests: dict[str, Test[str]] = {  # functions without a frame of their own: this is the hot path
        "is": datum.__eq__,
        "not": datum.__ne__,
        "contains": methodcaller("__contains__", datum),
        "starts_with": methodcaller("startswith", datum),
        "ends_with": methodcaller("endswith", datum),
    }
    return tests[name]


def _membership(name: str, data: Marked, datum: object, place: Place, ask: Compiling) -> Test[str] | None:
    if not isinstance(datum, list):
        ask.refuse(place, f"{name} needs an array, not {shown(datum)}", f"write {name}: [{shown(datum)}]")
        return None
    words = frozenset(item for item in datum if isinstance(item, str))
    for i, item in enumerate(datum):
        if not isinstance(item, str):
            spot = Place(data.items[i].line if isinstance(data, List) else place.line, f"{place.path}[{i}]")
            ask.warn(spot, f"a text never equals {shown(item)}", "put it in quotes")
    return words.__contains__ if name == "in" else (lambda left: left not in words)


def _single(name: str, data: Marked, place: Place, ask: Compiling) -> bool:
    """Whether a datum is one value (D3). An array is a mistaken `in`, and `not: [a]` lets all pass."""
    if not ask.dialect.strict_matchers or not isinstance(data, (List, Object)):
        return True
    each = "in" if name in ("is", *PARTS) else "not_in"
    remedy = f"use {each} for a text, or one criterion for each value"
    ask.refuse(
        place, f"{name} takes one value, and this is {'an array' if isinstance(data, List) else 'an object'}", remedy
    )
    return False


def _list_test(name: str, data: Marked, place: Place, ask: Compiling) -> ListTest | None:
    if ask.dialect.strict_matchers and isinstance(data, (List, Object)):
        kind = "an array" if isinstance(data, List) else "an object"
        ask.refuse(place, f"{name} takes one value, and this is {kind}", "write one criterion for each value")
        return None
    datum = to_plain(data, timestamps=True)
    if isinstance(datum, str):  # Python's own equality is exact for a text
        texts: dict[str, ListTest] = {
            "has": methodcaller("__contains__", datum),
            "is": lambda left: len(left) == 1 and left[0] == datum,
            "exclude": lambda left: datum not in left,
        }
        return texts[name]
    others: dict[str, ListTest] = {
        "has": lambda left: any(same(item, datum) for item in left),
        "is": lambda left: len(left) == 1 and same(left[0], datum),
        "exclude": lambda left: not any(same(item, datum) for item in left),
    }
    return others[name]
