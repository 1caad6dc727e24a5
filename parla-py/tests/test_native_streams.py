"""Kernels that drain after their bodies, on native arrays, and chains of many tasks."""

from __future__ import annotations

import gc
import threading

import numpy as np
import pytest
from native_arrays import Memory, one_to, raises_in, used
from parla import Parla, TaskSpace, _native, spawn
from parla.cpu import cpu
from parla.devices import gpu
from parla.errors import (
    DeviceOutOfMemory,
    PlacementError,
)
from support import LIMIT, pass_gate

# Streams.


def test_a_modelled_kernel_drains_after_its_body(two_small_gpus):
    a = one_to(4)
    started, gate = threading.Event(), threading.Event()
    with Parla(workers=2):

        @spawn(placement=gpu(0), inout=[a])
        def launches():
            stream = _native.assignment()[0]["stream"]
            assert stream.raw is None and stream.is_idle()
            view = a.here(write=True)

            def kernel():
                started.set()
                pass_gate(gate)
                view.__imul__(3)

            stream.launch(kernel, 10.0)
            return "returned"

        after = spawn(None, [launches], placement=gpu(1), input=[a])(lambda: list(a.here()))
        pass_gate(started)
        with pytest.raises(TimeoutError):
            launches.result(timeout=0.05)
        assert not launches.done() and not after.done()
        gate.set()
        assert launches.result() == "returned"
        assert after.result() == [3, 6, 9, 12]
    assert list(a.array) == [3, 6, 9, 12]


def test_a_body_that_raises_ends_after_its_kernels(two_small_gpus):
    """Who writes next where they write does not meet them."""
    a = one_to(4)
    started, gate = threading.Event(), threading.Event()
    with Parla(workers=2):

        @spawn(placement=gpu(0), inout=[a])
        def breaks():
            view = a.here(write=True)

            def kernel():
                started.set()
                pass_gate(gate)
                view.fill(7)

            _native.assignment()[0]["stream"].launch(kernel)
            pass_gate(started)
            raise OSError("after a launch")

        pass_gate(started)
        with pytest.raises(TimeoutError):
            breaks.result(timeout=0.05)
        gate.set()
        assert isinstance(breaks.exception(), OSError)


def test_scratch_memory_outlives_the_kernels_that_use_it(two_small_gpus):
    n = 1 << 16
    started, gate = threading.Event(), threading.Event()
    with Parla(workers=2):

        @spawn(placement=gpu(0))
        def launches():
            scratch = _native.device_array(1, (n,), 8)
            view = np.asarray(Memory(scratch.address, (n,), (8,), "<f8", None))

            def kernel():
                started.set()
                pass_gate(gate)
                view.fill(7)

            _native.assignment()[0]["stream"].launch(kernel)

        @spawn(placement=gpu(1))
        def other():
            pass_gate(started)
            with pytest.raises(DeviceOutOfMemory):
                _native.device_array(1, (n + n // 2,), 8)
            gate.set()

        launches.wait()
        gc.collect()
        assert _native.device_array(1, (n + n // 2,), 8).nbytes == 12 * n


def test_what_a_kernel_raises_is_the_tasks_error(two_small_gpus):
    def run(waits):
        with Parla(workers=1):

            @spawn(placement=gpu(0))
            def launches():
                stream = _native.assignment()[0]["stream"]
                stream.launch(lambda: 1 // 0)
                if waits:
                    stream.synchronize()

    for waits in (False, True):
        raises_in(lambda: run(waits), ZeroDivisionError)


def test_bad_launches_are_refused(two_small_gpus):
    with Parla(workers=1):

        @spawn(placement=gpu(0))
        def body():
            stream = _native.assignment()[0]["stream"]
            with pytest.raises(TypeError, match="launch"):
                stream.launch(3)
            for bad in (-1.0, float("nan"), float("inf")):
                with pytest.raises(ValueError, match="busy_us"):
                    stream.launch(None, bad)
            stream.launch(None, 1.0)
            stream.synchronize()


@pytest.mark.parametrize("runahead", ["none", "blocking", "nonblocking", "NON_BLOCKING", "user", 0, 1, 2, 3, None])
def test_every_runahead_gives_the_right_result(two_small_gpus, runahead):
    a = one_to(4)
    with Parla(workers=2):
        T = TaskSpace("T")
        for i in range(4):

            @spawn(T[i], [T[i - 1]], placement=gpu(i % 2), inout=[a], runahead=runahead)
            def body():
                stream = _native.assignment()[0]["stream"]
                view = a.here(write=True)
                stream.launch(lambda: view.__iadd__(1))
                if runahead in ("user", 3):
                    stream.synchronize()

    assert list(a.array) == [5, 6, 7, 8]


def test_a_task_that_leaves_it_to_the_user_ends_before_its_kernels(two_small_gpus):
    started, gate = threading.Event(), threading.Event()
    with Parla(workers=2):

        @spawn(placement=gpu(0), runahead="user")
        def launches():
            def kernel():
                started.set()
                pass_gate(gate)

            stream = _native.assignment()[0]["stream"]
            stream.launch(kernel)
            return stream

        pass_gate(started)
        try:
            stream = launches.result(LIMIT / 4)
            assert launches.done() and not stream.is_idle()
        finally:
            gate.set()
        stream.synchronize()
        assert stream.is_idle()


def test_an_unknown_runahead_is_refused():
    for bad, kind in (("soon", ValueError), (7, ValueError), (1.5, TypeError), ([], TypeError)):
        with pytest.raises(kind, match="runahead"):
            spawn(runahead=bad)


# Many.


@pytest.mark.parametrize("workers", [1, 4])
def test_a_chain_over_devices_at_several_worker_counts(two_small_gpus, workers):
    a = one_to(8)
    places = [gpu(0), cpu, gpu(1), gpu, [cpu, gpu]]
    with Parla(workers=workers) as rt:
        T = TaskSpace("T")
        for i in range(60):

            @spawn(T[i], [T[i - 1]], placement=places[i % len(places)], inout=[a])
            def adds():
                view = a.here(write=True)
                view += 1

    assert list(a.array) == [i + 61 for i in range(8)]
    assert set(used(rt).values()) == {0}


def test_host_only_operands_cost_no_placement(no_gpus):
    a = one_to(8)
    with Parla(workers=2) as rt:
        T = TaskSpace("T")
        for i in range(50):

            @spawn(T[i], [T[i - 1]], inout=[a.rows(0, 4)], input=[a.rows(4, 8)])
            def adds():
                assert _native.assignment() is None
                view = a.rows(0, 4).here(write=True)
                view += 1

    assert list(a.array[:4]) == [51, 52, 53, 54]
    assert rt.stats()["memories"] == []


def test_placement_on_a_device_that_is_not_there(no_gpus):
    with Parla(workers=1), pytest.raises(PlacementError, match="PARLA_SIM_GPUS"):
        spawn(placement=gpu, input=[one_to(3)])
