"""Logical devices: blocks cover everything once, whatever the sides, and parts are where their device is."""

from __future__ import annotations

import warnings
from collections import Counter

import pytest
from support import run_py

numpy = pytest.importorskip("numpy")

from parla.cpu import cpu  # noqa: E402 - NumPy may be absent
from parla.device import Architecture, Resources  # noqa: E402
from parla.errors import PlacementError  # noqa: E402
from parla.ldevice import (  # noqa: E402
    LDeviceGridBlocked,
    LDeviceGridRaveled,
    LDeviceSequenceBlocked,
    PartitionedTensor,
    PerformanceWarning,
)


class _Many(Architecture):
    """Devices in name only: mapping needs no more."""

    __slots__ = ()

    @property
    def devices(self):
        return tuple(self(i) for i in range(12))

    def resources_of(self, index) -> Resources:
        return {"vcus": 1.0, "memory": 1}


many = _Many("many")


def numbers(devices):
    return [device.index for device in devices]


def test_devices_of_a_placement():
    assert LDeviceSequenceBlocked(30, many).devices == list(many.devices)
    assert numbers(LDeviceSequenceBlocked(30, many[2:5]).devices) == [2, 3, 4]
    assert numbers(LDeviceSequenceBlocked(30, [many(3), many[0:4], many(3)]).devices) == [3, 0, 1, 2]
    assert LDeviceSequenceBlocked(30).devices[0] == cpu(0)
    assert LDeviceSequenceBlocked(3, [numpy.zeros(2)]).devices == [cpu(0)]
    with pytest.raises(PlacementError, match="names no device"):
        LDeviceSequenceBlocked(3, [])
    with pytest.raises(PlacementError, match=r"many\(40\) does not exist"):
        LDeviceSequenceBlocked(3, many(40))
    with pytest.raises(TypeError):
        LDeviceSequenceBlocked(3, "cpu")


@pytest.mark.parametrize("n", range(1, 26))
@pytest.mark.parametrize("n_devices", range(1, 8))
def test_rows_are_shared_evenly_in_order(n, n_devices):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PerformanceWarning)
        mapper = LDeviceSequenceBlocked(n, many[:n_devices])
    used = numbers(mapper.device(i) for i in range(n))
    assert used == sorted(used)
    counts = Counter(used)
    assert len(counts) == mapper.n_devices == min(n, n_devices)
    assert max(counts.values()) - min(counts.values()) <= 1
    assert mapper.assignments == {(i,): mapper.device(i) for i in range(n)}
    for wrong in (-1, n):
        with pytest.raises(ValueError, match=f"no logical device {wrong}"):
            mapper.device(wrong)


@pytest.mark.parametrize("grid", [LDeviceGridBlocked, LDeviceGridRaveled])
@pytest.mark.parametrize("sides", [(1, 1), (1, 7), (7, 1), (2, 3), (3, 2), (5, 2), (2, 9), (6, 6), (13, 3)], ids=str)
@pytest.mark.parametrize("n_devices", [1, 2, 3, 4, 6, 7, 12])
def test_grids_use_their_devices_evenly(grid, sides, n_devices):
    x, y = sides
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PerformanceWarning)
        mapper = grid(x, y, many[:n_devices])
    used = {(i, j): mapper.device(i, j) for i in range(x) for j in range(y)}
    assert mapper.assignments == used
    assert set(used.values()) == set(mapper.devices)
    assert mapper.n_ldevices == x * y
    for wrong in ((-1, 0), (0, -1), (x, 0), (0, y)):
        with pytest.raises(ValueError, match="no logical device"):
            mapper.device(*wrong)
    if grid is LDeviceGridRaveled:
        row = [used[i, j].index for i in range(x) for j in range(y)]
        assert row == sorted(row)
        counts = Counter(row).values()
        assert max(counts) - min(counts) <= 1
    else:
        for device in mapper.devices:
            mine = [place for place, d in used.items() if d == device]
            rows, columns = {i for i, _ in mine}, {j for _, j in mine}
            assert len(mine) == len(rows) * len(columns), "a rectangle"


def test_too_many_devices_are_left_out_with_a_warning():
    with pytest.warns(PerformanceWarning, match=r"2 logical devices can't keep 12 devices busy; unused: many\(2\)") as found:
        assert numbers(LDeviceSequenceBlocked(2, many).devices) == [0, 1]
    with pytest.warns(PerformanceWarning, match="unused") as found_in_grid:
        assert LDeviceGridRaveled(1, 2, many).n_devices == 2
    with pytest.warns(PerformanceWarning, match=r"7 devices form no grid.*many\(6\)") as found_in_blocks:
        assert LDeviceGridBlocked(4, 4, many[:7]).n_devices == 6
    assert {warning.filename for warning in (*found, *found_in_grid, *found_in_blocks)} == {__file__}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert repr(LDeviceGridBlocked(4, 4, many)) == "LDeviceGridBlocked(4, 4)<3, 4>"
        assert repr(LDeviceSequenceBlocked(12, many)) == "LDeviceSequenceBlocked(12)<12>"


@pytest.mark.parametrize("wrong", [0, -1])
def test_sizes_are_positive(wrong):
    with pytest.raises(ValueError, match="at least 1"):
        LDeviceSequenceBlocked(wrong, cpu)
    with pytest.raises(ValueError, match="n_ldevices_y must be at least 1"):
        LDeviceGridRaveled(1, wrong, cpu)


@pytest.mark.parametrize("n", [0, 1, 2, 7, 12, 100])
@pytest.mark.parametrize("parts", [1, 2, 3, 7, 12])
def test_slices_cover_everything_once(n, parts):
    mapper = LDeviceSequenceBlocked(parts, cpu)
    covered = [i for part in range(parts) for i in range(n)[mapper.slice(part, n)]]
    assert covered == list(range(n))
    sizes = [len(range(n)[mapper.slice(part, n)]) for part in range(parts)]
    assert max(sizes) - min(sizes) <= 1
    for part in range(parts):
        own = range(n)[mapper.slice(part, n)]
        wide = range(n)[mapper.slice(part, n, overlap=2)]
        if len(own):
            assert wide == range(max(0, own[0] - 2), min(n, own[-1] + 3))
        assert mapper.slice(part, n, 3).step == 3
    for wrong in (-1, parts):
        with pytest.raises(ValueError, match=f"no part {wrong} of {parts}"):
            mapper.slice(wrong, n)
    with pytest.raises(ValueError, match="overlap"):
        mapper.slice(0, n, overlap=-1)


def test_rows_of_an_array():
    a = numpy.arange(20.0).reshape(10, 2)
    mapper = LDeviceSequenceBlocked(3, cpu)
    parts = mapper.partition_tensor(a)
    assert len(parts) == 3
    assert numpy.array_equal(numpy.concatenate(parts.base), a)
    assert not any(numpy.shares_memory(part, a) for part in parts.base)
    assert [len(part) for part in mapper.partition_tensor(a, overlap=1).base] == [5, 5, 4]
    with pytest.raises(ValueError, match="can't be divided along 1"):
        mapper.partition_tensor(numpy.float64(3) * numpy.ones(()))


@pytest.mark.parametrize("grid", [LDeviceGridBlocked, LDeviceGridRaveled])
def test_blocks_of_an_array(grid):
    a = numpy.arange(5 * 7 * 2).reshape(5, 7, 2)
    parts = grid(2, 3, cpu).partition_tensor(a)
    assert numpy.array_equal(numpy.concatenate([numpy.concatenate(row, axis=1) for row in parts.base]), a)
    wide = grid(2, 3, cpu).partition_tensor(a, overlap=1).base
    assert numpy.array_equal(wide[1][1], a[2:5, 2:6])
    with pytest.raises(ValueError, match="2 dimension"):
        grid(2, 3, cpu).partition_tensor(numpy.zeros(4))


def test_data_may_ask_where_it_goes():
    mapper = LDeviceSequenceBlocked(2, cpu)
    seen = []

    def data(i, device, memory):
        seen.append((i, device, memory.device))
        return numpy.full(2, i)

    parts = mapper.partition(data)
    assert seen == [(0, cpu(0), cpu(0)), (1, cpu(0), cpu(0))]
    assert [part.tolist() for part in parts.base] == [[0, 0], [1, 1]]
    assert mapper.partition(lambda i, **given: numpy.array(sorted(given))).base[0].tolist() == ["device", "memory"]


def tensor():
    return PartitionedTensor([[numpy.full(2, 10 * i + j) for j in range(3)] for i in range(2)])


def values(parts):
    return [int(part[0]) for part in parts]


def test_reading_parts_gives_copies_here():
    t = tensor()
    part = t[1, 2]
    assert part.tolist() == [12, 12]
    assert not numpy.shares_memory(part, t.base[1][2])
    assert values(t[1]) == [10, 11, 12]
    assert values(t[:, 1]) == [1, 11]
    assert values(t[0:2, [2, 0]]) == [2, 0, 12, 10]
    assert values(t[-1:]) == [10, 11, 12]
    assert t[-1, -1].tolist() == [12, 12]
    assert values([PartitionedTensor([numpy.ones(1)])[0]]) == [1]
    assert t[1:2, 2:3].tolist() == t[-1, [2]].tolist() == [12, 12]
    assert values(PartitionedTensor([[numpy.ones(1)]])[0]) == [1]
    assert PartitionedTensor([numpy.ones(1)])[1:] == []
    for wrong in (2, -3, (0, 3), (0, 0, 0)):
        with pytest.raises(IndexError):
            t[wrong]
    with pytest.raises(TypeError, match="float"):
        t[1.5]


def test_assigning_copies_in():
    t = tensor()
    kept = t.base[0][1]
    t[0, 1] = numpy.array([7, 8])
    assert kept.tolist() == [7, 8]
    t[1] = 5
    assert values(t[1]) == [5, 5, 5]
    t[0, 0] = None
    assert t.base[0][0] is None
    with pytest.warns(PerformanceWarning, match=r"\(2,\) is replaced by one of shape \(3,\)"):
        t[1, 1] = numpy.ones(3)
    assert t[1, 1].tolist() == [1, 1, 1]


def test_parts_share_nothing_with_what_is_assigned():
    t, value = tensor(), numpy.ones(2)
    t[0, :2] = None
    t[0, :2] = value
    value[:] = 2
    t.base[0][0][:] = 3
    assert values(t[0, :2]) == [3, 1]


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: tensor()["x"], "integers, slices and lists of integers, not str"),
        (lambda: tensor()[[True, False]], "integers, slices and lists of integers, not bool"),
        (lambda: LDeviceSequenceBlocked("4"), "n_ldevices must be an integer, not str"),
        (lambda: LDeviceSequenceBlocked(2, cpu).partition_tensor([1, 2, 3]), "an array is expected.*not list"),
        (lambda: LDeviceSequenceBlocked(2, cpu).partition_tensor(numpy.zeros(4), overlap="1"), "overlap.*not str"),
    ],
)
def test_arguments_that_make_no_sense(call, text):
    with pytest.raises(TypeError, match=text):
        call()


def test_what_parts_say():
    t = tensor()
    assert t.types == [[numpy.ndarray] * 3] * 2
    assert t.devices == [cpu(0)]
    assert (len(t), repr(t)) == (2, "<PartitionedTensor of 6 parts>")


def test_parts_on_simulated_gpus():
    run_py(
        """
        import numpy
        from parla import Parla, spawn
        from parla.array import get_memory
        from parla.cuda import gpu
        from parla.ldevice import LDeviceSequenceBlocked

        a = numpy.arange(40.0)
        mapper = LDeviceSequenceBlocked(4, gpu)
        parts = mapper.partition_tensor(a, overlap=1)
        assert [get_memory(part).device for part in parts.base] == [gpu(0), gpu(0), gpu(1), gpu(1)]
        assert parts.devices == [gpu(0), gpu(1)]
        assert parts[2].tolist() == list(range(19, 31))
        with Parla():
            @spawn(placement=gpu(1))
            def work():
                here = parts[0]
                assert get_memory(here).device == gpu(1)
                here += 1
                parts[3] = numpy.zeros(11)
                return here.tolist()
        assert work.result() == list(range(1, 12))
        assert parts[3].tolist() == [0] * 11
        """,
        env={"PARLA_SIM_GPUS": "2"},
    )
