"""The current device and stream of the GPU libraries that a program has imported: CuPy, Torch, Numba.

A library takes part if it is in ``sys.modules`` when a body starts; none is ever imported here. Numba has no current stream: its
kernels take one as an argument (``numba.cuda.external_stream(get_current_stream().ptr)``), so only its device is set.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from typing import Any

__all__ = ["adopt", "restore", "save"]


class _CuPy:
    """CuPy: current device per thread, current stream per thread and device."""

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
    """Torch: as CuPy, but that setting a stream also sets its device."""

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
            entered.__exit__(None, None, None)


def _torch(torch: Any) -> _Torch | None:
    # Torch without CUDA has the module, and no GPU.
    return _Torch(torch) if torch.cuda.is_available() else None


# Numba first, also when leaving: it takes its context off the driver's stack and insists that it is on top, where the others put theirs.
_MAKERS = {"numba.cuda": _Numba, "cupy": _CuPy, "torch": _torch}
_libraries: dict[str, tuple[Any, Any]] = {}


def _imported() -> list[Any]:
    """The libraries that the program uses at this moment."""
    found = []
    for name, make in _MAKERS.items():
        module = sys.modules.get(name)
        if module is None:
            continue
        known = _libraries.get(name)
        if known is None or known[0] is not module:
            if getattr(getattr(module, "__spec__", None), "_initializing", False):
                continue  # another thread is importing it
            known = _libraries[name] = module, make(module)
        if known[1] is not None:
            found.append(known[1])
    return found


def save(ordinals: Sequence[int]) -> list[tuple[Any, Any]]:
    """What is current on this thread, for `restore`."""
    return [(library, library.save(ordinals)) for library in _imported()]


def adopt(ordinal: int, stream: Any) -> None:
    """Make a device and a stream (an object with ``ptr`` and ``__cuda_stream__``, or None) current on this thread."""
    for library in _imported():
        library.adopt(ordinal, stream)


def restore(saved: list[tuple[Any, Any]]) -> None:
    """Make current what was.

    Raises:
        Exception: what the libraries raise, after all of them had their turn; of several errors the first.
    """
    first: BaseException | None = None
    for library, state in saved:
        try:
            library.restore(state)
        except Exception as error:  # the others are restored all the same
            first = first or error
    if first is not None:
        raise first
