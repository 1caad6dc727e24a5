"""What the programs of the tests of placed tasks have in common: two simulated GPUs of 100 MiB each."""

from __future__ import annotations

from pathlib import Path

from support import run_py

HEAD = f"""
import atexit, gc, os, sys, time
sys.path.append({str(Path(__file__).parent)!r})
import least_bytes
wasted = least_bytes.watch()
atexit.register(lambda: wasted and print(*wasted, sep="\\n", file=sys.stderr))
import numpy as np
from parla import Parla, TaskSpace, spawn
from parla.devices import cpu, gpu
from parla.errors import DeadlockError, DeviceOutOfMemory, ParlaError, TaskCancelled
from parla.parray import asarray
WORKERS = int(os.environ["WORKERS"])
MIB = 2**20
"""

ENV = {"PARLA_SIM_GPUS": "2", "PARLA_SIM_GPU_MEM": "100MiB"}


def run(body: str, workers: int = 2, *, check: bool = True, env: dict[str, str] | None = None):
    """Runs a program on two simulated GPUs of 100 MiB each; it may move no more than it has to."""
    done = run_py(HEAD + body, env=ENV | {"WORKERS": str(workers)} | (env or {}), check=check)
    assert " bytes were " not in done.stderr, done.stderr  # what `least_bytes` says
    return done
