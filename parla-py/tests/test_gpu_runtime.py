"""Runtimes on machines with simulated GPUs: options, placement at run time, modelled kernels, counts."""

from __future__ import annotations

import pytest
from machine import configured
from parla import (
    Parla,
    TaskSpace,
    _native,
    get_current_context,
    get_current_devices,
    get_current_stream,
    sim,
    spawn,
    specialized,
)
from parla import device as device_module
from parla.cpu import cpu
from parla.device import get_all_devices
from parla.devices import gpu
from parla.errors import ParlaError, PlacementError, PolicyError
from support import LIMIT, run_py


@pytest.fixture(autouse=True)
def parla_cuda_was_not_imported(monkeypatch):
    """Its import lets tasks without a placement run on GPUs."""
    monkeypatch.setattr(device_module, "_defaults", [])


@pytest.fixture
def two():
    """A machine with two simulated GPUs."""
    with configured({"sim_gpus": 2}):
        yield


@pytest.fixture
def four():
    """A machine with four simulated GPUs."""
    with configured({"sim_gpus": 4}):
        yield


def test_a_task_on_a_gpu_knows_where_it_is(two, workers):
    def where():
        assert get_current_context().devices == tuple(get_current_devices())
        return get_current_devices(), get_current_stream().device

    with Parla(workers=workers):
        for i in range(2):
            assert spawn(placement=gpu(i))(where).result(LIMIT) == ([gpu(i)], gpu(i))
        devices, _ = spawn(placement=gpu)(where).result(LIMIT)
        assert devices in ([gpu(0)], [gpu(1)])
        assert spawn(placement=cpu)(get_current_devices).result(LIMIT) == [cpu(0)]
        assert spawn()(get_current_devices).result(LIMIT) == [cpu(0)]


def test_all_gpus_are_used(four, workers):
    """Sixteen kernels that each keep a device busy, on four devices."""
    seen = []

    def body():
        seen.append(get_current_devices()[0])
        sim.kernel(2000)

    with Parla(workers=workers) as rt:
        for _ in range(16):
            spawn(placement=gpu)(body)
    assert set(seen) == set(gpu.devices)
    counts = {entry["name"]: entry for entry in rt.stats()["devices"]}
    assert sum(counts[f"gpu:{i}"]["tasks"] for i in range(4)) == 16
    assert sum(counts[f"gpu:{i}"]["busy_s"] for i in range(4)) >= 16 * 0.002


def test_a_task_of_two_gpus(four, workers):
    def body():
        cx = get_current_context()
        kinds = [stream.device for stream in cx.streams]
        assert kinds == list(cx.devices)
        assert [(device, get_current_devices()) for device in cx.loop()] == [(d, [d]) for d in cx.devices]

        @cx.parfor()
        def in_parallel(part):
            sim.kernel(10)
            part.synchronize()
            return get_current_devices(), part.device

        assert in_parallel == [([device], device) for device in cx.devices]
        cx.synchronize()
        return cx.devices

    with Parla(workers=workers):
        for options in ([(gpu, gpu)], gpu * 2, [(gpu(3), gpu(1))]):
            devices = spawn(placement=options)(body).result(LIMIT)
            assert len(set(devices)) == 2
            assert all(device in gpu for device in devices)
        assert devices == (gpu(3), gpu(1))
        assert set(spawn(placement=gpu, ndevices=4)(body).result(LIMIT)) == set(gpu.devices)
        assert spawn(placement=[(cpu, gpu(1))])(get_current_devices).result(LIMIT) == [cpu(0), gpu(1)]


def test_a_kernel_runs_in_the_order_of_the_stream(two):
    log = []

    def body():
        sim.kernel(3000, lambda: log.append("first"))
        sim.kernel(0, lambda: log.append("second"))
        before = list(log)
        get_current_stream().synchronize()
        return before, list(log), get_current_stream().done

    with Parla(workers=2):
        before, after, done = spawn(placement=gpu(0))(body).result(LIMIT)
    assert "second" not in before
    assert (after, done) == (["first", "second"], True)


def test_a_task_ends_after_its_kernels(two, workers):
    log = []
    with Parla(workers=workers):
        T = TaskSpace("T")
        spawn(T[0], placement=gpu(0))(lambda: sim.kernel(3000, lambda: log.append("kernel")))
        spawn(T[1], [T[0]], placement=cpu)(lambda: log.append("after"))
    assert log == ["kernel", "after"]


def test_a_kernel_that_raises_fails_its_task(two, works_afterwards):
    with pytest.raises(ZeroDivisionError), Parla(workers=2):
        spawn(placement=gpu(0))(lambda: sim.kernel(1, lambda: 1 // 0))


def test_an_awaiting_task_stays_on_its_gpu(two, workers):
    with Parla(workers=workers):
        @spawn(placement=gpu(1))
        async def outer():
            before = get_current_devices()
            with get_current_context()[0]:
                value = await spawn(placement=gpu(0))(get_current_devices)
            return before, value, get_current_devices()

        assert outer.result(LIMIT) == ([gpu(1)], [gpu(0)], [gpu(1)])


def test_the_same_device_as_a_task_that_ran(four):
    with Parla(workers=2):
        for _ in range(8):
            first = spawn(placement=gpu)(get_current_devices)
            devices = first.result(LIMIT)
            assert spawn(placement=first)(get_current_devices).result(LIMIT) == devices
        pair = spawn(placement=gpu * 2)(get_current_devices)
        devices = pair.result(LIMIT)
        assert spawn(placement=pair)(get_current_devices).result(LIMIT) == devices
        with pytest.raises(PlacementError, match="runs on 2 devices, not on one"):
            spawn(placement=(pair, cpu))(lambda: None)


def test_arrays_and_slices_are_where_they_were_written(two):
    numpy = pytest.importorskip("numpy")
    from parla.parray import asarray

    a = asarray(numpy.zeros(100))
    with Parla(workers=2):
        spawn(placement=gpu(1), inout=[a[50:]])(lambda: a[50:].update(numpy.ones(50))).wait(LIMIT)
        assert spawn(placement=a[50:])(get_current_devices).result(LIMIT) == [gpu(1)]
        assert spawn(placement=a[:50])(get_current_devices).result(LIMIT) == [cpu(0)]
        assert spawn(placement=[a[60:70], gpu(0)], input=[a[60:70]])(get_current_devices).result(LIMIT) == [gpu(1)]
    assert (a.array == numpy.repeat([0.0, 1.0], 50)).all()


def test_importing_parla_cuda_counts_at_once(two):
    with Parla(workers=2):
        assert spawn()(get_current_devices).result(LIMIT) == [cpu(0)]
        device_module.use_by_default(gpu)
        assert len(spawn()(lambda: None).placement.options) == 3


def test_variants_follow_the_device(two):
    @specialized
    def f():
        return "cpu"

    f.variant(gpu)(lambda: "gpu")
    f.variant(gpu * 2)(lambda: "gpus")
    with Parla(workers=2):
        found = [spawn(placement=where)(f).result(LIMIT) for where in (cpu, gpu(1), [(gpu, gpu)])]
    assert found == ["cpu", "gpu", "gpus"]


def test_impossible_requests():
    with configured({"sim_gpus": 2, "gpu_memory": [1000, 2000]}), Parla(workers=1):
        with pytest.raises(PlacementError, match="it needs 3000 bytes|needs 2.93 KiB, largest gpu has 1.953 KiB"):
            spawn(placement=gpu, memory=3000)(lambda: None)
        assert spawn(placement=gpu, memory=1500)(get_current_devices).result(LIMIT) == [gpu(1)]


def test_devices_of_the_runtime(two):
    with Parla(workers=1) as rt:
        assert rt.get_all_devices() == get_all_devices() == [cpu(0), gpu(0), gpu(1)]
        assert rt.get_all_architectures() == [cpu, gpu]
        assert rt.get_architecture("gpu") is gpu
        stats = rt.stats()
        assert [entry["name"] for entry in stats["devices"]] == ["cpu:0", "gpu:0", "gpu:1"]
        assert [entry["name"] for entry in stats["memories"]] == ["host", "gpu:0", "gpu:1"]


@pytest.mark.parametrize("policy", ["eager", "locality", "locality:window=8", "random"])
def test_policies_by_name(two, policy, workers):
    with Parla(policy=policy, depth=3, workers=workers):
        tasks = [spawn(placement=[cpu, gpu])(lambda: get_current_devices()[0].architecture.name) for _ in range(20)]
    assert {task.result() for task in tasks} <= {"cpu", "gpu"}


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"policy": "nonsense"}, PolicyError, "no policy 'nonsense'.*eager.*locality"),
        ({"policy": "locality:window=x"}, PolicyError, "window.*'x'"),
        ({"policy": "eager:foo=1"}, PolicyError, "foo"),
        ({"policy": "help"}, PolicyError, "eager .*\n.*locality"),
        ({"policy": 3}, TypeError, "policy.*int"),
        ({"depth": 0}, ValueError, "depth"),
        ({"depth": "2"}, TypeError, "depth.*str"),
        ({"dev_config_file": 3}, TypeError, "dev_config_file.*int"),
        ({"dev_config_file": "/nowhere/devices.yaml"}, ValueError, "no file '/nowhere/devices.yaml'"),
    ],
)
def test_wrong_options(options, error, text):
    with pytest.raises(error, match=text):
        Parla(**options)


def test_the_policy_of_the_environment():
    source = """
        from parla import Parla
        try:
            with Parla(workers=1):
                print("ran")
        except Exception as error:
            print(type(error).__name__, error)
        with Parla(workers=1, policy="eager"):
            print("explicit")
    """
    assert run_py(source, env={"PARLA_POLICY": "eager"}).stdout == "ran\nexplicit\n"
    assert run_py(source, env={"PARLA_POLICY": ""}).stdout == "ran\nexplicit\n"
    wrong = run_py(source, env={"PARLA_POLICY": "nonsense"}).stdout.splitlines()
    assert wrong[0].startswith("PolicyError PARLA_POLICY=nonsense: there is no policy 'nonsense'")
    assert wrong[1] == "explicit"
    listed = run_py(source, env={"PARLA_POLICY": "help"}).stdout
    assert [line.split()[0] for line in listed.splitlines()][:2] == ["eager", "locality"]
    assert "ran" not in listed.splitlines()


def test_simulated_gpus_from_the_environment():
    out = run_py(
        """
        from parla import Parla, get_current_devices, spawn
        from parla.cpu import cpu
        from parla.cuda import gpu
        print(len(gpu), [device.resources["memory"] for device in gpu])
        with Parla(workers=2):
            task = spawn(placement=gpu(1))(get_current_devices)
        print(task.result())
        """,
        env={"PARLA_SIM_GPUS": "2", "PARLA_SIM_GPU_MEM": "1G,2G"},
    ).stdout
    assert out == "2 [1073741824, 2147483648]\n[gpu(1)]\n"


def test_a_device_file(tmp_path):
    file = tmp_path / "devices.yaml"
    file.write_text("CPU:\n  num_cores: 1\n  mem_sz: 1000000\nGPU:\n  num_devices: 3\n  mem_sz: [100, 200, 300]\n")
    try:
        with Parla(dev_config_file=file):
            assert [device.resources["memory"] for device in gpu] == [100, 200, 300]
            assert cpu(0).resources["memory"] == 1000000
            assert spawn(placement=gpu(2))(get_current_devices).result(LIMIT) == [gpu(2)]
            with pytest.raises(ParlaError, match="runtime is open"):
                _native.configure_machine(None)
        assert len(gpu) == 3
    finally:
        _native.configure_machine(None)
    file.write_text("CPU: {num_cores: many}\n")
    with pytest.raises((ValueError, ParlaError), match="devices.yaml"), Parla(dev_config_file=file):
        pass
    with Parla(workers=1):
        assert spawn()(lambda: 1).result(LIMIT) == 1


def test_importing_parla_looks_for_no_device_and_imports_no_numpy():
    assert run_py(
        """
        import sys
        import parla
        from parla.cpu import cpu
        from parla.devices import gpu
        print("numpy" in sys.modules, "parla.environments" in sys.modules, parla._machine._known)
        """,
        env={"PARLA_SIM_GPUS": "nonsense"},
    ).stdout == "False False None\n"


@pytest.mark.parametrize("runahead", [None, "blocking", "nonblocking", "user", "none"])
def test_runahead_of_the_whole_runtime(runahead):
    """Whatever it is, the end of the block waits for the kernels."""
    done = []
    with configured({"sim_gpus": 2}), Parla(runahead=runahead):
        tasks = TaskSpace()
        for i in range(4):

            @spawn(tasks[i], [tasks[i - 1]], placement=gpu(i % 2))
            def body():
                sim.kernel(200, lambda i=i: done.append(i))

    assert sorted(done) == [0, 1, 2, 3]


def test_an_unknown_runahead_is_refused():
    with pytest.raises(ValueError, match="sideways"), Parla(runahead="sideways"):
        pass
