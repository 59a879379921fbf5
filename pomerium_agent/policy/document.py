"""Policy text to a document: the grammar of policy 2, with every complaint at once (P-1)."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum

from pomerium_agent.policy.complaints import MOST_COMPLAINTS, Complaint, did_you_mean, printable, shown
from pomerium_agent.policy.yaml_marks import POLICY, Mapping, Marked, Scalar, mark, read_yaml, to_plain
from pomerium_agent.policy.yaml_marks import Sequence as List

MAX_TEXT = 4 * 1024 * 1024  # bytes; some forty thousand e-mail addresses


class Action(Enum):
    ALLOW = "allow"
    DENY = "deny"


class Operator(Enum):
    """In canonical order. Mind that `not` is none-of and `nor` is not-all-of (policy 3.1)."""

    AND = "and"
    OR = "or"
    NOT = "not"
    NOR = "nor"


@dataclass(frozen=True, slots=True)
class Term:
    """One criterion as written: `claim/x.io/role: admin` has the name `claim` and the sub path `x.io/role`."""

    name: str
    sub: str
    data: Marked
    line: int
    path: str  # "allow.and[1].email"

    @property
    def key(self) -> str:
        return f"{self.name}/{self.sub}" if self.sub else self.name

    def plain(self) -> object:
        """The data as JSON has it; times written out (policy 2.1)."""
        return to_plain(self.data, timestamps=True)


@dataclass(frozen=True, slots=True)
class Block:
    operator: Operator
    terms: tuple[Term, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    action: Action
    blocks: tuple[Block, ...]  # in canonical order; an empty block is as none
    line: int
    path: str


@dataclass(frozen=True, slots=True)
class Document:
    """One policy: rules whose order decides nothing."""

    rules: tuple[Rule, ...]
    source: str

    def canonical(self) -> list[dict[str, object]]:
        """The canonical JSON form: single-action objects, operators in their order."""
        return [
            {
                rule.action.value: {
                    block.operator.value: [{term.key: term.plain()} for term in block.terms] for block in rule.blocks
                }
            }
            for rule in self.rules
        ]


def parse_policy(text: object, *, source: str) -> tuple[Document | None, tuple[Complaint, ...]]:
    """Read a policy: YAML or JSON as text or bytes, or a decoded JSON value. Never raises; None when it is refused."""
    if isinstance(text, bytes):
        try:
            text = text.decode("utf-8-sig")
        except UnicodeDecodeError:
            return None, (Complaint(1, "", "this is not UTF-8", "save it as UTF-8 text", source),)
    if not isinstance(text, str):
        try:
            return _parse(mark(text), [], source)
        except (ValueError, RecursionError) as error:
            return None, (Complaint(0, "", f"this is no JSON value: {error}", "give an object or an array", source),)
    if len(text) > MAX_TEXT:
        reason = f"the policy is longer than {MAX_TEXT} characters"
        return None, (Complaint(1, "", reason, "put the names into a group", source),)
    quick = _read_json(text)
    if quick is not None:
        document, complaints = _parse(quick, [], source)
        if not complaints:
            return document, ()
    marked, problems = read_yaml(text, source, POLICY)
    if marked is None and quick is not None:
        return _parse(quick, [], source)  # JSON that YAML cannot read, such as an escaped pair of surrogates
    if marked is None:
        return None, tuple(problems)
    return _parse(marked, problems, source)


class _Twice(ValueError):
    pass


def _read_json(text: str) -> Marked | None:
    """JSON, three times as fast as through YAML but without lines; None if it is not, or if a key is given twice."""
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        return mark(json.loads(text, object_pairs_hook=_once))
    except (ValueError, RecursionError):
        return None


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _Twice
    return found


def _parse(marked: Marked, problems: list[Complaint], source: str) -> tuple[Document | None, tuple[Complaint, ...]]:
    parser = _Parser(source)
    rules = tuple(parser.document(marked))
    complaints = (*problems, *parser.complaints)
    return (None if complaints else Document(rules, source)), complaints


@dataclass(slots=True)
class _Parser:
    source: str
    complaints: list[Complaint] = field(default_factory=list)

    def refuse(self, line: int, path: str, reason: str, remedy: str) -> None:
        if len(self.complaints) < MOST_COMPLAINTS:
            self.complaints.append(Complaint(line, path, reason, remedy, self.source))

    def document(self, marked: Marked) -> Iterator[Rule]:
        if isinstance(marked, Mapping):
            yield from self.rules(marked, "")
        elif isinstance(marked, List):
            for i, item in enumerate(marked.items):
                if isinstance(item, Mapping):
                    yield from self.rules(item, f"[{i}].")
                else:
                    self.refuse(item.line, f"[{i}]", f"a rule must be an object, not {_kind(item)}", _EXAMPLE)
        else:
            self.refuse(marked.line, "", f"a policy must be an object or an array, not {_kind(marked)}", _EXAMPLE)

    def rules(self, marked: Mapping, prefix: str) -> Iterator[Rule]:
        for name, body in marked.items.items():
            path, line = prefix + printable(name), marked.lines[name]
            if name not in _ACTIONS:
                remedy = did_you_mean(name, _ACTIONS, otherwise="write allow or deny")
                self.refuse(line, path, f"there is no action {shown(name)}", remedy)
            elif isinstance(body, Mapping):
                yield Rule(_ACTIONS[name], self.blocks(body, path), line, path)
            else:
                self.refuse(line, path, f"{name} must be an object, not {_kind(body)}", _EXAMPLE)

    def blocks(self, body: Mapping, path: str) -> tuple[Block, ...]:
        found: dict[Operator, tuple[Term, ...]] = {}
        for name, terms in body.items.items():
            here, line = f"{path}.{printable(name)}", body.lines[name]
            if name == "action":
                continue
            if name not in _OPERATORS:
                remedy = did_you_mean(name, _OPERATORS, otherwise="write and, or, not or nor")
                self.refuse(line, here, f"there is no operator {shown(name)}", remedy)
            elif isinstance(terms, List):
                found[_OPERATORS[name]] = tuple(self.terms(terms.items, here))
            else:
                remedy = "put it into a list: a dash before each criterion"
                self.refuse(line, here, f"{name} must be an array, not {_kind(terms)}", remedy)
        return tuple(Block(operator, found[operator]) for operator in Operator if operator in found)

    def terms(self, items: Sequence[Marked], path: str) -> Iterator[Term]:
        for i, item in enumerate(items):
            here = f"{path}[{i}]"
            if not isinstance(item, Mapping):
                self.refuse(item.line, here, f"a criterion must be an object, not {_kind(item)}", _hint(item))
            elif len(item.items) != 1:
                names = ", ".join(shown(name) for name in list(item.items)[:5])
                reason = f"a criterion must have one key, not {len(item.items)}{': ' + names if names else ''}"
                self.refuse(item.line, here, reason, "make each its own element of the list")
            else:
                ((key, data),) = item.items.items()
                name, _, sub = key.partition("/")
                yield Term(name, sub, data, item.lines[key], f"{here}.{printable(key)}")


_ACTIONS = {action.value: action for action in Action}
_OPERATORS = {operator.value: operator for operator in Operator}
_EXAMPLE = "write, for example, allow: {and: [{authenticated_user: true}]}"


def _hint(item: Marked) -> str:
    if isinstance(item, Scalar) and isinstance(item.value, str):
        return f"write {shown(item.value)}: with its value behind it"
    return "write name: value"


def _kind(marked: Marked) -> str:
    if isinstance(marked, Mapping):
        return "an object"
    if isinstance(marked, List):
        return "an array"
    return "null" if marked.value is None else shown(marked.value)


def serious(complaints: Iterable[Complaint]) -> bool:
    """Whether one of them keeps the policy from being used."""
    return any(not complaint.warning for complaint in complaints)
