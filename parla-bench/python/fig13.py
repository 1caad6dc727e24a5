"""The paper's figure 13: the cost of a task over its length, and of the GIL, for four systems.

Writes ``fig13.json``, ``fig13.png`` and ``fig13.svg``. See parla-bench/README.md.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import fig13_plot
from kernels import spin
from measure import Measurement, available_cores, in_turns, provenance, settle_memory
from systems import System, taking_part

LENGTHS_MS = (0.8, 1.6, 6.4, 25.6, 51.2, 102.4)
GIL_HELD_MS = (0, 0.5, 1, 2.5, 5, 10, 25)
GIL_TASK_MS = 50
PAPER_TASKS = 1000


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="directory for the files")
    parser.add_argument("--repetitions", type=int, default=3)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="few tasks, once: to try it out")
    size.add_argument("--full", action="store_true", help="1 000 tasks everywhere, as in the paper")
    parser.add_argument("--threads", type=_counts, default=None, metavar="1,2",
                        help="thread counts (default: powers of two up to the cores, and the cores)")
    parser.add_argument("--systems", type=lambda text: text.split(","), default=None,
                        metavar="A,B", help="keys of the systems to measure")
    parser.add_argument("--redraw", action="store_true",
                        help="draw again from the fig13.json in --out, measuring nothing")
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
    """How many tasks of one length to run.

    The paper's 1 000 where that is short or asked for; else about two seconds' work per thread
    count, rounded to whole rounds of the threads, at least 20 rounds.
    """
    if chosen.full:
        return PAPER_TASKS
    work_ms, n_rounds = (100, 4) if chosen.quick else (2000, 20)
    n = min(PAPER_TASKS, max(work_ms / length_ms, n_rounds * threads))
    return max(threads, int(n) // threads * threads)


def overhead(chosen: argparse.Namespace, systems: list[type[System]]) -> list[Measurement]:
    """Independent tasks of each length on each number of threads; seconds per 1 000 tasks."""
    found = []
    for threads in chosen.threads:
        for length in LENGTHS_MS:
            n = n_tasks(length, threads, chosen)
            body = spin(length * 1000)
            samples = in_turns(
                systems,
                threads,
                chosen.repetitions,
                lambda system: system.run_independent(n, body) / n * PAPER_TASKS,
            )
            detail = {"threads": threads, "task_ms": length, "n_tasks": n}
            found.append(_measured("overhead", f"{length} ms, {threads} threads", samples, detail))
    return found


def gil(chosen: argparse.Namespace, systems: list[type[System]]) -> list[Measurement]:
    """50 ms tasks that hold the GIL for a part, on all threads; seconds per 1 000 tasks."""
    threads = max(chosen.threads)
    found = []
    for held in GIL_HELD_MS:
        n = n_tasks(GIL_TASK_MS, threads, chosen)
        body = spin((GIL_TASK_MS - held) * 1000, held * 1000)
        samples = in_turns(
            systems,
            threads,
            chosen.repetitions,
            lambda system: system.run_independent(n, body) / n * PAPER_TASKS,
        )
        detail = {"threads": threads, "task_ms": GIL_TASK_MS, "held_ms": held, "n_tasks": n}
        found.append(_measured("gil", f"{held} ms of {GIL_TASK_MS} held", samples, detail))
    return found


def _measured(
    section: str, name: str, samples: dict[str, list[float]], detail: dict[str, object]
) -> Measurement:
    found = Measurement(section, name, "s per 1000 tasks", samples, detail=detail)
    medians = "  ".join(f"{key} {found.median(key):.3f}" for key in samples)
    print(f"{section}: {name}, {detail['n_tasks']} tasks:  {medians}", flush=True)
    return found


def main() -> None:
    """Measure, write the JSON, draw."""
    chosen = arguments()
    path = chosen.out / "fig13.json"
    if not chosen.redraw:
        chosen.out.mkdir(parents=True, exist_ok=True)
        options = {"threads": chosen.threads, "repetitions": chosen.repetitions,
                   "quick": chosen.quick, "full": chosen.full, "systems": chosen.systems}
        result = provenance(options)
        settle_memory()
        systems = taking_part("fig13", chosen.systems)
        print("seconds per 1 000 tasks, medians of", chosen.repetitions, flush=True)
        start = time.perf_counter()
        found = overhead(chosen, systems) + gil(chosen, systems)
        result["took_s"] = round(time.perf_counter() - start, 1)
        result["systems"] = {system.key: system.label for system in systems}
        result["measurements"] = [measurement.as_json() for measurement in found]
        path.write_text(json.dumps(result, indent=1) + "\n")
        print(f"written: {path} ({result['took_s']} s)")
    for drawn in fig13_plot.draw(json.loads(path.read_text()), chosen.out):
        print(f"written: {drawn}")


if __name__ == "__main__":
    main()
