"""The current device and stream of the GPU libraries that a program has imported: CuPy, Torch, Numba.

A library takes part if it is in ``sys.modules`` when a body starts, or when the body asks for an array; none is ever imported here. One that
does not work with the CUDA driver, or simulates a GPU of its own, is left alone. Numba has no current stream: its kernels take one as an
argument (``numba.cuda.external_stream(get_current_stream().ptr)``), so only its device is set.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Sequence
from typing import Any

__all__ = ["adopt", "join", "restore", "save", "why_not"]


class _CuPy:
    """CuPy: current device per thread, current stream per thread and device.

    It remembers for each thread that it has made a context current there once, and launches kernels through the driver, which needs one.
    """

    keeps_context = True

    def __init__(self, cupy: Any) -> None:
        self._cuda = cupy.cuda

    def save(self, ordinals: Sequence[int]) -> Any:
        cuda = self._cuda
        before = cuda.Device()
        streams = []
        for ordinal in ordinals:
            cuda.Device(ordinal).use()
            streams.append((ordinal, cuda.get_current_stream()))
        return before, streams

    def adopt(self, ordinal: int, stream: Any) -> None:
        cuda = self._cuda
        cuda.Device(ordinal).use()
        if stream is None:
            return
        if hasattr(cuda.Stream, "from_external"):
            cuda.Stream.from_external(stream).use()
        else:
            cuda.ExternalStream(stream.ptr, ordinal).use()

    def restore(self, saved: Any) -> None:
        before, streams = saved
        for ordinal, stream in streams:
            self._cuda.Device(ordinal).use()
            stream.use()
        before.use()


class _Torch:
    """Torch: as CuPy, but that setting a stream also sets its device, and that CUDA's runtime finds the context again."""

    keeps_context = False

    def __init__(self, torch: Any) -> None:
        self._cuda = torch.cuda

    def save(self, ordinals: Sequence[int]) -> Any:
        cuda = self._cuda
        return cuda.current_device(), [cuda.current_stream(ordinal) for ordinal in ordinals]

    def adopt(self, ordinal: int, stream: Any) -> None:
        cuda = self._cuda
        cuda.set_device(ordinal)
        if stream is not None:
            cuda.set_stream(cuda.ExternalStream(stream.ptr, device=ordinal))

    def restore(self, saved: Any) -> None:
        before, streams = saved
        for stream in streams:
            self._cuda.set_stream(stream)
        self._cuda.set_device(before)


class _Numba:
    """Numba: a stack of contexts per thread, of which at most the top one is ours."""

    keeps_context = False

    def __init__(self, cuda: Any) -> None:
        self._cuda = cuda
        self._thread = threading.local()

    def save(self, ordinals: Sequence[int]) -> Any:
        return None

    def adopt(self, ordinal: int, stream: Any) -> None:
        self.restore(None)
        entered = self._cuda.gpus[ordinal]
        entered.__enter__()
        self._thread.entered = entered

    def restore(self, saved: Any) -> None:
        entered = getattr(self._thread, "entered", None)
        if entered is not None:
            self._thread.entered = None
            # It finds another context on the stack, or none, if the body called `numba.cuda.select_device` or `close`. What is left there the
            # native library takes off.
            with contextlib.suppress(AssertionError, AttributeError, TypeError):
                entered.__exit__(None, None, None)


def _cupy(cupy: Any) -> _CuPy:
    cupy.cuda.runtime.getDeviceCount()
    return _CuPy(cupy)


def _torch(torch: Any) -> _Torch:
    if not torch.cuda.is_available():
        raise RuntimeError("torch.cuda.is_available() is False")
    return _Torch(torch)


def _numba(cuda: Any) -> _Numba:
    if getattr(getattr(sys.modules.get("numba"), "config", None), "ENABLE_CUDASIM", False):
        raise RuntimeError("NUMBA_ENABLE_CUDASIM is set")
    len(cuda.gpus)
    return _Numba(cuda)


# Numba first, also when leaving: it takes its context off the driver's stack and insists that it is on top, where the others put theirs.
# They raise what they like if the library can't use the GPUs.
_MAKERS = {"numba.cuda": _numba, "cupy": _cupy, "torch": _torch}
#: By name: the module and what was made of it, an exception if it can't use the GPUs.
_libraries: dict[str, tuple[Any, Any]] = {}


def _use_of(name: str) -> Any:
    """What is known of a library; None: it is not imported."""
    module = sys.modules.get(name)
    if module is None:
        return None
    known = _libraries.get(name)
    if known is None or known[0] is not module:
        if getattr(getattr(module, "__spec__", None), "_initializing", False):
            return None  # another thread is importing it
        try:
            known = module, _MAKERS[name](module)
        except Exception as error:  # whatever a library says that can't use the GPUs
            known = module, error.with_traceback(None)
        _libraries[name] = known
    return known[1]


def why_not(name: str) -> Exception | None:
    """What an imported library raised when it was asked for GPUs; None: it can use them."""
    use = _use_of(name)
    return use if isinstance(use, Exception) else None


def _imported() -> list[Any]:
    """The libraries that the program uses at this moment."""
    uses = map(_use_of, _MAKERS)
    return [use for use in uses if use is not None and not isinstance(use, Exception)]


class _Stretch(threading.local):
    """The stretch of a body that a thread is in, if the body has GPUs of CUDA."""

    saved: list[tuple[Any, Any]] | None = None
    """The libraries that take part, with what was current before."""
    ordinals: Sequence[int] = ()


_stretch = _Stretch()


def save(ordinals: Sequence[int]) -> list[tuple[Any, Any]]:
    """What is current on this thread, for `restore`."""
    saved = [(library, library.save(ordinals)) for library in _imported()]
    _stretch.saved, _stretch.ordinals = saved, ordinals
    return saved


def join() -> None:
    """Let libraries take part that were imported since `save`: a body may be the first to need one."""
    saved = _stretch.saved
    if saved is None:
        return
    known = [library for library, _ in saved]
    newcomers = [library for library in _imported() if library not in known]
    if newcomers:
        from parla import context

        slot = context.get_current_context()._slots[0]
        for library in newcomers:
            saved.append((library, library.save(_stretch.ordinals)))
            if slot.ordinal is not None:
                library.adopt(slot.ordinal, slot.stream)


def adopt(ordinal: int, stream: Any) -> None:
    """Make a device and a stream (an object with ``ptr`` and ``__cuda_stream__``, or None) current on this thread."""
    for library in _imported():
        library.adopt(ordinal, stream)


def restore(saved: list[tuple[Any, Any]]) -> bool:
    """Make current what was.

    Returns:
        Whether one of the libraries relies on it that a context stays current on this thread.

    Raises:
        Exception: what the libraries raise, after all of them had their turn; of several errors the first.
    """
    _stretch.saved = None
    first: BaseException | None = None
    for library, state in saved:
        try:
            library.restore(state)
        except Exception as error:  # the others are restored all the same
            first = first or error
    if first is not None:
        raise first
    return any(library.keeps_context for library, _ in saved)
