"""PArrays between tasks, after failures, and on devices in a program's own hands."""

from __future__ import annotations

import gc
import operator
import random
import threading

import pytest
from machine import configured
from support import resident_bytes

numpy = pytest.importorskip("numpy")

from ndarrays import numbers, same  # noqa: E402
from parla import Parla, TaskSpace, array, spawn  # noqa: E402 - NumPy may be absent
from parla.device_array import DeviceArray, empty  # noqa: E402
from parla.devices import cpu, gpu  # noqa: E402
from parla.errors import ParlaError  # noqa: E402
from parla.parray import PArray, asarray  # noqa: E402
from placed_arrays import memories, run_on  # noqa: E402

MIB = 2**20


# Outside tasks.


def test_reading_outside_tasks_keeps_copies_and_writing_ends_them(two_gpus):
    a = numbers(100)
    p = asarray(a)

    def add():
        p.array[...] += 1

    with Parla() as rt:
        run_on(gpu(0), add, inout=[p])
        assert p[10] == 11
        assert p.sum() == numbers(100).sum() + 100
        assert (p.exists_on_device(gpu(0)), p.nbytes_at(gpu(0))) == (True, 800)
        run_on(gpu(0), add, inout=[p])
        assert memories(rt)["gpu:0"]["bytes_from"]["host"] == 800
        p[0] = 100
        p.array[1] = 200
        run_on(gpu(0), add, inout=[p])
        assert p[:3].tolist() == [101, 201, 5]
    assert a[:3].tolist() == [101, 201, 5]


def test_what_is_replaced_outside_tasks_is_not_brought_home_for_that(two_gpus):
    a = numbers(100)
    p = asarray(a)

    def add():
        p.array[...] += 1

    def into_host(rt):
        return sum(n for source, n in memories(rt)["host"]["bytes_from"].items() if source != "host")

    with Parla() as rt:
        run_on(gpu(0), add, inout=[p])
        p[:40] = 7
        p[40:70] = numpy.arange(30)
        p[98:68:-1] = numpy.float32(2)
        p[99] = 3.5
        assert into_host(rt) == 0
        run_on(gpu(0), add, inout=[p])
        p.array = numbers(100)
        p.update(numbers(100))
        assert into_host(rt) == 0
        # What may go wrong half-way, or reads what it replaces, needs what was there.
        run_on(gpu(0), add, inout=[p])
        for wrong in ("text", numpy.zeros(7), 1j, object()):
            with pytest.raises((TypeError, ValueError)):
                p[:10] = wrong
        assert p[:10].tolist() == (numbers(100)[:10] + 1).tolist()
        run_on(gpu(0), add, inout=[p])
        p[10:20] = p[19:9:-1]
        assert p[10] == numbers(100)[19] + 2
    assert a[:10].tolist() == (numbers(100)[:10] + 2).tolist()


def test_a_replacement_that_fails_after_all_leaves_nothing_that_can_be_read(two_gpus):
    p = asarray(numbers(10))
    with Parla():
        run_on(gpu(0), lambda: p.array.fill(1), inout=[p])
        with pytest.raises(ZeroDivisionError):
            p._root.native.replace(((0, 4),), lambda: 1 // 0)
        with pytest.raises(ParlaError, match="the assignment that was to replace it failed"):
            p[3].sum()
        assert p[4:].sum() == 6
        p[:4] = 2
    assert p.sum() == 14


def test_evict(two_gpus):
    a = numbers(100)
    p = asarray(a)

    def add():
        p.array[...] += 1

    with Parla() as rt:
        run_on(gpu(0), add, inout=[p])
        assert not p.evict(gpu(0), keep_one_copy=False), "it has the only copy"
        assert p.exists_on_device(0)
        assert p.evict(gpu(0))
        assert not p.exists_on_device(0)
        assert (p.nbytes_at(0), memories(rt)["gpu:0"]["used"]) == (0, 0)
        assert a[5] == 6
        run_on(gpu(1), lambda: p.array.sum(), input=[p])
        assert p.evict(gpu(1), keep_one_copy=False)
        run_on(gpu(0), add, inout=[p])
        p.evict_all()
        assert a[5] == 7
        assert memories(rt)["gpu:0"]["used"] == 0


def test_updates(two_gpus):
    a = numbers(4)
    p = asarray(a, name="A")

    def replace():
        p.update(p.array * 2)

    def grow():
        p.update(numpy.concatenate([p.array, p.array]).astype("i4"))

    def total():
        return p.array.sum()

    with Parla():
        run_on(gpu(0), replace, inout=[p])
        assert p.tolist() == [0, 2, 4, 6]
        run_on(gpu(1), grow, inout=[p])
        assert (p.shape, p.dtype) == ((8,), numpy.int32)
        assert run_on(gpu(0), total, input=[p]) == 24
    assert p.tolist() == [0, 2, 4, 6] * 2
    assert a.tolist() == [0, 2, 4, 6]


def test_the_host_is_current_when_the_block_ends(two_gpus):
    a = numbers(10)
    p = asarray(a)

    def add():
        p.array[...] += 1

    for _ in range(20):
        with Parla(workers=2):
            T = TaskSpace()
            for i in range(4):
                spawn(T[i], [T[i - 1]], placement=gpu(i % 2), inout=[p])(add)
        assert not p.exists_on_device(0)
        a += 1
    assert a.tolist() == (numbers(10) + 100).tolist()


def test_arrays_end_while_tasks_use_them(two_gpus):
    results = []
    with Parla() as rt:
        for i in range(20):
            p = asarray(numpy.full(1000, float(i)))
            view = p[10:20]

            @spawn(placement=gpu, inout=[view])
            def body():
                view.array[...] += 1
                results.append(float(view.array.sum()))

            del p, view
        gc.collect()
    assert sorted(results) == [10.0 * (i + 1) for i in range(20)]
    assert all(memory["used"] == 0 for memory in rt.stats()["memories"][1:])


def test_many_large_arrays_one_after_another_stay_small():
    with configured(PARLA_SIM_GPUS="1", PARLA_SIM_GPU_MEM="50M"):
        before = resident_bytes()
        with Parla() as rt:
            for i in range(60):
                p = asarray(numpy.zeros(20 * MIB // 8))

                def touch():
                    p.array[::4096] = i

                run_on(gpu, touch, inout=[p])
                assert p[4096] == i
                del p, touch
                gc.collect()
            assert memories(rt)["gpu:0"]["peak"] <= 50 * MIB
        # The system's allocator keeps some of them.
        assert resident_bytes() - before < 600 * MIB, "all of them are 1200 MiB"


def test_more_data_than_the_device_has():
    with configured(PARLA_SIM_GPUS="1", PARLA_SIM_GPU_MEM="1M"):
        a = numpy.zeros((16, 32768))  # 4 MiB
        p = asarray(a)
        with Parla() as rt:
            T = TaskSpace()
            for sweep in range(2):
                for i in range(16):

                    @spawn(T[sweep, i], [T[sweep - 1, i]], placement=gpu, inout=[p[i]])
                    def add():
                        p[i].array[...] += i + 1

            T.wait(20)
            assert memories(rt)["gpu:0"]["peak"] <= MIB
            assert memories(rt)["gpu:0"]["evictions"] > 0
        assert (a == 2 * numpy.arange(1, 17)[:, None]).all()


def test_readers_and_evictions_beside_running_tasks(two_gpus):
    a = numpy.zeros((16, 64))
    p = asarray(a)
    ended = threading.Event()
    errors = []

    def disturb(seed):
        rng = random.Random(seed)
        try:
            while not ended.is_set():
                i = rng.randrange(16)
                rng.choice(
                    [
                        p[i].sum,
                        lambda: p.evict(rng.randrange(2)),
                        p[i : i + 3].tolist,
                        lambda: p.nbytes_at(0),
                        p.print_overview,
                    ]
                )()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=disturb, args=(seed,)) for seed in range(3)]
    with Parla(workers=3):
        for thread in threads:
            thread.start()
        T = TaskSpace()
        try:
            for step in range(40):
                for i in range(16):

                    @spawn(T[step, i], [T[step - 1, i]], placement=[gpu, cpu], inout=[p[i]])
                    def add():
                        p[i].array[...] += 1

            T.wait(40)
        finally:
            ended.set()
            for thread in threads:
                thread.join(20)
    assert not errors
    assert (a == 40).all()


# Failures.


@pytest.mark.parametrize("where", ["cpu", "gpu"])
def test_what_a_failed_task_was_to_write_is_not_to_be_trusted(two_gpus, where):
    a = numbers(10)
    p = asarray(a, name="A")

    def fails():
        p[2:5].array[0] = 99
        raise KeyError("half-way")

    def repair():
        p[0:6] = 1

    device = gpu(1) if where == "gpu" else cpu
    with Parla():
        task = spawn(placement=device, inout=[p[2:5]])(fails)
        assert isinstance(task.exception(20), KeyError)
        assert p[6:].tolist() == [6, 7, 8, 9], "other parts are as they were"
        for look in (p.tolist, lambda: p.array, lambda: p[3:4].array, lambda: p + 1):
            with pytest.raises(ParlaError, match=r"A\[[23]:[45]\] has no valid contents.*fails"):
                look()
        for change in (lambda: numpy.add.at(p, 0, 1), lambda: operator.setitem(p, slice(0, 8, 2), 0), lambda: p.sort()):
            with pytest.raises(ParlaError, match=r"A\[2:5\] has no valid contents"):
                change()
        reader = spawn(placement=gpu(0), input=[p[4:8]])(lambda: p[4:8].array.sum())
        assert "A[4:5] has no valid contents" in str(reader.exception(20))
        run_on(gpu(0), repair, output=[p[0:6]])
        assert p.tolist() == [1] * 6 + [6, 7, 8, 9]
    assert a.tolist() == [1] * 6 + [6, 7, 8, 9]


def test_what_a_failed_task_was_to_write_where_there_are_no_gpus(no_gpus):
    a = numbers(10)
    p = asarray(a, name="A")

    def fails():
        p[2:5].array[0] = 99
        raise KeyError("half-way")

    with Parla():
        assert isinstance(spawn(inout=[p[2:5]])(fails).exception(20), KeyError)
        with pytest.raises(ParlaError, match=r"A\[2:5\] has no valid contents.*fails"):
            p.tolist()
        assert p[5:].tolist() == [5, 6, 7, 8, 9]
        spawn(output=[p[2:5]])(lambda: p[2:5].array.fill(1)).result(20)
    assert p.tolist() == [0, 1, 1, 1, 1, 5, 6, 7, 8, 9]


def test_what_is_lost_stays_lost_after_the_runtime_until_it_is_replaced(two_gpus):
    a = numbers(4)
    p = asarray(a, name="A")

    def fails():
        raise KeyError("at once")

    with Parla():
        assert isinstance(spawn(placement=gpu, inout=[p[1:3]])(fails).exception(20), KeyError)
    with pytest.raises(ParlaError, match=r"A\[1:3\] has no valid contents"):
        p.tolist()
    assert (p[0], p[3]) == (0, 3)
    p[1:3] = 5
    assert a.tolist() == [0, 5, 5, 3]
    assert p.tolist() == [0, 5, 5, 3]


# Memory of devices in a program's own hands.


def test_arrays_made_in_a_task_from_its_views_are_copies(two_gpus):
    p = asarray(numbers(6))

    def body():
        q = asarray(p[2:4].array)
        p[2:4] = 0
        return q

    with Parla():
        q = run_on(gpu, body, inout=[p])
    assert isinstance(q, PArray)
    assert q.tolist() == [2, 3]


def test_copies_in_every_direction(two_gpus):
    random_numbers = numpy.random.default_rng(3)
    places = [cpu(0), gpu(0), gpu(1)]
    keys = [
        (slice(None),),
        (slice(None, None, -1), slice(1, 4)),
        (slice(1, None, 2), slice(None, None, -2)),
        (2, slice(None)),
        (slice(3), None, 1),
    ]
    for target_place in places:
        for source_place in places:
            for key in keys:
                values = random_numbers.random((5, 6))
                source, target = source_place.memory()(values), target_place.memory()(numpy.zeros((5, 6)))
                assert array.get_memory(source).device == source_place
                array.copy(target[key], source[key])
                wanted = numpy.zeros((5, 6))
                wanted[key] = values[key]
                assert same(array.asnumpy(target), wanted)
                if target_place == source_place:
                    array.copy(target[1:], target[:-1])
                    assert same(array.asnumpy(target), numpy.concatenate([wanted[:1], wanted[:-1]]))
            array.copy(target, numpy.arange(6, dtype="f4"))
            assert array.asnumpy(target).tolist() == [list(range(6))] * 5
            array.copy(target, 2)
            with pytest.raises(ValueError, match=r"\(4,\).*\(5, 6\)"):
                array.copy(target, source[0, :4])
            with pytest.raises(TypeError, match="float64.*int64"):
                array.copy(target_place.memory()(numpy.zeros(6, int)), source[0])


def test_clone_here(two_gpus):
    a = numbers(2, 3)
    p = asarray(a)

    def body():
        return [array.clone_here(x) for x in (a, p)], p.get(gpu(1)), p.get()

    with Parla():
        clones, there, host = run_on(gpu(0), body, input=[p])
    for clone in clones:
        assert array.get_memory(clone).device == gpu(0)
        assert same(array.asnumpy(clone), a)
    assert array.get_memory(there).device == gpu(1)
    assert same(array.asnumpy(there), a)
    assert array.get_memory(host).device == cpu(0)
    assert same(host, a)


def test_device_arrays(two_gpus):
    a = numbers(4, 6)
    d = empty((4, 6), device=gpu(1))
    assert isinstance(d, DeviceArray)
    d.copy_from_host(a)
    assert same(d.copy_to_host(), a)
    for key in [1, (slice(None), 2), (slice(1, 3), slice(None, None, -2)), (..., None), (None, -1, slice(2, 2))]:
        assert d[key].shape == a[key].shape
        assert same(d[key].copy_to_host(), numpy.ascontiguousarray(a[key]).reshape(a[key].shape))
    d[1:3, ::2] = 7
    a[1:3, ::2] = 7
    assert same(array.asnumpy(d), a)
    assert (d.device, d.nbytes, len(d), d.ndim) == (gpu(1), 192, 4, 2)
    assert array.is_array(d)
    assert array.get_memory(d).device == gpu(1)
    assert array.storage_size(d[0]) == 48
    assert asarray(d).tolist() == a.tolist()
    array.copy(d[0], d[1])
    assert d[0].copy_to_host().tolist() == a[1].tolist()
    shared = numpy.from_dlpack(d)
    assert same(shared, d.copy_to_host())
    if shared.flags.writeable:  # NumPy 1 can't import writable arrays
        shared[0, 0] = 50
        assert d[0, 0].copy_to_host() == 50
    assert not hasattr(d, "__cuda_array_interface__")
    for wrong in ([0, 1], numpy.zeros(4, bool)):
        with pytest.raises(TypeError, match="integers, slices"):
            d[wrong]
    with pytest.raises(IndexError):
        d[4]
    with pytest.raises(TypeError, match="object"):
        empty(3, object)
    with pytest.raises(TypeError):
        d + 1


@pytest.mark.parametrize("policy", ["eager", "locality", "random"])
@pytest.mark.parametrize("places", ["gpu", "either", "pairs"])
def test_tasks_go_where_their_arrays_have_room(policy, places):
    """Of GPUs of unequal size, or beside a CPU, those that are too small are no choice."""
    with configured(PARLA_SIM_GPUS="4", PARLA_SIM_GPU_MEM="4K,1M,4K,1M"):
        where = {"gpu": gpu, "either": [gpu(0), cpu], "pairs": [(gpu(0), gpu(1)), (gpu(3), gpu(2)), (gpu(2), cpu)]}[places]
        buffers = [numpy.zeros(4096) for _ in range(12)]
        with Parla(policy=policy, workers=2):
            for p in map(asarray, buffers):
                operand = (p, 1) if places == "pairs" else p

                @spawn(placement=where, inout=[operand])
                def fill():
                    p.array[...] = 1

        assert all((a == 1).all() for a in buffers)
