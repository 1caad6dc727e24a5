"""Arrays wherever they live: what is an array, where it is, and copies that are right for every layout.

An array here is a NumPy array, a `parla.parray.PArray`, a `parla.device_array.DeviceArray`, a CuPy array, or any object that
offers its memory to others by DLPack, ``__cuda_array_interface__``, ``__array_interface__`` or ``__array__``. Of a PArray
the local contents are meant. NumPy is imported when it is first needed.
"""

from __future__ import annotations

import sys
from numbers import Number
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import ModuleType

    import numpy
    from parla.device import Device, Memory, MemoryKind

__all__ = ["asnumpy", "clone_here", "copy", "get_array_module", "get_memory", "is_array", "storage_size"]

# DLPack device types whose memory the CPU can address: kDLCPU, kDLCUDAHost (pinned), kDLROCMHost.
_HOST_DLPACK_TYPES = frozenset({1, 3, 11})
_PROTOCOLS = ("__dlpack__", "__array_interface__", "__array_struct__", "__cuda_array_interface__", "__array__")


def __getattr__(name: str) -> Any:
    """0.3 has the functions that make PArrays here, too; `parla.parray` has them."""
    if name in ("PArray", "array", "asarray", "asarray_batch"):
        from parla import parray

        return getattr(parray, name)
    raise AttributeError(f"module 'parla.array' has no attribute {name!r}")


def is_array(a: object) -> bool:
    """Whether `a` is an array of some kind; scalars, lists and classes are not. Never raises."""
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(a, (numpy.ndarray, numpy.generic)):
        return isinstance(a, numpy.ndarray)
    if isinstance(a, type):
        return False
    return hasattr(type(a), "__parla_operand__") or any(_offers(a, protocol) for protocol in _PROTOCOLS)


def get_array_module(a: object) -> ModuleType:
    """The module with NumPy's interface for arrays like `a`.

    It is CuPy for CuPy's arrays, what the array names itself (``__array_namespace__`` of the array API standard), else NumPy.

    Raises:
        TypeError: `a` is not an array, or one on a GPU that has no such module.
    """
    import numpy

    a = _local(a, "a")
    if isinstance(a, numpy.ndarray):
        return numpy
    if _library(a) == "cupy":
        module: ModuleType = sys.modules["cupy"]
        return module
    remote = _is_remote(a)
    if remote:
        _wrap(a, "a")
    if _offers(a, "__array_namespace__"):
        named: ModuleType = a.__array_namespace__()  # type: ignore[attr-defined]
        return named
    if remote:
        raise TypeError(f"a: no module with NumPy's interface is known for {type(a).__name__}; install CuPy")
    return numpy


def get_memory(a: object) -> Memory:
    """A memory that `a` is stored in; memories of CPU devices are equivalent, that of ``cpu(0)`` stands for them.

    Raises:
        TypeError: `a` is not an array, or one on a GPU that Parla doesn't have.
    """
    from parla import _reach
    from parla.cpu import cpu

    a = _local(a, "a")
    if _is_remote(a):
        return _reach.device_numbered(_wrap(a, "a").device_number).memory()  # type: ignore[no-any-return]
    block = _reach.block_of(a)
    return _reach.device_numbered(block.device).memory() if block is not None else cpu(0).memory()


def asnumpy(a: object) -> numpy.ndarray[Any, Any]:
    """`a` as a NumPy array in the host's memory, without a copy where it is there and the object allows that.

    Raises:
        TypeError: `a` is not an array, or one on a GPU that Parla doesn't have.
    """
    from parla import _reach

    a = _local(a, "a")
    if _is_remote(a):
        return _wrap(a, "a").copy_to_host()
    view = _view(a)
    return _fetched(view) if _reach.block_of(view) is not None else view


def copy(destination: object, source: object) -> None:
    """Copy the contents of `source` into `destination`, as if by way of a temporary array if they overlap.

    `source` is an array whose shape can be broadcast to that of `destination`, or a scalar. Values are converted
    where NumPy's "same kind" rule allows it: float64 to float32, but not float to int. The copy is done on return.

    Raises:
        TypeError: an argument is not an array (lists are not), or is on a GPU that Parla doesn't have, the destination
            can't be written in place, or the types don't convert.
        ValueError: the shapes don't match, or the destination is read-only.
    """
    to = _destination(destination)
    if is_array(source):
        values = _local(source, "source")
        values = _wrap(values, "source") if _is_remote(values) else _view(values)
    elif _is_scalar(source):
        values = source
    else:
        raise TypeError(f"source must be an array or a scalar, not {type(source).__name__}")
    _copy(to, values)


def clone_here(source: object, kind: MemoryKind | None = None) -> Any:
    """A copy of `source` in the memory of the current device (the CPU, outside a task); it shares nothing.

    It is a NumPy array on CPUs and simulated GPUs, on CUDA GPUs a CuPy array, or a `parla.device_array.DeviceArray` where
    CuPy is not installed.

    Raises:
        TypeError: `source` is not an array, or one on a GPU that Parla doesn't have.
        DeviceOutOfMemory: the memory is full.
    """
    from parla import context

    if context.has_environment():
        return context.get_current_context().device.memory(kind)(source)
    return copy_to_host(source)


def storage_size(*arrays: object) -> int:
    """The bytes that the elements of the arrays take together.

    Raises:
        TypeError: one of them is not an array, or one on a GPU that Parla doesn't have.
    """
    total = 0
    for a in arrays:
        if _is_parray(a):
            total += a.subarray_nbytes  # type: ignore[attr-defined]
            continue
        a = _local(a, "each argument")
        view = _wrap(a, "each argument") if _is_remote(a) else _view(a)
        total += view.size * view.itemsize
    return int(total)


def copy_to_host(source: object) -> Any:
    """A copy of `source` as a NumPy array (of its own subclass), with its order of axes in memory."""
    from parla import _reach

    a = _local(source, "array")
    if _is_remote(a):
        return _wrap(a, "array").copy_to_host()
    view = _view(a)
    return _fetched(view) if _reach.block_of(view) is not None else view.copy(order="K")


def clone_to(device: Device, source: object) -> Any:
    """A copy of `source` in the memory of `device`: what ``device.memory()(source)`` gives.

    Raises:
        TypeError: `source` is not an array, or has elements that are no plain bytes.
        DeviceOutOfMemory: the memory is full.
    """
    from parla import _reach, device_array

    if _reach.memory_of(device) == _reach.HOST:
        return copy_to_host(source)
    a = _local(source, "array")
    values = _wrap(a, "array") if _is_remote(a) else _view(a)
    new = device_array.empty(values.shape, values.dtype, device)
    strides = device_array.dense_strides(new.shape, new.itemsize)
    if _reach.devices()[new.device_number]["host_access"]:
        result = _reach.over_host(new.pointer, new.shape, new.dtype, strides, new._keep, True)
    else:
        result = device_array.over(new.device_number, new.pointer, new.shape, new.dtype, strides, new._keep, True)
    _copy(new, values)
    return result


def assign(local: Any, picked: Any, value: Any) -> None:
    """``local[picked] = value`` by NumPy's rules for local views of any kind, whatever and wherever `value` is."""
    import numpy

    if isinstance(local, numpy.ndarray):
        local[picked] = asnumpy(value) if is_array(value) else value
        return
    if _library(local) == "cupy":
        cupy = sys.modules["cupy"]
        if is_array(value) and _library(value) != "cupy":
            value = cupy.asarray(asnumpy(value))
        local[picked] = value
        return
    if picked is not Ellipsis:
        raise TypeError("assigning to elements selected by lists, masks or fields needs CuPy on CUDA GPUs")
    values = numpy.asarray(asnumpy(value) if is_array(value) else value)
    _copy(local, values.astype(local.dtype, copy=False))


# Copies between memories.


def _copy(to: Any, values: Any) -> None:
    """Copy a NumPy array, a DeviceArray or a scalar into a NumPy array or a DeviceArray."""
    import numpy
    from parla import _reach

    on_host = [isinstance(a, numpy.ndarray) and _reach.block_of(a) is None for a in (to, values)]
    scalar = not hasattr(values, "shape") or isinstance(values, numpy.generic)
    if isinstance(to, numpy.ndarray) and (scalar or all(on_host)):
        _copy_on_host(to, values)
        return
    writable = to.flags.writeable if isinstance(to, numpy.ndarray) else to.writable
    if not writable:
        raise ValueError("destination is read-only")
    if scalar:
        values = numpy.asarray(values)
        if values.dtype != to.dtype:
            values = values.astype(to.dtype)
    if values.dtype != to.dtype:
        if not numpy.can_cast(values.dtype, to.dtype, "same_kind"):
            raise TypeError(f"can't copy from {values.dtype} to {to.dtype} according to the rule 'same_kind'")
        values = _fetched(values).astype(to.dtype)
    values = _broadcast(values, tuple(to.shape))
    if 0 in to.shape:
        return
    if _overlap(to, values):
        values = _fetched(values)
    _move(to, values)


def _copy_on_host(to: Any, values: Any) -> None:
    import numpy

    try:
        numpy.copyto(to, values)
    except ValueError as error:
        if to.flags.writeable:
            raise ValueError(
                f"can't copy an array of shape {numpy.shape(values)} into one of shape {to.shape}"
            ) from error
        raise ValueError("destination is read-only") from error


def _fetched(a: Any) -> Any:
    """A new NumPy array in the host's memory with the contents of a NumPy array or a DeviceArray."""
    import numpy

    result = numpy.empty(a.shape, a.dtype)
    if a.size:
        _move(result, a)
    return result


def _move(to: Any, values: Any) -> None:
    """Copy between arrays of the same shape and type that don't overlap, after all that the task has enqueued."""
    from parla import _native, _reach

    to_device, to_address, to_strides = _place(to)
    from_device, from_address, from_strides = _place(values)
    _reach.synchronize()
    _native.copy_strided(
        to_device,
        to_address,
        to_strides,
        from_device,
        from_address,
        from_strides,
        to.shape,
        to.dtype.itemsize,
        (to, values),
    )


def _place(a: Any) -> tuple[int | None, int, tuple[int, ...]]:
    """The number of the device whose memory an array is in (None: the host's), its address, its strides."""
    import numpy
    from parla import _reach

    if isinstance(a, numpy.ndarray):
        block = _reach.block_of(a)
        return None if block is None else block.device, a.__array_interface__["data"][0], a.strides
    return a.device_number, a.pointer, a.strides


def _broadcast(values: Any, shape: tuple[int, ...]) -> Any:
    """The array seen in another shape: repeated along new axes and those of length 1."""
    if tuple(values.shape) == shape:
        return values
    extra = len(shape) - len(values.shape)
    fits = extra >= 0 and all(n in (1, wanted) for n, wanted in zip(values.shape, shape[extra:]))
    if not fits:
        raise ValueError(f"can't copy an array of shape {tuple(values.shape)} into one of shape {shape}")
    strides = (0,) * extra + tuple(0 if n == 1 else stride for n, stride in zip(values.shape, values.strides))
    device, address, _ = _place(values)
    from parla.device_array import DeviceArray

    if device is not None:
        return DeviceArray(device, address, shape, values.dtype, strides, values, False)
    import numpy

    return numpy.broadcast_to(values, shape)


def _overlap(a: Any, b: Any) -> bool:
    """Whether the addresses of two arrays in the memory of one device may overlap."""
    (device, low, high), (other, other_low, other_high) = _span(a), _span(b)
    return device == other and low < other_high and other_low < high


def _span(a: Any) -> tuple[int | None, int, int]:
    device, address, strides = _place(a)
    steps = [(n - 1) * stride for n, stride in zip(a.shape, strides)]
    return device, address + sum(s for s in steps if s < 0), address + sum(s for s in steps if s > 0) + a.dtype.itemsize


# What an object is.


def _offers(a: object, protocol: str) -> bool:
    """Whether the object has the attribute; properties that fail count as absent."""
    try:
        return getattr(a, protocol, None) is not None
    except Exception:  # foreign properties raise what they like; the question is only yes or no
        return False


def _is_scalar(value: object) -> bool:
    import numpy

    return isinstance(value, (Number, numpy.generic, str, bytes))


def _is_parray(a: object) -> bool:
    return hasattr(type(a), "__parla_operand__")


def _library(a: object) -> str:
    """The name of the package that an object's class is from."""
    return type(a).__module__.partition(".")[0]


def _local(a: Any, name: str) -> Any:
    """The array itself; of a PArray its local contents, for reading.

    Raises:
        TypeError: it is no array; the text has its type.
    """
    if not is_array(a):
        raise TypeError(f"{name} must be an array, not {type(a).__name__}")
    return a._read() if _is_parray(a) else a


def _is_remote(a: Any) -> bool:
    """Whether an array is in memory that the CPU can't address, or described as if it were."""
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(a, numpy.ndarray):
        return False
    device_array = sys.modules.get("parla.device_array")
    if device_array is not None and isinstance(a, device_array.DeviceArray):
        return True
    if _offers(a, "__cuda_array_interface__"):
        return True
    if not _offers(a, "__dlpack_device__"):
        return False
    try:
        kind = int(a.__dlpack_device__()[0])
    except Exception as error:  # foreign libraries raise what they like
        raise TypeError(f"{type(a).__name__} is in no memory that can be reached: {error}") from error
    return kind not in _HOST_DLPACK_TYPES


def _wrap(a: Any, name: str) -> Any:
    """An array on a device, of whatever library, as a DeviceArray.

    Raises:
        TypeError: no device of this process has it; the text says which argument it was.
    """
    from parla import device_array

    try:
        return device_array.wrap(a)
    except TypeError as error:
        raise TypeError(f"{name}: {error}") from None


def _view(a: Any) -> numpy.ndarray[Any, Any]:
    """The array as NumPy sees it: itself, a view of its memory, or (for ``__array__`` alone) maybe a copy."""
    import numpy

    if isinstance(a, numpy.ndarray):
        return a
    if _offers(a, "__array_interface__") or _offers(a, "__array_struct__"):
        return numpy.asarray(a)
    if _offers(a, "__dlpack__") and _offers(a, "__dlpack_device__"):
        if _library(a) == "torch" and a.is_neg():
            raise TypeError(f"{type(a).__name__} has its negative bit set, which DLPack can't say: use resolve_neg()")
        try:
            return numpy.from_dlpack(a)
        except Exception as error:  # foreign libraries raise what they like
            raise TypeError(f"NumPy can't have a view of {type(a).__name__}: {error}") from error
    if _offers(a, "__array__"):
        return numpy.asarray(a)
    raise TypeError(f"{type(a).__name__} offers __dlpack__ without __dlpack_device__, so nobody can tell where it is")


def _destination(a: Any) -> Any:
    """A NumPy array or a DeviceArray through which writes reach the object itself."""
    import numpy

    if not is_array(a):
        raise TypeError(f"destination must be an array, not {type(a).__name__}")
    if _is_parray(a):
        return _writable_part(a)
    if isinstance(a, numpy.ndarray):
        return a
    if _is_remote(a):
        return _wrap(a, "destination")
    if any(_offers(a, protocol) for protocol in ("__array_interface__", "__array_struct__", "__dlpack__")):
        return _view(a)
    raise TypeError(f"destination: {type(a).__name__} can be read as an array but not written in place")


def _writable_part(a: Any) -> Any:
    """A PArray's local view, for writing."""
    local = a._writable()
    return _wrap(local, "destination") if _is_remote(local) else local
