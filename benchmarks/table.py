"""The table: plain text, one line a measurement."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from benchmarks.measurement import Row, Unit
from benchmarks.rounds import Results

HEAD = ("measurement", "unit", "ours", "baseline", "ratio", "(of rounds)", "target", "")


def lines(rows: Sequence[Row], results: Results) -> list[str]:
    """One line a row, columns aligned."""
    cells = [HEAD, *(_cells(row, results) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    written = [
        "  ".join(
            cell.ljust(width) if column in {0, 1, 7} else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]
    return [written[0], "-" * max(map(len, written)), *written[1:]]


def missed(rows: Sequence[Row], results: Results) -> list[Row]:
    """The rows whose median ratio does not reach the target."""
    return [row for row in rows if not row.met(median(results.ratios(row)))]


def _cells(row: Row, results: Results) -> tuple[str, ...]:
    ratios = results.ratios(row)
    ratio = median(ratios)
    if row.target is None:
        target, verdict = "", "(info)"
    else:
        target = f"{'≥' if row.unit is Unit.RATE else '≤'} {row.target:g}"
        verdict = "met" if row.met(ratio) else "MISSED"
    return (
        row.title,
        row.unit.value,
        _figure(results.median(row.ours), row.unit),
        _figure(results.median(row.baseline), row.unit),
        f"{ratio:.2f}",
        f"{min(ratios):.2f}–{max(ratios):.2f}",
        target,
        verdict,
    )


def _figure(figure: float, unit: Unit) -> str:
    return f"{figure:,.1f}" if unit is Unit.BYTES else f"{figure:,.0f}"
