"""Arrays and tasks inside tasks: what a child changes its parent sees after the wait; arrays without a handle come home."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from machine import configured
from parla import Parla, TaskSpace, spawn
from parla.cpu import cpu
from parla.devices import gpu
from parla.errors import ParlaError
from parla.parray import asarray

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(autouse=True)
def _two_gpus():
    with configured({"sim_gpus": 2}):
        yield


PLACES = ["gpu", "cpu"]


def _place(name: str):
    return gpu(0) if name == "gpu" else cpu


@pytest.mark.parametrize("place", PLACES)
def test_an_awaited_child_s_changes_are_seen(place, workers):
    for _ in range(10):
        a = np.zeros(4)
        shared = asarray(a)
        with Parla(workers=workers):

            @spawn(placement=_place(place), inout=[shared])
            async def parent():
                shared.array[:] += 1

                @spawn(placement=gpu(1), inout=[shared])
                def child():
                    shared.array[:] += 10

                await child
                shared.array[:] *= 2

        assert a.tolist() == [22.0] * 4


@pytest.mark.parametrize("place", PLACES)
def test_a_child_that_the_body_blocks_for_is_seen(place, workers):
    for _ in range(10):
        a = np.zeros(4)
        shared = asarray(a)
        with Parla(workers=workers):

            @spawn(placement=_place(place), inout=[shared])
            def parent():
                shared.array[:] += 1

                @spawn(placement=gpu(1), inout=[shared])
                def child():
                    shared.array[:] += 10

                child.wait()
                shared.array[:] *= 2

        assert a.tolist() == [22.0] * 4


@pytest.mark.parametrize("place", PLACES)
def test_a_child_that_reads_sees_what_its_parent_wrote(place):
    a = np.zeros(4)
    shared = asarray(a)
    with Parla():

        @spawn(placement=_place(place), output=[shared])
        async def parent():
            shared.array[:] = 7

            @spawn(placement=gpu(1), input=[shared])
            def child():
                return float(shared.array.sum())

            return await child

        assert parent.result() == 28.0
    assert a.tolist() == [7.0] * 4


def test_a_failed_child_leaves_its_parent_nothing_to_read():
    """The parent catches the child's error, and gets one of its own when it looks at what the child has spoilt."""
    a = np.zeros(4)
    shared = asarray(a)
    with pytest.raises(ParlaError, match="no valid contents.*child.*failed"), Parla():

        @spawn(placement=gpu(0), inout=[shared])
        async def parent():
            @spawn(placement=gpu(1), inout=[shared])
            def child():
                raise KeyError("half-way")

            try:
                await child
            except KeyError:
                pass
            shared.array[:] += 1


def test_an_array_whose_handle_is_gone_comes_home():
    def start(u):
        wrapped = asarray(u)

        @spawn(placement=gpu(0), inout=[wrapped])
        def fill():
            wrapped.array[:] += 1

    u = np.zeros(5)
    with Parla():
        start(u)
    assert u.tolist() == [1.0] * 5


def test_a_handle_dropped_after_the_task_ended():
    u = np.zeros(5)
    with Parla():
        tasks = TaskSpace()
        wrapped = asarray(u)

        @spawn(tasks[0], placement=gpu(0), inout=[wrapped])
        def fill():
            wrapped.array[:] += 1

        tasks.wait()
        del wrapped, fill, tasks
        gc.collect()
    assert u.tolist() == [1.0] * 5


def test_part_of_an_array_whose_view_and_handle_are_gone():
    u = np.zeros(10)
    with Parla():
        wrapped = asarray(u[2:5])

        @spawn(placement=gpu(1), inout=[wrapped])
        def fill():
            wrapped.array[:] = 3

        fill.wait()
        del wrapped, fill
        gc.collect()
    assert u.tolist() == [0, 0, 3, 3, 3, 0, 0, 0, 0, 0]
