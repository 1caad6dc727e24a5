"""Limits on the threads of BLAS and OpenMP libraries, for bodies that run at the same time on several threads."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from typing import Any

__all__ = ["check_installed", "enter", "leave"]

_lock = threading.Lock()
_active: Counter[int] = Counter()
"""The limits of the bodies that run now."""
_before: list[tuple[Any, int]] = []
"""The libraries with numbers of threads of their own for the whole process, and what these were before the first limit."""
_scanned: tuple[int, Any] | None = None
_thread = threading.local()


def check_installed() -> None:
    """Raise ImportError unless threadpoolctl can be imported."""
    try:
        import threadpoolctl  # type: ignore[import-untyped, import-not-found, unused-ignore] # noqa: F401
    except ImportError as error:
        raise ImportError("ThreadLimit needs the package threadpoolctl: pip install threadpoolctl") from error


def _libraries() -> Any:
    """The libraries that are loaded; looked for again when modules were imported, which takes some milliseconds."""
    global _scanned
    n_modules = len(sys.modules)
    if _scanned is None or _scanned[0] != n_modules:
        import threadpoolctl

        found = threadpoolctl.ThreadpoolController().lib_controllers
        _scanned = len(sys.modules), found
    return _scanned[1]


def enter(limit: int) -> None:
    """A body with this limit runs on this thread from now on."""
    with _lock:
        libraries = _libraries()
        _active[limit] += 1
        known = {library.filepath for library, _ in _before}
        for library in libraries:
            if not _is_per_thread(library) and library.filepath not in known:
                _before.append((library, library.num_threads))
        _apply()
    torch = sys.modules.get("torch")
    if hasattr(torch, "get_num_threads"):
        torch.get_num_threads()  # type: ignore[union-attr]  # on a thread's first use Torch sets OpenMP's number to its own: before us, not in the body
    own = [(library, library.num_threads) for library in libraries if _is_per_thread(library)]
    for library, n in own:
        library.set_num_threads(min(limit, n))
    stack: list[list[tuple[Any, int]]] = getattr(_thread, "stack", [])
    stack.append(own)
    _thread.stack = stack


def leave(limit: int) -> None:
    """It has ended or awaits."""
    for library, n in _thread.stack.pop():
        library.set_num_threads(n)
    with _lock:
        _active[limit] -= 1
        if not _active[limit]:
            del _active[limit]
        _apply()


def _apply() -> None:
    """Set every library to the lowest limit; without limits, to what it had."""
    lowest = min(_active, default=None)
    for library, n in _before:
        wanted = n if lowest is None else min(lowest, n)
        if library.num_threads != wanted:
            _set(library, wanted)
    if lowest is None:
        _before.clear()


def _set(library: Any, n: int) -> None:
    # threadpoolctl lets one thread at a time change OpenBLAS, the first one until it ends. Here it is whoever holds the lock.
    release = getattr(library, "clear_controlling_thread", None)
    if release is not None:
        release(force=True)
    library.set_num_threads(n)
    if release is not None:
        release(force=True)


def _is_per_thread(library: Any) -> bool:
    return "openmp" in (library.user_api, getattr(library, "threading_layer", None))
