"""What a section found: a table for people, the same figures for programs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Cell = str | int | float


@dataclass(frozen=True, slots=True)
class Column:
    """`form` is how its numbers are written, as in format()."""

    name: str
    form: str = ".1f"


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One table. The first cell of a row names it; `notes` say how to read it."""

    name: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = ()
    ratios: Mapping[str, float] = field(default_factory=dict)  # what should be looked at, by name

    def lines(self) -> list[str]:
        """The table as text."""
        cells = [[column.name for column in self.columns]]
        for row in self.rows:
            cells.append([_shown(cell, column.form) for cell, column in zip(row, self.columns, strict=True)])
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [f"{self.name}: {self.title}", ""]
        for row_cells in cells:
            first, *rest = (cell.rjust(width) for cell, width in zip(row_cells, widths, strict=True))
            lines.append("  ".join((row_cells[0].ljust(widths[0]) if rest else first, *rest)).rstrip())
        if self.ratios:
            lines += ["", *(f"{name}: {value:.2f}" for name, value in self.ratios.items())]
        if self.notes:
            lines += ["", *self.notes]
        return lines

    def to_json(self) -> Mapping[str, object]:
        """The same for programs: not rounded, each row by the names of the columns."""
        names = [column.name for column in self.columns]
        return {
            "title": self.title,
            "rows": [dict(zip(names, row, strict=True)) for row in self.rows],
            "ratios": dict(self.ratios),
        }


def _shown(cell: Cell, form: str) -> str:
    return cell if isinstance(cell, str) else format(cell, form)
