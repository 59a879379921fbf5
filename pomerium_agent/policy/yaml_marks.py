"""YAML and JSON read as values that know their line, by the rules of YAML 1.2: `no` is a word, 014 is fourteen.

PyYAML alone would keep the last of two equal keys and read words, times and dates as something else
(dependencies.md P6).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from typing import Any, cast

import yaml

from pomerium_agent.policy.complaints import MOST_COMPLAINTS, Complaint
from pomerium_agent.policy.yaml_words import GO_WORDS, WORDS, go_whole, is_moment, plain_whole, rfc3339, word_teller

MAX_REPEATED = 200_000  # values that aliases repeat, so that a small file cannot grow without bound
MAX_DEPTH = 100
Plain = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Scalar:
    """One word. `text` is as written, `value` what it means."""

    line: int
    text: str
    value: Plain
    timestamp: bool = False  # an unquoted date or time, still a text here


@dataclass(frozen=True, slots=True)
class Sequence:
    line: int
    items: "tuple[Marked, ...]"


@dataclass(frozen=True, slots=True)
class Mapping:
    """`lines` has the line of each key."""

    line: int
    items: "dict[str, Marked]"
    lines: dict[str, int]


Marked = Scalar | Sequence | Mapping


_TAG = "tag:yaml.org,2002:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How strictly, and by whose rules, a text is read."""

    kind_of: Callable[[str], str]  # what a plain word is
    whole: Callable[[str], int | float]  # the number that a word of digits is
    one_document: bool  # complain about a second one, or never look at it
    as_json: bool  # keys are texts and numbers are finite; else 404 as a key is the word "404"
    example: str  # what to write instead of nothing


FILE = Reading(kind_of=word_teller(WORDS), whole=plain_whole, one_document=True, as_json=False, example="routes: []")
POLICY = Reading(
    kind_of=word_teller(GO_WORDS), whole=go_whole, one_document=False, as_json=True, example="[]"
)  # policy 2.1


def read_yaml(text: str, file: str, reading: Reading = FILE) -> tuple[Marked | None, list[Complaint]]:
    """The first document of a text, and all that is wrong with its form. None when it cannot be read at all."""
    loader = yaml.CSafeLoader(text)
    reader = _Reader(loader, file, reading)
    try:
        return reader.document(), reader.complaints
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = min(mark.line, text.count("\n")) + 1 if mark is not None else 1
        reason = " ".join(part for part in (error.context, error.problem) if part)
        reader.complain(line, "", f"this is not YAML: {reason}", "check indentation, colons and quotes here")
    except yaml.YAMLError as error:  # a control character, for example
        reason = " ".join(str(error).split())
        reader.complain(1, "", f"this is not YAML: {reason}", "save it as UTF-8 text")
    except UnicodeEncodeError:  # half of a surrogate pair, which no text may hold
        reader.complain(1, "", "this is not YAML: it holds half a character", "save it as UTF-8 text")
    except _TooMuch:
        remedy = "look for an alias that repeats itself"
        reader.complain(1, "", "the file holds too many values, or too deep", remedy)
    finally:
        loader.dispose()
    return None, reader.complaints


class _TooMuch(Exception):
    pass


class _Reader:
    """Walks the parser's events once and keeps what they mean and where they stand.

    Events, since libyaml builds nodes by recursion in C, where a file of brackets overruns the stack.
    """

    def __init__(self, loader: yaml.CSafeLoader, file: str, reading: Reading) -> None:
        self.complaints: list[Complaint] = []
        self._loader = loader
        self._file = file
        self._reading = reading
        self._anchors: dict[str, tuple[Marked, int] | None] = {}  # None: not read to its end yet
        self._count = 0  # values so far
        self._repeated = 0  # of them by aliases

    def complain(self, line: int, path: str, reason: str, remedy: str) -> None:
        if len(self.complaints) < MOST_COMPLAINTS:
            self.complaints.append(Complaint(line, path, reason, remedy, self._file))

    def document(self) -> Marked | None:
        self._next()  # the start of the stream
        if isinstance(self._next(), yaml.StreamEndEvent):
            self.complain(1, "", "the file is empty", f"give at least `{self._reading.example}`")
            return None
        event = self._next()
        found = self._read(event, "", 0)
        self._next()  # the end of the document
        last = isinstance(self._next(), yaml.StreamEndEvent)  # raises when it is neither an end nor a beginning
        if self._reading.one_document and not last:
            reason, remedy = "there are several documents in this file", "put what follows --- in its own file"
            self.complain(_line(event), "", reason, remedy)
        return found

    def _next(self) -> yaml.Event:
        event = self._loader.get_event()
        assert event is not None  # noqa: S101  # nobody asks after the end of the stream
        return event

    def _read(self, event: yaml.Event, path: str, depth: int) -> Marked:
        self._count += 1
        if depth > MAX_DEPTH:
            raise _TooMuch
        if isinstance(event, yaml.ScalarEvent):
            scalar = self._scalar(event, path)
            if event.anchor:
                self._anchors[event.anchor] = scalar, 1
            return scalar
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        assert isinstance(event, (yaml.SequenceStartEvent, yaml.MappingStartEvent))  # noqa: S101  # no other node
        before = self._count
        if event.anchor:
            self._anchors[event.anchor] = None
        found: Marked
        if isinstance(event, yaml.SequenceStartEvent):
            found = self._sequence(event, path, depth)
        else:
            found = self._mapping(event, path, depth)
        if event.anchor:
            self._anchors[event.anchor] = found, self._count - before + 1
        return found

    def _alias(self, event: yaml.AliasEvent) -> Marked:
        if event.anchor not in self._anchors:
            raise yaml.MarkedYAMLError(None, None, f"found undefined alias {event.anchor}", cast(Any, event.start_mark))
        known = self._anchors[event.anchor]
        if known is None:  # inside of itself
            raise _TooMuch
        found, size = known
        self._count += size
        self._repeated += size
        if self._repeated > MAX_REPEATED:
            raise _TooMuch
        return found

    def _sequence(self, event: yaml.SequenceStartEvent, path: str, depth: int) -> Sequence:
        items: list[Marked] = []
        while not isinstance(item := self._next(), yaml.SequenceEndEvent):
            items.append(self._read(item, f"{path}[{len(items)}]", depth + 1))
        return Sequence(_line(event), tuple(items))

    def _mapping(self, event: yaml.MappingStartEvent, path: str, depth: int) -> Mapping:
        items: dict[str, Marked] = {}
        lines: dict[str, int] = {}
        merged: list[Mapping] = []
        while not isinstance(key := self._next(), yaml.MappingEndEvent):
            line = _line(key)
            if isinstance(key, yaml.ScalarEvent) and self._kind(key) == "merge":
                merged.extend(self._merged(self._next(), path, depth))
                continue
            name = self._name(key, path, depth)
            here = f"{path}.{name}" if path else name or ""
            value = self._read(self._next(), here, depth + 1)
            if name is None:
                continue
            if name in items:
                reason = f"the key {name} is given twice, first in line {lines[name]}"
                self.complain(line, here, reason, "keep one of the two")
                continue
            items[name] = value
            lines[name] = line
        for source in merged:  # a key's own value wins over a merged one, an earlier merge over a later one
            for name, marked in source.items.items():
                if name not in items:
                    items[name], lines[name] = marked, source.lines[name]
        return Mapping(_line(event), items, lines)

    def _name(self, key: yaml.Event, path: str, depth: int) -> str | None:
        """The word that a key is; None after a complaint."""
        if isinstance(key, yaml.AliasEvent):
            marked = self._alias(key)
            if isinstance(marked, Scalar) and (not self._reading.as_json or isinstance(marked.value, str)):
                return marked.text
        elif isinstance(key, yaml.ScalarEvent):
            marked = self._read(key, path, depth)
            assert isinstance(marked, Scalar)  # noqa: S101  # of a scalar's event
            text_key = isinstance(marked.value, str) and not marked.timestamp
            if not self._reading.as_json or text_key:
                return marked.text
            reason = f"the key {marked.text} is not a text"
            self.complain(_line(key), path, reason, "put it in quotes")
            return None
        else:
            self._read(key, path, depth + 1)
        self.complain(_line(key), path, "a key must be a word, not a list or a mapping", "write it as one word")
        return None

    def _merged(self, event: yaml.Event, path: str, depth: int) -> list[Mapping]:
        value = self._read(event, path, depth + 1)
        found: list[Mapping] = []
        for source in value.items if isinstance(value, Sequence) else [value]:
            if isinstance(source, Mapping):
                found.append(source)
            else:
                self.complain(source.line, path, "<< merges mappings only", "give it an alias of a mapping")
        return found

    def _kind(self, event: yaml.ScalarEvent) -> str:
        if event.tag is None or event.tag == "!":
            return self._reading.kind_of(event.value) if event.implicit[0] else "str"
        return event.tag.removeprefix(_TAG)

    def _scalar(self, event: yaml.ScalarEvent, path: str) -> Scalar:
        text, line, kind = event.value, _line(event), self._kind(event)
        if kind in ("str", "merge"):
            return Scalar(line, text, text)
        if kind == "timestamp":
            return Scalar(line, text, text, timestamp=is_moment(text))
        if kind == "null":
            return Scalar(line, text, None)
        try:
            if kind == "bool":
                return Scalar(line, text, {"true": True, "false": False}[text.lower()])
            if kind == "int":
                return Scalar(line, text, self._reading.whole(text))
            if kind == "float":
                number = float(re.sub(r"\.(?=inf|nan)", "", text.lower().replace("_", "")))
                if self._reading.as_json and not isfinite(number):
                    self.complain(line, path, f"{text[:80]!r} is no finite number", "put it in quotes if it is a word")
                return Scalar(line, text, number)
        except (ValueError, KeyError):
            self.complain(line, path, f"{text[:80]!r} is no value of type {kind}", f"remove the !!{kind} before it")
            return Scalar(line, text, text)
        self.complain(line, path, f"the tag {event.tag} means nothing here", "remove it")
        return Scalar(line, text, text)


def _line(event: yaml.Event) -> int:
    assert event.start_mark is not None  # noqa: S101  # the parser marks all it reads
    return event.start_mark.line + 1


def mark(value: object, *, depth: int = 0) -> Marked:
    """A value that was decoded elsewhere, as if it had been read here; it has no lines. Raises ValueError."""
    if depth > MAX_DEPTH:
        raise ValueError("the value is too deep")
    if isinstance(value, dict):
        if not all(isinstance(name, str) for name in value):
            raise ValueError("a key is not a text")
        items = {name: mark(item, depth=depth + 1) for name, item in value.items()}
        return Mapping(0, items, dict.fromkeys(items, 0))
    if isinstance(value, (list, tuple)):
        return Sequence(0, tuple(mark(item, depth=depth + 1) for item in value))
    if value is None or isinstance(value, (str, int, float)):
        if isinstance(value, float) and not isfinite(value):
            raise ValueError("a number is not finite")
        return Scalar(0, "" if value is None else str(value), value)
    raise ValueError(f"a {type(value).__name__} is no JSON value")


def to_plain(marked: Marked, *, timestamps: bool = False) -> object:
    """The value without its lines, as JSON would hold it. `timestamps`: as full RFC 3339 texts (policy 2.1)."""
    if isinstance(marked, Mapping):
        return {name: to_plain(item, timestamps=timestamps) for name, item in marked.items.items()}
    if isinstance(marked, Sequence):
        return [to_plain(item, timestamps=timestamps) for item in marked.items]
    if marked.timestamp and timestamps:
        return rfc3339(marked.text)
    return marked.value
