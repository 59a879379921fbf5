"""The XML in which S3-style storage says what is wrong (zero link 11.4)."""

from xml.parsers import expat

MAX_BYTES = 32 * 1024
MAX_TEXT = 500


class _Unwelcome(Exception):
    """A document type or an entity: nothing that an honest error needs."""


def parse_s3_error(body: bytes) -> str | None:
    """`Code: Message` of an `Error` document (Z-42); None when the body is anything else."""
    texts: dict[str, str] = {}
    path: list[str] = []

    def start(name: str, _attributes: object) -> None:
        path.append(name)

    def end(_name: str) -> None:
        path.pop()

    def text(piece: str) -> None:
        if len(path) == 2 and path[0] == "Error":
            texts[path[1]] = (texts.get(path[1], "") + piece)[:MAX_TEXT]

    def unwelcome(*_arguments: object) -> None:
        raise _Unwelcome

    parser = expat.ParserCreate()
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text
    parser.StartDoctypeDeclHandler = unwelcome
    parser.EntityDeclHandler = unwelcome
    try:
        parser.Parse(body[:MAX_BYTES], True)
    except (expat.ExpatError, _Unwelcome, ValueError):
        return None
    code = texts.get("Code", "").strip()
    return f"{code}: {texts.get('Message', '').strip()}" if code else None
