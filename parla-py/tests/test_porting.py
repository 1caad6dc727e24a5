"""What programs of versions 0.2 and 0.3 do that is easily missed: it works here, or an error says why not and what to write instead."""

from __future__ import annotations

import importlib

import pytest
from machine import GIB, pretend
from parla import Parla, ParlaError, PlacementError, TaskSpace, spawn
from parla._placement import resolve
from parla.devices import cpu, gpu
from support import LIMIT, run_py

FOUR_CORES = {"PARLA_CPU_ARCHITECTURE": "cores", "PARLA_NUM_THREADS": "4"}


@pytest.fixture(autouse=True)
def _numpy():
    pytest.importorskip("numpy")


def test_an_index_of_a_space_answers_for_its_task(workers):
    """In 0.3 it is the task."""
    with Parla(workers=workers):
        T = TaskSpace("T")
        assert not hasattr(T[1], "state")
        with pytest.raises(AttributeError, match="T_1 is not spawned yet: it has no wait"):
            T[1].wait()
        first = spawn(T[0])(lambda: 3)
        second = spawn(T[1], [T[0]])(lambda: 4)
        T[1].wait(LIMIT)
        assert (T[0].result(LIMIT), T[1].exception(LIMIT)) == (3, None)
        assert T[1].dependencies == second.dependencies
        assert T[1].state == second.state and T[1].state.is_terminal
        assert T[0].done() and not T[0].cancel() and T[0].task is first


def test_a_body_knows_its_task_by_its_index():
    """A body may start before the call that spawns it has returned."""
    program = """
        from parla import Parla, TaskSpace, get_current_task, spawn
        from parla.devices import cpu, gpu

        wrong = []
        with Parla(workers=3):
            T = TaskSpace("T")
            for i in range(2000):

                @spawn(T[i], placement=gpu)
                def body():
                    if T[i].task is not get_current_task():
                        wrong.append(i)

        assert not wrong, wrong
        """
    run_py(program, env={"PARLA_SIM_GPUS": "4"})


def test_a_device_can_be_entered_in_a_task_that_has_it():
    program = """
        from parla import Parla, get_current_context, get_current_devices, spawn
        from parla.devices import cpu, gpu
        from parla.errors import InvalidSchedulerAccessException

        def refused(device, error, text):
            try:
                with device:
                    raise AssertionError(device)
            except error as raised:
                assert text in str(raised), raised

        with Parla(workers=2):

            @spawn(placement=[(gpu(1), gpu(0), cpu)])
            async def body():
                found = []
                for device in get_current_devices():
                    with device as entered:
                        assert entered is device
                        await spawn(placement=cpu)(lambda: None)
                        found.append(get_current_devices())
                        with cpu(0):
                            assert get_current_context().device == cpu(0)
                        assert get_current_devices() == [device]
                refused(gpu(2), ValueError, "does not have gpu(2), but gpu(1), gpu(0), cpu(0)")
                assert get_current_devices() == [gpu(1), gpu(0), cpu(0)]
                return found

            assert body.result(20) == [[gpu(1)], [gpu(0)], [cpu(0)]]
            refused(gpu(0), InvalidSchedulerAccessException, "only inside a task")
        """
    run_py(program, env={"PARLA_SIM_GPUS": "3"})


def test_several_of_the_devices_that_are_named():
    """``ndevices=`` with devices one by one: 0.2 chooses among them."""
    with pretend(gpus=[GIB, GIB, 4 * GIB]):
        pairs = ((gpu(2), gpu(0)), (gpu(2), gpu(1)), (gpu(0), gpu(1)))
        assert resolve([gpu(2), gpu(0), gpu(1)], ndevices=2).options == pairs
        assert resolve([gpu(2), gpu(0), gpu(2)], ndevices=2).options == ((gpu(2), gpu(0)),)
        assert set(resolve(frozenset(gpu.devices), ndevices=3).options[0]) == set(gpu.devices)
        claimed = resolve([gpu(0)[{"vcus": 0.5}], cpu(0)], ndevices=2, memory=7)
        assert (claimed.options, claimed.claims) == (((gpu(0), cpu(0)),), (((500, 7), (-1, 7)),))
        assert (gpu(0), cpu(0)) in resolve([gpu(0), cpu(0), gpu], ndevices=2).options
        with pytest.raises(PlacementError, match="ndevices=3, but it names 2 devices"):
            resolve([gpu(0), gpu(1)], ndevices=3)
        with pytest.raises(PlacementError, match="it needs 2 GiB, gpu"):
            resolve([gpu(0), gpu(1), gpu(2)], ndevices=2, memory=2 * GIB)
        with pytest.raises(PlacementError, match="does not exist"):
            resolve([gpu(0), gpu(3)], ndevices=2)
    with pretend(gpus=[GIB] * 30):
        options = resolve(gpu.devices, ndevices=9).options
        assert 0 < len(options) <= 64 and all(len(set(option)) == 9 for option in options)


def test_tasks_go_to_devices_that_have_an_environment():
    """As in 0.2, where nothing runs outside of the environments; here it may where none of a task's devices has one."""
    program = """
        import threading
        from parla import Parla, TaskEnvironment, get_current_devices, spawn
        from parla.devices import cpu, gpu
        from parla.environments import EnvironmentComponentDescriptor, EnvironmentComponentInstance, get_current_environment

        here = threading.local()

        class Instance(EnvironmentComponentInstance):
            def initialize_thread(self):
                here.prepared = True

            def __enter__(self):
                here.value = self.descriptor.value

            def __exit__(self, *_):
                del here.value

        class Value(EnvironmentComponentDescriptor):
            def __init__(self, value):
                self.value = value

            def __call__(self, env):
                return Instance(self)

        def look():
            return here.value, get_current_devices()[0], here.prepared

        with Parla([TaskEnvironment(placement=cpu(i), components=[Value(i)]) for i in (1, 2)]):
            for placement in (None, cpu, [cpu(0), cpu(2)]):
                tasks = [spawn(placement=placement, vcus=1)(look) for _ in range(20)]
                found = {task.result(20) for task in tasks}
                allowed = {(2, cpu(2), True)} if type(placement) is list else {(1, cpu(1), True), (2, cpu(2), True)}
                assert found <= allowed, found
            places = {spawn(placement=[cpu, gpu])(get_current_devices).result(20)[0] for _ in range(60)}
            assert gpu(0) in places and places <= {cpu(1), cpu(2), gpu(0)}, places
            assert spawn(placement=cpu(0))(get_current_environment).result(20) is None
        """
    run_py(program, env={**FOUR_CORES, "PARLA_SIM_GPUS": "1", "PARLA_POLICY": "random"})


@pytest.mark.parametrize(
    ("module", "name", "text"),
    [
        ("parla", "gpu_sleep_nogil", "parla.sim.kernel"),
        ("parla", "gpu_sleep_gil", "parla.sim.kernel"),
        ("parla.cython.core", "gpu_bsleep_nogil", "parla.sim.kernel"),
        ("parla.tasks", "get_scheduler", "rt.stats"),
        ("parla.common.globals", "get_scheduler", "rt.stats"),
        ("parla.common.globals", "get_device_manager", "get_all_devices"),
        ("parla.common.globals", "get_stream_pool", "get_current_context"),
        ("parla.task_runtime", "get_scheduler_context", "rt.stats"),
        ("parla.task_runtime", "Scheduler", "Parla"),
    ],
)
def test_what_is_gone_says_what_to_use(module, name, text):
    imported = importlib.import_module(module)
    gone = getattr(imported, name)
    assert name in repr(gone)
    with pytest.raises(ParlaError, match=f"{name}: .*{text}"):
        gone(1, stream=None)
    with pytest.raises(AttributeError, match=f"{name}: .*{text}"):
        gone.anything
    with pytest.raises(AttributeError, match="nonsense"):
        imported.nonsense


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("parla.multiload", "ThreadLimit"),
        ("parla.tracking", "evict"),
        ("parla.cpucores", "PARLA_CPU_ARCHITECTURE=cores"),
        ("parla.utility.graphs", "parla.graphs"),
        ("parla.utility.execute", "parla.graphs"),
    ],
)
def test_modules_that_are_gone_say_what_to_use(module, text):
    with pytest.raises(ImportError, match=text):
        importlib.import_module(module)


def test_small_names():
    import parla
    from parla.array import PArray, array, asarray, asarray_batch
    from parla.common.globals import DeviceType, SynchronizationType, get_active_device
    from parla.cpu import default_workers
    from parla.ldevice import LDeviceSequenceBlocked

    assert parla.parla_num_threads == default_workers()
    assert cpu(0).available_memory == cpu(0).resources["memory"] > 0
    assert DeviceType.GPU == DeviceType.CUDA == 1
    parts = LDeviceSequenceBlocked(2, placement=cpu).partition_tensor(asarray([1, 2, 3, 4]))
    assert parts._latest_view is parts.base
    assert all(isinstance(a, PArray) for a in (array([1]), *asarray_batch([parts[0], parts[1]])))
    with Parla(workers=1):
        for runahead in SynchronizationType:
            assert spawn(placement=cpu, runahead=runahead)(get_active_device).result(LIMIT) == cpu(0)


def test_amounts_and_ids_of_other_versions():
    with Parla(workers=1):
        with pytest.raises(PlacementError, match=r"vcus=125, one cpu device has 1 \(vcus is a fraction of a device\)"):
            spawn(vcus=1000 / 8)(lambda: None)
        with pytest.raises(TypeError, match=r"such as T\[0\], not TaskSpace itself"):
            spawn(TaskSpace("T"))(lambda: None)


def test_a_new_shape_is_for_the_next_task():
    """0.3 lets the same body go on with it; a body that tries is told."""
    program = """
        import numpy as np
        from parla import Parla, ParlaError, spawn
        from parla.devices import gpu
        from parla.parray import asarray

        a = asarray(np.zeros((0, 0)), name="a")
        with Parla():

            @spawn(placement=gpu, output=[a])
            def grow():
                a.update(np.ones((2, 3)))
                assert a.shape == (2, 3)
                try:
                    a.array
                except ParlaError as error:
                    assert "update(): on a device it is for tasks spawned after that, which name it" in str(error), error
                else:
                    raise AssertionError("no error")

            grow.wait(20)

            @spawn(placement=gpu, inout=[a])
            def double():
                a.array[:] *= 2

        assert np.array_equal(a, np.full((2, 3), 2.0))
        """
    run_py(program, env={"PARLA_SIM_GPUS": "2"})
