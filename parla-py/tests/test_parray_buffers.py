"""PArrays of the same memory: the same array, a slice of it, or refused."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from parla import Parla, spawn
from parla.devices import gpu
from parla.parray import PArray, array, asarray

SLICES = {
    "front": np.s_[:3],
    "middle": np.s_[2:5],
    "every_other": np.s_[1::2],
    "backwards": np.s_[::-1],
    "row": np.s_[2],
    "column": np.s_[:, 1],
    "box": np.s_[1:4, 2:],
    "steps": np.s_[::3, ::-2],
    "new_axis": np.s_[None, 2:4, None],
    "one_element": np.s_[3:4, 2:3],
    "last_axis": np.s_[..., -1],
}
ORDERS = {"as_they_are": (0, 1, 2), "reversed": (2, 1, 0), "turned": (1, 2, 0)}


@pytest.mark.parametrize("key", SLICES.values(), ids=SLICES)
@pytest.mark.parametrize("make", [asarray, PArray])
def test_an_array_of_a_slice_is_a_slice_of_the_array(make, key):
    buffer = np.arange(6 * 5 * 4.0).reshape(6, 5, 4)
    whole = asarray(buffer, name="whole")
    part = make(buffer[key])
    assert part.name == "whole"
    assert part.shape == buffer[key].shape
    assert np.array_equal(part.array, buffer[key])
    part[...] = -1
    assert (buffer[key] == -1).all() and (whole.array[key] == -1).all()


@pytest.mark.parametrize("layout", ["C", "F"])
@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_axes_in_another_order(order, layout):
    buffer = np.asarray(np.arange(6 * 5 * 4.0).reshape(6, 5, 4), order=layout)
    whole, turned = asarray(buffer, name="whole"), buffer[1:, ::2, 1:3].transpose(order)
    part = asarray(turned)
    assert part.name == whole.name and part.shape == turned.shape
    assert np.array_equal(part.array, turned)


def test_a_slice_of_a_slice_of_fortran_order():
    buffer = np.asfortranarray(np.arange(30.0).reshape(6, 5))
    whole, part = asarray(buffer[1:, ::2], name="whole"), asarray(buffer[2:5, 2])
    assert part.name == whole.name
    assert np.array_equal(part.array, buffer[2:5, 2])


@pytest.mark.usefixtures("two_gpus")
def test_what_one_task_writes_another_reads_through_a_slice_of_the_buffer():
    buffer = np.zeros(8)
    whole = asarray(buffer)
    part = asarray(buffer[2:5])
    with Parla():

        @spawn(placement=gpu(0), inout=[whole])
        def first():
            whole.array[:] = 1

        @spawn(dependencies=[first], placement=gpu(1), inout=[part])
        def second():
            part.array[:] += 1

        @spawn(dependencies=[second], placement=gpu(0), inout=[whole])
        def third():
            whole.array[:] *= 10

    assert buffer.tolist() == [10, 10, 20, 20, 20, 10, 10, 10]


@pytest.mark.parametrize(
    "other",
    [
        lambda a: a.reshape(-1),
        lambda a: a.view(np.uint8),
        lambda a: a.reshape(2, 12)[:, 4:8],
        lambda a: np.lib.stride_tricks.sliding_window_view(a, (2, 2)),
    ],
    ids=["reshaped", "bytes", "other_rows", "windows"],
)
def test_what_shares_elements_and_is_no_slice_is_refused(other):
    buffer = np.zeros((4, 6))
    whole = asarray(buffer, name="whole")
    with pytest.raises(ValueError, match="shares elements with the PArray whole of shape \\(4, 6\\)"):
        asarray(other(buffer))
    assert whole[1].name == "whole"


def test_a_larger_array_than_one_that_is_there_is_refused():
    buffer = np.zeros(10)
    part = asarray(buffer[:4], name="part")
    with pytest.raises(ValueError, match="the PArray part of shape"):
        asarray(buffer)
    del part
    gc.collect()
    assert asarray(buffer).shape == (10,)


def test_arrays_that_share_no_element_are_arrays_of_their_own():
    buffer = np.zeros((4, 6))
    parts = [asarray(buffer[:, :3]), asarray(buffer[:, 3:]), asarray(np.zeros(3)), asarray(buffer[:0])]
    assert len({part.name for part in parts}) == 4
    even, odd = np.zeros(8)[::2], np.zeros(8)[1::2]
    assert asarray(even).name != asarray(odd).name


def test_what_nobody_can_write_may_overlap():
    buffer = np.arange(6.0)
    buffer.flags.writeable = False
    one, two = asarray(buffer), asarray(buffer.reshape(2, 3))
    assert one.name != two.name and two.array.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_a_copy_is_an_array_of_its_own():
    buffer = np.zeros(4)
    whole = asarray(buffer)
    assert array(buffer[:2]).name != whole.name


@pytest.mark.usefixtures("two_gpus")
def test_an_array_on_a_gpu_stays_as_it_was_given():
    given = gpu(0).memory()(np.arange(4.0))
    a = asarray(given)
    with Parla():

        @spawn(placement=gpu(0), inout=[a])
        def more():
            a.array[...] += 1

    assert given.tolist() == [0, 1, 2, 3]
    assert a.array.tolist() == a.get().tolist() == [1, 2, 3, 4]
