"""Native arrays when things go wrong: misuse, failed tasks, lost devices, full memories."""

from __future__ import annotations

import gc
import threading
import weakref

import numpy as np
import pytest
from native_arrays import Owned, Simple, one_to, raises_in, used
from parla import Parla, TaskSpace, _native, spawn
from parla.cpu import cpu
from parla.devices import gpu
from parla.errors import (
    DependencyFailed,
    DeviceError,
    DeviceOutOfMemory,
    ParlaError,
    PolicyError,
    SpawnError,
)
from support import carried, pass_gate

# Misuse.


def test_what_is_no_operand_is_refused_by_name(two_small_gpus):
    with Parla(workers=1):
        for argument in ("input", "output", "inout"):
            with pytest.raises(TypeError, match=rf"{argument}: .*not ndarray; wrap it: parla.asarray"):
                spawn(**{argument: [np.zeros(3)]})
            with pytest.raises(TypeError, match=f"{argument}: .*not int"):
                spawn(**{argument: [3]})
            with pytest.raises(TypeError, match=f"{argument}: .*not (str|NoneType)"):
                spawn(**{argument: "ab"})


def test_two_writers_on_two_devices_are_refused(two_small_gpus):
    a = one_to(10, "grid")
    with Parla(workers=1), pytest.raises(SpawnError, match=r"grid\[2:6\].*grid\[0:4\].*overlap"):
        spawn(placement=[(gpu(0), gpu(1))], output=[(a.rows(0, 4), 0), (a.rows(2, 6), 1)])


def test_a_device_the_placement_does_not_have_is_refused(two_small_gpus):
    with Parla(workers=1), pytest.raises(SpawnError, match="no device 1"):
        spawn(placement=[gpu(0), (gpu(0), gpu(1))], input=[(one_to(3), 1)])


def test_a_read_only_array_can_only_be_read(two_small_gpus):
    array = np.arange(3.0)
    array.flags.writeable = False
    for frozen in (Simple(array, "frozen"), Simple(np.broadcast_to(np.float64(1), 3), "spread")):
        with Parla(workers=1):
            with pytest.raises(SpawnError, match=rf"output: {frozen.native.name} is read-only"):
                spawn(output=[frozen])
            assert spawn(placement=gpu(0), input=[frozen])(lambda: float(frozen.here().sum())).result() == 3
        assert not frozen.native.may_write(frozen.region)


def test_a_body_uses_what_it_did_not_name(two_small_gpus):
    a = one_to(4, "weights")

    def run(**operands):
        with Parla(workers=1):
            spawn(placement=gpu(0), name="reader", **operands)(lambda: a.here())

    raises_in(run, ParlaError, r"reader .* runs on gpu:0 and uses weights\[0:4\], but does not name it")
    raises_in(lambda: run(input=[a.rows(1, 3)]), ParlaError, r"named only \[1:3\] of it")


def test_writing_an_input_is_an_error_naming_task_and_array(two_small_gpus):
    a = one_to(4, "weights")

    def run(place):
        with Parla(workers=1):

            @spawn(placement=place, input=[a], name="sloppy")
            def body():
                assert not a.native.may_write(a.region)
                a.here(write=True)

    for place in (gpu(0), cpu):
        raises_in(lambda: run(place), ParlaError, r"sloppy .* writes weights\[0:4\], which it has as an input only")


def test_an_array_in_two_roles_is_read_and_written(two_small_gpus):
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
def test_a_body_that_changes_data_is_not_run_again(two_small_gpus, operands):
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


def test_more_than_fits_is_refused_with_the_numbers(two_small_gpus):
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


# Failures.


def test_a_failed_writer_leaves_nothing_that_can_be_read(two_small_gpus):
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


def test_a_refused_task_fails_and_its_dependents_do_not_run(two_small_gpus):
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


def test_a_lost_device_fails_its_tasks_and_no_others(two_small_gpus):
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


def test_memory_pressure_evicts_and_the_result_is_right(two_small_gpus):
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


def test_idle_copies_give_way_to_what_a_body_allocates(two_small_gpus):
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


def test_a_body_with_retries_gets_room_for_the_next_try(two_small_gpus):
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


def test_an_array_that_is_dropped_while_its_task_waits_stays_alive_for_it(two_small_gpus):
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
