"""URLs that a visitor is sent back to: where they wanted to go, never by the word of a header (A-16)."""

from urllib.parse import quote, urlsplit

from pomerium_agent.authorize.gather import Question
from pomerium_agent.handoff.query import encode_query, parse_query

HOST_CHARACTERS = ":[]"
PATH_CHARACTERS = "/%:@!$&'()*+,;=~"


def current_url(question: Question) -> str:
    """Where the visitor wanted to go: `https`, and the host of the request itself (A-16)."""
    host = quote(question.url_host, safe=HOST_CHARACTERS)
    path = quote(question.raw_path, safe=PATH_CHARACTERS)
    query = encode_query(parse_query(question.query))
    return f"https://{host}{path if path.startswith('/') else '/' + path}{'?' + query if query else ''}"


def page_url(question: Question) -> str:
    """The page that a script ran on, if it is of the same host; else where the script wanted to go."""
    referer = question.headers.get("referer", "")
    try:
        parts = urlsplit(referer)
    except ValueError:
        return current_url(question)
    if parts.scheme != "https" or parts.netloc != question.url_host:
        return current_url(question)
    return current_url(question._replace(raw_path=parts.path, query=parts.query))
