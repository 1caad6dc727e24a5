"""What the programs of the tests of placed tasks have in common: two simulated GPUs of 100 MiB each."""

from __future__ import annotations

from support import run_py

HEAD = """
import gc, os, sys, time
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
    """Runs a program on two simulated GPUs of 100 MiB each."""
    return run_py(HEAD + body, env=ENV | {"WORKERS": str(workers)} | (env or {}), check=check)
