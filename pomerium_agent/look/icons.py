"""The few signs our pages use, drawn in place."""

from enum import Enum

from pomerium_agent.look.markup import Html


class Icon(Enum):
    """A sign and its tone: what is drawn, and in which of our four colours."""

    CHECK = ("good", '<path d="m5 12.5 4.5 4.5L19 7.5"/>')
    CLOCK = ("warn", '<circle cx="12" cy="12" r="8.5"/><path d="M12 7.5V12l3 2"/>')
    CLOUD = ("warn", '<path d="M7 18a4.5 4.5 0 0 1-.8-8.9 6 6 0 0 1 11.5.9A4 4 0 0 1 17.5 18M12 12v4M12 19v.01"/>')
    COPY = (
        "calm",
        '<rect x="9" y="9" width="11" height="11" rx="2"/>'
        '<path d="M15 9V6a2 2 0 0 0-2-2H6a2 2 0 0 0-2 2v7a2 2 0 0 0 2 2h3"/>',
    )
    DEVICE = ("good", '<rect x="7" y="3" width="10" height="18" rx="2"/><path d="M11 17.5h2"/>')
    DOOR = ("calm", '<path d="M10 4H6.5A1.5 1.5 0 0 0 5 5.5v13A1.5 1.5 0 0 0 6.5 20H10M15 8l4 4-4 4M19 12H9.5"/>')
    ERROR = ("bad", '<circle cx="12" cy="12" r="8.5"/><path d="M12 7.8v4.7M12 16v.01"/>')
    LOCK = ("calm", '<rect x="5" y="11" width="14" height="9" rx="2"/><path d="M8 11V8a4 4 0 0 1 8 0v3"/>')
    LOOP = ("warn", '<path d="M4.5 11A7.6 7.6 0 0 1 19 9M19.5 4.5V9H15M19.5 13A7.6 7.6 0 0 1 5 15M4.5 19.5V15H9"/>')
    PERSON = ("calm", '<circle cx="12" cy="8" r="4"/><path d="M4.5 20a7.5 7.5 0 0 1 15 0"/>')
    REFUSED = ("bad", '<circle cx="12" cy="12" r="8.5"/><path d="m6.2 6.2 11.6 11.6"/>')
    SEARCH = ("calm", '<circle cx="11" cy="11" r="6.5"/><path d="m20 20-4.2-4.2"/>')
    WARNING = (
        "warn",
        '<path d="M10.4 4.6 3.2 17.1A1.9 1.9 0 0 0 4.8 20h14.4a1.9 1.9 0 0 0 1.6-2.9L13.6 4.6a1.9 1.9 0 0 0-3.2 0z"/>'
        '<path d="M12 9.5v4M12 16.5v.01"/>',
    )

    @property
    def tone(self) -> str:
        return self.value[0]


def draw(icon: Icon) -> Html:
    """The sign alone, in the colour of the words around it; those who listen are not told of it."""
    return Html(f'<svg class="icon" viewBox="0 0 24 24" aria-hidden="true">{icon.value[1]}</svg>')


def badge(icon: Icon) -> Html:
    """The sign in a tinted square, on top of a card."""
    return Html(f'<div class="badge {icon.tone}">{draw(icon)}</div>\n')
