"""What a task costs: Parla beside ThreadPoolExecutor and Dask, in one run, by turns.

Prints a table with targets and writes ``overhead.json``. See parla-bench/README.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import kernels
import report
import sections
from measure import (
    Measurement,
    Neighbours,
    available_cores,
    output_directory,
    provenance,
    settle_memory,
)

SECTIONS: dict[str, Callable[[sections.Run], list[Measurement]]] = {
    "empty": sections.empty_tasks,
    "d50": sections.half_efficiency,
    "gil": sections.gil_shares,
    "memory": sections.memory,
    "scale": sections.scale,
    "cholesky": sections.cholesky,
    "idle": sections.idle,
}


DISTURBED = 3.0
"""Percent of the cores taken by others from which a section is called disturbed."""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="directory for overhead.json")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="small sizes, to try it out")
    parser.add_argument(
        "--kernel",
        choices=("c", "parla"),
        default="c",
        help="the busy waits: C through ctypes, or Parla's own, which flatter it",
    )
    parser.add_argument(
        "--only",
        type=_names(SECTIONS),
        default=list(SECTIONS),
        metavar="A,B",
        help=f"sections: {','.join(SECTIONS)}",
    )
    parser.add_argument(
        "--systems",
        type=lambda text: text.split(","),
        default=None,
        metavar="A,B",
        help="keys of the systems to measure",
    )
    parsed = parser.parse_args()
    for name in ("workers", "repetitions"):
        if getattr(parsed, name) < 1:
            parser.error(f"--{name} must be at least 1")
    if parsed.workers > available_cores():
        parser.error(f"--workers {parsed.workers}: only {available_cores()} cores are available")
    return parsed


def _names(known: Iterable[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        unknown = [name for name in names if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}")
        return names

    return parse


def main() -> None:
    """Measure the chosen sections, print the table, write the JSON."""
    chosen = arguments()
    options = {
        "only": chosen.only,
        "workers": chosen.workers,
        "quick": chosen.quick,
        "repetitions": chosen.repetitions,
        "systems": chosen.systems,
        "kernel": chosen.kernel,
    }
    kernels.use(chosen.kernel)
    result = provenance(options)
    settle_memory()
    run = sections.Run(chosen.workers, chosen.repetitions, chosen.quick, chosen.systems)
    found: list[Measurement] = []
    taken_by_others: dict[str, float | None] = {}
    for name in SECTIONS:
        if name in chosen.only:
            print(f"measuring {name} ...", flush=True)
            with Neighbours() as neighbours:
                found.extend(SECTIONS[name](run))
            taken_by_others[name] = neighbours.percent

    shown = list(dict.fromkeys(s for name in chosen.only for s in run.systems(name)))
    print(
        f"\nMedians of {chosen.repetitions}, {chosen.workers} workers; "
        "in brackets the peer's figure divided by Parla's.\n"
        "Targets bound Parla's figure and, as in '5x', its distance from ThreadPoolExecutor.\n"
    )
    print(report.table(found, shown))
    disturbed = {name: share for name, share in taken_by_others.items() if share is not None and share > DISTURBED}
    if disturbed:
        shares = ", ".join(f"{name} {share:.0f} %" for name, share in disturbed.items())
        print(f"\nOther processes or machines took of the cores: {shares}. Those sections say little.")
    result["taken_by_others_percent"] = taken_by_others
    result["measurements"] = [measurement.as_json() for measurement in found]
    result["systems"] = {system.key: system.label for system in shown}
    path = output_directory(chosen.out, chosen.quick) / "overhead.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\nwritten: {path}")


if __name__ == "__main__":
    main()
