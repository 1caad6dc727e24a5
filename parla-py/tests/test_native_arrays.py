"""The native half of arrays and devices: operands that move, what bodies see of them, failures, and accounts that return to zero."""

from __future__ import annotations

import gc
import threading
import weakref

import numpy as np
import pytest
from parla import Parla, TaskSpace, _native, spawn
from parla.cpu import cpu
from parla.devices import gpu
from parla.errors import (
    DependencyFailed,
    DeviceError,
    DeviceOutOfMemory,
    ParlaError,
    PlacementError,
    PolicyError,
    SpawnError,
)
from support import carried, pass_gate

HOST = 0


class Memory:
    """What NumPy asks for a view of memory."""

    def __init__(self, address: int, shape: tuple[int, ...], strides: tuple[int, ...], typestr: str, keep: object):
        self.keep = keep
        data = (address, False)
        self.__array_interface__ = {"version": 3, "data": data, "shape": shape, "strides": strides, "typestr": typestr}


class Simple:
    """The least that can be an operand: an array and one box of it."""

    def __init__(self, array: np.ndarray, name: str = "a", of: Simple | None = None, region=None) -> None:
        self.array = array
        self.native = _native.Array(array, name) if of is None else of.native
        self.region = tuple((0, n) for n in array.shape) if region is None else region

    def __parla_operand__(self):
        return self.native, self.region, True

    def rows(self, start: int, stop: int) -> Simple:
        return Simple(self.array, of=self, region=((start, stop), *self.region[1:]))

    def here(self, write: bool = False) -> np.ndarray:
        """What the calling code may use of it."""
        found = self.native.access(self.region, write)
        if found is None:
            return self.array[tuple(slice(*bounds) for bounds in self.region)]
        _, address, strides, keep = found

        shape = tuple(stop - start for start, stop in self.region)
        return np.asarray(Memory(address, shape, strides, self.array.dtype.str, keep))


def one_to(n: int, name: str = "a") -> Simple:
    return Simple(np.arange(1.0, n + 1), name)


@pytest.fixture
def two_gpus():
    """A machine with two simulated GPUs of 1 MiB, for one test."""
    _native.configure_machine({"sim_gpus": 2, "gpu_memory": 1 << 20})
    try:
        yield
    finally:
        gc.collect()
        _native.configure_machine(None)


@pytest.fixture
def no_gpus():
    """A machine with CPUs only, whatever the environment says."""
    _native.configure_machine({"sim_gpus": 0})
    try:
        yield
    finally:
        _native.configure_machine(None)


def used(rt: Parla) -> dict[str, int]:
    return {memory["name"]: memory["used"] for memory in rt.stats()["memories"]}


def copied(rt: Parla) -> dict[tuple[str, str], int]:
    memories = rt.stats()["memories"]
    return {(s, m["name"]): n for m in memories for s, n in m["bytes_from"].items() if n}


def raises_in(body, kind: type[BaseException], match: str | None = None) -> BaseException:
    """Runs a block that must raise `kind` at its end."""
    with pytest.raises(kind, match=match) as raised:
        body()
    return raised.value


# --- arrays and the machine, outside a runtime


def test_the_machine_has_its_devices_in_order(two_gpus):
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


class Owned(np.ndarray):
    """An array that can be watched and put into cycles."""


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


def test_strided_copies_between_all_memories(two_gpus):
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


def test_a_full_device_names_the_numbers(two_gpus):
    with pytest.raises(DeviceOutOfMemory, match=r"2097152 bytes requested.*of 1048576") as raised:
        _native.device_array(1, (1 << 18,), 8)
    assert (raised.value.requested, raised.value.total) == (1 << 21, 1 << 20)
    with pytest.raises(MemoryError):
        _native.device_array(1, (1 << 40, 1 << 40), 8)


# --- operands that move


def test_data_follows_the_tasks(two_gpus):
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


def test_an_output_fetches_nothing_and_slices_move_alone(two_gpus):
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


def test_overlapping_slices_on_two_devices_see_each_other(two_gpus):
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


def test_the_host_reads_the_newest_inside_the_block(two_gpus):
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


def test_flush_brings_everything_home(two_gpus):
    a = one_to(4)
    with Parla(workers=1):
        spawn(placement=gpu(0), inout=[a])(lambda: a.here(write=True).fill(5)).wait()
        assert not a.native.is_host_only and "host" not in a.native.overview()
        a.native.flush()
        assert a.native.is_host_only and list(a.array) == [5] * 4


def test_a_task_on_two_devices_has_each_operand_where_it_said(two_gpus):
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


def test_the_current_device_decides_which_copy_is_meant(two_gpus):
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


def test_a_coroutine_keeps_its_devices_across_awaits(two_gpus):
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


def test_tasks_without_devices_have_no_assignment(two_gpus):
    assert _native.assignment() is None
    with Parla(workers=1):
        assert spawn(placement=cpu)(lambda: _native.assignment()).result() is None
        assert spawn(placement=gpu(0))(lambda: _native.assignment()).result()[0]["index"] == 0


# --- misuse


def test_what_is_no_operand_is_refused_by_name(two_gpus):
    with Parla(workers=1):
        for argument in ("input", "output", "inout"):
            with pytest.raises(TypeError, match=rf"{argument}: .*not ndarray; wrap it: parla.asarray"):
                spawn(**{argument: [np.zeros(3)]})
            with pytest.raises(TypeError, match=f"{argument}: .*not int"):
                spawn(**{argument: [3]})
            with pytest.raises(TypeError, match=f"{argument}: .*not (str|NoneType)"):
                spawn(**{argument: "ab"})


def test_two_writers_on_two_devices_are_refused(two_gpus):
    a = one_to(10, "grid")
    with Parla(workers=1), pytest.raises(SpawnError, match=r"grid\[2:6\].*grid\[0:4\].*overlap"):
        spawn(placement=[(gpu(0), gpu(1))], output=[(a.rows(0, 4), 0), (a.rows(2, 6), 1)])


def test_a_device_the_placement_does_not_have_is_refused(two_gpus):
    with Parla(workers=1), pytest.raises(SpawnError, match="no device 1"):
        spawn(placement=[gpu(0), (gpu(0), gpu(1))], input=[(one_to(3), 1)])


def test_a_read_only_array_can_only_be_read(two_gpus):
    array = np.arange(3.0)
    array.flags.writeable = False
    for frozen in (Simple(array, "frozen"), Simple(np.broadcast_to(np.float64(1), 3), "spread")):
        with Parla(workers=1):
            with pytest.raises(SpawnError, match=rf"output: {frozen.native.name} is read-only"):
                spawn(output=[frozen])
            assert spawn(placement=gpu(0), input=[frozen])(lambda: float(frozen.here().sum())).result() == 3
        assert not frozen.native.may_write(frozen.region)


def test_a_body_uses_what_it_did_not_name(two_gpus):
    a = one_to(4, "weights")

    def run(**operands):
        with Parla(workers=1):
            spawn(placement=gpu(0), name="reader", **operands)(lambda: a.here())

    raises_in(run, ParlaError, r"reader .* runs on gpu:0 and uses weights\[0:4\], but does not name it")
    raises_in(lambda: run(input=[a.rows(1, 3)]), ParlaError, r"named only \[1:3\] of it")


def test_writing_an_input_is_an_error_naming_task_and_array(two_gpus):
    a = one_to(4, "weights")

    def run(place):
        with Parla(workers=1):

            @spawn(placement=place, input=[a], name="sloppy")
            def body():
                assert not a.native.may_write(a.region)
                a.here(write=True)

    for place in (gpu(0), cpu):
        raises_in(lambda: run(place), ParlaError, r"sloppy .* writes weights\[0:4\], which it has as an input only")


def test_an_array_in_two_roles_is_read_and_written(two_gpus):
    a = one_to(4)
    with Parla(workers=1):

        @spawn(placement=gpu(0), input=[a], output=[a])
        def body():
            view = a.here(write=True)
            view += view

        @spawn(None, [body], placement=gpu(1), input=[a.rows(0, 3)], output=[a.rows(2, 4)])
        def shifts():
            old = a.rows(0, 3).here().copy()
            a.rows(2, 4).here(write=True)[:] = old[0], old[2]

    assert list(a.array) == [2, 4, 2, 6]


@pytest.mark.parametrize("operands", ["inout", "rows"])
def test_a_body_that_changes_data_is_not_run_again(two_gpus, operands):
    a = one_to(4)
    with Parla(workers=1):
        if operands == "inout":
            with pytest.raises(ValueError, match="retries: the task changes a"):
                spawn(placement=gpu(0), inout=[a], retries=1)
        tries = []

        @spawn(placement=gpu(0), output=[a], retries=2)
        def third_time():
            tries.append(1)
            a.here(write=True)[:] = len(tries)
            if len(tries) < 3:
                raise OSError("not yet")

    assert list(a.array) == [3] * 4


def test_more_than_fits_is_refused_with_the_numbers(two_gpus):
    a = Simple(np.zeros(1 << 18), "big")
    with Parla(workers=1):
        with pytest.raises(DeviceOutOfMemory, match=r"2097152 bytes.*1048576"):
            spawn(placement=gpu, input=[a])(lambda: None)
        assert spawn(placement=[gpu, cpu], input=[a])(lambda: _native.assignment()[0]["architecture"]).result() == "cpu"


def test_an_unknown_policy_is_refused():
    with pytest.raises(PolicyError, match="no policy 'fastest'"):
        _native.Runtime(1, 1 << 20, policy="fastest")
    with pytest.raises(ValueError, match="depth"):
        _native.Runtime(1, 1 << 20, depth=0)


# --- failures


def test_a_failed_writer_leaves_nothing_that_can_be_read(two_gpus):
    a = one_to(4, "field")

    def run():
        with Parla(workers=1):

            @spawn(placement=gpu(0), inout=[a.rows(0, 2)], name="breaks")
            def body():
                a.rows(0, 2).here(write=True)[0] = 99
                raise OSError("half-way")

            after = spawn(None, [body], placement=gpu(1), input=[a])(lambda: None)
            assert isinstance(after.exception(), DependencyFailed)
            assert isinstance(body.exception(), OSError)
            with pytest.raises(ParlaError, match=r"field\[0:2\].*breaks"):
                a.here()
            unordered = spawn(placement=gpu(1), input=[a])(lambda: None)
            assert "field[0:2]" in str(unordered.exception())
            assert list(a.rows(2, 4).here()) == [3, 4]

    run()
    with pytest.raises(ParlaError, match="field"):
        a.here()
    with Parla(workers=1):
        spawn(placement=gpu(0), output=[a])(lambda: a.here(write=True).fill(1))
    assert list(a.here()) == [1] * 4


def test_the_same_on_a_machine_without_gpus(no_gpus):
    a = one_to(4, "field")
    with Parla(workers=1):

        @spawn(inout=[a], name="breaks")
        def body():
            a.here(write=True)[0] = 99
            raise OSError("half-way")

        assert isinstance(body.exception(), OSError)
        with pytest.raises(ParlaError, match=r"field\[0:4\].*breaks"):
            a.here()
        unordered = spawn(input=[a])(lambda: None)
        assert "field[0:4]" in str(unordered.exception())
        spawn(output=[a])(lambda: a.here(write=True).fill(1)).result()
        assert list(a.here()) == [1] * 4
    assert a.native.is_host_only


def test_a_refused_task_fails_and_its_dependents_do_not_run(two_gpus):
    _native.configure_machine({"sim_gpus": 1, "gpu_memory": 1 << 20, "faults": "gpu:0 copy=1"})
    a = one_to(4)

    def run():
        with Parla(workers=1):
            first = spawn(placement=gpu(0), input=[a], name="first")(lambda: None)
            second = spawn(None, [first])(lambda: pytest.fail("ran on the result of a failed task"))
            assert isinstance(first.exception(), DeviceError), first.exception()
            assert isinstance(second.exception(), DependencyFailed)
            assert spawn(placement=gpu(0), input=[a])(lambda: float(a.here()[3])).result() == 4

    run()
    assert list(a.array) == [1, 2, 3, 4]


def test_a_lost_device_fails_its_tasks_and_no_others(two_gpus):
    _native.configure_machine({"sim_gpus": 2, "gpu_memory": 1 << 20, "faults": "gpu:0 lose=2"})
    a, b = one_to(4, "a"), one_to(4, "b")

    def run():
        with Parla(workers=2):
            T = TaskSpace("T")
            for i in range(6):

                @spawn(T[i], [T[i - 1]], placement=gpu(0), inout=[a])
                def on_lost():
                    view = a.here(write=True)
                    view += 1
                    a.native.flush()

                @spawn(placement=gpu(1), input=[b])
                def on_other():
                    return float(b.here().sum())

            assert on_other.result() == 10

    error = raises_in(run, Exception)
    assert any(isinstance(e, DeviceError) for e in carried(error)), repr(error)
    with Parla(workers=1):
        assert spawn(placement=gpu(1), input=[b])(lambda: float(b.here()[0])).result() == 1


def test_memory_pressure_evicts_and_the_result_is_right(two_gpus):
    n = 1 << 14  # 128 KiB each, 32 of them on 1 MiB
    arrays = [Simple(np.full(n, float(i)), f"a{i}") for i in range(32)]
    with Parla(workers=2) as rt:
        last = []
        for sweep in range(2):
            T = TaskSpace(f"T{sweep}")
            for i, a in enumerate(arrays):

                @spawn(T[i], last, placement=gpu(0), inout=[a])
                def adds():
                    view = a.here(write=True)
                    view += 1

            last = [T]
    assert all((a.array == i + 2).all() for i, a in enumerate(arrays))
    memory = rt.stats()["memories"][1]
    assert memory["used"] == 0 and memory["peak"] <= 1 << 20 and memory["evictions"] >= 24


def test_idle_copies_give_way_to_what_a_body_allocates(two_gpus):
    a = Simple(np.arange(100000.0))
    with Parla(workers=1) as rt:
        spawn(placement=gpu(0), inout=[a])(lambda: a.here(write=True).fill(3)).wait()
        assert used(rt)["gpu:0"] == 800000

        @spawn(placement=gpu(0))
        def allocates():
            return _native.device_array(1, (100000,), 8).nbytes

        assert allocates.result() == 800000
        assert a.native.bytes_allocated(1) == 0 and a.native.is_host_only
        assert (a.array == 3).all()


def test_a_body_with_retries_gets_room_for_the_next_try(two_gpus):
    a = one_to(100000)
    tries = []
    with Parla(workers=1):
        spawn(placement=gpu(0), input=[a])(lambda: None).wait()
        assert a.native.bytes_allocated(1) == 800000

        @spawn(placement=gpu(0), retries=1)
        def of_another_library():
            tries.append(a.native.bytes_allocated(1))
            if tries[-1]:
                raise MemoryError("out of memory")

        of_another_library.result()

        @spawn(placement=gpu(0))
        def without():
            raise MemoryError("out of memory")

        assert isinstance(without.exception(), MemoryError)
    assert tries == [800000, 0]


def test_an_array_that_is_dropped_while_its_task_waits_stays_alive_for_it(two_gpus):
    gate = threading.Event()
    buffer = np.arange(4.0).view(Owned)
    watch = weakref.ref(buffer)
    a = Simple(buffer)
    with Parla(workers=2):
        first = spawn(placement=cpu)(lambda: pass_gate(gate))
        task = spawn(None, [first], placement=gpu(0), inout=[a])(lambda: None)
        del buffer, a
        gc.collect()
        assert watch() is not None
        gate.set()
        task.wait()
        del task
    gc.collect()
    assert watch() is None


# --- streams


def test_a_modelled_kernel_drains_after_its_body(two_gpus):
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


def test_scratch_memory_outlives_the_kernels_that_use_it(two_gpus):
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


def test_what_a_kernel_raises_is_the_tasks_error(two_gpus):
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


def test_bad_launches_are_refused(two_gpus):
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
def test_every_runahead_gives_the_right_result(two_gpus, runahead):
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


def test_an_unknown_runahead_is_refused():
    for bad, kind in (("soon", ValueError), (7, ValueError), (1.5, TypeError), ([], TypeError)):
        with pytest.raises(kind, match="runahead"):
            spawn(runahead=bad)


# --- many


@pytest.mark.parametrize("workers", [1, 4])
def test_a_chain_over_devices_at_several_worker_counts(two_gpus, workers):
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
