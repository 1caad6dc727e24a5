"""The sections of the overhead table: what each one runs and how it is counted."""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import systems
import tiled_cholesky
from kernels import empty, spin
from measure import Measurement, in_turns, warm_up
from patterns import GRAPHS
from systems import System
from targets import GIL_SHARES
from threadpoolctl import threadpool_limits

PATTERNS = ("independent", *GRAPHS)
TASK_US = 1000
"""Length of a task in the GIL section."""

LONGEST_US = 4096.0
"""The longest task that the d50 section tries."""


@dataclass(frozen=True)
class Run:
    """The choices that hold for all sections."""

    workers: int
    repetitions: int
    quick: bool
    only: list[str] | None

    def systems(self, section: str) -> list[type[System]]:
        """The systems that one section measures."""
        return systems.taking_part(section, self.only)

    def probe(self, what: str, system: str, n: int) -> dict[str, float]:
        """Run ``probe.py`` in a process of its own."""
        command = [sys.executable, "-c", "import probe; probe.main()"]
        done = subprocess.run(
            [*command, what, system, str(self.workers), str(n)],
            cwd=Path(__file__).parent,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        return json.loads(done.stdout)


def run_pattern(system: System, pattern: str, n: int, body: systems.Body) -> float:
    """Seconds for about ``n`` tasks of one pattern, scaled to exactly ``n``."""
    if pattern == "independent":
        return system.run_independent(n, body)
    graph = GRAPHS[pattern](n)
    return system.run_graph(graph, [body] * len(graph)) * n / len(graph)


def empty_tasks(run: Run) -> list[Measurement]:
    """Empty tasks: microseconds each, from the first spawn until all are complete."""

    def cost_of(pattern: str) -> Callable[[System], float]:
        def cost(system: System) -> float:
            n = min(500 if run.quick else 10_000, system.largest_graph)
            return run_pattern(system, pattern, n, empty) / n * 1e6

        return cost

    runs = [cost_of(pattern) for pattern in PATTERNS]
    taken = in_turns(run.systems("empty"), run.workers, run.repetitions, runs)
    return [
        Measurement("empty", pattern, "us/task", samples)
        for pattern, samples in zip(PATTERNS, taken, strict=True)
    ]


def half_efficiency(run: Run) -> list[Measurement]:
    """The task length at which half of the workers' time is used, by bisection."""
    return [_bisect_length(run, pattern) for pattern in ("independent", "stencil")]


def _bisect_length(run: Run, pattern: str) -> Measurement:
    """Bisect on the logarithm of the length, all systems one step at a time and by turns."""
    steps = 4 if run.quick else 9
    measured = run.systems("d50")
    brackets = {system.key: (0.5, LONGEST_US) for system in measured}
    probes: dict[str, list[dict[str, object]]] = {system.key: [] for system in measured}

    def length(key: str) -> float:
        return math.sqrt(math.prod(brackets[key]))

    def efficiency(system: System) -> float:
        microseconds = length(system.key)
        # Long enough to be timed, short enough for the slow systems.
        n = int(min(max(200_000 / microseconds, 500), 10_000, system.largest_graph))
        if run.quick:
            n = min(n, 500)
        seconds = run_pattern(system, pattern, n, spin(microseconds))
        return n * microseconds * 1e-6 / run.workers / seconds

    for _ in range(steps):
        [samples] = in_turns(measured, run.workers, run.repetitions, [efficiency])
        for key, (low, high) in brackets.items():
            at = length(key)
            half = statistics.median(samples[key]) >= 0.5
            probes[key].append({"us": at, "efficiency": samples[key]})
            brackets[key] = (low, at) if half else (at, high)
    return Measurement(
        "d50",
        pattern,
        "us",
        {
            # A system that never reached half has no figure.
            key: [math.sqrt(math.prod(bracket))] if bracket[1] < LONGEST_US else []
            for key, bracket in brackets.items()
        },
        detail={"probes": probes, "brackets": brackets},
    )


def gil_shares(run: Run) -> list[Measurement]:
    """Tasks of 1 ms that hold the GIL for a part: the share of what the GIL allows."""
    n = 40 if run.quick else 300

    def reached_with(share: int) -> Callable[[System], float]:
        held = TASK_US * share / 100
        body = spin(TASK_US - held, held)
        ideal = max(n * held, n * TASK_US / run.workers) * 1e-6
        return lambda system: 100 * ideal / system.run_independent(n, body)

    runs = [reached_with(share) for share in GIL_SHARES]
    taken = in_turns(run.systems("gil"), run.workers, run.repetitions, runs)
    return [
        Measurement("gil", f"{share} % held", "% of ideal", samples, higher_is_better=True)
        for share, samples in zip(GIL_SHARES, taken, strict=True)
    ]


def memory(run: Run) -> list[Measurement]:
    """Bytes of a pending task beyond the closure that is its body."""
    samples: dict[str, list[float]] = {system.key: [] for system in run.systems("memory")}
    totals: dict[str, list[float]] = {key: [] for key in samples}
    for _ in range(min(run.repetitions, 3)):
        for system in run.systems("memory"):
            n = min(20_000 if run.quick else 200_000, system.largest_pending)
            alone = run.probe("closures", system.key, n)
            behind = run.probe("memory", system.key, n)
            samples[system.key].append((behind["bytes"] - alone["bytes"]) / n)
            totals[system.key].append(behind["bytes"] / n)
    return [
        Measurement("memory", "pending task", "bytes", samples),
        Measurement("memory", "with its closure", "bytes", totals),
    ]


def scale(run: Run) -> list[Measurement]:
    """Tasks spawned behind a gate and then finished: microseconds each, by their number."""
    sizes = [10**3, 10**4] if run.quick else [10**3, 10**4, 10**5, 10**6]
    measured = run.systems("scale")
    found = []
    for n in sizes:
        samples: dict[str, list[float]] = {s.key: [] for s in measured}
        spawning: dict[str, list[float]] = {s.key: [] for s in measured}
        spent = dict.fromkeys(samples, 0.0)
        for _ in range(run.repetitions):
            for system in measured:
                key = system.key
                # A slow system gets fewer repetitions rather than an hour.
                if n > system.largest_pending or spent[key] > 60:
                    continue
                start = time.perf_counter()
                took = run.probe("pending", key, n)
                spent[key] += time.perf_counter() - start
                samples[key].append((took["spawn_s"] + took["finish_s"]) / n * 1e6)
                spawning[key].append(took["spawn_s"] / n * 1e6)
        found.append(
            Measurement("scale", f"{n:,} pending", "us/task", samples, detail={"spawn": spawning})
        )
    growth = {}
    for system in measured:
        fewest, most = found[0].median(system.key), found[-1].median(system.key)
        if fewest and most:
            growth[system.key] = [most / fewest]
    found.append(Measurement("scale", "most / fewest", "x", growth))
    return found


def cholesky(run: Run) -> list[Measurement]:
    """Blocked Cholesky, one BLAS thread per task; ideal = sum of the kernels / workers."""
    example = tiled_cholesky.example
    n, block = (1000, 250) if run.quick else (4000, 500)
    plan = tiled_cholesky.steps(n // block)
    dependencies = [step.dependencies for step in plan]
    priorities = tiled_cholesky.path_lengths(plan)
    matrix = example.positive_definite(n, seed=0)
    measured = run.systems("cholesky")
    seconds: dict[str, list[float]] = {system.key: [] for system in measured}
    kernels: list[float] = []
    checked: dict[str, float] = {}
    with threadpool_limits(1, user_api="blas"):
        tiled_cholesky.sequential(plan, example.split(matrix, block))  # warm BLAS up
        for repetition in range(run.repetitions):
            kernels.append(tiled_cholesky.sequential(plan, example.split(matrix, block)))
            for k in range(len(measured)):
                system = measured[(k + repetition) % len(measured)]
                tiles = example.split(matrix, block)
                with system(run.workers) as opened:
                    warm_up(opened)
                    took = opened.run_graph(
                        dependencies, tiled_cholesky.bodies(plan, tiles), priorities
                    )
                seconds[system.key].append(took)
                if system.key not in checked:
                    checked[system.key] = example.residual(matrix, tiles, block)
                    if not checked[system.key] < 1e-12:
                        raise ArithmeticError(f"{system.label}: residual {checked[system.key]}")
    ideal = statistics.median(kernels) / run.workers
    ratios = {key: [took / ideal for took in taken] for key, taken in seconds.items()}
    detail = {"n": n, "block": block, "kernels_s": kernels, "ideal_s": ideal, "residual": checked}
    return [
        Measurement("cholesky", "time", "s", seconds, detail=detail),
        Measurement("cholesky", "time / ideal", "x", ratios),
    ]


def idle(run: Run) -> list[Measurement]:
    """CPU used by a process whose open system has nothing to do, in percent of one core."""
    samples: dict[str, list[float]] = {system.key: [] for system in run.systems("idle")}
    for _ in range(run.repetitions):
        for system in run.systems("idle"):
            took = run.probe("idle", system.key, 500 if run.quick else 2000)
            samples[system.key].append(100 * took["cpu_s"] / took["wall_s"])
    return [Measurement("idle", "CPU use", "% of a core", samples)]
