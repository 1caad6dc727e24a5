"""Arrays wherever they live: what is an array, where it is, and copies that are right for every layout.

An array here is a NumPy array or any object that offers its memory to others by DLPack, ``__array_interface__`` or
``__array__``. This version has CPU memory only: arrays on a GPU are recognised and refused by name. NumPy is imported
when it is first needed.
"""

from __future__ import annotations

import sys
from numbers import Number
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import ModuleType

    import numpy
    from parla.device import Memory, MemoryKind

__all__ = ["asnumpy", "clone_here", "copy", "get_array_module", "get_memory", "is_array", "storage_size"]

# DLPack device types whose memory the CPU can address: kDLCPU, kDLCUDAHost (pinned), kDLROCMHost.
_HOST_DLPACK_TYPES = frozenset({1, 3, 11})
_PROTOCOLS = ("__dlpack__", "__array_interface__", "__array_struct__", "__cuda_array_interface__", "__array__")


def is_array(a: object) -> bool:
    """Whether `a` is an array of some kind; scalars, lists and classes are not. Never raises."""
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(a, (numpy.ndarray, numpy.generic)):
        return isinstance(a, numpy.ndarray)
    return not isinstance(a, type) and any(_offers(a, protocol) for protocol in _PROTOCOLS)


def get_array_module(a: object) -> ModuleType:
    """The module with NumPy's interface for arrays like `a`.

    It is what the array names itself (``__array_namespace__`` of the array API standard), else NumPy.

    Raises:
        TypeError: `a` is not an array, or one on a GPU.
    """
    import numpy

    _require_host_array(a, "a")
    if not isinstance(a, numpy.ndarray) and _offers(a, "__array_namespace__"):
        module: ModuleType = a.__array_namespace__()  # type: ignore[attr-defined]
        return module
    return numpy


def get_memory(a: object) -> Memory:
    """A memory that `a` is stored in: that of ``cpu(0)``; memories of CPU devices are equivalent.

    Raises:
        TypeError: `a` is not an array, or one on a GPU.
    """
    from parla.cpu import cpu

    _require_host_array(a, "a")
    return cpu(0).memory()


def asnumpy(a: object) -> numpy.ndarray[Any, Any]:
    """`a` as a NumPy array, without a copy where the object allows that.

    Raises:
        TypeError: `a` is not an array, or one on a GPU.
    """
    _require_host_array(a, "a")
    return _view(a)


def copy(destination: object, source: object) -> None:
    """Copy the contents of `source` into `destination`, as if by way of a temporary array if they overlap.

    `source` is an array whose shape can be broadcast to that of `destination`, or a scalar. Values are converted
    where NumPy's "same kind" rule allows it: float64 to float32, but not float to int.

    Raises:
        TypeError: an argument is not an array (lists are not), or lives on a GPU, the destination can't be written
            in place, or the types don't convert.
        ValueError: the shapes don't match, or the destination is read-only.
    """
    import numpy

    _require_host_array(destination, "destination")
    target = _writable_view(destination)
    if is_array(source):
        _require_host_array(source, "source")
        values: Any = _view(source)
    elif _is_scalar(source):
        values = source
    else:
        raise TypeError(f"source must be an array or a scalar, not {type(source).__name__}")
    shape = numpy.shape(values)
    try:
        numpy.copyto(target, values)
    except ValueError as error:
        if target.flags.writeable:
            raise ValueError(f"can't copy an array of shape {shape} into one of shape {target.shape}") from error
        raise ValueError("destination is read-only") from error


def clone_here(source: object, kind: MemoryKind | None = None) -> Any:
    """A copy of `source` in the memory of the current device (the CPU, outside a task); it shares nothing.

    Raises:
        TypeError: `source` is not an array, or one on a GPU.
    """
    from parla import context

    if context.has_environment():
        return context.get_current_context().device.memory(kind)(source)
    return copy_to_host(source)


def storage_size(*arrays: object) -> int:
    """The bytes that the elements of the arrays take together.

    Raises:
        TypeError: one of them is not an array, or one on a GPU.
    """
    total = 0
    for a in arrays:
        _require_host_array(a, "each argument")
        view = _view(a)
        total += view.size * view.itemsize
    return int(total)


def copy_to_host(source: object) -> Any:
    """A copy of `source` as a NumPy array (of its own subclass), with its order of axes in memory."""
    _require_host_array(source, "array")
    return _view(source).copy(order="K")


def _offers(a: object, protocol: str) -> bool:
    """Whether the object has the attribute; properties that fail count as absent."""
    try:
        return getattr(a, protocol, None) is not None
    except Exception:  # foreign properties raise what they like; the question is only yes or no
        return False


def _is_scalar(value: object) -> bool:
    import numpy

    return isinstance(value, (Number, numpy.generic, str, bytes))


def _require_host_array(a: object, name: str) -> None:
    """Raise TypeError, naming the type, unless `a` is an array in CPU memory."""
    if not is_array(a):
        raise TypeError(f"{name} must be an array, not {type(a).__name__}")
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(a, numpy.ndarray):
        return
    where = None
    if _offers(a, "__cuda_array_interface__"):
        where = "has __cuda_array_interface__"
    elif _offers(a, "__dlpack_device__"):
        kind, index = a.__dlpack_device__()  # type: ignore[attr-defined]
        if int(kind) not in _HOST_DLPACK_TYPES:
            where = f"is on DLPack device ({int(kind)}, {int(index)})"
    if where:
        raise TypeError(
            f"{name}: {type(a).__name__} {where}; this version of Parla handles arrays in CPU memory only, "
            "copy it to NumPy first"
        )


def _view(a: Any) -> numpy.ndarray[Any, Any]:
    """The array as NumPy sees it: itself, a view of its memory, or (for ``__array__`` alone) maybe a copy."""
    import numpy

    if isinstance(a, numpy.ndarray):
        return a
    if _offers(a, "__array_interface__") or _offers(a, "__array_struct__"):
        return numpy.asarray(a)
    if _offers(a, "__dlpack__") and _offers(a, "__dlpack_device__"):
        return numpy.from_dlpack(a)
    if _offers(a, "__array__"):
        return numpy.asarray(a)
    raise TypeError(f"{type(a).__name__} offers __dlpack__ without __dlpack_device__, so nobody can tell where it is")


def _writable_view(a: Any) -> numpy.ndarray[Any, Any]:
    """A view through which writes reach the object itself."""
    import numpy

    if isinstance(a, numpy.ndarray) or any(
        _offers(a, protocol) for protocol in ("__array_interface__", "__array_struct__", "__dlpack__")
    ):
        return _view(a)
    raise TypeError(f"destination: {type(a).__name__} can be read as an array but not written in place")
