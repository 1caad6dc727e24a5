"""What data cost where they never move: operands of empty CPU tasks, and the time to import Parla.

Prints a table with targets and writes ``coherence.json``. See parla-bench/README.md.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import report
import systems
from kernels import empty
from measure import Measurement, output_directory, provenance, settle_memory
from parla import Parla, spawn
from parla.cpu import cpu
from parla.parray import asarray

IMPORT_PROBE = """
import time
import numpy
start = time.perf_counter()
import parla
print(time.perf_counter() - start)
"""


def per_task_us(n: int, workers: int, operands: Sequence[Any] | Callable[[int], Any] | None) -> float:
    """Microseconds per empty task, from the first spawn until the block has ended; `operands` says what each task changes."""
    gc.collect()
    with Parla(workers=workers):
        spawn(placement=cpu)(empty).wait()
        start = time.perf_counter()
        if operands is None:
            for _ in range(n):
                spawn(placement=cpu)(empty)
        elif callable(operands):
            for i in range(n):
                spawn(placement=cpu, inout=[operands(i)])(empty)
        else:
            for operand in operands:
                spawn(placement=cpu, inout=[operand])(empty)
    return (time.perf_counter() - start) / n * 1e6


def operands(n: int, workers: int, repetitions: int) -> list[Measurement]:
    """Empty tasks without and with something to change; what an operand adds is taken within each repetition."""
    arrays = [asarray(np.zeros(8)) for _ in range(n)]
    rows = asarray(np.zeros((n, 8)))
    slices = [rows[i : i + 1] for i in range(n)]
    ways: dict[str, Any] = {
        "no operand": None,
        "inout=[array]": arrays,
        "inout=[array], 100 arrays in turn": [arrays[i % 100] for i in range(n)],
        "inout=[slice]": slices,
        "inout=[array[i:i + 1]], slicing included": lambda i: rows[i : i + 1],
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for repetition in range(repetitions):
        names = list(ways)
        for k in range(len(names)):
            name = names[(k + repetition) % len(names)]
            taken[name].append(per_task_us(n, workers, ways[name]))
    found = [Measurement("coherence", name, "us/task", {"parla": samples}) for name, samples in taken.items()]
    plain = taken["no operand"]
    for name, samples in list(taken.items())[1:]:
        added = [with_one - without for with_one, without in zip(samples, plain, strict=True)]
        found.append(Measurement("coherence", f"{name} adds", "us/task", {"parla": added}))
    return found


def import_time(repetitions: int) -> Measurement:
    """Milliseconds that ``import parla`` takes in a new process that has NumPy already."""
    samples = []
    for _ in range(repetitions):
        command = [sys.executable, "-c", IMPORT_PROBE]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        samples.append(float(done.stdout) * 1e3)
    return Measurement("import", "parla, beyond NumPy", "ms", {"parla": samples})


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="directory for coherence.json")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="few tasks, to try it out")
    parsed = parser.parse_args()
    for name in ("workers", "repetitions"):
        if getattr(parsed, name) < 1:
            parser.error(f"--{name} must be at least 1")
    return parsed


def main() -> None:
    """Measure, print the table, write the JSON."""
    chosen = arguments()
    result = provenance({key: getattr(chosen, key) for key in ("workers", "repetitions", "quick")})
    settle_memory()
    found = operands(500 if chosen.quick else 10_000, chosen.workers, chosen.repetitions)
    found.append(import_time(chosen.repetitions))
    print(f"Medians of {chosen.repetitions}, {chosen.workers} workers\n")
    print(report.table(found, [systems.find("parla")]))
    result["measurements"] = [measurement.as_json() for measurement in found]
    path = output_directory(chosen.out, chosen.quick) / "coherence.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\nwritten: {path}")


if __name__ == "__main__":
    main()
