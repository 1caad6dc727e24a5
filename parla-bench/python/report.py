"""The overhead table as text: a row per measure, ratios to Parla, targets met or not."""

from __future__ import annotations

from collections.abc import Sequence

from measure import Measurement
from systems import System
from targets import TARGETS


def table(found: Sequence[Measurement], systems: Sequence[type[System]]) -> str:
    """All measurements; behind each peer's median how many times Parla's it is."""
    header = ["measure", "unit", *[system.label for system in systems], "target", ""]
    rows = [header]
    for measurement in found:
        target = TARGETS.get((measurement.section, measurement.measure))
        met = target.met(measurement) if target else None
        rows.append(
            [
                f"{measurement.section}: {measurement.measure}",
                measurement.unit,
                *[_cell(measurement, system) for system in systems],
                target.text(measurement) if target else "",
                "" if met is None else "met" if met else "NOT MET",
            ]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = ["  ".join(map(_pad, row, widths, range(len(row)))).rstrip() for row in rows]
    lines.insert(1, "-" * max(len(line) for line in lines))
    return "\n".join(lines)


def _cell(measurement: Measurement, system: type[System]) -> str:
    median = measurement.median(system.key)
    if median is None:
        return "-"
    ours = measurement.median("parla")
    if system.key == "parla" or not ours:
        return number(median)
    return f"{number(median)} ({number(median / ours)}x)"


def number(value: float) -> str:
    """Three significant digits, no exponent."""
    if value == 0:
        return "0"
    magnitude = abs(value)
    decimals = 0 if magnitude >= 100 else 1 if magnitude >= 10 else 2 if magnitude >= 1 else 3
    return f"{value:,.{decimals}f}"


def _pad(cell: str, width: int, column: int) -> str:
    return cell.ljust(width) if column < 2 else cell.rjust(width)
