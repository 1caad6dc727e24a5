"""Placements on machines with GPUs: the options and the claims of each, and what can't be served."""

from __future__ import annotations

import pytest
from machine import GIB, pretend
from parla import device
from parla._placement import UNSTATED, resolve
from parla.cpu import cpu
from parla.devices import gpu
from parla.errors import PlacementError

CPU = (cpu(0),)


def each(*indices):
    """Options of one GPU each."""
    return tuple((gpu(i),) for i in indices)


@pytest.fixture
def four():
    """Four GPUs, of 16, 16, 16 and 8 GiB, beside a CPU with 24."""
    with pretend(gpus=[16 * GIB, 16 * GIB, 16 * GIB, 8 * GIB]):
        yield


@pytest.fixture
def cores():
    """Two GPUs and three CPU devices of one core."""
    with pretend(cores=3, per_core=True, gpus=[GIB, GIB]):
        yield


def test_any_gpu(four):
    placement = resolve(gpu)
    assert placement.options == each(0, 1, 2, 3)
    assert placement.devices == (gpu(0),)
    assert placement.claims == (((UNSTATED, 0),),) * 4
    assert (placement.vcus, placement.memory, placement.affinity) == (0, 0, -1)


@pytest.mark.parametrize(
    ("placement", "options"),
    [
        (gpu(2), each(2)),
        ([gpu(3), gpu(0)], each(3, 0)),
        ([gpu(3), gpu], each(3, 0, 1, 2)),
        ([cpu, gpu], (CPU, *each(0, 1, 2, 3))),
        ([gpu(1), cpu], (*each(1), CPU)),
        ([cpu, gpu(1)], (CPU, *each(1))),
        ((cpu, gpu(1)), ((cpu(0), gpu(1)),)),
        ([(gpu(1), cpu)], ((gpu(1), cpu(0)),)),
        ([(gpu(0), gpu(1)), gpu(2)], ((gpu(0), gpu(1)), (gpu(2),))),
        ((cpu, gpu), tuple((cpu(0), gpu(i)) for i in range(4))),
    ],
)
def test_forms(four, placement, options):
    assert resolve(placement).options == options


def test_slices_are_alternatives(four):
    assert resolve(gpu[1:3]).options == each(1, 2)


@pytest.mark.parametrize("arguments", [{"placement": [(gpu, gpu)]}, {"placement": gpu * 2}, {"placement": gpu, "ndevices": 2}])
def test_two_gpus_in_every_way(four, arguments):
    options = resolve(**arguments).options
    assert len(options) == 12 == len(set(options))
    assert all(a != b and a in gpu and b in gpu for a, b in options)


def test_a_named_one_and_any_other(four):
    assert resolve((gpu(1), gpu)).options == ((gpu(1), gpu(0)), (gpu(1), gpu(2)), (gpu(1), gpu(3)))


def test_many_devices_have_a_bounded_number_of_options():
    with pretend(gpus=[GIB] * 16):
        for n in (2, 4, 8, 16):
            options = resolve(gpu * n).options
            assert 16 <= len(options) <= 64
            assert all(len(set(option)) == n for option in options)
            assert {option[0] for option in options} == set(gpu.devices)
        assert all(len(set(option)) == 8 for option in resolve((*gpu * 7, cpu)).options)


def test_cores_and_gpus(cores):
    assert resolve((cpu, gpu)).options == tuple((cpu(c), gpu(g)) for c in range(3) for g in range(2))
    assert resolve([cpu(1), gpu]).options == ((cpu(1),), *each(0, 1))
    assert resolve(gpu).affinity == -1
    assert resolve(cpu(1)).affinity == 1


def test_claims_of_each_option_and_device(four):
    assert resolve([cpu[{"vcus": 0.5}], gpu[{"memory": 7}]], memory=3).claims == (((500, 3),), *(((UNSTATED, 7),),) * 4)
    assert resolve((cpu[{"vcus": 0.25, "memory": 1}], gpu(1)[{"memory": 2}]), vcus=1).claims == (((250, 1), (1000, 2)),)
    assert resolve(gpu, vcus=0).claims[0] == ((0, 0),)
    assert resolve([gpu(0)[{"vcus": 0.5}], gpu(0)]).claims == (((500, 0),),)


def test_only_options_with_enough_memory_are_left(four):
    assert resolve(gpu, memory=9 * GIB).options == each(0, 1, 2)
    assert resolve([gpu, cpu], memory=20 * GIB).options == (CPU,)
    assert all(gpu(3) not in option for option in resolve(gpu * 3, memory=9 * GIB).options)
    options = resolve((gpu[{"memory": 9 * GIB}], gpu)).options
    assert {option[0] for option in options} == {gpu(0), gpu(1), gpu(2)}
    assert {option[1] for option in options} == set(gpu.devices)


def test_memory_of_few_among_many():
    """The runs of neighbours have no room for the large slots, other ways do."""
    with pretend(gpus=[2 * GIB if i % 2 else GIB for i in range(12)]):
        options = resolve(gpu[{"memory": 2 * GIB}] * 3).options
        assert options
        assert all(device.index % 2 for option in options for device in option)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"placement": gpu, "memory": 30 * GIB}, "needs 30 GiB, largest gpu has 16 GiB"),
        ({"placement": gpu(3), "memory": 9 * GIB}, r"needs 9 GiB, gpu\(3\) has 8 GiB"),
        ({"placement": [gpu, cpu], "memory": 30 * GIB}, "largest gpu has 16 GiB; it needs 30 GiB, largest cpu has 24 GiB"),
        ({"placement": gpu * 4, "memory": 9 * GIB}, "9 GiB.* on 4 different gpu devices, too few are that large"),
        ({"placement": gpu, "vcus": 1.5}, "needs vcus=1.5, one gpu device has 1"),
        ({"placement": gpu(4)}, r"gpu\(4\) does not exist: this machine has 4 gpu devices"),
        ({"placement": gpu * 5}, "needs 5 different gpu devices, this machine has 4 gpu devices"),
        ({"placement": (gpu(0), gpu(0))}, r"gpu\(0\) is named twice"),
        ({"placement": (gpu(0), *gpu * 4)}, "needs 5 different gpu devices"),
        ({"placement": gpu, "ndevices": 5}, "ndevices=5, this machine has 4 gpu devices"),
        ({"placement": (gpu, cpu, cpu)}, "needs 2 different cpu devices"),
    ],
)
def test_what_can_never_work_is_refused_with_the_numbers(four, arguments, text):
    with pytest.raises(PlacementError, match=text):
        resolve(**arguments)


def test_no_gpu_at_all():
    with pretend(why_no_gpu="libcuda.so.1 not found"):
        for placement in (gpu, gpu(0), [gpu], (gpu, cpu), gpu * 2, gpu[{"vcus": 0.5}]):
            with pytest.raises(PlacementError, match="libcuda.so.1 not found.*PARLA_SIM_GPUS=2"):
                resolve(placement)
        assert resolve([gpu, cpu]).options == (CPU,)


def test_tasks_without_a_placement_go_to_gpus_only_if_asked(four, monkeypatch):
    monkeypatch.setattr(device, "_defaults", [])
    assert resolve(None).options == (CPU,)
    device.use_by_default(gpu)
    assert resolve(None).options == (CPU, *each(0, 1, 2, 3))
    assert device.get_default_architectures() == [cpu, gpu]


def test_remembered_placements_are_dropped_with_the_machine():
    with pretend(gpus=[GIB]):
        assert resolve(gpu).options == each(0)
        with pretend(gpus=[GIB, GIB]):
            assert resolve(gpu).options == each(0, 1)


class Array:
    """What placement needs of an array: the bytes that are valid in each memory."""

    def __init__(self, *valid):
        self.valid = valid

    def __array__(self):
        raise AssertionError("where an array lives is found out without touching its contents")

    def __parla_operand__(self):
        return self, (), True

    def bytes_valid(self, memory, region):
        """As the native array answers it."""
        assert region == ()
        return self.valid[memory]


@pytest.mark.parametrize(
    ("valid", "options"),
    [((8, 0, 0, 0, 0), CPU), ((8, 8, 0, 0, 0), CPU), ((0, 0, 0, 8, 0), (gpu(2),)), ((2, 0, 3, 2, 3), (gpu(1),)), ((0,) * 5, CPU)],
)
def test_arrays_are_where_most_of_them_is(four, valid, options):
    assert resolve(Array(*valid)).options == (options,)
    assert resolve([Array(*valid)]).options == (options,)
