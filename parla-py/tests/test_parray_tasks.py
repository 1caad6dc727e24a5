"""PArrays in tasks on simulated GPUs and CPUs: the bytes are where the body runs, newest, and moved no more than needed."""

from __future__ import annotations

import pytest

numpy = pytest.importorskip("numpy")

from ndarrays import DTYPES, LAYOUTS, filled, numbers, same  # noqa: E402
from parla import Parla, array, spawn  # noqa: E402 - NumPy may be absent
from parla.context import get_current_context  # noqa: E402
from parla.devices import cpu, gpu  # noqa: E402
from parla.errors import DeviceOutOfMemory, ParlaError  # noqa: E402
from parla.parray import asarray  # noqa: E402
from placed_arrays import memories, run_on  # noqa: E402

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

    def add():
        p.array[...] += 1

    with Parla():
        run_on(gpu, body, input=[p, p[1:3]], inout=[p[2:6], p[2:6]])
        assert p.tolist() == [0, 1, 10, 11, 11, 12, 6, 7]
        run_on(gpu(1), add, input=[p], output=[p])
    assert a.tolist() == [1, 2, 11, 12, 12, 13, 7, 8]


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


@pytest.mark.parametrize("first", [0, 1])
def test_overlapping_outputs_of_one_task(two_gpus, first):
    a = numbers(8)
    p = asarray(a)
    parts = slice(0, 4), slice(2, 6)

    def body():
        p[parts[first]] = 1
        p[parts[1 - first]] = 2

    with Parla() as rt:
        run_on(gpu, body, output=[p[0:4], p[2:6]])
        assert memories(rt)["gpu:0"]["bytes_from"]["host"] == 0
    wanted = numbers(8)
    wanted[parts[first]] = 1
    wanted[parts[1 - first]] = 2
    assert same(a, wanted)


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
