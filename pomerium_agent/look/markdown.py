"""A tiny, safe part of Markdown for texts that operators write; everything else is shown as it was written."""

import re
from functools import lru_cache

from pomerium_agent.look.markup import text as escape

MAX_TEXT = 8000  # characters
_SPAN = re.compile(
    r"`(?P<code>[^`\n]{1,400})`"
    r"|\*\*(?P<strong>[^*\n]{1,400})\*\*"
    r"|\*(?P<em>[^*\s][^*\n]{0,400})\*"
    r"|\b_(?P<em_>[^_\s][^_\n]{0,400})_\b"
    r"|\[(?P<label>[^\[\]\n]{1,200})\]\((?P<link>(?:https?://|mailto:)[^\s()<>\"']{1,1000})\)"
)


@lru_cache(maxsize=512)
def render_markdown(text: str) -> str:
    """HTML with paragraphs, emphasis, code, and links to the web or to a mail address (A-17)."""
    paragraphs = re.split(r"\n\s*\n", text[:MAX_TEXT].replace("\r\n", "\n").strip())
    return "".join(f"<p>{_spans(paragraph)}</p>" for paragraph in paragraphs if paragraph.strip())


def _spans(text: str) -> str:
    html: list[str] = []
    end = 0
    for span in _SPAN.finditer(text):
        html += [_plain(text[end : span.start()]), _span(span)]
        end = span.end()
    return "".join((*html, _plain(text[end:])))


def _span(span: re.Match[str]) -> str:
    if span["code"]:
        return f"<code>{escape(span['code'])}</code>"
    if span["strong"]:
        return f"<strong>{escape(span['strong'])}</strong>"
    if span["link"]:
        return f'<a href="{escape(span["link"])}" rel="noreferrer">{escape(span["label"])}</a>'
    return f"<em>{escape(span['em'] or span['em_'])}</em>"


def _plain(text: str) -> str:
    return escape(text).replace("\n", "<br>\n")
