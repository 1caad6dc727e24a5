"""Draws figure 13 from its JSON: ours in solid lines, the authors' numbers dashed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import authors
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

COLOURS = {
    "parla": "#c1272d",
    "threadpool": "#0072b2",
    "dask_delayed": "#e69f00",
    "dask_processes": "#009e73",
}
MARKERS = {"parla": "o", "threadpool": "s", "dask_delayed": "^", "dask_processes": "D"}
AUTHORS_LABELS = {
    "parla": "Parla 0.2, authors",
    "dask_delayed": "Dask threads, authors",
    "dask_processes": "Dask processes, authors",
}
AUTHORS_LOOK: dict[str, Any] = {
    "linestyle": "--",
    "linewidth": 1.2,
    "alpha": 0.75,
    "markerfacecolor": "white",
    "zorder": 2,
}
Result = dict[str, Any]


def draw(result: Result, out: Path) -> list[Path]:
    """Write ``fig13.png`` and ``fig13.svg`` for one result; their paths."""
    style: dict[str, Any] = {
        "font.size": 9,
        "axes.titlesize": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": "#e6e6e6",
        "lines.linewidth": 1.6,
        "lines.markersize": 4.5,
        "svg.hashsalt": "fig13",
    }
    with pyplot.rc_context(style):
        figure = pyplot.figure(figsize=(12.5, 8.2), layout="constrained")
        top, bottom = figure.subfigures(2, 1, height_ratios=(1.25, 1))
        time, cost, gil = top.subplots(1, 3)
        _total_time(time, result)
        _cost(cost, result)
        _gil(gil, result)
        _speed_up(bottom, result)
        figure.suptitle(_title(result), fontsize=9, color="#555555")
        _legend(top, result)
        paths = [out / "fig13.png", out / "fig13.svg"]
        for path in paths:
            figure.savefig(path, dpi=150)
        pyplot.close(figure)
    return paths


def _title(result: Result) -> str:
    machine, versions = result["machine"], result["versions"]
    return (
        f"{machine['cpu']}, {machine['cores']} cores · Python {versions['python']} · "
        f"Dask {versions['dask']} · medians of {result['arguments']['repetitions']} · "
        f"{result['date'][:10]}"
    )


def _points(
    result: Result, section: str, x: str, threads: int, fewest: int = 0
) -> dict[str, dict[float, float]]:
    """Median seconds per 1 000 tasks by system and by the detail named ``x``.

    Points measured with fewer than ``fewest`` tasks are left out.
    """
    points: dict[str, dict[float, float]] = {key: {} for key in result["systems"]}
    for found in result["measurements"]:
        detail = found["detail"]
        if (
            found["section"] == section
            and detail["threads"] == threads
            and detail["n_tasks"] >= fewest
        ):
            for key, median in found["medians"].items():
                points[key][detail[x]] = median
    return points


def _plot(axes: Axes, key: str, points: dict[float, float], dashed: bool = False) -> None:
    axes.plot(
        list(points),
        list(points.values()),
        color=COLOURS[key],
        marker=MARKERS[key],
        **(AUTHORS_LOOK if dashed else {"zorder": 3}),
    )


def _total_time(axes: Axes, result: Result) -> None:
    threads = _most_threads(result)
    for key, seconds in authors.OVERHEAD_SECONDS.items():
        _plot(axes, key, seconds, dashed=True)
    for key, seconds in _points(result, "overhead", "task_ms", threads).items():
        _plot(axes, key, seconds)
    lengths = sorted(authors.OVERHEAD_SECONDS["parla"])
    axes.plot(
        lengths,
        [length / threads for length in lengths],
        color="#888888",
        linewidth=1,
        linestyle=":",
    )
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="task length, ms",
        ylabel="seconds",
        title=f"Total time of 1 000 independent tasks\n{threads} threads; "
        f"authors: best of 1–{authors.OVERHEAD_THREADS}",
    )
    _length_ticks(axes, lengths)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))


def _cost(axes: Axes, result: Result) -> None:
    """What is lost per task; full runs only, as fewer tasks share the cost of a run's start."""
    threads = _most_threads(result)
    lengths = sorted(authors.OVERHEAD_SECONDS["parla"])
    for key, seconds in authors.OVERHEAD_SECONDS.items():
        _plot(axes, key, _beyond_ideal(seconds, authors.OVERHEAD_THREADS), dashed=True)
    fewest = 0 if result["arguments"]["quick"] else authors.N_TASKS
    for key, seconds in _points(result, "overhead", "task_ms", threads, fewest).items():
        _plot(axes, key, _beyond_ideal(seconds, threads))
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="task length, ms",
        ylabel="µs per task",
        title="Time per task beyond the ideal\n(total / 1 000 − length / threads)",
    )
    _length_ticks(axes, lengths)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))


def _beyond_ideal(seconds: dict[float, float], threads: int) -> dict[float, float]:
    """Microseconds per task beyond ``length / threads``; points below 0.1 us are left out."""
    cost = {ms: total * 1e6 / authors.N_TASKS - ms * 1e3 / threads for ms, total in seconds.items()}
    return {ms: us for ms, us in cost.items() if us > 0.1}


def _gil(axes: Axes, result: Result) -> None:
    threads = _most_threads(result)
    for key, seconds in authors.GIL_SECONDS.items():
        _plot(axes, key, _share(seconds, authors.GIL_TASK_MS, authors.GIL_THREADS), dashed=True)
    task_ms = next(f["detail"]["task_ms"] for f in result["measurements"] if f["section"] == "gil")
    for key, seconds in _points(result, "gil", "held_ms", threads).items():
        # Each of Dask's processes has a GIL of its own.
        _plot(axes, key, _share(seconds, task_ms, threads, shared=key != "dask_processes"))
    axes.set(
        xlabel="of that with the GIL, ms",
        ylabel="% of the ideal",
        xlim=(-0.1, 28),
        ylim=(0, 105),
        title=f"{task_ms:g} ms tasks: share of what the GIL allows\n{threads} threads; "
        f"authors: {authors.GIL_THREADS}",
    )
    axes.set_xscale("symlog", linthresh=0.5, linscale=0.5)
    axes.xaxis.set_major_locator(FixedLocator([0, 0.5, 1, 2.5, 5, 10, 25]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))


def _share(
    seconds: dict[float, float], task_ms: float, threads: int, shared: bool = True
) -> dict[float, float]:
    """Percent of the ideal: the threads' work, or the GIL where it is the bottleneck."""
    return {
        held: 100 * max(held if shared else 0, task_ms / threads) / total
        for held, total in seconds.items()
    }


def _speed_up(panel: SubFigure, result: Result) -> None:
    counts = sorted({f["detail"]["threads"] for f in result["measurements"]})
    seconds = {n: _points(result, "overhead", "task_ms", n) for n in counts}
    lengths = sorted(authors.OVERHEAD_SECONDS["parla"])
    row = panel.subplots(1, len(lengths), sharey=True)
    for axes, length in zip(row, lengths, strict=True):
        axes.plot(counts, counts, color="#888888", linewidth=1, linestyle=":")
        for key in result["systems"]:
            _plot(axes, key, {n: length / seconds[n][key][length] for n in counts})
        best = [
            f"{AUTHORS_LABELS[key].split(',')[0]} {speed_up[length]:g}×"
            for key, speed_up in authors.OVERHEAD_SPEED_UP.items()
        ]
        axes.text(
            0.04,
            0.97,
            "\n".join(["authors' best:", *best]),
            transform=axes.transAxes,
            va="top",
            fontsize=7,
            color="#555555",
        )
        axes.set(title=f"{length:g} ms", xlabel="threads", ylim=(0, 1.45 * max(counts)))
        axes.xaxis.set_major_locator(FixedLocator(counts))
    row[0].set_ylabel("speed-up over one core's work")


def _legend(panel: SubFigure, result: Result) -> None:
    handles = [
        Line2D([], [], color=COLOURS[key], marker=MARKERS[key], label=label)
        for key, label in result["systems"].items()
    ]
    handles += [
        Line2D([], [], color=COLOURS[key], marker=MARKERS[key], label=label, **AUTHORS_LOOK)
        for key, label in AUTHORS_LABELS.items()
    ]
    handles.append(Line2D([], [], color="#888888", linestyle=":", linewidth=1, label="ideal"))
    panel.legend(
        handles=handles,
        loc="outside lower center",
        ncols=len(handles),
        fontsize=8,
        frameon=False,
        columnspacing=1.2,
        handletextpad=0.5,
    )


def _most_threads(result: Result) -> int:
    return max(found["detail"]["threads"] for found in result["measurements"])


def _length_ticks(axes: Axes, lengths: list[float]) -> None:
    axes.xaxis.set_major_locator(FixedLocator(lengths))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
