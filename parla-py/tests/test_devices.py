"""Devices, architectures and memories, outside a runtime."""

from __future__ import annotations

import pickle

import pytest
from machine import configured, pretend
from parla import device as device_module
from parla.cpu import cpu, default_workers, memory_capacity, one_device_per_core
from parla.device import Device, DeviceRequirement, Gib, Memory, MemoryKind, Mib, kib
from parla.devices import check_environment, gpu
from support import run_py


def test_one_cpu_device_by_default():
    with pretend(cores=4):
        assert (cpu.name, cpu.id) == ("cpu", "cpu")
        assert cpu.devices == [cpu(0)]
        assert (cpu.num_devices, len(cpu), list(cpu)) == (1, 1, [cpu(0)])
        assert cpu(0).resources == {"vcus": 1.0, "memory": 24 * Gib, "cores": 4}


def test_one_device_per_core():
    with pretend(cores=4, per_core=True):
        assert cpu.devices == [cpu(i) for i in range(4)]
        assert cpu(3).resources == {"vcus": 1.0, "memory": 6 * Gib, "cores": 1}
        assert cpu[0:2] == [cpu(0), cpu(1)]
        assert cpu[-1] == cpu(3)


def test_cores_and_memory_from_the_environment():
    with configured(PARLA_CORES="1", PARLA_CPU_MEM="1000"):
        assert cpu(0).resources == {"vcus": 1.0, "memory": 1000, "cores": 1}
        assert (default_workers(), memory_capacity(), one_device_per_core()) == (1, 1000, False)
    with configured(PARLA_NUM_THREADS="3", PARLA_CPU_MEM="1000", PARLA_CPU_ARCHITECTURE="cores"):
        assert len(cpu) == 3
        assert cpu(2).resources == {"vcus": 1.0, "memory": 333, "cores": 1}
        assert (default_workers(), memory_capacity(), one_device_per_core()) == (3, 999, True)


@pytest.mark.parametrize(
    ("text", "size"),
    [("1", 1), ("512K", 512 * kib), ("3M", 3 * Mib), ("8GiB", 8 * Gib), ("1T", 1024 * Gib), (" 7 M ", 7 * Mib)],
)
def test_memory_sizes(text, size):
    with configured(PARLA_CPU_MEM=text):
        assert cpu(0).resources["memory"] == size


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PARLA_CPU_ARCHITECTURE", "core"),
        ("PARLA_CPU_ARCHITECTURE", ""),
        ("PARLA_CORES", "0"),
        ("PARLA_CORES", "-1"),
        ("PARLA_CORES", "two"),
        ("PARLA_CORES", "1.5"),
        ("PARLA_CORES", "99999999999"),
        ("PARLA_NUM_THREADS", "0"),
        ("PARLA_CPU_MEM", "0"),
        ("PARLA_CPU_MEM", "-5"),
        ("PARLA_CPU_MEM", "lots"),
        ("PARLA_CPU_MEM", "1e9"),
        ("PARLA_CPU_MEM", "5X"),
        ("PARLA_CPU_MEM", "99999999T"),
        ("PARLA_SIM_GPUS", "many"),
        ("PARLA_SIM_GPUS", "-1"),
        ("PARLA_SIM_GPUS", "1000"),
    ],
)
def test_bad_variables_are_errors_that_name_them(name, value):
    done = run_py(
        """
        from parla.devices import check_environment
        try:
            check_environment()
        except ValueError as error:
            print(error)
        """,
        env={name: value},
    )
    assert name in done.stdout
    assert value in done.stdout


def test_good_variables_pass():
    with configured(PARLA_CPU_ARCHITECTURE="cores", PARLA_NUM_THREADS="2", PARLA_CPU_MEM="1G", PARLA_SIM_GPUS="0"):
        check_environment()
        assert (len(cpu), len(gpu)) == (2, 0)
    with configured(PARLA_SIM_GPUS="", PARLA_CPU_ARCHITECTURE="WHOLE"):
        check_environment()
        assert len(cpu) == 1


def test_the_environment_is_read_at_first_use_and_once():
    with configured(PARLA_CPU_MEM="2000"), pytest.MonkeyPatch.context() as patch:
        assert cpu(0).resources["memory"] == 2000
        patch.setenv("PARLA_CPU_MEM", "3000")
        assert cpu(0).resources["memory"] == 2000


def test_gpu_is_empty():
    with pretend():
        assert gpu.devices == []
        assert (gpu.num_devices, len(gpu), list(gpu), gpu[0:2]) == (0, 0, [], [])
        assert not gpu
        assert gpu.unavailable.startswith("libcuda.so.1 not found; set PARLA_SIM_GPUS=2")
        assert not gpu(0).exists
        with pytest.raises(IndexError, match="libcuda.so.1 not found"):
            gpu[0]
        with pytest.raises(IndexError, match="libcuda.so.1 not found"):
            gpu.memory()


def test_importing_cuda_is_an_import_error_with_the_reason():
    run_py("""
        from parla.devices import cpu, gpu
        for _ in range(2):
            try:
                import parla.cuda
            except ImportError as error:
                assert gpu.unavailable in str(error), error
                assert error.name == "parla.cuda"
            else:
                raise AssertionError("parla.cuda was imported")
    """)


def test_devices_are_values():
    assert cpu(0) == cpu[0] == Device(cpu, 0)
    assert cpu(0) != cpu(1)
    assert cpu(0) != gpu(0)
    assert cpu != gpu
    assert cpu(0) != "cpu(0)"
    assert len({cpu(0), cpu(0), cpu(1), gpu(0)}) == 3
    assert (repr(cpu), repr(cpu(1)), cpu(1).name, cpu(1).id) == ("cpu", "cpu(1)", "cpu(1)", 1)
    assert cpu(0).architecture is cpu
    assert cpu(0) in cpu
    assert gpu(0) not in gpu


def test_the_same_device_is_the_same_object():
    with pretend(cores=2, per_core=True):
        assert cpu(1) is cpu[1] is cpu.devices[1] is pickle.loads(pickle.dumps(cpu(1)))
        assert cpu(10**9) == cpu(10**9)


def test_devices_survive_pickle():
    assert pickle.loads(pickle.dumps(cpu)) is cpu
    assert pickle.loads(pickle.dumps([cpu(0), gpu(1)])) == [cpu(0), gpu(1)]


def test_naming_a_device_does_not_need_it():
    assert cpu(99).index == 99
    assert not cpu(99).exists
    with pytest.raises(IndexError, match=r"cpu\(99\) does not exist: this machine has 1 cpu device"), pretend():
        _ = cpu(99).resources
    with pytest.raises(IndexError, match=r"cpu\[99\]: this machine has 1 cpu device$"), pretend():
        cpu[99]


@pytest.mark.parametrize(("index", "error"), [(-1, ValueError), (1.0, TypeError), ("0", TypeError), (True, TypeError), (None, TypeError)])
def test_bad_indices(index, error):
    with pytest.raises(error, match="index"):
        cpu(index)


@pytest.mark.parametrize("key", ["0", 1.0, True, None, (0, 1)])
def test_bad_subscripts(key):
    with pytest.raises(TypeError, match="index, a slice or a dict"):
        cpu[key]


def test_multiplying_gives_an_option_of_several_devices():
    assert cpu * 2 == (cpu, cpu) == 2 * cpu
    assert cpu(0) * 1 == (cpu(0),)
    assert cpu[{"vcus": 1}] * 2 == (cpu[{"vcus": 1}],) * 2
    for n in (0, -1):
        with pytest.raises(ValueError, match="at least one device"):
            cpu * n
    for n in (1.0, True, "2", None):
        with pytest.raises(TypeError):
            cpu * n


def test_requirements():
    some = cpu[{"vcus": 0.5, "memory": 2**30}]
    assert (some.target, some.vcus, some.memory, some.architecture) == (cpu, 500, 2**30, cpu)
    assert some == cpu[{"memory": 2**30, "vcus": 0.5}]
    assert hash(some) == hash(cpu[{"memory": 2**30, "vcus": 0.5}])
    assert repr(some) == "cpu[{'vcus': 0.5, 'memory': 1073741824}]"
    assert cpu(0)[{"vcus": 1}] == DeviceRequirement(cpu(0), 1000)
    assert cpu(0)[{"vcus": 1}].architecture is cpu
    assert cpu[{}] == DeviceRequirement(cpu)


@pytest.mark.parametrize(
    ("requirements", "error", "text"),
    [
        ({"vcu": 1}, ValueError, "'vcu'"),
        ({"vcus": float("nan")}, ValueError, "vcus.*finite"),
        ({"vcus": float("inf")}, ValueError, "vcus.*finite"),
        ({"vcus": -0.5}, ValueError, "vcus.*negative"),
        ({"vcus": "1"}, TypeError, "vcus.*str"),
        ({"vcus": True}, TypeError, "vcus.*bool"),
        ({"vcus": 1j}, TypeError, "vcus.*complex"),
        ({"memory": -1}, ValueError, "memory.*negative"),
        ({"memory": float("-inf")}, ValueError, "memory.*finite"),
        ({"memory": [1]}, TypeError, "memory.*list"),
    ],
)
def test_bad_requirements_are_named(requirements, error, text):
    with pytest.raises(error, match=text):
        cpu[requirements]
    with pytest.raises(error, match=text):
        cpu(0)[requirements]


@pytest.mark.parametrize("n", range(1, 200))
def test_n_equal_fractions_of_a_device_fit_together(n):
    milli = device_module.parse_vcus(1 / n)
    assert milli * n <= 1000
    assert milli >= 1000 // n - 1


def test_fractions_keep_their_thousandths():
    assert [device_module.parse_vcus(k / 1000) for k in range(1001)] == list(range(1001))
    assert device_module.parse_vcus(1e-9) == 1
    assert device_module.parse_vcus(3) == 3000
    assert device_module.parse_vcus(1e300) > 10**300
    assert device_module.parse_memory(0.5) == 1


def test_sizes_are_written_for_people():
    shown = [device_module.format_bytes(n) for n in (0, 1023, 1536, 30 * Gib, 2**45, 10**400)]
    assert shown == ["0 bytes", "1023 bytes", "1.5 KiB", "30 GiB", "32 TiB", "more than 2**1328 bytes"]
    assert (kib, Mib, Gib) == (1024, 1024**2, 1024**3)


def test_registered_architectures():
    assert device_module.get_all_architectures() == [cpu, gpu]
    assert device_module.get_architecture("gpu") is gpu
    with pytest.raises(ValueError, match="'tpu'.*'cpu', 'gpu'"):
        device_module.get_architecture("tpu")
    with pytest.raises(ValueError, match="already registered"):
        device_module.register_architecture(type(cpu)("cpu"))
    with pretend(cores=3, per_core=True):
        assert device_module.get_all_devices() == [cpu(0), cpu(1), cpu(2)]


def test_the_cpu_is_registered_without_being_imported():
    run_py("from parla.device import get_all_architectures\nassert get_all_architectures()[0].name == 'cpu'")


def test_memory():
    numpy = pytest.importorskip("numpy")
    fast = cpu(0).memory(MemoryKind.Fast)
    assert fast == Memory(cpu(0), MemoryKind.Fast) != cpu(0).memory()
    assert cpu.memory() == cpu(0).memory()
    assert (fast.device, fast.kind, fast.np) == (cpu(0), MemoryKind.Fast, numpy)
    assert repr(fast) == "cpu(0).memory(MemoryKind.Fast)"
    assert len({fast, Memory(cpu(0), MemoryKind.Fast), cpu(0).memory()}) == 2
    a = numpy.arange(6).reshape(2, 3)
    b = fast(a)
    assert (b == a).all()
    assert not numpy.shares_memory(a, b)


def test_memory_refuses_what_is_no_array_or_no_device():
    with pytest.raises(TypeError, match="array.*int"):
        cpu(0).memory()(3)
    with pretend(), pytest.raises(IndexError, match="libcuda.so.1 not found"):
        gpu(0).memory()([1])
    with pytest.raises(TypeError, match="Device.*_CpuArchitecture"):
        Memory(cpu)
    with pytest.raises(TypeError, match="MemoryKind.*str"):
        cpu(0).memory("Fast")
