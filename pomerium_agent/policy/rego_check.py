"""Which Rego we dare to evaluate: a small part of the language, all of whose words we know (policy 11.2 R3, P-26).

The engine calls a function that it lacks, or a variable that is bound nowhere, undefined; a deny rule that leans on
one would never fire. So a script is refused for the first word that is not on a list here.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

MAX_SCRIPT = 64 * 1024  # characters
MAX_DEPTH = 40
LOOKUP = "get_databroker_record"

# Exact in the engine, in OPA, and without any side effect.
_PURE = (
    "abs array.concat array.slice concat contains count endswith format_int indexof intersection is_array is_boolean "
    "is_null is_number is_object is_set is_string lower max min object.get object.keys replace sort split "
    "startswith sum trim trim_left trim_prefix trim_right trim_space trim_suffix type_name union upper"
)
_WORDS = "as contains default else every false if import in not null package some true set"
BUILTINS, _KEYWORDS = frozenset(_PURE.split()), frozenset(_WORDS.split())
# Functions of ours (rego.py) stand in for what the engine lacks, or does otherwise than OPA.
_REPLACED = {LOOKUP: "data.pomerium_agent.lookup", "object.get": "data.pomerium_agent.object_get"}
# What a script may read of its input, and which attribute of the facts that is.
READS = {
    "http.method": "method",
    "http.path": "path",
    "http.raw_path": "raw_path",
    "http.raw_query": "query",
    "http.host": "host",
    "http.hostname": "host",
    "http.headers": "headers",
    "http.ip": "ip",
    "session.id": "identity",
    "session.user_id": "identity",
    "is_valid_client_certificate": "certificate",
    "ssh.username": "ssh",
}
RECORDS = {
    "type.googleapis.com/session.Session": "identity",
    "type.googleapis.com/user.ServiceAccount": "identity",
    "type.googleapis.com/user.User": "identity",
    "pomerium.io/DirectoryUser": "identity",
    "type.googleapis.com/pomerium.device.Credential": "device",
    "type.googleapis.com/pomerium.device.Enrollment": "device",
}
_TOKEN = re.compile(
    r"""(?P<space>[ \t\r]+|\#[^\n]*)
    |(?P<line>\n)
    |(?P<text>"(?:[^"\\\n]|\\.)*"|`[^`]*`)
    |(?P<number>[0-9][0-9a-zA-Z_.]*)
    |(?P<word>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<mark>:=|==|!=|<=|>=|[-+*/%&|=<>.,;:(){}\[\]])""",
    re.VERBOSE,
)
_OPEN, _CLOSE = frozenset("([{"), frozenset(")]}")


class Unsuitable(Exception):
    """The script uses something that we do not evaluate; the text says what, and in which line."""


class Token(NamedTuple):
    kind: str
    text: str
    line: int
    at: int


@dataclass(frozen=True, slots=True)
class Checked:
    """A script that may be evaluated, with the calls we replace replaced."""

    source: str
    reads: frozenset[str]
    denies: bool  # it has a deny rule, so that an undefined deny is no answer


def check_rego(script: str) -> Checked:
    """Read a script word by word; raises Unsuitable."""
    if len(script) > MAX_SCRIPT:
        raise Unsuitable(f"the script is longer than {MAX_SCRIPT} characters")
    tokens = list(_tokens(script))
    checker = _Checker([rule for rule in _statements(tokens) if rule])
    checker.check()
    parts, end = [], 0
    for token, name in sorted(checker.replaced, key=lambda each: each[0].at):
        parts += [script[end : token.at], _REPLACED[name]]
        end = token.at + len(name)
    parts += [script[end:], "\n"]  # the engine cannot read a comment without an end
    source = "".join(parts)
    if not checker.packaged:
        source = "package pomerium.policy\n" + source
    return Checked(source, frozenset(checker.reads), "deny" in checker.rules)


def _tokens(script: str) -> Iterator[Token]:
    at, line = 0, 1
    while at < len(script):
        match = _TOKEN.match(script, at)
        if match is None:
            raise Unsuitable(f"line {line}: {script[at]!r} is not understood")
        kind = str(match.lastgroup)
        if kind != "space":
            yield Token(kind, match[0], line, at)
        line += match[0].count("\n")
        at = match.end()


def _statements(tokens: Sequence[Token]) -> Iterator[list[Token]]:
    """Packages, imports and rules: each begins a line outside of all brackets."""
    found: list[Token] = []
    depth = 0
    for i, token in enumerate(tokens):
        if token.text in _OPEN and token.kind == "mark":
            depth += 1
        elif token.text in _CLOSE and token.kind == "mark":
            depth -= 1
        if depth > MAX_DEPTH or depth < 0:
            raise Unsuitable(f"line {token.line}: brackets do not match, or are too deep")
        if token.kind == "line":
            after = next((later.text for later in tokens[i + 1 :] if later.kind != "line"), "")
            if depth == 0 and after not in ("else", "if", "{"):
                yield found
                found = []
        else:
            found.append(token)
    if depth:
        raise Unsuitable("a bracket is not closed")
    yield found


class _Checker:
    def __init__(self, statements: list[list[Token]]) -> None:
        self.reads: set[str] = set()
        self.replaced: list[tuple[Token, str]] = []
        self.packaged = False
        self.rules: dict[str, set[str]] = {}  # name → names of rules that it uses
        self._statements: list[list[Token]] = []
        for statement in statements:
            first = statement[0]
            words = "".join(token.text for token in statement[1:])
            if first.text == "package":
                if words != "pomerium.policy" or self.packaged:
                    raise Unsuitable(f"line {first.line}: the package must be pomerium.policy")
                self.packaged = True
            elif first.text == "import":
                if words != "rego.v1" and not re.fullmatch(r"future\.keywords(\.[a-z]+)?", words):
                    raise Unsuitable(f"line {first.line}: only rego.v1 may be imported, not {words[:40]}")
            else:
                self._statements.append(statement)
                self.rules.setdefault(_rule_name(statement), set())

    def check(self) -> None:
        for statement in self._statements:
            self._rule(statement)
        self._refuse_recursion()

    def _rule(self, statement: list[Token]) -> None:
        name = _rule_name(statement)
        known = _bound(statement)
        head = 1 if statement[0].text == "default" else 0
        for i, token in enumerate(statement):
            if token.kind != "word" or i == head or (i and statement[i - 1].text == "."):
                continue
            word = token.text
            if word == "input":
                self._input(statement, i)
            elif _is_call(statement, i):
                self._call(statement, i, name)
            elif word in _KEYWORDS or word in known:
                continue
            elif word in self.rules:
                self.rules[name].add(word)
            else:
                raise Unsuitable(f"line {token.line}: {word} is not evaluated here")

    def _input(self, statement: list[Token], i: int) -> None:
        path = _dotted(statement, i).removeprefix("input").removeprefix(".")
        if path.startswith("http.headers."):
            path = "http.headers"
        if path not in READS:
            raise Unsuitable(f"line {statement[i].line}: input.{path} is not given to scripts here")
        self.reads.add(READS[path])

    def _call(self, statement: list[Token], i: int, rule: str) -> None:
        function, token = _dotted(statement, i), statement[i]
        if function in self.rules:
            self.rules[rule].add(function)
        elif function == "set" and statement[i + 2 : i + 3] and statement[i + 2].text == ")":
            return  # set(), the empty one
        elif function == LOOKUP:
            opening = i + 1
            argument = statement[opening + 1] if opening + 1 < len(statement) else token
            record_type = argument.text[1:-1] if argument.kind == "text" else ""
            if record_type not in RECORDS:
                raise Unsuitable(f"line {token.line}: {LOOKUP} needs the type of a record that is known here")
            self.reads.update(("identity", RECORDS[record_type]))
        elif function not in BUILTINS:
            raise Unsuitable(f"line {token.line}: {function} is not evaluated here")
        if function in _REPLACED:
            self.replaced.append((token, function))

    def _refuse_recursion(self) -> None:
        """The engine would not stop; OPA refuses it as well."""
        reached = {name: set(used) for name, used in self.rules.items()}
        for _ in range(len(reached)):
            grown = {name: used.union(*(reached[other] for other in used)) for name, used in reached.items()}
            if grown == reached:
                break
            reached = grown
        for name, used in reached.items():
            if name in used:
                raise Unsuitable(f"the rule {name} uses itself")


def _rule_name(statement: list[Token]) -> str:
    token = statement[1] if statement[0].text == "default" and len(statement) > 1 else statement[0]
    if token.kind != "word" or token.text in _KEYWORDS or token.text in ("input", "data"):
        raise Unsuitable(f"line {token.line}: {token.text[:40]!r} begins no rule")
    if token.text == LOOKUP or token.text in BUILTINS:
        raise Unsuitable(f"line {token.line}: the name {token.text} is taken")
    return token.text


def _bound(statement: list[Token]) -> set[str]:
    """The variables of a rule: what it assigns, takes as parameters, or draws from a collection."""
    found = {"_"}
    for i, token in enumerate(statement):
        follows = statement[i + 1].text if i + 1 < len(statement) else ""
        if token.kind == "word" and i and follows == ":=" and token.text != "else" and statement[i - 1].text != ".":
            found.add(token.text)
        if token.kind == "word" and token.text in ("some", "every"):
            found |= _words_of_list(statement[i + 1 :])
    if len(statement) > 1 and statement[1].text == "(":  # a function, whose parameters are plain words
        found |= _words_of_list(statement[2:])
    if taken := found & ({"input", "data", "object", LOOKUP} | _KEYWORDS | BUILTINS):
        raise Unsuitable(f"line {statement[0].line}: {min(taken)} cannot be a variable")
    return found


def _words_of_list(tokens: list[Token]) -> set[str]:
    """`a, b` at the beginning of these."""
    found: set[str] = set()
    for token in tokens:
        if token.text != "," and (token.kind != "word" or token.text in _KEYWORDS):
            break
        if token.kind == "word":
            found.add(token.text)
    return found


def _is_call(statement: list[Token], i: int) -> bool:
    """Whether a dotted name here is followed by its bracket."""
    while i + 2 < len(statement) and statement[i + 1].text == "." and statement[i + 2].kind == "word":
        i += 2
    follows = statement[i + 1] if i + 1 < len(statement) else None
    return follows is not None and follows.text == "(" and follows.at == statement[i].at + len(statement[i].text)


def _dotted(statement: list[Token], i: int) -> str:
    words = [statement[i].text]
    while i + 2 < len(statement) and statement[i + 1].text == "." and statement[i + 2].kind == "word":
        words.append(statement[i + 2].text)
        i += 2
    return ".".join(words)
