"""Synthetic task graphs on simulated and real GPUs: measured beside schedules computed for the same links.

The simulated node, `RTX_NODE`, has Quadro RTX 5000 cards. Data there are a thousandth of the size that the figures name and links a thousandth of
the speed, so copies take as long as the full ones would, and this machine's processors, which do them, keep up. On real GPUs, `real_node`, data
have their full size and links are measured.
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

ROW = 100
"""float32 numbers in a row of a data block."""


@dataclass(frozen=True)
class Node:
    """GPUs to run on."""

    label: str
    links: Links
    environment: dict[str, str]
    """The variables that make them, but for their number."""
    count: str
    """The variable that says how many."""
    n_cards: int | None
    """How many GPUs have links of their own; None: all."""
    scale: int = 1
    """Data and links are so many times smaller than the figures say."""

    def variables(self, n_gpus: int) -> dict[str, str]:
        """What makes so many of them."""
        return self.environment | {self.count: str(n_gpus)}

    def has_links_for(self, n_gpus: int) -> bool:
        """Whether each of so many GPUs has links of its own, which the computed schedules assume."""
        return self.n_cards is None or n_gpus <= self.n_cards

    def rows(self, megabytes: float) -> int:
        """Rows of a data block."""
        return max(1, round(megabytes * 1e6 / self.scale / (4 * ROW)))


def _rtx_node() -> Node:
    """Simulated Quadro RTX 5000 cards.

    PCIe 3.0 with 16 lanes to each carries about 12 GB/s of 15.75. They have 16 GB, no NVLink bridges and sit on two sockets: between them bytes
    go through the host.
    """
    links, scale = Links(host_gb_s=12.0, latency_us=10.0, peer=False), 1000
    environment = {
        "PARLA_SIM_GPU_MEM": str(int(16e9 / scale)),
        "PARLA_SIM_LINK": f"latency={links.latency_us:g}us,bandwidth={links.host_gb_s * 1e6 / scale:g}kB/s,peer=none",
    }
    return Node("simulated", links, environment, "PARLA_SIM_GPUS", None, scale)


RTX_NODE = _rtx_node()


def real_node(directory: str, scale: int = 1) -> Node | None:
    """The GPUs of this machine, their links measured now and kept in a file in `directory`; None if it has none.

    More GPUs than there are cards are virtual ones, which share the links of their card.
    """
    environment = {"PARLA_LINK_FILE": str(Path(directory) / "links"), "PARLA_SIM_GPUS": "0"}
    program = "import json; from parla import _native; print(json.dumps(_native.measure_links() and _native.machine(), default=str))"
    command = [sys.executable, "-c", "from parla.devices import gpu; print(len(gpu))"]
    n_cards = int(subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True).stdout)
    if not n_cards:
        return None
    measured = subprocess.run([sys.executable, "-c", program], env=os.environ | environment, capture_output=True, text=True, check=True)
    machine = json.loads(measured.stdout)
    links = machine["links"]
    gpus = [device["memory"] for device in machine["devices"] if device["architecture"] == "gpu"]
    with_host = [link for k in gpus for link in (links[0][k], links[k][0])]
    between = [links[k][other] for k in gpus for other in gpus if k != other]
    slowest = min(link["bytes_per_second"] for link in with_host) / 1e9
    latency = max(link["latency_ns"] for link in with_host) / 1e3
    peer = bool(between) and all(link["direct"] for link in between)
    model = next(device["model"] for device in machine["devices"] if device["architecture"] == "gpu")
    return Node(f"{n_cards} x {model}", Links(slowest, latency, peer), environment, "PARLA_VIRTUAL_GPUS", n_cards, scale)

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
    own_links: bool = True
    """Whether the GPUs have links of their own, as the computed schedules assume."""
    samples: dict[str, list[float]] = field(default_factory=dict)
    """Seconds by mode; "no data": the same tasks with nothing to move."""
    bytes_moved: dict[str, int] = field(default_factory=dict)
    """Between memories, to GPUs, as if the data had their full size, by mode, in the last repetition. By hand it is not counted."""

    @classmethod
    def of(
        cls, node: Node, section: str, name: str, n_gpus: int, megabytes: float, task_ms: float, graph: graphs.Graph
    ) -> Case:
        """A case with its schedules."""
        case = cls(section, name, n_gpus, megabytes, task_ms, graphs.dumps(graph), len(graph))
        sizes = [block.size * ROW * 4 * node.scale for block in graph.data]
        perfect = schedules.schedule(graph, node.links, n_gpus, sizes)
        case.perfect_s, case.least_bytes = perfect.seconds, perfect.bytes_moved
        case.no_overlap_s = schedules.schedule(graph, node.links, n_gpus, sizes, prefetch=False).seconds
        case.chosen_s = schedules.schedule(graph, node.links, n_gpus, sizes, choose=True).seconds
        case.compute_s = schedules.schedule(graph, node.links, n_gpus, [0] * len(sizes)).seconds
        case.own_links = node.has_links_for(n_gpus)
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
        if auto is None or no_data is None or not self.own_links or hideable < 0.01 * self.perfect_s:
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


def measure(node: Node, cases: Sequence[Case], repetitions: int, modes: Sequence[str] = MODES, policy: str | None = None) -> None:
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
            env=os.environ | node.variables(n_gpus),
            input=json.dumps(order),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        for case, found in zip(here, json.loads(done.stdout), strict=True):
            case.samples = {mode: [seconds for seconds, _ in runs] for mode, runs in found.items()}
            case.bytes_moved = {mode: runs[-1][1] * node.scale for mode, runs in found.items() if mode not in ("manual", "no data")}
            print(line(case), flush=True)


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
                taken[mode].append((trace.seconds, bytes_to_gpus(trace)))
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
