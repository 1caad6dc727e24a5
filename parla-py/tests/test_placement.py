"""Placements: what each form means, and what can never work is refused with the numbers."""

from __future__ import annotations

import dataclasses
import gc
import sys
import weakref

import pytest
from machine import GIB, pretend
from parla import Parla, TaskSpace, spawn
from parla._placement import Placement, resolve
from parla.cpu import cpu
from parla.devices import gpu
from parla.errors import ParlaError, PlacementError

ONE = (cpu(0),)
NO_CLAIM = (((-1, 0),),)


@pytest.fixture
def whole():
    """A machine whose CPU is one device of 24 GiB."""
    with pretend():
        yield


@pytest.fixture
def cores():
    """A machine with four CPU devices of 6 GiB."""
    with pretend(cores=4, per_core=True):
        yield


@pytest.mark.parametrize(
    "placement",
    [None, cpu, cpu(0), cpu[0], cpu[0:1], [cpu], [cpu, gpu], [gpu, cpu], (cpu,), [(cpu,)], cpu * 1, {cpu}, [[cpu], gpu], cpu[{}],
     [gpu(0), cpu], [cpu, gpu(3)], [(cpu, cpu), cpu], [cpu[{"memory": 30 * GIB}], cpu]],
)
def test_forms_that_mean_the_cpu(whole, placement):
    assert resolve(placement) == Placement(ONE, (ONE,), 0, 0, -1, NO_CLAIM)


def test_claims(whole):
    def claiming(vcus, memory):
        return Placement(ONE, (ONE,), vcus, memory, -1, (((vcus, memory),),))

    assert resolve(cpu, vcus=0.5, memory=100) == claiming(500, 100)
    assert resolve(cpu[{"vcus": 0.25, "memory": 7}]) == claiming(250, 7)
    assert resolve(cpu[{"vcus": 0.25}], vcus=1, memory=9) == claiming(250, 9)
    assert resolve(None, vcus=1) == claiming(1000, 0)
    assert resolve(cpu, vcus=0, memory=0) == claiming(0, 0)
    assert resolve([cpu[{"vcus": 1}], cpu[{"vcus": 0.5}]]).vcus == 1000


def test_numbers_of_numpy_are_numbers(whole):
    numpy = pytest.importorskip("numpy")
    assert resolve(cpu, vcus=numpy.float32(0.5), memory=numpy.int64(8), ndevices=numpy.int8(1)) == resolve(cpu, vcus=0.5, memory=8)
    with pytest.raises(ValueError, match="vcus.*finite"):
        resolve(cpu, vcus=numpy.float64("nan"))


def test_a_placement_is_a_frozen_value(whole):
    placement = resolve(cpu)
    with pytest.raises(dataclasses.FrozenInstanceError):
        placement.vcus = 1
    assert not hasattr(placement, "__dict__")
    assert hash(placement) == hash(resolve([cpu]))


def test_equal_numbers_of_other_types_are_not_mistaken_for_one_another(whole):
    assert resolve(cpu, vcus=1).vcus == 1000
    with pytest.raises(TypeError, match="vcus"):
        resolve(cpu, vcus=True)
    assert resolve(cpu, ndevices=1).devices == ONE
    with pytest.raises(TypeError, match="ndevices"):
        resolve(cpu, ndevices=1.0)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"placement": gpu}, "placement=gpu.*libcuda.so.1 not found.*PARLA_SIM_GPUS=2"),
        ({"placement": [gpu]}, r"placement=\[gpu\].*libcuda.so.1 not found"),
        ({"placement": gpu(0)}, "libcuda.so.1 not found"),
        ({"placement": (cpu, gpu)}, "libcuda.so.1 not found"),
        ({"placement": gpu * 2}, "libcuda.so.1 not found"),
        ({"placement": gpu[{"vcus": 0.5}]}, "libcuda.so.1 not found"),
        ({"placement": []}, "names no device"),
        ({"placement": ()}, "names no device"),
        ({"placement": [[]]}, "names no device"),
        ({"placement": gpu[0:2]}, "names no device"),
        ({"placement": cpu(1)}, r"cpu\(1\) does not exist: this machine has 1 cpu device"),
        ({"placement": [cpu, cpu(7)]}, r"cpu\(7\) does not exist"),
        ({"placement": (cpu, cpu)}, "needs 2 different cpu devices, this machine has 1 cpu device"),
        ({"placement": cpu * 3}, "needs 3 different cpu devices, this machine has 1 cpu device"),
        ({"placement": (cpu, cpu(0))}, "needs 2 different cpu devices, this machine has 1 cpu device"),
        ({"placement": (cpu(0), cpu(0))}, r"cpu\(0\) is named twice"),
        ({"placement": cpu, "ndevices": 2}, "ndevices=2, this machine has 1 cpu device"),
        ({"placement": cpu, "ndevices": 10**30}, "ndevices=10*, this machine has 1 cpu device"),
        ({"placement": cpu(0), "ndevices": 2}, r"ndevices=2, but cpu\(0\) is one device"),
        ({"placement": (cpu,), "ndevices": 2}, "takes 1 devices, but ndevices=2"),
        ({"placement": cpu, "memory": 30 * GIB}, "needs 30 GiB, largest cpu has 24 GiB"),
        ({"placement": None, "memory": 1e300}, "needs more than 2.*largest cpu has 24 GiB"),
        ({"placement": cpu[{"memory": 10**400}]}, "needs more than 2.*largest cpu has 24 GiB"),
        ({"placement": cpu, "vcus": 1.5}, "needs vcus=1.5, one cpu device has 1"),
        ({"placement": cpu, "vcus": 10**100}, "one cpu device has 1"),
        ({"placement": [cpu, gpu], "vcus": 2}, "needs vcus=2.*libcuda.so.1 not found"),
    ],
)
def test_what_can_never_work_is_refused_with_the_numbers(whole, arguments, text):
    with pytest.raises(PlacementError, match=text) as caught:
        resolve(**arguments)
    assert isinstance(caught.value, ParlaError)
    with pytest.raises(PlacementError, match=text):
        resolve(**arguments)


@pytest.mark.parametrize("name", ["vcus", "memory"])
@pytest.mark.parametrize(
    ("value", "error"),
    [(float("nan"), ValueError), (float("inf"), ValueError), (-float("inf"), ValueError), (-1, ValueError), (-1e-9, ValueError),
     ("1", TypeError), (True, TypeError), ([], TypeError), (1j, TypeError), (object(), TypeError)],
)
def test_bad_amounts_are_named(whole, name, value, error):
    with pytest.raises(error, match=name):
        resolve(cpu, **{name: value})


@pytest.mark.parametrize(("value", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), ("2", TypeError), (None, TypeError), (True, TypeError)])
def test_bad_numbers_of_devices(whole, value, error):
    with pytest.raises(error, match="ndevices"):
        resolve(cpu, ndevices=value)


@pytest.mark.parametrize("placement", ["cpu", 0, 1.5, object(), {"vcus": 1}, cpu.__class__, [None], [{cpu}], (cpu, None), ((cpu,),), [[cpu], "x"], {"cpu"}, b"cpu", print])
def test_what_is_no_placement(whole, placement):
    with pytest.raises(TypeError, match="placement"):
        resolve(placement)


def test_any_core(cores):
    placement = resolve(cpu)
    assert placement.devices == ONE
    assert placement.options == tuple((cpu(i),) for i in range(4))
    assert placement.affinity == -1
    assert resolve(None) == resolve(cpu[0:4]) == placement


@pytest.mark.parametrize("i", range(4))
def test_a_given_core_is_a_given_worker(cores, i):
    assert resolve(cpu(i)) == Placement((cpu(i),), ((cpu(i),),), 0, 0, i, NO_CLAIM)


def test_some_cores(cores):
    placement = resolve(cpu[2:4])
    assert placement.options == ((cpu(2),), (cpu(3),))
    assert placement.affinity == -1, "the policy chooses one of them"


def test_several_devices_are_different_ones(cores):
    placement = resolve(cpu * 2)
    assert placement.devices == (cpu(0), cpu(1))
    assert len(placement.options) == 4
    assert all(len(set(option)) == 2 for option in placement.options)
    assert resolve(cpu, ndevices=2) == placement
    assert resolve(cpu * 4).devices == tuple(cpu.devices)
    assert resolve((cpu, cpu(0))).devices == (cpu(1), cpu(0))
    assert resolve((cpu(2), cpu, cpu)).devices == (cpu(2), cpu(0), cpu(1))
    assert resolve((cpu, cpu), ndevices=2) == placement
    for option in resolve((cpu, cpu(1), cpu)).options:
        assert option[1] == cpu(1)
        assert len(set(option)) == 3


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"placement": cpu * 5}, "needs 5 different cpu devices, this machine has 4 cpu devices"),
        ({"placement": (cpu(0), *cpu * 4)}, "needs 5 different cpu devices"),
        ({"placement": cpu, "ndevices": 5}, "ndevices=5, this machine has 4 cpu devices"),
        ({"placement": cpu(1), "ndevices": 2}, r"ndevices=2, but cpu\(1\) is one device"),
        ({"placement": cpu, "memory": 7 * GIB}, "needs 7 GiB, largest cpu has 6 GiB"),
    ],
)
def test_what_four_cores_cannot_do(cores, arguments, text):
    with pytest.raises(PlacementError, match=text):
        resolve(**arguments)


def test_the_largest_claim_in_a_tuple_counts(cores):
    placement = resolve((cpu[{"vcus": 0.5}], cpu(3)[{"vcus": 0.25, "memory": 5}]), memory=1)
    assert (placement.vcus, placement.memory) == (500, 5)
    assert placement.claims == (((500, 1), (250, 5)),) * len(placement.options)


def test_arrays_are_where_they_live(whole):
    numpy = pytest.importorskip("numpy")
    assert resolve(numpy.zeros(3)).devices == ONE
    assert resolve([numpy.zeros(3), gpu]).devices == ONE


def test_a_gpu_array_is_refused_by_name(whole):
    class Remote:
        __cuda_array_interface__ = {"shape": (1,), "typestr": "<f8", "data": (0, False), "version": 3}

    with pytest.raises(TypeError, match="Remote.*CPU memory only"):
        resolve(Remote())


def test_a_task_means_its_devices():
    with Parla(workers=2):
        first = spawn(placement=cpu, vcus=0.5)(lambda: 1)
        placement = resolve(first, memory=5)
        assert (placement.devices, placement.vcus, placement.memory) == (ONE, 0, 5)
        space = TaskSpace("T")
        spawn(space[0], placement=first)(lambda: 2)
        assert resolve(space[0]) == resolve([first, gpu]) == resolve((first,)) == resolve(cpu)
        with pytest.raises(PlacementError, match="ndevices=2"):
            resolve(first, ndevices=2)


def test_a_task_that_is_not_spawned_has_no_devices():
    with pytest.raises(PlacementError, match="T_5 is not spawned yet"):
        resolve(TaskSpace("T")[5])


def test_remembered_placements_keep_no_tasks_and_no_arrays():
    numpy = pytest.importorskip("numpy")

    class Array(numpy.ndarray):
        """An array that can be referred to weakly."""

    array = numpy.zeros(3).view(Array)
    reference = weakref.ref(array)
    resolve(array)
    resolve([array, cpu])
    del array
    gc.collect()
    assert reference() is None


def test_remembered_placements_are_bounded(whole):
    from parla import _placement

    for memory in range(3 * _placement._CACHE_SIZE):
        assert resolve(cpu, memory=memory).memory == memory
    assert len(_placement._cache) <= _placement._CACHE_SIZE


@pytest.mark.parametrize("arguments", [{"placement": gpu}, {"placement": "x"}, {"placement": []}, {"ndevices": 0}, {"vcus": -1}, {"memory": 2**80}])
def test_spawn_refuses_and_the_runtime_goes_on(arguments):
    with Parla(workers=2):
        with pytest.raises((ParlaError, TypeError, ValueError)):
            spawn(**arguments)(lambda: None)
        task = spawn(placement=cpu)(lambda: sys.maxsize)
    assert task.result() == sys.maxsize
