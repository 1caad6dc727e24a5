"""Ctrl-C while data travel: what is under way is waited for, a second one does not wait, and nothing is lost."""

from __future__ import annotations

import time

import pytest
from support import WORKER_COUNTS, Program

pytest.importorskip("numpy")

# A megabyte takes a second.
SLOW = {"PARLA_SIM_GPUS": "1", "PARLA_SIM_GPU_MEM": "64M", "PARLA_SIM_LINK": "latency=10us,bandwidth=1MB/s"}

PRELUDE = """
import numpy, time
from parla import Parla, spawn
from parla.devices import gpu
from parla.parray import asarray

def until(reached):
    while not reached():
        time.sleep(0.001)

home = numpy.full(SIZE, 7, numpy.int8)
array, ran = asarray(home), []
"""

STAGING = """
try:
    with Parla(workers=WORKERS):
        task = spawn(placement=gpu(0), inout=[array])(lambda: ran.append(1))
        until(lambda: str(task.state) == "staging")
        print("ready", flush=True)
except KeyboardInterrupt:
    print("interrupted", task.state, ran, flush=True)
"""

COMING_HOME = """
try:
    with Parla(workers=WORKERS):
        @spawn(placement=gpu(0), output=[array])
        def task():
            array.array[:] = 8

        task.wait()
        print("ready", flush=True)
except KeyboardInterrupt:
    print("interrupted", task.state, ran, flush=True)
"""

AFTERWARDS = """
print(array[5], array[-1], flush=True)
with Parla(workers=WORKERS) as rt:
    other = asarray(numpy.zeros(10))
    print(spawn(placement=gpu(0), inout=[other])(lambda: "again").result(), flush=True)
assert rt.stats()["memories"][1]["used"] == 0, rt.stats()
print(home[5], home[-1], flush=True)
"""


def start(text: str, n: int, size: int) -> Program:
    source = (PRELUDE + text + AFTERWARDS).replace("WORKERS", str(n)).replace("SIZE", str(size))
    return Program(source, env=SLOW)


@pytest.mark.parametrize("n", WORKER_COUNTS)
@pytest.mark.parametrize(("where", "ends", "contents"), [(STAGING, "cancelled", 7), (COMING_HOME, "done", 8)], ids=["staging", "coming home"])
def test_a_second_interrupt_does_not_wait_for_data(where, ends, contents, n):
    """Not for a copy of six seconds; whoever reads the array then waits for it, and finds what it must have."""
    run = start(where, n, 6_000_000)
    run.expect("ready")
    begin = time.monotonic()
    run.interrupt()
    time.sleep(0.3)
    run.interrupt()
    run.expect(f"interrupted {ends} []", 10)
    assert time.monotonic() - begin < 4
    for line in (f"{contents} {contents}", "again", f"{contents} {contents}"):
        run.expect(line, 30)
    assert run.finish().returncode == 0


@pytest.mark.parametrize("n", WORKER_COUNTS)
@pytest.mark.parametrize(("where", "ends", "contents"), [(STAGING, "cancelled", 7), (COMING_HOME, "done", 8)], ids=["staging", "coming home"])
def test_one_interrupt_waits_for_what_travels(where, ends, contents, n):
    """The task that waits for its data is cancelled; the user's buffer is current when the block has been left."""
    run = start(where.replace('print("interrupted"', f'assert home[5] == home[-1] == {contents}\n    print("interrupted"'), n, 600_000)
    run.expect("ready")
    run.interrupt()
    run.expect(f"interrupted {ends} []", 10)
    for line in (f"{contents} {contents}", "again", f"{contents} {contents}"):
        run.expect(line, 10)
    assert run.finish().returncode == 0
