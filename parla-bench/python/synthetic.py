"""Synthetic task graphs on simulated GPUs: measured beside schedules computed for the same links.

The links are those of a node with Quadro RTX 5000 cards, see `RTX_NODE`. Data are a `SCALE`-th of the size that the figures name and links a
`SCALE`-th of the speed, so copies take as long as the full ones would, and this machine's processors, which do them, keep up.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import schedules
from parla import graphs
from schedules import Links

RTX_NODE = Links(host_gb_s=12.0, latency_us=10.0, peer=False)
"""PCIe 3.0 with 16 lanes to each card carries about 12 GB/s of 15.75. The cards have no NVLink bridges and sit on two sockets: between
them bytes go through the host."""

RTX_MEMORY_GB = 16.0
SCALE = 1000
ROW = 100
"""float32 numbers in a row of a data block."""

MODES = graphs.MODES
LABELS = {
    "manual": "copies by hand, placed by hand",
    "auto": "copies by Parla, placed by hand",
    "policy": "copies and placement by Parla",
}


@dataclass
class Case:
    """One graph on so many GPUs, and what was found out about it."""

    section: str
    name: str
    n_gpus: int
    megabytes: float
    """Size of a data block, as the figure has it."""
    task_ms: float
    gph: str
    """The graph, each task on the GPU that a user would choose."""
    n_tasks: int = 0
    perfect_s: float = 0.0
    """Every copy starts as soon as its bytes exist and the links are free."""
    no_overlap_s: float = 0.0
    """Every copy starts when its task could, and the GPU waits for it."""
    chosen_s: float = 0.0
    """As `perfect_s`, with each task on the GPU where it can start first."""
    compute_s: float = 0.0
    """As `perfect_s`, if copies took no time."""
    bound_s: float = 0.0
    """No schedule is shorter."""
    least_bytes: int = 0
    samples: dict[str, list[float]] = field(default_factory=dict)
    """Seconds by mode; "no data": the same tasks with nothing to move."""
    bytes_moved: dict[str, int] = field(default_factory=dict)
    """Between memories, to GPUs, as if the data had their full size, by mode, in the last repetition. By hand it is not counted."""

    @classmethod
    def of(cls, section: str, name: str, n_gpus: int, megabytes: float, task_ms: float, graph: graphs.Graph) -> Case:
        """A case with its schedules."""
        case = cls(section, name, n_gpus, megabytes, task_ms, graphs.dumps(graph), len(graph))
        sizes = [block.size * ROW * 4 * SCALE for block in graph.data]
        perfect = schedules.schedule(graph, RTX_NODE, n_gpus, sizes)
        case.perfect_s, case.least_bytes = perfect.seconds, perfect.bytes_moved
        case.no_overlap_s = schedules.schedule(graph, RTX_NODE, n_gpus, sizes, prefetch=False).seconds
        case.chosen_s = schedules.schedule(graph, RTX_NODE, n_gpus, sizes, choose=True).seconds
        case.compute_s = schedules.schedule(graph, RTX_NODE, n_gpus, [0] * len(sizes)).seconds
        case.bound_s = schedules.bound(graph, n_gpus)
        return case

    def median(self, mode: str) -> float | None:
        """Seconds; None if it was not measured."""
        samples = self.samples.get(mode)
        return statistics.median(samples) if samples else None

    @property
    def hidden_percent(self) -> float | None:
        """Of the time that a perfect schedule hides, how much automatic movement hid; None where there is next to nothing to hide.

        What starting and ending tasks costs is not what copies cost: it is taken from the same tasks without data, in the same run.
        """
        auto, no_data = self.median("auto"), self.median("no data")
        hideable = self.no_overlap_s - self.perfect_s
        if auto is None or no_data is None or hideable < 0.01 * self.perfect_s:
            return None
        exposed = auto - no_data
        return 100 * (self.no_overlap_s - self.compute_s - exposed) / hideable

    @property
    def auto_over_manual_percent(self) -> float | None:
        """How much longer automatic movement took than that by hand; negative: less long."""
        auto, manual = self.median("auto"), self.median("manual")
        return None if auto is None or manual is None else 100 * (auto / manual - 1)

    def as_json(self) -> dict[str, object]:
        """All of it as plain data."""
        return asdict(self) | {
            "medians": {mode: self.median(mode) for mode in self.samples},
            "hidden_percent": self.hidden_percent,
            "auto_over_manual_percent": self.auto_over_manual_percent,
        }


def rows(megabytes: float) -> int:
    """Rows of a data block of the reduced size."""
    return max(1, round(megabytes * 1e6 / SCALE / (4 * ROW)))


def measure(cases: Sequence[Case], repetitions: int, modes: Sequence[str] = MODES, policy: str | None = None) -> None:
    """Run every case in every mode, by turns, each number of GPUs in a process of its own."""
    modes = ["no data", *modes]
    for n_gpus in dict.fromkeys(case.n_gpus for case in cases):
        here = [case for case in cases if case.n_gpus == n_gpus]
        order = {
            "graphs": [case.gph for case in here],
            "repetitions": repetitions,
            "modes": modes,
            "policy": policy,
        }
        done = subprocess.run(
            [sys.executable, "-c", "import synthetic; synthetic.serve()"],
            cwd=Path(__file__).parent,
            env=os.environ | environment(n_gpus),
            input=json.dumps(order),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        for case, found in zip(here, json.loads(done.stdout), strict=True):
            case.samples = {mode: [seconds for seconds, _ in runs] for mode, runs in found.items()}
            case.bytes_moved = {mode: runs[-1][1] for mode, runs in found.items() if mode not in ("manual", "no data")}
            print(line(case), flush=True)


def environment(n_gpus: int) -> dict[str, str]:
    """The environment variables that make the simulated node."""
    return {
        "PARLA_SIM_GPUS": str(n_gpus),
        "PARLA_SIM_GPU_MEM": str(int(RTX_MEMORY_GB * 1e9 / SCALE)),
        "PARLA_SIM_LINK": f"latency={RTX_NODE.latency_us:g}us,bandwidth={RTX_NODE.host_gb_s * 1e6 / SCALE:g}kB/s"
        + ("" if RTX_NODE.peer else ",peer=none"),
    }


def serve() -> None:
    """Run the graphs that stdin names; write seconds and bytes of each run to stdout, by mode."""
    order = json.load(sys.stdin)
    todo = [graphs.loads(text) for text in order["graphs"]]
    found: list[dict[str, list[tuple[float, int]]]] = [{mode: [] for mode in order["modes"]} for _ in todo]
    options: dict[str, Any] = {} if order["policy"] is None else {"policy": order["policy"]}
    for mode in order["modes"]:  # what is done once per process is done before
        _run(todo[0], mode, 0.1, options)
    for repetition in range(order["repetitions"]):
        for graph, taken in zip(todo, found, strict=True):
            modes = order["modes"]
            for k in range(len(modes)):
                mode = modes[(k + repetition) % len(modes)]
                trace = _run(graph, mode, 1.0, options)
                taken[mode].append((trace.seconds, bytes_to_gpus(trace) * SCALE))
    json.dump(found, sys.stdout)


def _run(graph: graphs.Graph, mode: str, time_scale: float, options: dict[str, Any]) -> graphs.Trace:
    """One run, checked."""
    if mode == "no data":
        tasks = [replace(task, reads=(), writes=(), readwrites=()) for task in graph]
        graph, mode = graphs.Graph.of(tasks), "auto"
    trace = graphs.run(graph, mode, width=ROW, time_scale=time_scale, **options)
    problems = graphs.verify(graph, trace)
    if problems:
        sys.exit(f"the run was wrong, mode {mode}:\n" + "\n".join(problems[:10]))
    return trace


def bytes_to_gpus(trace: graphs.Trace) -> int:
    """Bytes that came to GPUs' memories from others."""
    to_gpus = [memory for memory in trace.stats["memories"] if memory["name"].startswith("gpu")]
    return sum(n for memory in to_gpus for source, n in memory["bytes_from"].items() if source != memory["name"])


def line(case: Case) -> str:
    """What was found, in one line."""
    words = [f"{title(case)}:"]
    words += [f"{mode} {case.median(mode):.3f} s" for mode in case.samples]
    words += [f"(perfect {case.perfect_s:.3f}, no overlap {case.no_overlap_s:.3f}, best placement {case.chosen_s:.3f})"]
    if (percent := case.auto_over_manual_percent) is not None:
        words.append(f"auto/manual {percent:+.1f} %")
    if (percent := case.hidden_percent) is not None:
        words.append(f"prefetch hides {percent:.1f} % of what a perfect schedule hides")
    return "  ".join(words)


def title(case: Case) -> str:
    """What it is, in a few words."""
    return f"{case.section}: {case.name}".replace("\n", ", ")


def summary(cases: Sequence[Case]) -> list[str]:
    """The two measures that have a target, over all cases."""
    lines = []
    slower = [(p, c) for c in cases if (p := c.auto_over_manual_percent) is not None]
    if slower:
        percent, case = max(slower, key=lambda pair: pair[0])
        verdict = "met" if percent <= 3 else "NOT MET"
        lines.append(
            f"automatic against manual movement, worst case: {percent:+.1f} % ({title(case)}); target <= +3 %: {verdict}"
        )
    hidden = [(p, c) for c in cases if (p := c.hidden_percent) is not None]
    if hidden:
        percent, case = min(hidden, key=lambda pair: pair[0])
        verdict = "met" if percent >= 90 else "NOT MET"
        lines.append(
            f"prefetch hides of what a perfect schedule hides, worst case: {percent:.1f} % ({title(case)}); "
            f"target >= 90 %: {verdict}"
        )
    return lines
