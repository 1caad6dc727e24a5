"""Placed tasks on their way: what they say they are doing, and what ends them in the middle."""

from __future__ import annotations

import pytest
from placed_programs import run

# What a task is doing, in its state, in `why` and in the watchdog's report.

SLOW = {"PARLA_SIM_LINK": "bandwidth=20MB/s", "PARLA_SIM_TIME": "1"}


def test_a_task_whose_data_is_on_its_way_says_so(workers):
    run("""
arrays = [asarray(np.ones(MIB // 2)) for _ in range(3)]
with Parla(workers=WORKERS, check=True) as rt:
    @spawn(placement=gpu(1), inout=arrays)
    def slow():
        for a in arrays:
            a.array[:] += 1
    seen, texts = [], []
    while not slow.done():
        seen.append(str(slow.state))
        texts.append(rt.why(slow))
        time.sleep(0.005)
assert "staging" in seen, set(seen)
assert not slow.state.name == "staging" and slow.state.is_terminal
assert any("bringing 3 arrays, 12 MiB, to gpu(1)" in text for text in texts), set(texts)
""", workers, env=SLOW)


def test_a_task_whose_kernels_are_under_way_is_draining(workers):
    run("""
from parla.sim import kernel
with Parla(workers=WORKERS, check=True) as rt:
    @spawn(placement=gpu(1))
    def slow():
        kernel(300_000)
    seen, texts = set(), set()
    while not slow.done():
        seen.add(str(slow.state))
        texts.add(rt.why(slow))
        assert not (slow.state.name == "draining" and slow.cancel())
        time.sleep(0.005)
assert "draining" in seen, seen
assert any("gpu(1) is still at work" in text for text in texts), texts
""", workers, env=SLOW)


def test_who_has_the_compute_units_that_a_task_waits_for(workers):
    run("""
import threading
gate = threading.Event()
with Parla(workers=WORKERS, check=True) as rt:
    @spawn(placement=gpu(1))
    def holder():
        gate.wait(20)
    while holder.state.name != "running":
        time.sleep(0.001)
    @spawn(placement=gpu(1))
    def behind():
        pass
    text, end = "", time.monotonic() + 10
    while "compute units" not in text and time.monotonic() < end:
        text = rt.why(behind)
    assert behind.state.name == "placed", behind.state
    assert "compute units of gpu(1): 1 requested, 0 free" in text and "holder spawned at" in text, text
    gate.set()
""", workers)


def test_a_body_that_spins_for_a_child_that_needs_its_array(workers):
    """The runtime cannot know what a loop waits for; it can say what the child waits for."""
    done = run("""
A = asarray(np.zeros(1000), name="shared")
with Parla(workers=WORKERS) as rt:
    @spawn(placement=gpu(0), inout=[A])
    def parent():
        @spawn(placement=gpu(1), inout=[A])
        def child():
            A.array[:] += 1
        end = time.monotonic() + 2.5
        while not child.done() and time.monotonic() < end:
            time.sleep(0.01)
        assert not child.done()
        print(rt.why(child), flush=True)
    while not parent.done():
        time.sleep(0.01)
""", workers, check=False, env={"PARLA_WATCHDOG": "1"})
    assert done.returncode == 0, done.stderr
    for text in (done.stdout, done.stderr):
        assert "child" in text, text
        assert "shared[0:1000] is in use by parent spawned at" in text, text
        assert "gpu(1)" in text, text
    assert "no task has ended for 1 s" in done.stderr


def test_who_holds_the_memory_that_a_task_waits_for(workers):
    run("""
import threading
gate = threading.Event()
with Parla(workers=WORKERS, check=True) as rt:
    @spawn(placement=gpu(0), memory=60 * MIB, vcus=0.1)
    def holder():
        gate.wait(20)
    while holder.state.name != "running":
        time.sleep(0.001)
    @spawn(placement=gpu(0), memory=50 * MIB, vcus=0.1)
    def behind():
        pass
    text = ""
    end = time.monotonic() + 10
    while "memory of gpu(0)" not in text and time.monotonic() < end:
        text = rt.why(behind)
    assert behind.state.name == "ready", behind.state
    assert f"{50 * MIB} bytes requested, {40 * MIB} free of {100 * MIB}" in text, text
    assert "holder spawned at" in text and "(60 MiB)" in text, text
    gate.set()
""", workers)


# Ends in the middle: cancelled, lost, interrupted.


def test_cancelled_while_its_data_is_on_its_way(workers):
    run("""
arrays = [asarray(np.ones(MIB // 2)) for _ in range(3)]
with Parla(workers=WORKERS, check=True) as rt:
    for _ in range(3):
        @spawn(placement=gpu(1), inout=arrays, memory=20 * MIB)
        def slow():
            raise AssertionError("it was cancelled")
        while slow.state.name != "staging":
            time.sleep(0.001)
        assert slow.cancel()
        try:
            slow.result()
        except TaskCancelled:
            pass
    @spawn(placement=gpu(1), inout=arrays, memory=80 * MIB)
    def after():
        for a in arrays:
            a.array[:] += 1
assert all(float(a.array.sum()) == MIB for a in arrays)
""", workers, env=SLOW)


def test_the_block_raises_while_data_is_on_its_way(workers):
    run("""
arrays = [asarray(np.ones(MIB // 2)) for _ in range(3)]
try:
    with Parla(workers=WORKERS, check=True) as rt:
        @spawn(placement=gpu(1), inout=arrays)
        def slow():
            raise AssertionError("it was cancelled")
        while slow.state.name != "staging":
            time.sleep(0.001)
        raise KeyError("out")
except KeyError:
    pass
with Parla(workers=WORKERS, check=True) as rt:
    @spawn(placement=gpu(1), inout=arrays)
    def after():
        for a in arrays:
            a.array[:] += 1
assert all(float(a.array.sum()) == MIB for a in arrays)
""", workers, env=SLOW)


@pytest.mark.parametrize("doing", ["staging", "draining"])
def test_the_interpreter_exits_in_the_middle(workers, doing):
    done = run(f"""
from parla.sim import kernel
A = asarray(np.ones(MIB // 2))
rt = Parla(workers=WORKERS)
rt.__enter__()
@spawn(placement=gpu(1), inout=[A])
def slow():
    kernel(500_000)
while slow.state.name != {doing!r}:
    time.sleep(0.001)
print("leaves")
""", workers, check=False, env=SLOW)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "leaves\n"
