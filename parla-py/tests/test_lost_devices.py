"""A device that is lost at an awkward moment: while data travel to it or from it, while a body's kernels are at work, while it copies ahead.

Its tasks fail with what went wrong, everybody else goes on, nothing hangs, and no data are read that nobody can vouch for.
"""

from __future__ import annotations

import time

import numpy
import pytest
from machine import configured
from parla import Parla, TaskSpace, spawn
from parla.devices import cpu, gpu
from parla.errors import DeviceError, ParlaError
from parla.parray import asarray
from parla.sim import kernel
from support import LIMIT, leaves

MB = 1_000_000


def until(reached, what: str) -> None:
    """Wait for something that another thread brings about."""
    begin = time.monotonic()
    while not reached():
        assert time.monotonic() - begin < LIMIT, what
        time.sleep(0.001)


@pytest.fixture
def slow():
    """Two simulated GPUs of 4 MB whose copies take 0.1 s per MB; the second is lost when it is given its nth copy or kernel."""

    def lost_at(n: int):
        return configured(
            PARLA_SIM_GPUS="2",
            PARLA_SIM_GPU_MEM="4M",
            PARLA_SIM_LINK="latency=10us,bandwidth=10MB/s",
            PARLA_SIM_FAULTS=f"gpu:1 lose={n}",
        )

    yield lost_at
    # The lost device went with its machine.
    with configured(PARLA_SIM_GPUS="2"), Parla(workers=2):
        again = asarray(numpy.zeros(10))
        spawn(placement=gpu(1), inout=[again])(lambda: again.array.fill(1)).wait(LIMIT)
    assert again[3] == 1


def strike(engine: str) -> None:
    """A task that finds the second GPU lost when an engine of it that has nothing to do is to do something."""
    small = asarray(numpy.zeros(10))
    if engine == "kernel":
        task = spawn(placement=gpu(1), vcus=0.1)(lambda: kernel(10))
    elif engine == "copy to it":
        task = spawn(placement=gpu(1), vcus=0.1, input=[small])(lambda: None)
    else:
        there = spawn(placement=gpu(1), vcus=0.1, output=[small])(lambda: None)
        task = spawn(dependencies=[there], placement=cpu, input=[small])(lambda: None)
    error = task.exception(LIMIT)
    assert is_of_the_device(error), error


def is_of_the_device(error) -> bool:
    """Whether a task ended with the loss of the second GPU."""
    return isinstance(error, DeviceError) and "gpu:1" in str(error)


def others_go_on() -> None:
    """Tasks elsewhere work as before."""
    array = asarray(numpy.zeros(10))
    for device in (gpu(0), cpu):

        @spawn(placement=device, inout=[array])
        def add():
            array.array[:] += 1

        add.wait(LIMIT)
    assert array[3] == 2


def test_while_data_travel_to_it(slow, workers):
    """Nothing was written there: what the program has is what it had."""
    with slow(2):
        array, ran = asarray(numpy.full(2 * MB, 7, numpy.int8)), []
        with Parla(workers=workers, check=True) as rt:
            task = spawn(placement=gpu(1), vcus=0.1, inout=[array])(lambda: ran.append(1))
            until(lambda: str(task.state) == "staging", "it does not begin to copy")
            strike("kernel")
            assert is_of_the_device(task.exception(LIMIT)), task.exception()
            others_go_on()
            assert not ran
            assert rt.stats()["pending"] == 0
        assert (array.array == 7).all()


def test_while_kernels_are_at_work(slow, workers):
    """What the body wrote cannot be trusted; its dependents do not run."""
    with slow(2):
        array, ran = asarray(numpy.zeros(100), name="A"), []
        with Parla(workers=workers, check=True):
            T = TaskSpace("T")

            @spawn(T[0], placement=gpu(1), vcus=0.1, output=[array])
            def writes():
                kernel(300_000)

            until(lambda: str(writes.state) == "draining", "its body does not return")
            after = spawn(T[1], [T[0]], placement=cpu, input=[array])(lambda: ran.append(1))
            strike("copy to it")
            assert is_of_the_device(writes.exception(LIMIT)), writes.exception()
            assert after.exception(LIMIT) is not None and not ran
            others_go_on()
        with pytest.raises(ParlaError, match=r"A"):
            array.tolist()
        array[:] = 3.0  # written as a whole it is good again
        assert array[5] == 3


def test_while_it_copies_ahead(slow, workers):
    """Inputs of a task that is not ready yet are on their way."""
    with slow(3):
        array, ran = asarray(numpy.full(2 * MB, 7, numpy.int8)), []
        with Parla(workers=workers, check=True) as rt:
            T = TaskSpace("T")
            first = spawn(T[0], placement=gpu(1), vcus=0.1)(lambda: kernel(400_000))
            second = spawn(T[1], [T[0]], placement=gpu(1), vcus=0.1, input=[array])(lambda: ran.append(1))
            until(lambda: sum(memory["copies"] for memory in rt.stats()["memories"]), "nothing is copied ahead")
            strike("copy from it")
            assert is_of_the_device(first.exception(LIMIT)), first.exception()
            assert second.exception(LIMIT) is not None and not ran
            others_go_on()
        assert (array.array == 7).all()


def test_while_it_writes_back(slow, workers):
    """The newest copy was there only: reading it is an error that says why."""
    with slow(2):
        old, new = asarray(numpy.zeros(3 * MB, numpy.int8), name="old"), asarray(numpy.full(3 * MB, 7, numpy.int8), name="new")
        with Parla(workers=workers, check=True) as rt:
            spawn(placement=gpu(1), vcus=0.1, output=[old])(lambda: None).wait(LIMIT)
            task = spawn(placement=gpu(1), vcus=0.1, inout=[new])(lambda: None)
            until(lambda: rt.stats()["memories"][0]["copies"], "nothing is written back")
            strike("kernel")
            assert is_of_the_device(task.exception(LIMIT)), task.exception()
            others_go_on()
        assert (new.array == 7).all()
        with pytest.raises(ParlaError, match="old"):
            old.tolist()


def test_errors_nobody_looked_at(slow, workers):
    """The block raises the loss once for each task that it hit."""
    with slow(2):
        array = asarray(numpy.zeros(2 * MB, numpy.int8))
        with pytest.raises(Exception, match="gpu:1|several tasks failed") as raised, Parla(workers=workers):
            task = spawn(placement=gpu(1), vcus=0.1, inout=[array])(lambda: None)
            until(lambda: str(task.state) == "staging", "it does not begin to copy")
            spawn(placement=gpu(1), vcus=0.1)(lambda: kernel(10))
        found = leaves(raised.value)
        assert len(found) == 2 and all(map(is_of_the_device, found)), found
