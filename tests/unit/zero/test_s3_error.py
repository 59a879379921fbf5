"""What storage says is wrong, without trusting how it says it."""

import pytest

from pomerium_agent.zero.s3_error import parse_s3_error


def test_code_and_message_are_read() -> None:
    """Z-42."""
    body = b"""<?xml version="1.0" encoding="UTF-8"?>
    <Error><Code>AccessDenied</Code><Message>Request has expired</Message><Details>x</Details></Error>"""

    assert parse_s3_error(body) == "AccessDenied: Request has expired"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html><Code>x</Code></html>",
        b"<Error><Code>unfinished",
        b"<Error><Message>no code</Message></Error>",
        b"not xml",
        b'<!DOCTYPE e [<!ENTITY a "b">]><Error><Code>&a;</Code></Error>',
        b'<!DOCTYPE e SYSTEM "file:///etc/passwd"><Error><Code>x</Code></Error>',
        b"\xff\xfe",
    ],
)
def test_anything_else_says_nothing(body: bytes) -> None:
    """Z-42: document types and entities are not even looked at."""
    assert parse_s3_error(body) is None


def test_a_long_message_is_cut() -> None:
    said = parse_s3_error(b"<Error><Code>C</Code><Message>" + b"x" * 5000 + b"</Message></Error>")

    assert said is not None
    assert len(said) < 600
