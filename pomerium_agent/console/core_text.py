"""Plain values as YAML that reads back as exactly the same values, whoever reads it: YAML 1.1 or 1.2. Pure."""

import re
from collections.abc import Mapping, Sequence

import yaml

Plain = None | bool | int | float | str | Sequence["Plain"] | Mapping[str, "Plain"]

# Texts that every reader of YAML takes for texts when PyYAML does; everything else is quoted.
_HARMLESS = re.compile(r"[A-Za-z_/][A-Za-z0-9_./:@+-]*( [A-Za-z0-9_./@+-]+)*")
_WIDTH = 2**31 - 1  # never fold: a folded text is hard to compare and to paste
# What YAML lets stand in a text of several lines.
_BLOCK = re.compile(r"[\x20-\x7e\n]*")


class _Dumper(yaml.SafeDumper):
    """Block style, no anchors."""

    def ignore_aliases(self, data: object) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, indentless=False)


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    style = None if _HARMLESS.fullmatch(text) else '"'
    if "\n" in text and _BLOCK.fullmatch(text) and " \n" not in text and not text.startswith((" ", "\n")):
        style = "|"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def to_yaml(value: Plain) -> str:
    """The value as YAML, keys in their order."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=_WIDTH)
    return text
