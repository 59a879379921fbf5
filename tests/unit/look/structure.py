"""Reads a page the way a browser would, and says what it is made of."""

from html.parser import HTMLParser

Element = tuple[str, tuple[str, ...]]


class Structure(HTMLParser):
    """Elements with the names of their attributes, all words, all values; anything unclosed is an error."""

    VOID = frozenset({"br", "img", "input", "link", "meta"})

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[Element] = []
        self.values: list[tuple[str, str, str]] = []  # element, attribute, value
        self.words: list[str] = []
        self._open: list[str] = []
        self._inside: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == [], self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, tuple(name for name, _ in attrs)))
        self.values += [(tag, name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] in ("style", "script"):
            self._inside.append(data)
        else:
            self.words.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    @property
    def text(self) -> str:
        return "".join(self.words)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)

    def all(self, tag: str, attribute: str) -> list[str]:
        return [value for name, key, value in self.values if (name, key) == (tag, attribute)]
