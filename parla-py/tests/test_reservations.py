"""`reserve_persistent_memory`: what a program keeps on a device itself is not given to tasks and their arrays."""

from __future__ import annotations

import gc
import threading

import numpy as np
import pytest
from machine import configured
from parla import Parla, asarray, spawn
from parla.cpu import cpu
from parla.devices import gpu
from parla.errors import DeadlockError, DeviceOutOfMemory, ParlaError, PlacementError
from parla.tasks import reserve_persistent_memory
from support import LIMIT, pass_gate

MB = 1_000_000


@pytest.fixture(autouse=True)
def small():
    """Two simulated GPUs of 10 MB."""
    with configured({"sim_gpus": 2, "gpu_memory": 10 * MB}):
        yield


def array(megabytes: float):
    return asarray(np.ones(int(megabytes * MB), np.int8))


def used(rt, name="gpu:0"):
    return next(m for m in rt.stats()["memories"] if m["name"] == name)


def test_arrays_have_so_much_less(workers):
    with Parla(workers=workers, check=True) as rt:
        held = reserve_persistent_memory(6 * MB, gpu(0))
        assert (held.amount, held.devices, held.released) == (6 * MB, (gpu(0),), False)
        arrays = [array(2) for _ in range(4)]

        def add(a):
            @spawn(placement=gpu(0), inout=[a])
            def _():
                a.array[:] += 1

            return _

        for a in arrays:
            add(a).wait(LIMIT)
        assert used(rt)["peak"] <= 4 * MB
        assert used(rt)["evictions"] >= 2
        held.release()
        held.release()
        assert held.released
        for a in arrays:
            add(a).wait(LIMIT)
        assert used(rt)["peak"] == 8 * MB
    assert all((a.array == 3).all() for a in arrays)


def test_copies_make_room_and_what_is_newest_there_is_written_back():
    a, b = array(4), array(4)
    with Parla(check=True) as rt:

        @spawn(placement=gpu(0), input=[a], inout=[b])
        def _():
            b.array[:] = 7

        _.wait(LIMIT)
        assert used(rt)["used"] == 8 * MB
        reserve_persistent_memory(10 * MB, gpu(0)).release()
        assert used(rt)["used"] == 0
        assert (b.array == 7).all()


@pytest.mark.parametrize("claims", [False, True])
def test_what_is_in_use_is_not_taken(claims):
    a = array(4)
    go, started = threading.Event(), threading.Event()
    with Parla(workers=2, check=True):

        @spawn(placement=gpu(0), memory=4 * MB if claims else None, input=[] if claims else [a])
        def _():
            started.set()
            pass_gate(go)

        pass_gate(started)
        first = reserve_persistent_memory(5 * MB, gpu(0))
        with pytest.raises(
            DeviceOutOfMemory,
            match="no room for 2000000 bytes: 5000000 bytes are reserved and 4000000 in use, of 10000000",
        ) as e:
            reserve_persistent_memory(2 * MB, gpu(0))
        assert (e.value.requested, e.value.held, e.value.free, e.value.total) == (2 * MB, 5 * MB, MB, 10 * MB)
        go.set()
        _.wait(LIMIT)
        assert reserve_persistent_memory(2 * MB, gpu(0)).amount == 2 * MB
        first.release()


def test_inside_a_task_on_its_devices():
    with Parla(check=True):

        @spawn(placement=[(gpu(0), gpu(1))])
        def both():
            with reserve_persistent_memory(3 * MB) as held:
                assert set(held.devices) == {gpu(0), gpu(1)}
                assert held.amount == 6 * MB
                with pytest.raises(DeviceOutOfMemory, match="gpu:1"):
                    reserve_persistent_memory(8 * MB, gpu(1))
            assert held.released
            return reserve_persistent_memory(8 * MB, gpu(1))

        assert both.result(LIMIT).amount == 8 * MB


def test_of_all_devices_or_of_none():
    with Parla():
        first = reserve_persistent_memory(8 * MB, gpu(1))
        with pytest.raises(DeviceOutOfMemory, match="gpu:1"):
            reserve_persistent_memory(5 * MB, [gpu(0), gpu(1)])
        gc.collect()
        whole = reserve_persistent_memory(10 * MB, gpu(0))
        assert first.amount + whole.amount == 18 * MB


def test_it_goes_with_the_last_reference_and_with_the_runtime():
    with Parla():
        held = reserve_persistent_memory(10 * MB, gpu(0))
        with pytest.raises(DeviceOutOfMemory):
            reserve_persistent_memory(1, gpu(0))
        del held
        gc.collect()
        kept = reserve_persistent_memory(10 * MB, gpu(0))
    assert kept.released
    with Parla():
        again = reserve_persistent_memory(10 * MB, gpu(0))
        kept.release()
        assert not again.released
        with pytest.raises(DeviceOutOfMemory):
            reserve_persistent_memory(1, gpu(0))


def test_as_much_as_arrays_have():
    with Parla():
        on_host = np.zeros(1000)
        assert reserve_persistent_memory([on_host, on_host], gpu(0)).amount == 16_000
        assert reserve_persistent_memory(on_host).devices == (cpu(0),)


def test_tasks_that_can_not_be_served_beside_it_are_refused():
    a = array(5)
    with Parla(check=True):
        held = reserve_persistent_memory(6 * MB, gpu(0))
        with pytest.raises(
            PlacementError,
            match="claims 5000000 bytes of memory, the device has 10000000, of which 6000000 are reserved",
        ):
            spawn(placement=gpu(0), memory=5 * MB)(lambda: None)
        with pytest.raises(ParlaError, match="gpu:0 has no room for 5000000 bytes: 6000000 bytes are reserved"):
            spawn(placement=gpu(0), input=[a])(lambda: None)
        assert spawn(placement=[gpu(0), gpu(1)], memory=5 * MB)(lambda: 1).result(LIMIT) == 1
        held.release()
        assert spawn(placement=gpu(0), memory=5 * MB)(lambda: 2).result(LIMIT) == 2


def test_claims_wait_for_its_release():
    go = threading.Event()
    with Parla(workers=3, check=True):
        spawned = [spawn(placement=gpu(0), memory=4 * MB, vcus=0.1)(lambda: pass_gate(go)) for _ in range(2)]
        with pytest.raises(DeviceOutOfMemory):
            for _ in range(10_000):  # as long as they are not there it is possible
                reserve_persistent_memory(3 * MB, gpu(0))
        held = reserve_persistent_memory(2 * MB, gpu(0))
        third = spawn(placement=gpu(0), memory=2 * MB, vcus=0.1)(lambda: 3)
        assert not third.done()
        held.release()
        assert third.result(LIMIT) == 3
        go.set()
    assert all(task.done() for task in spawned)


def test_a_task_that_waits_for_what_nobody_gives_back_is_reported():
    gate = threading.Event()
    of_the_device = "late .*memory of gpu.0.: 8000000 bytes requested, 5000000 free of 10000000, 5000000 are reserved"
    with pytest.raises(DeadlockError, match=of_the_device) as raised, Parla(workers=2) as rt:

        @spawn()
        def first():
            pass_gate(gate)

        @spawn(dependencies=[first], placement=gpu(0), memory=8 * MB, name="late")
        def _():
            raise AssertionError("it must not run")

        held = reserve_persistent_memory(5 * MB, gpu(0))
        gate.set()
        assert rt.stats()["pending"] and not held.released
    assert "policy" not in str(raised.value)  # it is not to blame


def test_a_task_that_waits_for_memory_of_the_cpu_is_reported(workers):
    gate = threading.Event()
    short = "late .*memory of cpu: 8000000 bytes requested, 5000000 free of 10000000, 5000000 are reserved"
    with configured({"cpu_memory": 10 * MB}), pytest.raises(DeadlockError, match=short), Parla(workers=workers) as rt:
        first = spawn()(lambda: pass_gate(gate))
        late = spawn(dependencies=[first], placement=cpu, memory=8 * MB, name="late")(lambda: None)
        held = reserve_persistent_memory(5 * MB, cpu(0))
        gate.set()
        first.wait(LIMIT)
        assert "memory of cpu: 8000000 bytes requested" in rt.why(late) and not held.released


def test_memory_of_the_cpu():
    with configured({"cpu_memory": 10 * MB}), Parla(workers=2, check=True) as rt:
        go, started = threading.Event(), threading.Event()

        @spawn(placement=cpu, memory=4 * MB)
        def _():
            started.set()
            pass_gate(go)

        pass_gate(started)
        with pytest.raises(
            DeviceOutOfMemory, match="cpu has no room for 7000000 bytes: 0 bytes are reserved and 4000000 in use"
        ):
            reserve_persistent_memory(7 * MB, cpu(0))
        held = reserve_persistent_memory(5 * MB, cpu(0))
        waits = spawn(placement=cpu, memory=2 * MB)(lambda: 1)
        with pytest.raises(
            ParlaError, match="claims 6000000 bytes of memory, the device has 10000000, of which 5000000 are reserved"
        ):
            spawn(placement=cpu, memory=6 * MB)(lambda: None)
        assert not waits.done()
        held.release()
        assert waits.result(LIMIT) == 1
        go.set()
        assert rt.stats()["memory"] == 10 * MB
