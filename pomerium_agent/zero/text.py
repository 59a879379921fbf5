"""Words from outside, made fit for records, reports and headers."""


def clean_text(text: str) -> str:
    """The text, with a question mark for each byte or half character that is none.

    Headers, file names and JSON may hold them; protobuf raises on them.
    """
    return text.encode("utf-8", "replace").decode()


REDACTED = "***"
TELLING = 12  # characters of a secret that are too many to show; fewer may be a word


def without(text: str, *secrets: str) -> str:
    """The words of another side, without the secrets of our request, which it may have quoted.

    Words that were cut off may end in the middle of one.
    """
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, REDACTED)
        for length in range(min(len(secret) - 1, len(text)), TELLING - 1, -1):
            if text.endswith(secret[:length]):
                text = text[:-length] + REDACTED
                break
    return text
