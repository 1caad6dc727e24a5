"""Task environments: which applies to a task, and that it is entered and left around every stretch of its body."""

from __future__ import annotations

import sys
import threading
import time

import pytest
from machine import GIB, configured, pretend
from parla import Parla, TaskSpace, environments, get_current_task, spawn
from parla.cpu import cpu
from parla.devices import gpu
from parla.environments import (
    EnvironmentComponentDescriptor,
    EnvironmentComponentInstance,
    GPUComponent,
    MultiGPUComponent,
    TaskEnvironment,
    ThreadLimit,
    UnboundCPUComponent,
    get_current_environment,
)
from parla.errors import PlacementError, SpawnError
from support import LIMIT, pass_gate


class Recorded(EnvironmentComponentInstance):
    """Writes down what happens to it."""

    def initialize_thread(self):
        """Once per thread."""
        self.descriptor.log.append(("thread", self.descriptor.name))

    def __enter__(self):
        self.descriptor.log.append(("enter", self.descriptor.name))
        if self.descriptor.fails == "enter":
            raise OSError("no way in")

    def __exit__(self, kind, error, traceback):
        self.descriptor.log.append(("exit", self.descriptor.name, kind))
        if self.descriptor.fails == "exit":
            raise OSError("no way out")
        return True  # is ignored


class Record(EnvironmentComponentDescriptor):
    """A component that writes into `log`."""

    def __init__(self, log, name="a", fails=None):
        self.log, self.name, self.fails = log, name, fails

    def __call__(self, env):
        return Recorded(self)


class Another(Record):
    """The same as a component of another type."""


def steps(log):
    """The log without the initialisation of threads."""
    return [entry for entry in log if entry[0] != "thread"]


def test_bodies_run_inside(workers):
    log = []
    with Parla([TaskEnvironment(cpu, [Record(log), Another(log, "b")])], workers=workers):
        spawn()(lambda: log.append("body")).wait()
    assert steps(log) == [("enter", "a"), ("enter", "b"), "body", ("exit", "b", None), ("exit", "a", None)]


def test_threads_are_initialized_once(workers):
    log, threads = [], set()
    env = TaskEnvironment(cpu, [Record(log)])
    with Parla(environments=[env], workers=workers):
        for _ in range(50):
            spawn()(lambda: threads.add(threading.get_ident()))
    assert log.count(("thread", "a")) >= len(threads)
    assert log.count(("thread", "a")) <= 2 * workers
    assert log.index(("thread", "a")) < log.index(("enter", "a"))
    assert log.count(("enter", "a")) == log.count(("exit", "a", None)) == 50


class ByThread(list):
    """A log of what each thread did."""

    def append(self, entry):
        super().append((threading.get_ident(), entry))

    def around(self, entry):
        """What its thread did before and after."""
        (thread,) = [thread for thread, logged in self if logged == entry]
        own = [logged for other, logged in self if other == thread and logged[0] != "thread"]
        at = own.index(entry)
        return own[at - 1], own[at + 1]


def test_an_awaiting_body_leaves_and_enters_again(workers):
    log = ByThread()
    with Parla([TaskEnvironment(cpu, [Record(log)], tags=["x"])], workers=workers):
        inner = spawn()(lambda: None)

        @spawn(dependencies=[inner], tags=["x"])
        async def outer():
            log.append("first")
            me = get_current_task()

            @spawn(tags=[])
            def gate():
                while str(me.state) == "running":  # otherwise there is nothing to wait for
                    time.sleep(0.001)

            await gate
            log.append("second")
            return get_current_environment().tags

        assert outer.result(LIMIT) == {"x"}
    assert log.around("first") == log.around("second") == (("enter", "a"), ("exit", "a", None))


def test_an_environment_sees_and_does_not_hide_the_error():
    log = []
    with pytest.raises(KeyError, match="mine"), Parla([TaskEnvironment(cpu, [Record(log)])], workers=1):
        @spawn()
        def body():
            raise KeyError("mine")
    assert steps(log) == [("enter", "a"), ("exit", "a", KeyError)]


@pytest.mark.parametrize("fails", ["enter", "exit"])
def test_an_environment_that_fails_fails_its_task(fails, works_afterwards):
    log, ran = [], []
    env = TaskEnvironment(cpu, [Record(log), Another(log, "b", fails)])
    with pytest.raises(OSError, match="no way"), Parla([env], workers=2):
        spawn()(lambda: ran.append(1))
    assert steps(log)[-1] == ("exit", "a", OSError)
    assert ran == ([] if fails == "enter" else [1])


def test_the_bodys_error_goes_before_that_of_the_environment():
    env = TaskEnvironment(cpu, [Record([], fails="exit")])
    with pytest.raises(ZeroDivisionError), Parla([env], workers=1):
        spawn()(lambda: 1 // 0)


def test_tags_choose():
    one, two = TaskEnvironment(cpu, tags=["fast", 1]), TaskEnvironment(cpu, tags=["slow", 1])
    found = {}
    with Parla(environments=[one, two], workers=2):
        for tags in ([], ["slow"], ["fast"], [1], ["slow", 1], "slow"):
            @spawn(tags=tags)
            def body():
                found[str(tags)] = get_current_environment()
        with pytest.raises(SpawnError, match=r"tags=\['green'\].*fast.*slow"):
            spawn(tags=["green"])(lambda: None)
        with pytest.raises(SpawnError, match="tags"):
            spawn(tags=["fast", "slow"])(lambda: None)
        with pytest.raises(TypeError, match="tags.*hashable"):
            spawn(tags=[[]])(lambda: None)
    assert found == {"[]": one, "['slow']": two, "['fast']": one, "[1]": one, "['slow', 1]": two, "slow": two}


def test_tags_without_environments_are_refused():
    with Parla(workers=1):
        with pytest.raises(SpawnError, match=r"tags=\['x'\].*no task environments"):
            spawn(tags=["x"])(lambda: None)
        spawn(tags=[])(lambda: None)
        T = TaskSpace("T")
        with pytest.raises(SpawnError):
            spawn(T[0], tags=["x"])(lambda: None)
        assert spawn(T[0])(lambda: 3).result(LIMIT) == 3


def test_other_runtimes_have_no_environment():
    with Parla([TaskEnvironment(cpu)], workers=1):
        assert spawn()(get_current_environment).result(LIMIT) is not None
    with Parla(workers=1):
        assert spawn()(get_current_environment).result(LIMIT) is None


def test_a_runtime_restricted_to_devices():
    with configured({"sim_gpus": 2}), Parla(devices=[cpu, gpu(1)], workers=2):
        assert spawn(placement=gpu)(lambda: 1).result(LIMIT) == 1
        assert spawn(placement=[gpu(0), cpu])(lambda: 2).result(LIMIT) == 2
        with pytest.raises(PlacementError, match=r"restricted to devices=\[cpu, gpu\(1\)\], the task could run on gpu\(0\)"):
            spawn(placement=gpu(0))(lambda: None)


def test_a_restriction_to_all_devices_is_none():
    with configured({"sim_gpus": 2}):
        assert Parla(devices=[cpu, gpu])._environments is None
        assert Parla(devices=[cpu(0), gpu(0), gpu(1)])._environments is None
        assert Parla(devices=cpu)._environments is not None
    assert Parla(devices=cpu)._environments is None


def test_the_smallest_environment_with_the_devices():
    with pretend(gpus=[GIB] * 3):
        wide, narrow = TaskEnvironment([gpu, cpu]), TaskEnvironment([gpu(1)])
        assert environments._find((wide, narrow), (gpu(1),), frozenset()) is narrow
        assert environments._find((wide, narrow), (gpu(0),), frozenset()) is wide
        assert environments._find((narrow,), (gpu(0),), frozenset()) is None
        assert environments._find((wide, narrow), (gpu(0), gpu(1)), frozenset()) is wide
        assert "gpu(1)" in repr(narrow)


def test_environments_of_gpus():
    with configured({"sim_gpus": 2}):
        log = []
        env = TaskEnvironment([gpu(1)], [GPUComponent(), Record(log)], tags=["g"])
        with Parla([env, TaskEnvironment(cpu)], workers=2):
            @spawn(placement=[cpu, gpu], tags=["g"])
            def body():
                component = get_current_environment().components[GPUComponent]
                return component.device, component.stream.device, get_current_environment()

            assert body.result(LIMIT) == (gpu(1), gpu(1), env)
            assert spawn(placement=gpu(0))(get_current_environment).result(LIMIT) is None
        assert steps(log) == [("enter", "a"), ("exit", "a", None)]


def test_multi_gpu_environments():
    with configured({"sim_gpus": 2}):
        env = TaskEnvironment(gpu, [MultiGPUComponent()])
        with Parla(env, workers=2):
            @spawn(placement=[(gpu, gpu)])
            def body():
                component = get_current_environment().components[MultiGPUComponent]
                return set(component.devices), len(component.streams)

            assert body.result(LIMIT) == ({gpu(0), gpu(1)}, 2)


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: TaskEnvironment([]), ValueError, "no device"),
        (lambda: TaskEnvironment([cpu(9)]), PlacementError, r"cpu\(9\) does not exist"),
        (lambda: TaskEnvironment(["cpu"]), TypeError, "devices or architectures, not str"),
        (lambda: TaskEnvironment(cpu, [3]), TypeError, "components: .*EnvironmentComponentDescriptor.*not int"),
        (lambda: TaskEnvironment(cpu, Record), TypeError, "components: .*EnvironmentComponentDescriptor.*not Record"),
        (lambda: TaskEnvironment(cpu, 3), TypeError, "components: .*EnvironmentComponentDescriptor.*not int"),
        (lambda: TaskEnvironment(cpu, tags=[[]]), TypeError, "tags.*hashable"),
        (lambda: TaskEnvironment(cpu, [Record([]), Record([])]), ValueError, "one Record, not two"),
        (lambda: TaskEnvironment(cpu, [GPUComponent()]), ValueError, "one GPU, it has 0"),
        (lambda: TaskEnvironment(gpu, [GPUComponent()]), ValueError, "one GPU, it has 2"),
        (lambda: TaskEnvironment(cpu, [MultiGPUComponent()]), ValueError, "no GPU"),
        (lambda: TaskEnvironment(gpu, [UnboundCPUComponent()]), ValueError, "one device, a CPU"),
        (lambda: ThreadLimit(0), ValueError, "at least 1"),
        (lambda: ThreadLimit("1"), TypeError, "not str"),
        (lambda: Parla(environments=3), TypeError, "environments.*int"),
        (lambda: Parla(environments=[cpu]), TypeError, "environments.*_CpuArchitecture"),
    ],
)
def test_wrong_environments(make, error, text):
    with pretend(gpus=[GIB] * 2), pytest.raises(error, match=text):
        make()


def test_components_of_one_type_are_combined():
    env = TaskEnvironment(cpu, [UnboundCPUComponent(), ThreadLimit(3), UnboundCPUComponent(), ThreadLimit(2)])
    assert len(env.components) == 2
    assert env.components[ThreadLimit].descriptor == ThreadLimit(2)


class Blas:
    """A library of threadpoolctl."""

    def __init__(self, name, user_api, n):
        self.filepath, self.user_api, self.num_threads = name, user_api, n

    def set_num_threads(self, n):
        """Sets the number of threads of the library."""
        self.num_threads = n


@pytest.fixture
def blas(monkeypatch):
    """A BLAS library with eight threads."""
    from parla import _limits

    library = Blas("libblas", "blas", 8)
    monkeypatch.setattr(_limits, "_libraries", lambda: [library])
    return library


def test_limits_of_bodies_at_the_same_time(blas):
    """The first to end must not lift the limit of the other, and the last one must lift it."""
    one, three = TaskEnvironment(cpu, [ThreadLimit(1)], tags=[1]), TaskEnvironment(cpu, [ThreadLimit(3)], tags=[3])
    inside, known, end_one, seen, later = [threading.Event(), threading.Event()], threading.Event(), threading.Event(), [], []
    with Parla([one, three], workers=2):
        @spawn(tags=[3])
        def long():
            seen.append(blas.num_threads)
            inside[0].set()
            pass_gate(inside[1])
            seen.append(blas.num_threads)
            pass_gate(known)
            end_one.set()
            later[0].wait(LIMIT)
            seen.append(blas.num_threads)

        @spawn(tags=[1])
        def short():
            pass_gate(inside[0])
            inside[1].set()
            pass_gate(end_one)

        later.append(short)
        known.set()
    assert seen[1:] == [1, 3]
    assert blas.num_threads == 8


def test_limits_of_openmp_are_the_threads_own(monkeypatch):
    from parla import _limits

    library = Blas("libgomp", "openmp", 8)
    monkeypatch.setattr(_limits, "_libraries", lambda: [library])
    seen = []
    with Parla([TaskEnvironment(cpu, [ThreadLimit(2)])], workers=1):
        spawn()(lambda: seen.append(library.num_threads))
    assert (seen, library.num_threads) == ([2], 8)


def test_a_limit_is_lifted_after_an_error(blas):
    with pytest.raises(ZeroDivisionError), Parla([TaskEnvironment(cpu, [ThreadLimit(1)])], workers=1):
        spawn()(lambda: 1 // 0)
    assert blas.num_threads == 8


def test_the_limit_reaches_numpys_blas():
    numpy = pytest.importorskip("numpy")
    threadpoolctl = pytest.importorskip("threadpoolctl")
    numpy.ones((2, 2)) @ numpy.ones((2, 2))

    def threads():
        return [lib["num_threads"] for lib in threadpoolctl.threadpool_info() if lib["user_api"] == "blas"]

    before = threads()
    if not before:
        pytest.skip("NumPy without a BLAS that threadpoolctl knows")
    with threadpoolctl.threadpool_limits(2), Parla([TaskEnvironment(cpu, [ThreadLimit(1)])], workers=1):
        assert set(spawn()(threads).result(LIMIT)) == {1}
    assert threads() == before


def test_a_limit_needs_threadpoolctl(monkeypatch):
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    with pytest.raises(ImportError, match="pip install threadpoolctl"):
        TaskEnvironment(cpu, [ThreadLimit(1)])


def test_the_package_exports_it():
    import parla

    assert parla.TaskEnvironment is TaskEnvironment
    assert parla.cpu.UnboundCPUComponent is UnboundCPUComponent
    with pytest.raises(AttributeError, match="nonsense"):
        _ = parla.nonsense
