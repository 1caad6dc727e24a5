"""PArrays in tasks on simulated GPUs and CPUs: the bytes are where the body runs, newest, and moved no more than needed."""

from __future__ import annotations

import gc
import operator
import random
import threading

import pytest
from machine import configured
from support import resident_bytes

numpy = pytest.importorskip("numpy")

from parla import Parla, TaskSpace, array, spawn  # noqa: E402 - NumPy may be absent
from parla.context import get_current_context  # noqa: E402
from parla.device_array import DeviceArray, empty  # noqa: E402
from parla.devices import cpu, gpu  # noqa: E402
from parla.errors import DeviceOutOfMemory, ParlaError  # noqa: E402
from parla.parray import PArray, asarray  # noqa: E402
from test_parray import DTYPES, LAYOUTS, filled, numbers, same  # noqa: E402

MIB = 2**20


@pytest.fixture
def two_gpus():
    """A machine with two simulated GPUs."""
    with configured(PARLA_SIM_GPUS="2"):
        yield


def memories(rt):
    """What happened in each memory, by its name."""
    return {memory["name"]: memory for memory in rt.stats()["memories"]}


def run_on(device, body, **operands):
    """Runs `body` as a task on its own and gives its result."""
    return spawn(placement=device, **operands)(body).result(20)


# Any program gives what it gives when its tasks run one after another.


def _random_slices(rng, shape):
    out = []
    for n in shape:
        start = rng.randrange(n)
        stop = rng.randrange(start + 1, n + 1)
        backwards = slice(stop - 1, start - 1 if start else None, -1)
        out.append(rng.choice([slice(start, stop), slice(start, stop), slice(start, stop, 2), backwards, start]))
    return tuple(out)


def _covered(p, shape):
    """Which elements lie in the box of an operand: what tasks conflict about."""
    mask = numpy.zeros(shape, bool)
    mask[tuple(slice(*ends) for ends in p.__parla_operand__()[1])] = True
    return mask


def _run_random_program(seed):
    rng = random.Random(seed)
    shape = rng.choice([(40,), (9, 11), (5, 6, 7)])
    a = numpy.arange(numpy.prod(shape), dtype="f8").reshape(shape)
    a = rng.choice([lambda x: x, numpy.asfortranarray, lambda x: x[::-1].copy()[::-1]])(a)
    wanted = a.copy()
    p = asarray(a, name=f"program {seed}")
    before = []
    with Parla(workers=3) as rt:
        T = TaskSpace()
        for i in range(rng.randrange(5, 30)):
            source, target = _random_slices(rng, shape), _random_slices(rng, shape)
            kind, c = rng.choice(["inout", "output", "sum"]), rng.random()
            if kind == "inout":
                wanted[target] = wanted[target] * 0.5 + c
            elif kind == "output":
                wanted[target] = c
            else:
                wanted[target] = wanted[target] + wanted[source].sum() * 0.01
            writes = _covered(p[target], shape)
            touches = writes | _covered(p[source], shape) if kind == "sum" else writes
            deps = [
                T[j]
                for j, (touched, written) in enumerate(before)
                if (writes & touched).any() or (written & touches).any()
            ]
            before.append((touches, writes))
            where = rng.choice([cpu, *gpu.devices, [cpu, gpu]])
            operands = {"output" if kind == "output" else "inout": [p[target]]}
            if kind == "sum":
                operands["input"] = [p[source]]

            @spawn(T[i], deps, placement=where, **operands)
            def body():
                if kind == "inout":
                    x = p[target].array
                    x *= 0.5
                    x += c
                elif kind == "output":
                    p[target] = c
                else:
                    p[target] += p[source].array.sum() * 0.01

            if rng.random() < 0.2:
                T.wait(20)
                rng.choice([p.evict_all, lambda: p.evict(gpu(0)), lambda: p[source].sum(), lambda: p.array])()
        T.wait(20)
        if rng.random() < 0.5:
            assert numpy.allclose(p, wanted)
    assert rt.stats()["failed"] == 0
    assert numpy.allclose(a, wanted), f"seed {seed}"
    for memory in rt.stats()["memories"][1:]:
        assert memory["used"] == 0, memory


@pytest.mark.parametrize("n_gpus", [1, 2, 3, 4])
def test_random_programs_with_overlapping_slices(n_gpus):
    with configured(PARLA_SIM_GPUS=str(n_gpus)):
        for seed in range(30):
            _run_random_program(1000 * n_gpus + seed)


@pytest.mark.parametrize("n_gpus", range(1, 9))
def test_jacobi_moves_halos_only(n_gpus):
    n, m, steps = 66, 10, 6
    start = numpy.random.default_rng(n_gpus).random((n, m))
    wanted = start.copy()
    for _ in range(steps):
        wanted[1:-1, 1:-1] = (wanted[:-2, 1:-1] + wanted[2:, 1:-1] + wanted[1:-1, :-2] + wanted[1:-1, 2:]) / 4
    buffers = start.copy(), start.copy()
    grids = [asarray(buffers[0], name="even"), asarray(buffers[1], name="odd")]
    bounds = [1 + (n - 2) * k // n_gpus for k in range(n_gpus + 1)]
    row = m * 8
    with configured(PARLA_SIM_GPUS=str(n_gpus)):
        with Parla(workers=2) as rt:
            T = TaskSpace("J")
            for step in range(steps):
                old, new = grids[step % 2], grids[(step + 1) % 2]
                for k in range(n_gpus):
                    first, last = bounds[k], bounds[k + 1]
                    near = [T[step - 1, j] for j in range(max(0, k - 1), min(n_gpus, k + 2))]

                    @spawn(
                        T[step, k], near, placement=gpu(k), input=[old[first - 1 : last + 1]], output=[new[first:last]]
                    )
                    def sweep():
                        x, y = old[first - 1 : last + 1].array, new[first:last].array
                        y[:, 1:-1] = (x[:-2, 1:-1] + x[2:, 1:-1] + x[1:-1, :-2] + x[1:-1, 2:]) / 4
                        y[:, 0], y[:, -1] = x[1:-1, 0], x[1:-1, -1]

            T.wait(20)
            found = memories(rt)
            for k in range(n_gpus):
                sources = dict(found[f"gpu:{k}"]["bytes_from"])
                own = bounds[k + 1] - bounds[k]
                # What it starts from with its halos; the outermost halos stay as they are, in both grids.
                edges = (k == 0) + (k == n_gpus - 1)
                assert sources.pop("host") == (own + 2 + edges) * row
                for neighbour in (k - 1, k + 1):
                    if 0 <= neighbour < n_gpus:
                        assert sources.pop(f"gpu:{neighbour}") == (steps - 1) * row
                # Within a GPU, what it wrote is joined with its new halos.
                assert sources.pop(f"gpu:{k}") <= 2 * own * row
                assert not any(sources.values()), f"gpu:{k} got more: {sources}"
            assert found["host"]["copies"] == 0
        assert numpy.allclose(buffers[steps % 2], wanted)


# What a body gets.


def test_local_views_in_every_place(two_gpus):
    a = numbers(4, 6)
    p = asarray(a, name="A")

    def look():
        local = p[1:3, ::-2].array
        return local.tolist(), local.flags.writeable, numpy.shares_memory(local, a), array.get_memory(local).device

    part = p[1:3]
    expected = a[1:3, ::-2].tolist()
    with Parla():
        assert run_on(cpu, look, input=[part]) == (expected, False, True, cpu(0))
        assert run_on(cpu, look, inout=[part]) == (expected, True, True, cpu(0))
        assert run_on(gpu(0), look, input=[part]) == (expected, False, False, gpu(0))
        assert run_on(gpu(1), look, inout=[p]) == (expected, True, False, gpu(1))
        assert run_on(cpu, look) == (expected, True, True, cpu(0))


@pytest.mark.parametrize("where", ["cpu", "gpu"])
def test_writing_an_input_is_an_error_that_names_task_and_array(two_gpus, where):
    a = numbers(8)
    p = asarray(a, name="A")

    def assign():
        p[2:4] = 0

    def add():
        q = p
        q += 1

    def through_the_view():
        p.array[0] = 3

    device = cpu if where == "cpu" else gpu
    for body in (assign, add):
        with pytest.raises(ParlaError, match=rf"{body.__name__}.*A\[.*input"), Parla():
            spawn(placement=device, input=[p])(body)
    with pytest.raises(ValueError, match="read-only"), Parla():
        spawn(placement=device, input=[p])(through_the_view)
    assert a.tolist() == list(range(8))


def test_what_a_task_on_a_gpu_did_not_name(two_gpus):
    p = asarray(numbers(8), name="A")

    def look():
        return p[4:6].array

    with pytest.raises(ParlaError, match=r"look.*A\[4:6\].*input, output or inout"), Parla():
        spawn(placement=gpu)(look)
    with pytest.raises(ParlaError, match=r"look.*A\[4:6\].*named only \[0:5\] of it"), Parla():
        spawn(placement=gpu, input=[p[0:5]])(look)


def test_operands_that_are_none(two_gpus):
    with Parla():
        with pytest.raises(TypeError, match="ndarray.*asarray"):
            spawn(placement=gpu, input=[numbers(3)])
        with pytest.raises(TypeError, match="int"):
            spawn(placement=gpu, inout=[3])


@pytest.mark.parametrize(
    "read_only", [numpy.broadcast_to(numpy.arange(4.0), (3, 4)), numpy.frombuffer(bytes(96)).reshape(3, 4)]
)
def test_read_only_arrays_are_inputs_only(two_gpus, read_only):
    p = asarray(read_only, name="fixed")
    with Parla():
        assert run_on(gpu, lambda: p[1:].array.tolist(), input=[p]) == read_only[1:].tolist()
        for role in ("inout", "output"):
            with pytest.raises((ValueError, TypeError), match="fixed"):
                spawn(placement=gpu, **{role: [p]})(lambda: None)


def test_an_array_in_several_roles(two_gpus):
    a = numbers(8)
    p = asarray(a)

    def body():
        p[2:6].array[...] += p[0:8].array[7]
        p[2:4] += 1

    with Parla():
        run_on(gpu, body, input=[p, p[1:3]], inout=[p[2:6], p[2:6]])
    assert a.tolist() == [0, 1, 10, 11, 11, 12, 6, 7]


def test_selections_as_operands(two_gpus):
    a = numbers(10, 10)
    wanted = a.copy()
    p = asarray(a)
    rows, mask = [8, 3, 5], wanted > 90

    def scale():
        p[rows] *= 2
        return p[rows].shape

    def clear():
        p[mask] = -1

    with Parla() as rt:
        assert run_on(gpu(0), scale, inout=[p[rows]]) == (3, 10)
        assert memories(rt)["gpu:0"]["bytes_from"]["host"] == 6 * 80
        run_on(gpu(1), clear, inout=[p[mask]])
        assert memories(rt)["gpu:1"]["bytes_from"]["host"] == 9 * 8
    wanted[rows] *= 2
    wanted[mask] = -1
    assert same(a, wanted)


def test_an_output_is_not_fetched_unless_it_has_gaps(two_gpus):
    a = numbers(8, 8)
    p = asarray(a)

    def fill():
        p[:, 1:3] = 5

    def fill_gaps():
        p[::2, 4] = 6

    with Parla() as rt:
        run_on(gpu(0), fill, output=[p[:, 1:3]])
        assert memories(rt)["gpu:0"]["copies"] == 0
        run_on(gpu(1), fill_gaps, output=[p[::2, 4]])
        assert memories(rt)["gpu:1"]["bytes_from"]["host"] == 7 * 8
    wanted = numbers(8, 8)
    wanted[:, 1:3] = 5
    wanted[::2, 4] = 6
    assert same(a, wanted)


def test_tasks_on_several_devices(two_gpus):
    a, b = numbers(4), numbers(4)
    p, q = asarray(a), asarray(b)

    def body():
        seen = []
        for device, x in zip(get_current_context().loop(), (p, q)):
            x.array[...] += 1 + device.index
            seen.append(array.get_memory(x.array).device)
        return seen

    with Parla():
        assert run_on([(gpu(0), gpu(1))], body, inout=[(p, 0), (q, 1)]) == [gpu(0), gpu(1)]
    assert (a.tolist(), b.tolist()) == ([1, 2, 3, 4], [2, 3, 4, 5])


def test_overlapping_outputs_of_one_task(two_gpus):
    a = numbers(8)
    p = asarray(a)

    def body():
        p[0:4] = 1
        p[2:6] = 2

    with Parla() as rt:
        run_on(gpu, body, output=[p[0:4], p[2:6]])
        assert memories(rt)["gpu:0"]["bytes_from"]["host"] == 0
    assert a.tolist() == [1, 1, 2, 2, 2, 2, 6, 7]


def test_offsets_beyond_32_bits_and_arrays_larger_than_a_gpu(two_gpus):
    try:
        a = numpy.zeros((3, 2**31), "u1")  # the system gives memory only to what is touched
    except MemoryError:
        pytest.skip("the system refuses 6 GiB of address space")
    p = asarray(a, name="huge")

    def body():
        p[2, -5:].array[...] += 7
        return int(p[2, -5:].array.sum())

    with Parla():
        assert run_on(gpu, body, inout=[p[2, -5:]]) == 35
        assert p[2, -6:].tolist() == [0, 7, 7, 7, 7, 7]
        with pytest.raises(DeviceOutOfMemory, match=str(a.nbytes)):
            run_on(gpu, lambda: None, inout=[p])
    assert a[2, -6:].tolist() == [0, 7, 7, 7, 7, 7]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_type_and_layout_travels(two_gpus, dtype, layout):
    a = LAYOUTS[layout](filled((4, 3), dtype))
    before = a.copy()
    p = asarray(a)

    def swap():
        local = p[1:3].array
        kept = local[0].copy()
        local[0] = local[1]
        local[1] = kept
        return p[1:3].dtype == local.dtype

    with Parla():
        assert run_on(gpu(0), swap, inout=[p[1:3]])
        assert run_on(gpu(1), lambda: str(p.array), input=[p]) == str(before[[0, 2, 1, 3]])
    assert same(a, before[[0, 2, 1, 3]])


@pytest.mark.parametrize("shape", [(), (0,), (3, 0)], ids=str)
def test_small_arrays_travel(two_gpus, shape):
    a = numpy.ones(shape)
    p = asarray(a)

    def body():
        p[...] = p.array + 1
        return p.array.shape

    with Parla():
        assert run_on(gpu, body, inout=[p]) == shape
    assert same(a, numpy.ones(shape) + 1)


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
