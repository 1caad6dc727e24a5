"""Check Parla on this machine: ``python3 run.py``. Needs Python 3.10 or later with NumPy; uses CuPy if it is there; no network.

Writes ``gpu-check.json`` and ``gpu-check.md`` into the current directory (or ``--out``). Without a GPU it says so, and checks the CPU and
simulated GPUs. The status is 1 if a check failed or missed its measure.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import zipfile
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
# Seconds for one check.
LIMIT = 180
# What has to work for a check that needs something: a program that prints why it does not, or nothing.
NEEDS = {
    "": "",
    "gpu": "from parla.devices import gpu; print('' if len(gpu) else gpu.unavailable)",
    "cupy": "import cupy; cupy.cuda.runtime.getDeviceCount()",
    "torch": "import torch; print('' if torch.cuda.is_available() else 'Torch sees no GPU')",
    "numba": "from numba import cuda; import numpy; cuda.jit('void(float64[:])')(lambda x: None)[1, 1](numpy.zeros(1))",
    "numba arrays": "from numba import cuda; print('' if len(cuda.gpus) else 'Numba sees no GPU')",
    "nsys": "import shutil; print('' if shutil.which('nsys') else 'nsys is not on PATH')",
}
# Where the checks' processes look for modules first.
PATHS: list[str] = []


def main() -> int:
    """Run all checks and write the report."""
    parser = argparse.ArgumentParser(description="Check Parla on this machine.")
    parser.add_argument("checks", nargs="*", help="only these (default: all)")
    parser.add_argument("--out", type=Path, default=Path.cwd(), help="where to write gpu-check.json and .md")
    arguments = parser.parse_args()
    if sys.version_info < (3, 10):  # noqa: UP036 - whoever tries an older one is told
        sys.exit("gpu-check: Python 3.10 or later is needed, this is " + platform.python_version())
    if importlib.util.find_spec("numpy") is None:
        sys.exit("gpu-check: NumPy is needed: python3 -m pip install numpy")
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as directory:
        PATHS.extend([*unpack(Path(directory)), str(HERE)])
        report = examine(arguments.checks)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "gpu-check.json").write_text(json.dumps(report, indent=1) + "\n")
    text = in_words(report)
    (arguments.out / "gpu-check.md").write_text(text)
    print("\n" + text)
    return 0 if all(check["status"] in ("passed", "skipped") for check in report["checks"].values()) else 1


def unpack(directory: Path) -> list[str]:
    """Put the wheel's package where Python finds it; nothing if there is no wheel beside this file (`parla` is installed then)."""
    wheels = sorted(HERE.glob("*.whl"))
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as files:
            files.extractall(directory)
    return [str(directory)] if wheels else []


def environment() -> dict[str, str]:
    """What the checks' processes get: the package, and none of the settings of this shell."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PARLA_")}
    paths = [*PATHS, *filter(None, [kept.get("PYTHONPATH")])]
    return {**kept, "PYTHONPATH": os.pathsep.join(paths)}


def ask(program: str) -> str:
    """What a small Python program prints, or what went wrong."""
    command = [sys.executable, "-c", program]
    try:
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return "no answer"
    return done.stdout.strip() if done.returncode == 0 else (done.stderr.strip().splitlines() or ["no answer"])[-1]


def examine(names: list[str]) -> dict[str, Any]:
    """The machine, and the result of each check."""
    from checks import CHECKS

    unknown = set(names) - {function.__name__ for function, _, _ in CHECKS}
    if unknown:
        sys.exit(f"gpu-check: there is no check called {', '.join(sorted(unknown))}")
    why_not = cache(lambda needs: ask(NEEDS[needs]) if needs in ("", "gpu") else why_not("gpu") or ask(NEEDS[needs]))
    no_gpu, no_cupy = why_not("gpu"), why_not("cupy")
    report: dict[str, Any] = {"machine": machine(), "gpu": no_gpu or "found", "cupy": no_cupy or "found", "checks": {}}
    print(f"GPU: {no_gpu or 'found'}\n")
    for function, needs, settings in CHECKS:
        name = function.__name__
        if names and name not in names:
            continue
        print(f"{name:24} ", end="", flush=True)
        if why_not(needs):
            result: dict[str, Any] = {"status": "skipped", "reason": why_not(needs)}
        else:
            result = perform(name, settings)
        report["checks"][name] = {"what": function.__doc__, **result}
        print(result["status"], result.get("reason", ""), flush=True)
    return report


def perform(name: str, settings: dict[str, str]) -> dict[str, Any]:
    """Run one check in a process of its own."""
    command = [sys.executable, str(HERE / "checks.py"), name]
    try:
        done = subprocess.run(command, env={**environment(), **settings}, capture_output=True, text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return {"status": "failed", "reason": f"not done after {LIMIT} s"}
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        return {
            "status": "failed",
            "reason": f"status {done.returncode}",
            "output": (done.stdout + done.stderr)[-4000:],
        }
    result: dict[str, Any] = json.loads(lines[-1])
    if result["status"] == "failed":
        result["output"] = done.stderr[-4000:]
    return result


def machine() -> dict[str, Any]:
    """What the results are about."""
    commit = HERE / "commit.txt"
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit.read_text().strip() if commit.exists() else None,
        "system": platform.platform(),
        "processor": processor(),
        "cpus": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "numpy": ask("import numpy; print(numpy.__version__)"),
        "nvidia_smi": smi(),
    }


def processor() -> str:
    """The CPU's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def smi() -> list[str]:
    """Cards and driver as nvidia-smi names them."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version,pcie.link.gen.max", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.strip().splitlines() if done.returncode == 0 else []


def in_words(report: dict[str, Any]) -> str:
    """The report for people."""
    about = report["machine"]
    lines = [
        "# GPU check",
        "",
        f"{about['date']}, commit {about['commit'] or 'unknown'}",
        f"{about['processor']}, {about['cpus']} CPUs, {about['system']}, Python {about['python']}, NumPy {about['numpy']}",
        f"GPU: {'; '.join(about['nvidia_smi']) or report['gpu']}. CuPy: {report['cupy']}.",
        "",
        "| check | result | measured |",
        "|---|---|---|",
    ]
    for name, result in report["checks"].items():
        measured = ", ".join(f"{key} {number(value)}" for key, value in result.get("measured", {}).items())
        reason = f": {result['reason']}" if "reason" in result else ""
        lines.append(f"| {name} | {result['status']}{reason} | {measured} |".replace("\n", " "))
    return "\n".join(lines) + "\n"


def number(value: Any) -> str:
    """A number with as many digits as are worth reading."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
