"""Growth with the number of routes as an SVG: both axes logarithmic, so that linear is a straight slope."""

import math
from collections.abc import Sequence
from html import escape

from bench.report import Section

WIDTH, HEIGHT = 640, 400
LEFT, RIGHT, TOP, BOTTOM = 60, 190, 40, 50
LINES = (  # section, column, what to call it, colour
    ("apply", "all at once: verb", "all routes: console apply", "#9a6700"),
    ("apply", "to live", "all routes: to live", "#0550ae"),
    ("apply", "one change: verb", "one change: console apply", "#d4a72c"),
    ("apply", "told→live", "one change: told to live", "#54aeff"),
    ("apply.cost", "agent", "one change: agent CPU", "#1a7f37"),
    ("apply.cost", "envoy", "one change: envoy CPU", "#cf222e"),
)


def draw_growth(sections: Sequence[Section]) -> str:
    """The picture of the sections `apply` and `apply.cost`; ValueError when they are not among these."""
    by_name = {section.name: section for section in sections}
    drawn = [
        (label, colour, _points(by_name[name], column)) for name, column, label, colour in LINES if name in by_name
    ]
    if not drawn:
        raise ValueError("--svg draws what the section apply finds; name it, or no section at all")
    every = [point for _, _, points in drawn for point in points]
    sizes = sorted({size for size, _ in every})
    low = math.floor(math.log10(min(value for _, value in every)))
    high = math.ceil(math.log10(max(value for _, value in every)))

    def x(size: float) -> float:
        share = math.log10(size / sizes[0]) / (math.log10(sizes[-1] / sizes[0]) or 1)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return TOP + (high - math.log10(value)) / (high - low or 1) * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(LEFT, 20, "milliseconds, by number of routes (both axes logarithmic)", size=14),
    ]
    for power in range(low, high + 1):
        parts.append(_line(LEFT, y(10**power), WIDTH - RIGHT, y(10**power), "#d0d7de"))
        parts.append(_text(LEFT - 8, y(10**power) + 4, f"{10.0**power:g}", anchor="end"))
    parts += [_text(x(size), HEIGHT - BOTTOM + 20, f"{size:,}", anchor="middle") for size in sizes]
    places: list[float] = []
    for label, colour, points in sorted(drawn, key=lambda each: -each[2][-1][1]):
        path = " ".join(f"{x(size):.1f},{y(value):.1f}" for size, value in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{x(size):.1f}" cy="{y(value):.1f}" r="3" fill="{colour}"><title>{value:.0f}</title></circle>'
            for size, value in points
        ]
        places.append(max(y(points[-1][1]) + 4, places[-1] + 14 if places else 0))  # labels do not cover each other
        parts.append(_text(WIDTH - RIGHT + 8, places[-1], label, colour=colour))
    return "\n".join((*parts, "</svg>", ""))


def _points(section: Section, column: str) -> list[tuple[float, float]]:
    """Size and value of each row; a value of nothing is drawn as one."""
    place = [each.name for each in section.columns].index(column)
    return [(float(row[0]), max(1.0, float(row[place]))) for row in section.rows]


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def _text(x: float, y: float, text: str, *, anchor: str = "start", colour: str = "#1f2328", size: int = 12) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" font-size="{size}">{escape(text)}</text>'
    )
