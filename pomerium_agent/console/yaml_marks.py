"""YAML and JSON read as values that know their line, by the rules of YAML 1.2: `no` is a word, 014 is fourteen.

PyYAML alone would keep the last of two equal keys and read words, times and dates as something else
(dependencies.md P6).
"""

import re
from dataclasses import dataclass
from functools import lru_cache

import yaml

from pomerium_agent.console.complaints import Complaint

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
_PLAIN = tuple(
    (_TAG + tag, re.compile(pattern))
    for tag, pattern in (
        ("bool", r"true|True|TRUE|false|False|FALSE"),
        ("null", r"~|null|Null|NULL|"),
        ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"),
        ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"),
        (
            "timestamp",
            r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}"
            r"([Tt][0-9]{1,2}:[0-9]{1,2}:[0-9]{1,2}(\.[0-9]+)?(Z|[-+][0-9]{2}:[0-9]{2})"
            r"| [0-9]{1,2}:[0-9]{1,2}:[0-9]{1,2}(\.[0-9]+)?)?",
        ),
        ("merge", r"<<"),
    )
)


@lru_cache(maxsize=65_536)  # most words of a long file are its keys, again and again
def _tag_of(word: str) -> str:
    """What a plain word is."""
    return next((tag for tag, pattern in _PLAIN if pattern.fullmatch(word)), _TAG + "str")


class _Loader(yaml.CSafeLoader):
    """libyaml's parser with YAML 1.2's reading of plain words."""

    def resolve(self, kind: type[yaml.Node], value: str, implicit: tuple[bool, bool]) -> str:
        if kind is yaml.ScalarNode:
            return _tag_of(value) if implicit[0] else _TAG + "str"
        return _TAG + ("seq" if kind is yaml.SequenceNode else "map")


def read_yaml(text: str, file: str) -> tuple[Marked | None, list[Complaint]]:
    """The first document of a text, and all that is wrong with its form. None when it cannot be read at all."""
    loader = _Loader(text)
    try:
        node = loader.get_node() if loader.check_node() else None
        several = node is not None and loader.check_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = min(mark.line, text.count("\n")) + 1 if mark is not None else 1
        reason = " ".join(part for part in (error.context, error.problem) if part)
        return None, [
            Complaint(line, "", f"this is not YAML: {reason}", "check indentation, colons and quotes here", file)
        ]
    except yaml.YAMLError as error:  # a control character, for example
        reason = " ".join(str(error).split())
        return None, [Complaint(1, "", f"this is not YAML: {reason}", "save it as UTF-8 text", file)]
    finally:
        loader.dispose()
    if node is None:
        return None, [Complaint(1, "", "the file is empty", "give at least `routes: []`", file)]
    reader = _Reader(file)
    if several:
        reader.complain(node, "", "there are several documents in this file", "put what follows --- in its own file")
    try:
        return reader.read(node, "", 0), reader.complaints
    except _TooMuch:
        reader.complain(
            node, "", "the file holds too many values, or too deep", "look for an alias that repeats itself"
        )
        return None, reader.complaints


class _TooMuch(Exception):
    pass


class _Reader:
    """Walks the nodes once and keeps what they mean and where they stand."""

    def __init__(self, file: str) -> None:
        self.complaints: list[Complaint] = []
        self._file = file
        self._repeated = 0
        self._seen: set[int] = set()  # of nodes, which all live until the end of the walk

    def complain(self, node: yaml.Node, path: str, reason: str, remedy: str) -> None:
        self.complaints.append(Complaint(_line(node), path, reason, remedy, self._file))

    def read(self, node: yaml.Node, path: str, depth: int) -> Marked:
        if id(node) in self._seen:
            self._repeated += 1
        self._seen.add(id(node))
        if self._repeated > MAX_REPEATED or depth > MAX_DEPTH:
            raise _TooMuch
        if isinstance(node, yaml.SequenceNode):
            items = tuple(self.read(item, f"{path}[{i}]", depth + 1) for i, item in enumerate(node.value))
            return Sequence(_line(node), items)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, depth)
        return self._scalar(node, path)

    def _mapping(self, node: yaml.MappingNode, path: str, depth: int) -> Mapping:
        items: dict[str, Marked] = {}
        lines: dict[str, int] = {}
        merged: list[Mapping] = []
        for key, value in node.value:
            if key.tag == _TAG + "merge":
                merged.extend(self._merged(value, path, depth))
                continue
            if not isinstance(key, yaml.ScalarNode):
                self.complain(key, path, "a key must be a word, not a list or a mapping", "write it as one word")
                continue
            name = key.value
            here = f"{path}.{name}" if path else name
            if name in items:
                self.complain(
                    key, here, f"the key {name} is given twice, first in line {lines[name]}", "keep one of the two"
                )
                continue
            items[name] = self.read(value, here, depth + 1)
            lines[name] = _line(key)
        for source in merged:  # a key's own value wins over a merged one, an earlier merge over a later one
            for name, marked in source.items.items():
                if name not in items:
                    items[name], lines[name] = marked, source.lines[name]
        return Mapping(_line(node), items, lines)

    def _merged(self, value: yaml.Node, path: str, depth: int) -> list[Mapping]:
        sources = value.value if isinstance(value, yaml.SequenceNode) else [value]
        found: list[Mapping] = []
        for source in sources:
            marked = self.read(source, path, depth + 1)
            if isinstance(marked, Mapping):
                found.append(marked)
            else:
                self.complain(source, path, "<< merges mappings only", "give it an alias of a mapping")
        return found

    def _scalar(self, node: yaml.Node, path: str) -> Scalar:
        text: str = node.value
        line, kind = _line(node), node.tag.removeprefix(_TAG)
        if kind in ("str", "merge", "!"):
            return Scalar(line, text, text)
        if kind == "timestamp":
            return Scalar(line, text, text, timestamp=True)
        if kind == "null":
            return Scalar(line, text, None)
        try:
            if kind == "bool":
                return Scalar(line, text, {"true": True, "false": False}[text.lower()])
            if kind == "int":
                return Scalar(line, text, int(text, 0 if text[:2] in ("0x", "0o") else 10))
            if kind == "float":
                return Scalar(line, text, float(re.sub(r"\.(?=inf|nan)", "", text.lower())))
        except (ValueError, KeyError):
            self.complain(node, path, f"{text!r} is no value of type {kind}", f"remove the !!{kind} before it")
            return Scalar(line, text, text)
        self.complain(node, path, f"the tag {node.tag} means nothing here", "remove it")
        return Scalar(line, text, text)


def _line(node: yaml.Node) -> int:
    line: int = node.start_mark.line
    return line + 1


def to_plain(marked: Marked, *, timestamps: bool = False) -> object:
    """The value without its lines, as JSON would hold it. `timestamps`: as full RFC 3339 texts (policy 2.1)."""
    if isinstance(marked, Mapping):
        return {name: to_plain(item, timestamps=timestamps) for name, item in marked.items.items()}
    if isinstance(marked, Sequence):
        return [to_plain(item, timestamps=timestamps) for item in marked.items]
    if marked.timestamp and timestamps:
        return _rfc3339(marked.text)
    return marked.value


def _rfc3339(text: str) -> str:
    """`2020-1-2` as `2020-01-02T00:00:00Z`; a time without a zone is UTC."""
    date, separator, time = re.sub(r"[Tt ]", "T", text, count=1).partition("T")
    year, month, day = date.split("-")
    if not separator:
        time = "00:00:00Z"
    clock = re.fullmatch(r"(\d+):(\d+):(\d+)(\.\d+)?(.*)", time)
    assert clock is not None  # noqa: S101  # the resolver matched the same shape
    fraction = (clock[4] or "").rstrip("0").rstrip(".")
    zone = "Z" if clock[5] in ("", "Z", "+00:00") else clock[5]
    return (
        f"{year}-{int(month):02}-{int(day):02}T{int(clock[1]):02}:{int(clock[2]):02}:{int(clock[3]):02}{fraction}{zone}"
    )
