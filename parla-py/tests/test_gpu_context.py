"""What a body on GPUs sees: devices, streams, and the current device and stream of GPU libraries."""

from __future__ import annotations

import contextlib
import sys
import threading
import types

import pytest
from machine import GIB, pretend
from parla import Parla, _libraries, _native, context, spawn
from parla.cpu import cpu
from parla.devices import gpu
from parla.errors import DeviceError, InvalidSchedulerAccessException, ParlaError, PlacementError
from parla.tasks import reserve_persistent_memory


class FakeStream:
    """What the native library gives as a stream."""

    def __init__(self, raw=None):
        self.raw = raw
        self.calls = []

    def synchronize(self):
        """Remembers that it was asked."""
        self.calls.append("synchronize")

    def launch(self, function, us):
        """Remembers what was launched."""
        self.calls.append((function, us))

    def is_idle(self):
        """As if nothing was outstanding."""
        return True


def entry(architecture, index, ordinal=None, raw=None):
    """One device of an assignment."""
    stream = None if architecture == "cpu" else FakeStream(raw)
    return {"device": index, "architecture": architecture, "index": index, "ordinal": ordinal, "stream": stream}


@contextlib.contextmanager
def task_on(*assignment):
    """As if a task with these devices ran on this thread; gives the list of slots that were made current."""

    class Task:
        """Stands for the running task."""

    task, slots = Task(), []

    def set_current_slot(slot):
        slots.append(slot)
        return 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(context, "_running_task", lambda: context._lent.task or task)
        patch.setattr(_native, "assignment", lambda: list(assignment))
        patch.setattr(_native, "set_current_slot", set_current_slot)
        patch.setattr(_native, "lend_task", lambda task, slot=0: slots.append(("lent", task is not None, slot)))
        yield slots


def test_the_devices_are_those_of_the_assignment():
    with task_on(entry("gpu", 3)):
        cx = context.get_current_context()
        assert context.get_current_devices() == [gpu(3)]
        assert (cx.device, cx.devices, len(cx)) == (gpu(3), (gpu(3),), 1)
        assert isinstance(cx.stream, context.GpuStream)
        assert cx.stream.device == gpu(3)
        assert cx.streams == (cx.stream,)
        assert repr(cx) == "<Context of gpu(3)>"


def test_a_simulated_stream_is_none_of_cuda():
    with task_on(entry("gpu", 0)):
        stream = context.get_current_stream()
        assert stream
        assert (stream.ptr, stream.done, repr(stream)) == (None, True, "<stream of gpu(0)>")
        with pytest.raises(DeviceError, match=r"gpu\(0\) is a simulated GPU"):
            stream.__cuda_stream__()


def test_a_cuda_stream():
    with task_on(entry("gpu", 1, ordinal=0, raw=0xABC0)):
        stream = context.get_current_stream()
        assert stream.__cuda_stream__() == (0, 0xABC0)
        assert stream.ptr == 0xABC0
        assert repr(stream) == "<stream of gpu(1) at 0xabc0>"
        assert stream == context.get_current_stream()
        assert len({stream, context.get_current_stream()}) == 1
        with stream as entered:
            assert entered is stream


def test_synchronize_waits_for_every_stream():
    placed = entry("gpu", 0), entry("cpu", 0), entry("gpu", 1)
    with task_on(*placed):
        cx = context.get_current_context()
        assert [type(stream).__name__ for stream in cx.streams] == ["GpuStream", "CpuStream", "GpuStream"]
        cx.synchronize()
        assert placed[0]["stream"].calls == placed[2]["stream"].calls == ["synchronize"]
        cx[2].synchronize()
        assert placed[0]["stream"].calls == ["synchronize"]
        assert placed[2]["stream"].calls == ["synchronize"] * 2


def test_launch():
    placed = entry("gpu", 0)
    with task_on(placed):
        context.get_current_stream().launch(print, 25)
        context.get_current_stream().launch()
    assert placed["stream"].calls == [(print, 25), (None, 0.0)]


def test_entering_a_part_makes_its_device_current():
    with task_on(entry("gpu", 2), entry("gpu", 0), entry("cpu", 0)) as slots:
        cx = context.get_current_context()
        with cx[1]:
            assert context.get_current_devices() == [gpu(0)]
            with cx[2]:
                assert context.get_current_devices() == [cpu(0)]
                assert not context.get_current_stream()
            assert context.get_current_devices() == [gpu(0)]
        assert slots == [1, 2, 1, 0]
        slots.clear()
        assert [(device, context.get_current_devices()) for device in cx.loop()] == [
            (gpu(2), [gpu(2)]), (gpu(0), [gpu(0)]), (cpu(0), [cpu(0)])
        ]
        assert slots == [0, 0, 1, 0, 2, 0]
        with cx[1:3][1]:
            assert slots[-1] == 2
    assert not context._narrowed


def test_parfor_lends_the_task_to_its_threads():
    with task_on(entry("gpu", 0), entry("gpu", 1)) as slots:
        together = threading.Barrier(2, timeout=10)

        @context.get_current_context().parfor()
        def devices(part):
            together.wait()
            return context.get_current_devices() == [part.device] and part.device

        assert devices == [gpu(0), gpu(1)]
        assert ("lent", True, 1) in slots
        assert slots.count(("lent", False, 0)) == 1


class Library:
    """The part of CuPy's and Torch's interface that is used, with the state of one thread."""

    def __init__(self, log):
        self.log, self.device, self.streams = log, 5, {}


@pytest.fixture
def cupy(monkeypatch):
    """A module `cupy` that has device 5 and its stream "user" current."""
    state = Library([])
    state.streams = {5: "user"}

    class Device:
        """CuPy's device: the current one if no number is given."""

        def __init__(self, ordinal=None):
            self.id = state.device if ordinal is None else ordinal

        def use(self):
            """Makes it current."""
            state.device = self.id

    class ExternalStream:
        """CuPy's stream over somebody else's handle."""

        def __init__(self, ptr, device_id=-1):
            self.ptr, self.device_id = ptr, device_id

        def use(self):
            """Makes it the current one of the current device, which must be its own."""
            assert state.device == self.device_id
            state.streams[state.device] = self.ptr

    class Kept:
        """A stream that was current."""

        def __init__(self, device, stream):
            self.device, self.stream = device, stream

        def use(self):
            """Makes it current again."""
            assert state.device == self.device
            state.streams[state.device] = self.stream

    module = types.ModuleType("cupy")
    module.cuda = types.SimpleNamespace(
        Device=Device,
        ExternalStream=ExternalStream,
        Stream=type("Stream", (), {}),
        runtime=types.SimpleNamespace(getDeviceCount=lambda: 8),
        get_current_stream=lambda: Kept(state.device, state.streams.get(state.device, "default")),
    )
    monkeypatch.setitem(sys.modules, "cupy", module)
    monkeypatch.setattr(_libraries, "_libraries", {})
    return state


@pytest.fixture
def torch(monkeypatch):
    """A module `torch` with device 5 current."""
    state = Library([])

    def set_stream(stream):
        state.device, state.streams[stream[0]] = stream[0], stream[1]

    def set_device(ordinal):
        state.device = ordinal

    module = types.ModuleType("torch")
    module.cuda = types.SimpleNamespace(
        is_available=lambda: True,
        current_device=lambda: state.device,
        current_stream=lambda ordinal: (ordinal, state.streams.get(ordinal, "default")),
        set_device=set_device,
        set_stream=set_stream,
        ExternalStream=lambda ptr, device: (device, ptr),
    )
    monkeypatch.setitem(sys.modules, "torch", module)
    monkeypatch.setattr(_libraries, "_libraries", {})
    return state


@pytest.mark.parametrize("name", ["cupy", "torch"])
def test_libraries_follow_the_task(request, name):
    library = request.getfixturevalue(name)
    before = (library.device, dict(library.streams))
    placed = [entry("gpu", 4, ordinal=2, raw=20), entry("gpu", 7, ordinal=3, raw=30)]
    with task_on(*placed):
        token = context._enter_devices(placed)
        assert (library.device, library.streams[2]) == (2, 20)
        cx = context.get_current_context()
        with cx[1]:
            assert (library.device, library.streams[3]) == (3, 30)
        assert library.device == 2
        for device in cx.loop():
            assert library.device == {gpu(4): 2, gpu(7): 3}[device]
        context._leave_devices(token)
    assert (library.device, {k: v for k, v in library.streams.items() if v != "default"}) == before


@pytest.mark.parametrize("name", ["cupy", "torch"])
def test_libraries_are_as_before_after_an_error_in_the_middle(request, name):
    library = request.getfixturevalue(name)
    placed = [entry("gpu", 0, ordinal=2, raw=20)]

    class Broken:
        """A library whose device can't be set."""

        keeps_context = False

        def save(self, ordinals):
            """Nothing to save."""

        def adopt(self, ordinal, stream):
            """Fails after the others were set."""
            raise OSError("no device")

        def restore(self, saved):
            """Nothing to restore."""

    with pytest.MonkeyPatch.context() as patch, task_on(*placed):
        found = _libraries._imported()
        patch.setattr(_libraries, "_imported", lambda: [*found, Broken()])
        with pytest.raises(OSError, match="no device"):
            context._enter_devices(placed)
    assert library.device == 5


def test_a_library_that_can_not_be_restored_keeps_no_other_from_it(cupy, torch):
    class Broken:
        """A library that fails at the end, before the others had their turn."""

        keeps_context = False

        def save(self, ordinals):
            """Nothing to save."""

        def adopt(self, ordinal, stream):
            """Nothing to set."""

        def restore(self, saved):
            """Fails."""
            raise OSError("it is gone")

    placed = [entry("gpu", 0, ordinal=2, raw=20)]
    with pytest.MonkeyPatch.context() as patch, task_on(*placed):
        found = _libraries._imported()
        patch.setattr(_libraries, "_imported", lambda: [Broken(), *found])
        token = context._enter_devices(placed)
        assert (cupy.device, torch.device) == (2, 2)
        with pytest.raises(OSError, match="it is gone"):
            context._leave_devices(token)
    assert (cupy.device, torch.device) == (5, 5)


def test_a_task_that_goes_on_inside_a_part_has_that_device_current(cupy):
    """After an `await` inside `with cx[1]` another thread goes on."""
    placed = [entry("gpu", 0, ordinal=2, raw=20), entry("gpu", 1, ordinal=3, raw=30)]
    with task_on(*placed):
        token = context._enter_devices(placed)
        with context.get_current_context()[1]:
            context._leave_devices(token)
            assert cupy.device == 5
            token = context._enter_devices(placed)
            assert (cupy.device, cupy.streams[3]) == (3, 30)
        assert cupy.device == 2
        context._leave_devices(token)
    assert cupy.device == 5


def test_torch_without_cuda_is_left_alone(torch):
    sys.modules["torch"].cuda.is_available = lambda: False
    placed = [entry("gpu", 0, ordinal=2, raw=20)]
    with task_on(*placed):
        assert context._enter_devices(placed) == []
    assert torch.device == 5


def test_numba_enters_and_leaves_devices(monkeypatch):
    log = []

    class Gpu:
        """One of `numba.cuda.gpus`."""

        def __init__(self, ordinal):
            self.ordinal = ordinal

        def __enter__(self):
            log.append(("enter", self.ordinal))

        def __exit__(self, *exc):
            log.append(("exit", self.ordinal))

    module = types.ModuleType("numba.cuda")
    module.gpus = [Gpu(i) for i in range(4)]
    monkeypatch.setitem(sys.modules, "numba.cuda", module)
    monkeypatch.setattr(_libraries, "_libraries", {})
    placed = [entry("gpu", 0, ordinal=2, raw=20), entry("gpu", 1, ordinal=3, raw=30)]
    with task_on(*placed):
        token = context._enter_devices(placed)
        with context.get_current_context()[1]:
            pass
        context._leave_devices(token)
    assert log == [("enter", 2), ("exit", 2), ("enter", 3), ("exit", 3), ("enter", 2), ("exit", 2)]


def test_numba_and_cupy_together(monkeypatch):
    """They share the driver's stack of contexts: CuPy replaces what is on top, Numba insists on finding what it put there."""
    stack = [5]

    class Gpu:
        """One of `numba.cuda.gpus`."""

        def __init__(self, ordinal):
            self.ordinal = ordinal

        def __enter__(self):
            stack.append(self.ordinal)

        def __exit__(self, *exc):
            assert stack.pop() == self.ordinal

    class Device:
        """CuPy's device: the current one if no number is given."""

        def __init__(self, ordinal=None):
            self.id = stack[-1] if ordinal is None else ordinal

        def use(self):
            """Makes it current."""
            stack[-1] = self.id

    class Stream:
        """CuPy's stream, which is not looked at here."""

        from_external = classmethod(lambda cls, stream: cls())

        def use(self):
            """Makes it current."""

    numba, cupy = types.ModuleType("numba.cuda"), types.ModuleType("cupy")
    numba.gpus = [Gpu(i) for i in range(4)]
    runtime = types.SimpleNamespace(getDeviceCount=lambda: 4)
    cupy.cuda = types.SimpleNamespace(Device=Device, Stream=Stream, get_current_stream=Stream, runtime=runtime)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setitem(sys.modules, "numba.cuda", numba)
    monkeypatch.setattr(_libraries, "_libraries", {})
    placed = [entry("gpu", 0, ordinal=2, raw=20), entry("gpu", 1, ordinal=3, raw=30)]
    with task_on(*placed):
        token = context._enter_devices(placed)
        assert stack[-1] == 2
        with context.get_current_context()[1]:
            assert stack[-1] == 3
        assert stack[-1] == 2
        context._leave_devices(token)
    assert stack == [5]


def test_simulated_gpus_touch_no_library(cupy):
    placed = [entry("gpu", 0), entry("gpu", 1)]
    with task_on(*placed):
        assert context._enter_devices(placed) is None
        with context.get_current_context()[1]:
            assert cupy.device == 5
        context._leave_devices(None)
    assert cupy.device == 5


def test_nothing_is_imported_for_a_gpu_task():
    placed = [entry("gpu", 0, ordinal=0, raw=1)]
    with task_on(*placed):
        if not {"cupy", "torch", "numba.cuda"} & set(sys.modules):
            assert context._enter_devices(placed) == []
        assert "cupy" not in sys.modules


def test_kernels_on_a_gpu_are_enqueued():
    from parla import sim

    ran, placed = [], entry("gpu", 0)
    with task_on(placed):
        sim.kernel(50, lambda: ran.append(1))
        sim.kernel(7)
    assert ran == []
    (first, us), second = placed["stream"].calls
    first()
    assert (ran, us, second) == ([1], 50, (None, 7))
    with task_on(entry("gpu", 0, ordinal=0, raw=8)), pytest.raises(DeviceError, match=r"gpu\(0\) is a real GPU"):
        sim.kernel(1, lambda: None)


def test_kernels_on_a_cpu_run_here_and_now():
    from parla import sim

    ran = []
    sim.kernel(0, lambda: ran.append("outside"))
    with Parla(workers=1):
        spawn(placement=cpu)(lambda: sim.kernel(10, lambda: ran.append("inside")))
    assert ran == ["outside", "inside"]


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [(("1",), TypeError, "us.*str"), ((True,), TypeError, "us.*bool"), ((-1,), ValueError, "us.*negative"),
     ((float("nan"),), ValueError, "us.*finite"), ((1, 2), TypeError, "fn.*int")],
)
def test_wrong_kernels(arguments, error, text):
    from parla import sim

    with pytest.raises(error, match=text):
        sim.kernel(*arguments)


def test_memory_that_can_not_be_reserved():
    with pretend(gpus=[GIB]):
        for amount, device, error, text in [
            (5, gpu(0), ParlaError, "no runtime is open"),
            (2 * GIB, gpu(0), PlacementError, r"needs 2 GiB, gpu\(0\) has 1 GiB"),
            (5, gpu(1), PlacementError, r"gpu\(1\) does not exist"),
            ("5", gpu(0), TypeError, "amount.*str"),
            (-5, gpu(0), ValueError, "amount.*negative"),
            (5, "gpu", TypeError, "device.*str"),
            (5, None, InvalidSchedulerAccessException, "inside a task"),
        ]:
            with pytest.raises(error, match=text):
                reserve_persistent_memory(amount, device)


def test_the_cpu_has_no_gpu_stream():
    with pretend(gpus=[GIB]), task_on(entry("cpu", 0)):
        assert context.get_current_devices() == [cpu(0)]
        assert not context.get_current_stream()
