"""What the figures over synthetic graphs share: the command line, the files, the drawing."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes
from measure import output_directory, provenance
from synthetic import LABELS, MODES, RTX_NODE, Case, Node, measure, real_node, summary

COLOURS = {"manual": "#8c8c8c", "auto": "#0072b2", "policy": "#c1272d"}
Result = dict[str, Any]


def arguments(description: str) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, help="directory for the files")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="few tasks, once: to try it out")
    parser.add_argument("--gpus", type=_counts, default=[1, 2, 4], metavar="1,2,4", help="numbers of GPUs")
    parser.add_argument("--on", choices=("simulated", "real"), help="these GPUs only (default: simulated ones, and real ones where there are some)")
    parser.add_argument("--shrink", type=int, default=1, metavar="N", help="on real GPUs: data are so many times smaller (to try it out)")
    parser.add_argument("--policy", help="scheduling policy (default: Parla's)")
    parser.add_argument("--redraw", action="store_true", help="draw again from the JSON in --out, measuring nothing")
    parsed = parser.parse_args()
    if parsed.repetitions < 1:
        parser.error("--repetitions must be at least 1")
    if parsed.quick:
        parsed.repetitions = 1
    return parsed


def _counts(text: str) -> list[int]:
    counts = sorted({int(word) for word in text.split(",")})
    if not 1 <= counts[0] <= counts[-1] <= 32:
        raise argparse.ArgumentTypeError("1 to 32 GPUs")
    return counts


Cases = Callable[[Node, argparse.Namespace], list[Case]]


def main(name: str, description: str, make_cases: Cases) -> None:
    """Measure, write the JSON, draw: for simulated GPUs, and under another name for real ones where there are some."""
    chosen = arguments(description)
    out = output_directory(chosen.out, chosen.quick)
    if chosen.redraw:
        for path in (out / f"{name}.json", out / f"{name}-real.json"):
            if path.exists():
                show(json.loads(path.read_text()), out, path.stem)
        return
    if chosen.on != "real":
        run(RTX_NODE, name, out, chosen, make_cases)
    if chosen.on != "simulated":
        with tempfile.TemporaryDirectory() as directory:
            node = real_node(directory, chosen.shrink)
            if node is not None:
                run(node, f"{name}-real", out, chosen, make_cases)
            elif chosen.on == "real":
                sys.exit("there is no real GPU here: python -m parla says why")
            else:
                print("real GPUs: skipped, there is none here")


def run(node: Node, name: str, out: Path, chosen: argparse.Namespace, make_cases: Cases) -> None:
    """Measure on one node."""
    options = {key: getattr(chosen, key) for key in ("gpus", "repetitions", "quick", "policy")}
    result = provenance(options)
    links = node.links
    result["node"] = node.label
    result["links"] = {"host_gb_s": links.host_gb_s, "latency_us": links.latency_us, "peer": links.peer, "scale": node.scale}
    result["environment"] = {str(n): node.variables(n) for n in chosen.gpus}
    start = time.perf_counter()
    cases = make_cases(node, chosen)
    measure(node, cases, chosen.repetitions, MODES, chosen.policy)
    result["took_s"] = round(time.perf_counter() - start, 1)
    result["cases"] = [case.as_json() for case in cases]
    result["summary"] = summary(cases)
    print("\n".join(["", *result["summary"]]))
    path = out / f"{name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written: {path} ({result['took_s']} s)")
    show(result, out, name)


def show(result: Result, out: Path, name: str) -> None:
    """Draw, and say where."""
    for drawn in draw(result, out, name):
        print(f"written: {drawn}")


def draw(result: Result, out: Path, name: str) -> list[Path]:
    """Write ``NAME.png`` and ``NAME.svg`` for one result; their paths."""
    cases = result["cases"]
    sections = list(dict.fromkeys(case["section"] for case in cases))
    style: dict[str, Any] = {
        "font.size": 9,
        "axes.titlesize": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "axes.axisbelow": True,
        "grid.color": "#e6e6e6",
        "svg.hashsalt": name,
    }
    with pyplot.rc_context(style):
        figure, panels = pyplot.subplots(1, len(sections), figsize=(4.4 * len(sections), 4.2), layout="constrained", squeeze=False)
        for axes, section in zip(panels[0], sections, strict=True):
            _bars(axes, section, [case for case in cases if case["section"] == section])
        panels[0][0].set_ylabel("seconds")
        handles, labels = panels[0][0].get_legend_handles_labels()
        bars_first = sorted(zip(handles, labels, strict=True), key=lambda pair: pair[1] not in LABELS.values())
        columns = min(len(bars_first), 2 * len(sections))
        figure.legend(*zip(*bars_first, strict=True), loc="outside lower center", ncols=columns, fontsize=8, frameon=False)
        figure.suptitle(_title(result), fontsize=8, color="#555555")
        paths = [out / f"{name}.png", out / f"{name}.svg"]
        for path in paths:
            figure.savefig(path, dpi=150)
        pyplot.close(figure)
    return paths


def _bars(axes: Axes, section: str, cases: Sequence[Result]) -> None:
    width = 0.26
    for k, mode in enumerate(LABELS):
        places = [i + (k - 1) * width for i in range(len(cases))]
        axes.bar(places, [case["medians"][mode] for case in cases], width, color=COLOURS[mode], label=LABELS[mode])
    for label, line, key in (
        ("computed: perfect, placed by hand", "-", "perfect_s"),
        ("computed: perfect, best placement", ":", "chosen_s"),
    ):
        for i, case in enumerate(cases):
            if not case.get("own_links", True):
                continue
            axes.hlines(case[key], i - 1.7 * width, i + 1.7 * width, "black", line, linewidth=1.2, label=label if i == 0 else None)
    axes.set_xticks(range(len(cases)), [case["name"] for case in cases], fontsize=8)
    axes.set_title(section)


def _title(result: Result) -> str:
    machine, links = result["machine"], result["links"]
    return (
        f"{result.get('node', 'simulated')} GPUs, {links['host_gb_s']:.3g} GB/s and {links['latency_us']:g} µs to the host, "
        f"{'peer copies' if links['peer'] else 'through the host between GPUs'}; on {machine['cpu']}, {machine['cores']} cores · "
        f"medians of {result['arguments']['repetitions']} · {result['date'][:10]}"
    )
