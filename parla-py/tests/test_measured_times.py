"""Placement by measured times, the reasons that a policy gives, and as many places on the CPU as there are workers."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from machine import configured
from parla import Parla, asarray, get_current_devices, spawn
from parla.cpu import cpu
from parla.devices import gpu
from support import LIMIT, pass_gate


@pytest.fixture(autouse=True)
def one():
    """A machine with a simulated GPU beside a CPU of two cores."""
    with configured({"sim_gpus": 1, "cpu_cores": 2}):
        yield


def placed(rt, task):
    return next(r for r in rt.trace if r["event"] == "placed" and r["name"] == task.name)


def slow_on(architecture):
    def body():
        (device,) = get_current_devices()
        time.sleep(0.03 if device.architecture is architecture else 0.001)
        return device.architecture

    return body


@pytest.mark.parametrize("slow", [cpu, gpu], ids=["cpu", "gpu"])
def test_tasks_go_where_such_tasks_were_faster(slow):
    fast = gpu if slow is cpu else cpu
    with Parla(workers=2):
        # One after another, so that nothing but the times decides. Which code it is counts, not which closure.
        found = [spawn(placement=[cpu, gpu])(slow_on(slow)).result(LIMIT) for _ in range(8)]
    assert found == [cpu, gpu] + [fast] * 6  # each is tried once


def test_a_task_waits_for_the_device_that_is_much_faster():
    def body():
        (device,) = get_current_devices()
        time.sleep(0.5 if device.architecture is cpu else 0.001)
        return device.architecture

    with Parla(workers=2):
        for _ in range(2):
            spawn(placement=[cpu, gpu])(body).wait(LIMIT)
        tasks = [spawn(placement=[cpu, gpu])(body) for _ in range(30)]
        assert [task.result(LIMIT) for task in tasks] == [gpu] * 30


def test_another_function_has_times_of_its_own():
    def other():
        return get_current_devices()

    with Parla(workers=2, trace=True) as rt:
        for _ in range(2):
            spawn(placement=[cpu, gpu])(slow_on(cpu)).wait(LIMIT)
        late = spawn(placement=[cpu, gpu], name="late")(slow_on(cpu))
        late.wait(LIMIT)
        another = spawn(placement=[cpu, gpu], name="another")(other)
        assert another.result(LIMIT) == [cpu(0)]
        assert placed(rt, late)["devices"] == ["gpu:0"]
        assert " + run " in placed(rt, late)["why"]
        assert placed(rt, another)["why"] == "wait 0 ns + transfer 0 ns"


def test_what_fails_is_not_learned():
    def body():
        raise ValueError("on purpose")

    with Parla(trace=True) as rt:
        for number in range(2):
            task = spawn(placement=gpu, name=f"t{number}")(body)
            task.wait(LIMIT)
            assert isinstance(task.exception(), ValueError)
        assert "run" not in placed(rt, task)["why"]


def test_why_says_where_a_task_was_placed_and_why():
    go, started = threading.Event(), threading.Event()
    a = asarray(np.zeros(1_000_000))
    with Parla(workers=2) as rt:

        @spawn(placement=gpu, input=[a])
        def task():
            started.set()
            pass_gate(go)

        pass_gate(started)
        why = rt.why(task)
        assert "is running" in why
        assert "it was placed on gpu:0: wait 0 ns + transfer " in why
        go.set()
        task.wait(LIMIT)
        assert rt.why(task).endswith("is done")


def test_policies_without_reasons_give_none():
    go, started = threading.Event(), threading.Event()
    with Parla(workers=2, policy="eager", trace=True) as rt:

        @spawn(placement=gpu)
        def task():
            started.set()
            pass_gate(go)

        pass_gate(started)
        assert rt.why(task).endswith("; it was placed on gpu:0")
        go.set()
        assert placed(rt, task)["why"] == ""


@pytest.mark.parametrize("vcus", [None, 0.125])
def test_the_cpu_has_as_many_places_as_there_are_workers(vcus):
    n = 8
    barrier = threading.Barrier(n)
    arrays = [asarray(np.zeros(3)) for _ in range(n)]

    def body():
        barrier.wait(LIMIT)
        return get_current_devices()

    # One task ahead of those that run, so the machine's two cores and it would be three.
    with Parla(workers=n, depth=1):
        tasks = [spawn(placement=cpu, inout=[a], vcus=vcus)(body) for a in arrays]
        assert all(task.result(LIMIT) == [cpu(0)] for task in tasks)


def test_claims_bound_those_that_run_whatever_places_there_are():
    arrays = [asarray(np.zeros(3)) for _ in range(12)]
    lock = threading.Lock()
    n_running, most = 0, 0

    def body():
        nonlocal_counts(+1)
        time.sleep(0.005)
        nonlocal_counts(-1)

    def nonlocal_counts(by):
        nonlocal n_running, most
        with lock:
            n_running += by
            most = max(most, n_running)

    with Parla(workers=8):
        for a in arrays:
            spawn(placement=cpu, inout=[a], vcus=0.25)(body)
    assert most == 4
