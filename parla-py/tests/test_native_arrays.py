"""The native half of arrays and devices: operands that move, and what bodies see of them."""

from __future__ import annotations

import gc
import threading
import weakref

import numpy as np
import pytest
from native_arrays import HOST, Owned, Simple, copied, one_to, used
from parla import Parla, TaskSpace, _native, spawn
from parla.cpu import cpu
from parla.devices import gpu
from parla.errors import (
    DeviceOutOfMemory,
    ParlaError,
)

# Arrays and the machine, outside a runtime.


def test_the_machine_has_its_devices_in_order(two_small_gpus):
    machine = _native.machine()
    assert machine is _native.machine()
    assert [device["name"] for device in machine["devices"]] == ["cpu:0", "gpu:0", "gpu:1"]
    assert [device["memory"] for device in machine["devices"]] == [0, 1, 2]
    assert [memory["name"] for memory in machine["memories"]] == ["host", "gpu:0", "gpu:1"]
    assert len(machine["links"]) == 3 and machine["unavailable"] == {"gpu": None}
    assert machine["devices"][1]["capacity"] == 1 << 20


def test_a_machine_without_gpus_says_why(no_gpus):
    assert "PARLA_SIM_GPUS" in _native.machine()["unavailable"]["gpu"]


@pytest.mark.parametrize(
    ("config", "kind", "text"),
    [
        ({"gpus": 1}, ValueError, "gpus is not known"),
        ({"sim_gpus": -1}, ValueError, "sim_gpus"),
        ({"sim_gpus": 2, "gpu_memory": [1, 2, 3]}, ValueError, "gpu_memory"),
        ({"links": object()}, TypeError, "links"),
        (3, TypeError, "dict"),
    ],
)
def test_a_bad_configuration_is_refused_and_changes_nothing(config, kind, text):
    before = _native.machine()
    with pytest.raises(kind, match=text):
        _native.configure_machine(config)
    assert _native.machine() is before


def test_the_machine_stays_while_a_runtime_is_open():
    with Parla(workers=1), pytest.raises(ParlaError, match="while a runtime is open"):
        _native.configure_machine(None)


def test_an_array_is_made_over_any_layout_without_a_copy():
    base = np.arange(24.0).reshape(4, 6)
    for view in (base, base.T, base[::-1, ::2], base[1:1], base[2, 3, np.newaxis], np.float64(3).reshape(())):
        array = _native.Array(view, "v")
        assert (array.shape, array.item, array.nbytes) == (view.shape, 8, view.nbytes)
        assert array.is_host_only and array.name == "v"
    assert _native.Array(base, "x").id != _native.Array(base, "x").id


@pytest.mark.parametrize("bad", [3, [1.0], "text", np.array([1, None]), np.zeros(2, dtype=[("a", "i4"), ("b", "O")])])
def test_what_is_no_array_of_plain_elements_is_refused(bad):
    with pytest.raises(TypeError, match="Array:"):
        _native.Array(bad, "bad")


def test_an_array_keeps_its_buffer_and_lets_it_go():
    buffer = np.zeros(4).view(Owned)
    watch = weakref.ref(buffer)
    array = _native.Array(buffer, "a")
    del buffer
    gc.collect()
    assert watch() is not None
    del array
    assert watch() is None


def test_a_cycle_through_an_array_is_collected():
    buffer = np.zeros(4).view(Owned)
    buffer.me = _native.Array(buffer, "a")
    watch = weakref.ref(buffer)
    del buffer
    gc.collect()
    assert watch() is None


def test_a_region_that_is_none_is_refused():
    array = _native.Array(np.zeros((3, 4)), "m")
    for bad in (((0, 3),), ((0, 3), (0, 5)), ((2, 1), (0, 4)), ((0, 3), (0,)), 3, ((0.5, 1), (0, 4))):
        with pytest.raises(ValueError, match="no box of an array of shape"):
            array.access(bad, False)


def test_strided_copies_between_all_memories(two_small_gpus):
    source = np.arange(24.0).reshape(4, 6)
    there = _native.device_array(1, source.shape, 8)
    other = _native.device_array(2, (2, 3), 8)
    _native.copy_strided(1, there.address, (48, 8), None, source.ctypes.data, source.strides, (4, 6), 8, source)
    _native.copy_strided(2, other.address, (24, 8), 1, there.address, (96, 16), (2, 3), 8, (there, other))
    back = np.zeros((2, 3))[::-1]
    _native.copy_strided(None, back.ctypes.data, back.strides, 2, other.address, (24, 8), (2, 3), 8, (back, other))
    assert np.array_equal(back, source[::2, ::2])
    with pytest.raises(ValueError, match="strides"):
        _native.copy_strided(None, 0, (8,), None, 0, (8, 8), (1, 1), 8, None)
    with pytest.raises(ValueError, match="device number 7"):
        _native.device_array(7, (1,), 1)


def test_a_full_device_names_the_numbers(two_small_gpus):
    with pytest.raises(DeviceOutOfMemory, match=r"2097152 bytes requested.*of 1048576") as raised:
        _native.device_array(1, (1 << 18,), 8)
    assert (raised.value.requested, raised.value.total) == (1 << 21, 1 << 20)
    with pytest.raises(MemoryError):
        _native.device_array(1, (1 << 40, 1 << 40), 8)


# Operands that move.


def test_data_follows_the_tasks(two_small_gpus):
    a = one_to(1000)
    with Parla(workers=2) as rt:
        T = TaskSpace("T")

        @spawn(T[0], placement=gpu(0), inout=[a])
        def doubles():
            view = a.here(write=True)
            view *= 2

        @spawn(T[1], [T[0]], placement=gpu(1), inout=a)
        def adds():
            view = a.here(write=True)
            assert view[0] == 2
            view += 1

        @spawn(T[2], [T[1]], placement=cpu, input=[a])
        def reads():
            return float(a.here().sum())

        T.wait()
        assert reads.result() == 1000 * 1001 + 1000
    assert np.array_equal(a.array, 2 * np.arange(1.0, 1001) + 1)
    assert a.native.is_host_only
    assert copied(rt) == {("host", "gpu:0"): 8000, ("gpu:0", "gpu:1"): 8000, ("gpu:1", "host"): 8000}
    assert used(rt) == {"host": 0, "gpu:0": 0, "gpu:1": 0}


def test_an_output_fetches_nothing_and_slices_move_alone(two_small_gpus):
    a = Simple(np.arange(40.0).reshape(10, 4))
    with Parla(workers=2) as rt:

        @spawn(placement=gpu(0), output=[a.rows(0, 3)])
        def writes():
            a.rows(0, 3).here(write=True)[:] = -1

        @spawn(placement=gpu(1), inout=[a.rows(3, 5)])
        def negates():
            view = a.rows(3, 5).here(write=True)
            view *= -1

    expected = np.arange(40.0).reshape(10, 4)
    expected[:3] = -1
    expected[3:5] *= -1
    assert np.array_equal(a.array, expected)
    assert copied(rt) == {("gpu:0", "host"): 96, ("host", "gpu:1"): 64, ("gpu:1", "host"): 64}


def test_overlapping_slices_on_two_devices_see_each_other(two_small_gpus):
    a = Simple(np.zeros(10))
    with Parla(workers=2):
        before = []
        for step, (device, start) in enumerate([(0, 0), (1, 3), (0, 5), (1, 2)]):

            @spawn(None, before, placement=gpu(device), inout=[a.rows(start, start + 5)])
            def adds():
                view = a.rows(start, start + 5).here(write=True)
                view += 10.0**step

            before = [adds]
    expected = np.zeros(10)
    for step, start in enumerate([0, 3, 5, 2]):
        expected[start : start + 5] += 10.0**step
    assert np.array_equal(a.array, expected)


def test_the_host_reads_the_newest_inside_the_block(two_small_gpus):
    a = one_to(4)
    with Parla(workers=1):

        @spawn(placement=gpu(0), inout=[a])
        def negates():
            view = a.here(write=True)
            view *= -1

        negates.wait()
        assert a.native.bytes_valid(1) == 32 and a.native.bytes_valid(HOST) == 0
        assert list(a.here()) == [-1, -2, -3, -4]
        assert a.native.bytes_valid(HOST) == 32
        a.here(write=True)[0] = 7
        assert a.native.bytes_valid(1) == 0

        @spawn(placement=gpu(1), input=[a])
        def first():
            return a.here()[0]

        assert first.result() == 7
        a.native.evict(2)
        assert a.native.bytes_allocated(2) == 0
    assert a.native.is_host_only


def test_flush_brings_everything_home(two_small_gpus):
    a = one_to(4)
    with Parla(workers=1):
        spawn(placement=gpu(0), inout=[a])(lambda: a.here(write=True).fill(5)).wait()
        assert not a.native.is_host_only and "host" not in a.native.overview()
        a.native.flush()
        assert a.native.is_host_only and list(a.array) == [5] * 4


def test_a_task_on_two_devices_has_each_operand_where_it_said(two_small_gpus):
    a, b = one_to(4, "a"), one_to(4, "b")
    with Parla(workers=1) as rt:

        @spawn(placement=[(gpu(0), gpu(1))], inout=[(a, 0), (b, 1)])
        def both():
            devices = [at["device"] for at in _native.assignment()]
            found = [x.native.access(x.region, True)[0] for x in (a, b)]
            a.here(write=True)[:] = 1
            b.here(write=True)[:] = 2
            return devices, found

        assert both.result() == ([1, 2], [1, 2])
    assert list(a.array) == [1] * 4 and list(b.array) == [2] * 4
    assert [d["tasks"] for d in rt.stats()["devices"]] == [0, 1, 1]


def test_the_current_device_decides_which_copy_is_meant(two_small_gpus):
    a = one_to(4)
    with Parla(workers=1):

        @spawn(placement=[(gpu(0), gpu(1))], input=[(a, 0), (a, 1)])
        def both():
            first = a.native.access(a.region)[0]
            assert _native.set_current_slot(1) == 0
            second = a.native.access(a.region)[0]
            with pytest.raises(IndexError):
                _native.set_current_slot(2)
            seen = []

            def on_a_thread():
                _native.lend_task(both_task, 0)
                seen.append(a.native.access(a.region)[0])
                _native.lend_task(None)

            both_task = _native.current_task()
            thread = threading.Thread(target=on_a_thread)
            thread.start()
            thread.join(20)
            return first, second, seen

        assert both.result() == (1, 2, [1])


def test_a_coroutine_keeps_its_devices_across_awaits(two_small_gpus):
    a = one_to(4)
    with Parla(workers=2):

        @spawn(placement=gpu(1), inout=[a])
        async def parent():
            view = a.here(write=True)
            view += 1
            child = spawn(placement=gpu(0))(lambda: _native.assignment()[0]["device"])
            assert await child == 1
            assert _native.assignment()[0]["device"] == 2
            view = a.here(write=True)
            view *= 10
            return list(view)

        assert parent.result() == [20, 30, 40, 50]
    assert list(a.array) == [20, 30, 40, 50]


def test_tasks_without_devices_have_no_assignment(two_small_gpus):
    assert _native.assignment() is None
    with Parla(workers=1):
        assert spawn(placement=cpu)(lambda: _native.assignment()).result() is None
        assert spawn(placement=gpu(0))(lambda: _native.assignment()).result()[0]["index"] == 0
