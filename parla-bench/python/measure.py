"""Repetitions taken in turns, their medians, and what they were measured on."""

from __future__ import annotations

import gc
import importlib.metadata
import os
import platform
import statistics
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from kernels import empty
from systems import System

PACKAGES = ("parla-runtime", "dask", "distributed", "numpy", "scipy", "threadpoolctl", "matplotlib")


@dataclass
class Measurement:
    """One quantity, measured for several systems in one run."""

    section: str
    measure: str
    unit: str
    samples: dict[str, list[float]] = field(default_factory=dict)
    higher_is_better: bool = False
    detail: dict[str, object] = field(default_factory=dict)

    def median(self, system: str) -> float | None:
        """The median of one system's samples; ``None`` if it has none."""
        samples = self.samples.get(system)
        return statistics.median(samples) if samples else None

    def as_json(self) -> dict[str, object]:
        """All samples and their medians as plain data."""
        return asdict(self) | {"medians": {key: self.median(key) for key in self.samples}}


def in_turns(
    systems: Sequence[type[System]],
    workers: int,
    repetitions: int,
    runs: Sequence[Callable[[System], float]],
) -> list[dict[str, list[float]]]:
    """Call every run with each system, open and warmed up, ``repetitions`` times by turns.

    Returns the samples of each run, by system. Each round begins with another system, so that a
    drift of the machine meets all alike.
    """
    samples: list[dict[str, list[float]]] = [{s.key: [] for s in systems} for _ in runs]
    for repetition in range(repetitions):
        for k in range(len(systems)):
            system = systems[(k + repetition) % len(systems)]
            with system(workers) as opened:
                for run, taken in zip(runs, samples, strict=True):
                    warm_up(opened)
                    taken[system.key].append(run(opened))
    return samples


def warm_up(system: System) -> None:
    """Run a few empty tasks, and leave no garbage for the measured part to collect."""
    system.run_independent(8 * system.workers, empty)
    gc.collect()


def settle_memory() -> None:
    """Take what imports made out of the garbage collector's sight, as in a small program.

    Without it each system would pay for scanning the modules of all the others.
    """
    gc.collect()
    gc.freeze()


class Neighbours:
    """What other processes and other machines took of the cores while a ``with`` block ran: ``percent`` of the cores, afterwards.

    From ``/proc/stat``: busy and stolen time of the whole machine less that of this process and its children. ``None`` elsewhere.
    """

    percent: float | None = None

    def __enter__(self) -> Neighbours:
        self._start = self._read()
        return self

    def __exit__(self, *exc_info: object) -> None:
        end = self._read()
        if self._start is not None and end is not None:
            busy, total, own = (b - a for a, b in zip(self._start, end, strict=True))
            self.percent = max(0.0, 100 * (busy - own) / total) if total else 0.0

    @staticmethod
    def _read() -> tuple[float, float, float] | None:
        """Seconds since the machine's start: busy or stolen, in all, and those of this process and the children that it waited for."""
        try:
            first = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
        except FileNotFoundError:
            return None
        ticks = [int(field) / os.sysconf("SC_CLK_TCK") for field in first]
        idle = ticks[3] + ticks[4]
        return sum(ticks) - idle, sum(ticks), sum(os.times()[:4])


def output_directory(chosen: Path | None, quick: bool) -> Path:
    """Where results go: as chosen, or ``parla-bench/results``; quick ones never there unasked."""
    here = Path(__file__).parent
    out = chosen or (here.parents[1] / "target/bench" if quick else here.parent / "results")
    out.mkdir(parents=True, exist_ok=True)
    return out


def available_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0))


def provenance(arguments: dict[str, object]) -> dict[str, object]:
    """Date, machine, versions, commit and arguments: what makes a figure traceable."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": _commit(),
        "arguments": arguments,
        "machine": {
            "cpu": _cpu_model(),
            "cores": available_cores(),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "system": f"{platform.system()} {platform.release()}",
            "load_average_at_start": list(os.getloadavg()),
        },
        "versions": {"python": platform.python_version()} | _package_versions(),
    }


def _commit() -> str | None:
    """The checked-out commit, with ``+changes`` if the tree differs from it."""
    here = Path(__file__).parent

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", *words], cwd=here, capture_output=True, text=True)
        except FileNotFoundError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    if commit is None:
        return None
    return commit + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _package_versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return versions
