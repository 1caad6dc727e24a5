"""The paper's figure 13: the cost of a task over its length, and of the GIL, for four systems.

Writes ``fig13.json``, ``fig13.png`` and ``fig13.svg``. See parla-bench/README.md.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import fig13_plot
from kernels import spin
from measure import (
    Measurement,
    available_cores,
    in_turns,
    output_directory,
    provenance,
    settle_memory,
)
from systems import System, taking_part

LENGTHS_MS = (0.8, 1.6, 6.4, 25.6, 51.2, 102.4)
GIL_HELD_MS = (0.0, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0)
GIL_TASK_MS = 50.0
PAPER_TASKS = 1000


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="directory for the files")
    parser.add_argument("--repetitions", type=int, default=3)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="few tasks, once: to try it out")
    size.add_argument("--full", action="store_true", help="1 000 tasks of each, as in the paper")
    parser.add_argument(
        "--threads",
        type=_counts,
        default=None,
        metavar="1,2",
        help="thread counts (default: 1, 2, 4, ... and the cores)",
    )
    parser.add_argument(
        "--systems",
        type=lambda text: text.split(","),
        default=None,
        metavar="A,B",
        help="keys of the systems to measure",
    )
    parser.add_argument(
        "--redraw",
        action="store_true",
        help="draw again from the fig13.json in --out, measuring nothing",
    )
    parsed = parser.parse_args()
    if parsed.repetitions < 1:
        parser.error("--repetitions must be at least 1")
    if parsed.quick:
        parsed.repetitions = 1
    if parsed.threads is None:
        parsed.threads = default_threads(available_cores())
    if max(parsed.threads) > available_cores():
        parser.error(f"--threads {max(parsed.threads)}: only {available_cores()} cores")
    return parsed


def _counts(text: str) -> list[int]:
    counts = sorted({int(word) for word in text.split(",")})
    if counts[0] < 1:
        raise argparse.ArgumentTypeError("thread counts begin at 1")
    return counts


def default_threads(cores: int) -> list[int]:
    """1, 2, 4, ... and the number of cores."""
    counts = {cores}
    power = 1
    while power < cores:
        counts.add(power)
        power *= 2
    return sorted(counts)


def n_tasks(length_ms: float, threads: int, chosen: argparse.Namespace) -> int:
    """How many tasks of one length to run: the paper's 1 000 where that is short or asked for.

    Longer ones get 2.5 seconds' work and at least 20 rounds of the threads, in whole rounds.
    """
    if chosen.full or (length_ms <= 6.4 and not chosen.quick):
        return PAPER_TASKS
    work_ms, n_rounds = (100, 4) if chosen.quick else (2500, 20)
    n = min(PAPER_TASKS, max(work_ms / length_ms, n_rounds * threads))
    return int(n) // threads * threads


def measure(
    chosen: argparse.Namespace, systems: list[type[System]], threads: int
) -> list[Measurement]:
    """Both experiments on one number of threads, the GIL's on the most only."""
    points = [("overhead", length, 0.0) for length in LENGTHS_MS]
    if threads == max(chosen.threads):
        points += [("gil", GIL_TASK_MS, held) for held in GIL_HELD_MS]

    def seconds_at(task_ms: float, held_ms: float) -> Callable[[System], float]:
        n = n_tasks(task_ms, threads, chosen)
        body = spin((task_ms - held_ms) * 1000, held_ms * 1000)
        return lambda system: system.run_independent(n, body) / n * PAPER_TASKS

    runs = [seconds_at(task_ms, held_ms) for _, task_ms, held_ms in points]
    taken = in_turns(systems, threads, chosen.repetitions, runs)
    found = []
    for (section, task_ms, held_ms), samples in zip(points, taken, strict=True):
        n = n_tasks(task_ms, threads, chosen)
        detail: dict[str, object] = {
            "threads": threads,
            "task_ms": task_ms,
            "held_ms": held_ms,
            "n_tasks": n,
        }
        name = f"{task_ms} ms" + (f", {held_ms} with the GIL" if section == "gil" else "")
        found.append(Measurement(section, name, "s per 1000 tasks", samples, detail=detail))
        medians = "  ".join(f"{key} {found[-1].median(key):.3f}" for key in samples)
        print(f"{section}: {threads} threads, {n} tasks of {name}:  {medians}", flush=True)
    return found


def main() -> None:
    """Measure, write the JSON, draw."""
    chosen = arguments()
    out = output_directory(chosen.out, chosen.quick)
    path = out / "fig13.json"
    if not chosen.redraw:
        options = {
            "threads": chosen.threads,
            "repetitions": chosen.repetitions,
            "quick": chosen.quick,
            "full": chosen.full,
            "systems": chosen.systems,
        }
        result = provenance(options)
        settle_memory()
        systems = taking_part("fig13", chosen.systems)
        print(
            f"seconds per 1 000 tasks, medians of {chosen.repetitions}, threads {chosen.threads}",
            flush=True,
        )
        start = time.perf_counter()
        found = [m for threads in chosen.threads for m in measure(chosen, systems, threads)]
        result["took_s"] = round(time.perf_counter() - start, 1)
        result["systems"] = {system.key: system.label for system in systems}
        result["measurements"] = [measurement.as_json() for measurement in found]
        path.write_text(json.dumps(result, indent=1) + "\n")
        print(f"written: {path} ({result['took_s']} s)")
    for drawn in fig13_plot.draw(json.loads(path.read_text()), out):
        print(f"written: {drawn}")


if __name__ == "__main__":
    main()
