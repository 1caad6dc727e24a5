"""One device per core: a task that may run on any core knows which one it has, and has the environment of that one."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from machine import configured, pretend
from parla import Parla, get_current_devices, parray, spawn
from parla.cpu import cpu
from parla.environments import (
    EnvironmentComponentDescriptor,
    EnvironmentComponentInstance,
    TaskEnvironment,
    get_current_environment,
)

CORES = 3


def side_by_side(n, body, **options):
    """Runs `body` in `n` tasks that all run at the same time, and gives what they say."""
    together = threading.Barrier(n)

    def whole():
        together.wait(20)
        return body()

    return [task.result(20) for task in [spawn(**options)(whole) for _ in range(n)]]


def test_tasks_at_the_same_time_are_on_different_cores():
    with pretend(cores=CORES, per_core=True), Parla(workers=CORES):
        for options in ({}, {"vcus": 1}, {"placement": cpu}, {"placement": cpu.devices}, {"placement": cpu[{"vcus": 0.5}]}):
            found = side_by_side(CORES, get_current_devices, **options)
            assert sorted(devices[0].index for devices in found) == list(range(CORES)), options


def test_more_workers_than_cores():
    with pretend(cores=2, per_core=True), Parla(workers=4):
        found = side_by_side(4, get_current_devices)
    assert sorted(devices[0].index for devices in found) == [0, 0, 1, 1]


def test_a_given_core_stays_given():
    with pretend(cores=CORES, per_core=True), Parla(workers=CORES):
        for core in cpu.devices:
            assert spawn(placement=core)(get_current_devices).result(20) == [core]


def test_the_core_stays_the_same_over_awaits_and_waits():
    with pretend(cores=CORES, per_core=True), Parla(workers=CORES):

        async def goes_on():
            before = get_current_devices()
            for _ in range(20):
                await spawn()(lambda: None)
                assert get_current_devices() == before
            spawn()(lambda: None).wait(20)
            assert get_current_devices() == before

        for task in [spawn()(goes_on) for _ in range(6)]:
            task.result(20)


def test_where_another_task_is():
    with pretend(cores=CORES, per_core=True), Parla(workers=CORES):
        together = threading.Barrier(CORES)

        def first():
            together.wait(20)
            return get_current_devices()

        tasks = [spawn()(first) for _ in range(CORES)]
        found = [task.result(20) for task in tasks]
        after = [spawn(placement=task)(lambda: (get_current_devices(), threading.get_ident())) for task in tasks]
        assert [task.result(20)[0] for task in after] == found
        assert len({task.result()[1] for task in after}) == CORES


def test_each_core_has_its_environment():
    inside = threading.local()

    class Marked(EnvironmentComponentInstance):
        def __enter__(self):
            assert not hasattr(inside, "name")
            inside.name = self.descriptor.name
            return self

        def __exit__(self, *exc):
            del inside.name

    class Mark(EnvironmentComponentDescriptor):
        def __init__(self, name):
            self.name = name

        def __call__(self, env):
            return Marked(self)

    def where():
        placed = get_current_environment().placement
        return inside.name, [device.index for device in get_current_devices()], [device.index for device in placed]

    with pretend(cores=CORES, per_core=True):
        environments = [TaskEnvironment(cpu(i), [Mark(i)]) for i in range(CORES)]
        with Parla(environments, workers=CORES):
            found = side_by_side(CORES, where)
    assert sorted(found) == [(i, [i], [i]) for i in range(CORES)]


@pytest.mark.parametrize("gpus", ["0", "2"])
def test_some_cores_are_any_of_them(gpus):
    with configured(PARLA_CPU_ARCHITECTURE="cores", PARLA_NUM_THREADS="4", PARLA_SIM_GPUS=gpus):
        some = cpu[2:4]
        a = parray.array(np.zeros(3))
        with Parla():
            for options in ({"placement": some}, {"placement": some, "input": a}, {"placement": [c[{"vcus": 0.5}] for c in some]}):
                found = side_by_side(2, get_current_devices, **options)
                assert sorted(devices[0].index for devices in found) == [2, 3], options
            both = [spawn(placement=cpu * 2)(get_current_devices).result(20) for _ in range(4)]
            assert all(len({device.index for device in devices}) == 2 for devices in both)
        with Parla(devices=some):
            found = side_by_side(2, get_current_devices)
            assert sorted(devices[0].index for devices in found) == [2, 3]


def test_with_a_task_that_has_not_started_on_some_cores():
    with configured(PARLA_CPU_ARCHITECTURE="cores", PARLA_NUM_THREADS="3"), Parla():
        gate = threading.Event()
        first = spawn()(lambda: gate.wait(20))
        second = spawn(dependencies=[first], placement=cpu[1:3])(get_current_devices)
        third = spawn(placement=second)(get_current_devices)
        assert third.result(20)[0] in cpu[1:3]
        gate.set()
        assert second.result(20)[0] in cpu[1:3]
