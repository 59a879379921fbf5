"""Words from outside, made fit for records, reports and headers."""


def clean_text(text: str) -> str:
    """The text, with a question mark for each byte or half character that is none.

    Headers, file names and JSON may hold them; protobuf raises on them.
    """
    return text.encode("utf-8", "replace").decode()
