"""Words of others, made fit for a terminal."""


def plain(text: str) -> str:
    """What others wrote, without what would move the cursor or the colours of a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def plain_lines(text: str) -> str:
    """The same for what may have several lines, which stay lines."""
    return "\n".join(plain(line) for line in text.split("\n"))
