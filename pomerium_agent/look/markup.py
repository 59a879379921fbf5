"""Markup that cannot be written by accident: a string is text, and is escaped, unless it is `Html` already."""

import re
from collections.abc import Iterable
from html import escape

# What no honest name holds and what garbles a page: control characters, halves of characters, and the marks that turn
# the direction of what follows (a host name could be shown as another).
_UNFIT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_LINK = re.compile(
    r"(?:https?://|mailto:)[^\s\x00-\x1f\x7f<>\"'\\]+|/(?![/\\])[^\s\x00-\x1f\x7f<>\"'\\]*|[?#][^\s\x00-\x1f\x7f<>\"'\\]*"
)
_PICTURE = re.compile(
    r"https?://[^\s\x00-\x1f\x7f\"'<>()\\]{1,2000}|/(?![/\\])[^\s\x00-\x1f\x7f\"'<>()\\]{1,2000}"
    r"|data:image/[a-z+.-]{1,20};base64,[A-Za-z0-9+/=]{1,100000}"
)
_LINKS = frozenset({"href", "action"})
_VOID = frozenset({"br", "img", "input", "link", "meta"})
_BLOCKS = frozenset(
    (
        *("article", "button", "dd", "details", "dl", "dt", "div", "footer", "form", "h1", "h2", "header", "img"),
        *("input", "label", "li", "main", "meta", "nav", "ol", "p", "pre", "section", "summary", "table", "tbody"),
        *("td", "th", "thead", "tr", "ul"),
    )
)


class Html(str):
    """Markup. Whatever is joined to it by `tag` or `join` and is not `Html` is text."""

    __slots__ = ()


NOTHING = Html()


def text(words: str) -> str:
    """`words` as they may stand in a page, between tags or inside a quoted attribute."""
    return escape(_UNFIT.sub("\ufffd", words))


def tag(name: str, /, *children: str, **attributes: str | bool) -> Html:
    """An element. `class_` stands for class, `data_x` for data-x; true is an attribute without a value, false is none.

    An address that is not of the web, of this host or of a mailbox is left out: no link beats a hostile one.
    """
    start = "".join((f"<{name}", *(_attribute(key, value) for key, value in attributes.items()), ">"))
    end = "" if name in _VOID else f"</{name}>"
    return Html(f"{start}{join(children)}{end}" + ("\n" if name in _BLOCKS else ""))


def join(parts: Iterable[str]) -> Html:
    return Html("".join(part if isinstance(part, Html) else text(part) for part in parts))


def is_link(url: str) -> bool:
    return _LINK.fullmatch(url) is not None


def is_picture(url: str) -> bool:
    return _PICTURE.fullmatch(url) is not None


def _attribute(key: str, value: str | bool) -> str:
    name = key.rstrip("_").replace("_", "-")
    if value is False:
        return ""
    if value is True:
        return f" {name}"
    if (name in _LINKS and not is_link(value)) or (name == "src" and not is_picture(value)):
        return ""
    return f' {name}="{text(value)}"'
