"""Check Parla on this machine: ``python3 run.py``. Needs Python 3.10 or later with NumPy; uses CuPy if it is there; no network.

Writes ``gpu-check.json`` and ``gpu-check.md`` into the current directory (or ``--out``), after each check anew. Without a GPU it says so, and
checks the CPU and simulated GPUs. It ends after nine minutes at most (``--minutes``); ``--quick`` does the measurements and the shortest checks only,
``run.py NAME...`` those that are named, and ``--list`` lists them. The status is 1 if a check failed, missed its measure or had no time.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
# Seconds for one check, and for asking whether something works.
LIMIT, LIMIT_TO_ASK = 120, 60
# Those that come first, and are all there is with --quick.
QUICK = (
    "devices",
    "copies",
    "empty_kernels",
    "empty_cupy_kernels",
    "pipeline",
    "no_host_synchronisation",
    "import_time",
    "arrays",
    "example_hello",
)
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
    """Run the checks and write the report."""
    parser = argparse.ArgumentParser(description="Check Parla on this machine.")
    parser.add_argument("checks", nargs="*", help="only these (default: all)")
    parser.add_argument("--out", type=Path, default=Path.cwd(), help="where to write gpu-check.json and .md")
    parser.add_argument("--quick", action="store_true", help="only the measurements and the shortest checks")
    parser.add_argument("--minutes", type=float, default=9.0, help="how long all of it may take (default: 9)")
    parser.add_argument("--list", action="store_true", help="list the checks, and do nothing")
    arguments = parser.parse_args()
    if sys.version_info < (3, 10):  # noqa: UP036 - whoever tries an older one is told
        sys.exit("gpu-check: Python 3.10 or later is needed, this is " + platform.python_version())
    if importlib.util.find_spec("numpy") is None:
        sys.exit("gpu-check: NumPy is needed: python3 -m pip install numpy")
    until = time.monotonic() + arguments.minutes * 60
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as directory:
        PATHS.extend([*unpack(Path(directory)), str(HERE)])
        chosen = choose(arguments.checks, arguments.quick)
        if arguments.list:
            for function, needs, _ in chosen:
                print(f"{function.__name__:24} {f'[{needs}] ' if needs else ''}{function.__doc__.splitlines()[0]}")
            return 0
        arguments.out.mkdir(parents=True, exist_ok=True)
        text, report = "", {"checks": {}}
        try:
            for report in examine(chosen, until):
                (arguments.out / "gpu-check.json").write_text(json.dumps(report, indent=1) + "\n")
                text = in_words(report)
                (arguments.out / "gpu-check.md").write_text(text)
        except KeyboardInterrupt:
            print("\ninterrupted: the report has what was done so far")
    print("\n" + text)
    done = {check["status"] for check in report["checks"].values()}
    return 0 if len(report["checks"]) == len(chosen) and done <= {"passed", "skipped"} else 1


def choose(names: list[str], quick: bool) -> list[Any]:
    """The checks to do, the measurements first."""
    from checks import CHECKS

    unknown = set(names) - {function.__name__ for function, _, _ in CHECKS}
    if unknown:
        sys.exit(f"gpu-check: there is no check called {', '.join(sorted(unknown))}")
    wanted = set(names) | (set(QUICK) if quick else set())
    rank = {name: i for i, name in enumerate(QUICK)}
    chosen = [check for check in CHECKS if not wanted or check[0].__name__ in wanted]
    return sorted(chosen, key=lambda check: rank.get(check[0].__name__, len(QUICK)))


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


def call(command: list[str], limit: float, **settings: str) -> tuple[int | None, str, str]:
    """Status, output and errors of a program; None if it did not end in time. It is killed then, with all that it has started."""
    with tempfile.TemporaryFile("w+", errors="replace") as out, tempfile.TemporaryFile("w+", errors="replace") as errors:
        process = subprocess.Popen(
            command, env={**environment(), **settings}, stdin=subprocess.DEVNULL, stdout=out, stderr=errors, start_new_session=True
        )
        try:
            status: int | None = process.wait(limit)
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)  # one that hangs in the driver does not even die
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            status = None
        texts = []
        for file in (out, errors):
            file.seek(0)
            texts.append(file.read())
    return status, texts[0], texts[1]


def ask(program: str) -> str:
    """What a small Python program prints, or what went wrong."""
    status, out, errors = call([sys.executable, "-c", program], LIMIT_TO_ASK)
    if status is None:
        return f"no answer within {LIMIT_TO_ASK} s"
    return out.strip() if status == 0 else (errors.strip().splitlines() or [f"status {status}"])[-1]


def examine(checks: list[Any], until: float) -> Iterator[dict[str, Any]]:
    """The machine, and the results of the checks that are done so far."""
    why_not = cache(lambda needs: ask(NEEDS[needs]) if needs in ("", "gpu") else why_not("gpu") or ask(NEEDS[needs]))
    no_gpu = why_not("gpu")
    report: dict[str, Any] = {"machine": machine(), "gpu": no_gpu or "found", "cupy": why_not("cupy") or "found", "checks": {}}
    yield report
    print(f"GPU: {no_gpu or 'found'}\n")
    for function, needs, settings in checks:
        name, left = function.__name__, until - time.monotonic()
        print(f"{name:24} ", end="", flush=True)
        if left < 5:
            result: dict[str, Any] = {"status": "not run", "reason": "no time left (--minutes)"}
        elif why_not(needs):
            result = {"status": "skipped", "reason": why_not(needs)}
        else:
            began = time.monotonic()
            result = perform(name, settings, min(LIMIT, left))
            result["seconds"] = round(time.monotonic() - began, 1)
        report["checks"][name] = {"what": function.__doc__, **result}
        print(result["status"], result.get("reason", ""), flush=True)
        yield report


def perform(name: str, settings: dict[str, str], limit: float) -> dict[str, Any]:
    """Run one check in a process of its own."""
    status, out, errors = call([sys.executable, str(HERE / "checks.py"), name], limit, **settings)
    result = last_result(out)
    if status == 0 and result is not None:
        if result["status"] == "failed":
            result["output"] = errors[-4000:]
        return result
    why = f"not done after {limit:.0f} s" if status is None else f"status {status}"
    if result is not None:
        why += f", after it had {result['status']}: its process did not end well"
    return {**(result or {}), "status": "failed", "reason": why, "output": (out + errors)[-4000:]}


def last_result(out: str) -> dict[str, Any] | None:
    """What a check printed as its result, whatever libraries printed before and after it."""
    for line in reversed(out.splitlines()):
        with contextlib.suppress(ValueError):
            result = json.loads(line)
            if isinstance(result, dict) and "status" in result:
                return result
    return None


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
    ]
    targets = [(name, target) for name, result in report["checks"].items() for target in result.get("targets", ())]
    if targets:
        lines += ["| measure | target | measured | |", "|---|---|---|---|"]
        for name, target in targets:
            met = "met" if target["met"] else "**not met**"
            lines.append(f"| {name}: {target['measure']} | {target['target']} | {number(target['measured'])} | {met} |")
        lines.append("")
    lines += ["| check | result | measured |", "|---|---|---|"]
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
