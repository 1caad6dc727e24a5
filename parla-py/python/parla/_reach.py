"""From a part of a coherent array to an array that the calling code can use, wherever it runs."""

from __future__ import annotations

import functools
import sys
import warnings
from typing import Any

from parla import _native

#: The memory of the CPUs.
HOST = 0
DLPACK_CPU = 1
DLPACK_CUDA = 2
DLPACK_CUDA_MANAGED = 13


class Borrowed:
    """Memory that a NumPy array is laid over, kept alive as long as the array; the runtime decides what is in it."""

    __slots__ = ("__array_interface__", "keep")

    def __init__(self, interface: dict[str, Any], keep: Any) -> None:
        self.__array_interface__ = interface
        self.keep = keep


def reach(
    root: Any,
    box: tuple[tuple[int, int], ...],
    axes: tuple[tuple[int, int, int], ...] | None,
    shown: tuple[int, ...],
    shape: tuple[int, ...],
    access: str,
) -> Any:
    """The view as an array that the calling code can use here and now.

    Args:
        root: the whole array.
        box: the part of it that the view lies in.
        axes: what the view takes from each axis of the whole array; None is the box as it is.
        shown: which axes of the whole array the view shows.
        shape: the shape of the view.
        access: "read"; "write": all of the box is going to be replaced; "update": some of it may be written; "either":
            as "update" where writing is allowed, else "read".
    """
    if 0 in shape:
        import numpy

        return numpy.zeros(shape, root.dtype)
    got, writable = _ask(root, box, access)
    if got is None:
        return _at_home(root, box, axes, shown, shape, writable)
    device, address, strides, keep = got
    address, view_strides = _view(address, strides, tuple(start for start, _ in box), axes, shown)
    if device is not None and not devices()[device]["host_access"]:
        from parla import device_array

        return device_array.over(device, address, shape, root.dtype, view_strides, keep, writable)
    return over_host(address, shape, root.dtype, view_strides, keep, writable)


def replace(
    root: Any,
    box: tuple[tuple[int, int], ...],
    axes: tuple[tuple[int, int, int], ...] | None,
    shown: tuple[int, ...],
    shape: tuple[int, ...],
    value: Any,
) -> bool:
    """Assign a value to a view that is all of its box, outside of tasks, without bringing home what is replaced.

    Only if nothing can go wrong once the old contents count as gone.

    Returns:
        False: nothing was done.
    """
    if root.native.is_host_only or not root.writable or 0 in shape or root.dtype.kind not in "biufc":
        return False
    import numpy

    if isinstance(value, bool | int | float | complex):
        value, number = numpy.empty((), root.dtype), value
        value[()] = number
    elif not isinstance(value, numpy.ndarray | numpy.generic) or not numpy.can_cast(value.dtype, root.dtype, "safe"):
        return False
    try:
        value = numpy.broadcast_to(value, shape)
    except ValueError:
        return False  # whoever assigns it says why
    if numpy.may_share_memory(value, root.host):
        return False
    fill = functools.partial(numpy.copyto, _at_home(root, box, axes, shown, shape, True), value)
    return root.native.replace(box, fill)


def _at_home(
    root: Any,
    box: tuple[tuple[int, int], ...],
    axes: tuple[tuple[int, int, int], ...] | None,
    shown: tuple[int, ...],
    shape: tuple[int, ...],
    writable: bool,
) -> Any:
    """The view in the user's own buffer."""
    host = root.host
    if axes is None:
        here = host if shape == host.shape else host[tuple(slice(start, stop) for start, stop in box)]
        return here if writable or not here.flags.writeable else _read_only(here)
    first = host.__array_interface__["data"][0]
    address, strides = _view(first, host.strides, (0,) * host.ndim, axes, shown)
    return over_host(address, shape, root.dtype, strides, host, writable)


def _view(
    address: int,
    strides: tuple[int, ...],
    origin: tuple[int, ...],
    axes: tuple[tuple[int, int, int], ...] | None,
    shown: tuple[int, ...],
) -> tuple[int, tuple[int, ...]]:
    """Address and strides of a view where the element `origin` is at an address."""
    if axes is None:
        return address, tuple(strides)
    for (start, _, _), first, stride in zip(axes, origin, strides):
        address += (start - first) * stride
    return address, tuple(0 if axis < 0 else strides[axis] * axes[axis][1] for axis in shown)


def over_host(
    address: int, shape: tuple[int, ...], dtype: Any, strides: tuple[int, ...], keep: Any, writable: bool
) -> Any:
    """A NumPy array over memory that the CPU can address."""
    import numpy

    # NumPy's description of structured types in text loses padding and titles: plain bytes don't.
    plain = dtype.kind == "V" or dtype.names is not None or dtype.itemsize == 0
    interface = {
        "shape": shape,
        "typestr": f"|V{dtype.itemsize}" if plain else dtype.str,
        "data": (address, not writable),
        "strides": strides,
        "version": 3,
    }
    a = numpy.asarray(Borrowed(interface, keep))
    return a.view(dtype) if a.dtype != dtype else a


def _ask(root: Any, box: tuple[tuple[int, int], ...], access: str) -> tuple[Any, bool]:
    """What the runtime lends the calling code, and whether it may be written."""
    native = root.native
    if access == "read":
        return native.access(box, False), False
    if not root.writable:
        if access != "either":
            raise ValueError(f"array {root.name!r} is read-only")
        return native.access(box, False), False
    writable = access != "either" or native.may_write(box)
    if access != "write" and not native.is_host_only:
        # What is lost may be replaced, but not be seen or changed.
        native.access(box, False)
    return native.access(box, writable), writable


def _read_only(host: Any) -> Any:
    view = host.view()
    view.flags.writeable = False
    return view


def devices() -> list[dict[str, Any]]:
    """All devices of the process, by number."""
    found: list[dict[str, Any]] = _native.machine()["devices"]
    return found


def current_device() -> Any:
    """The first device of the running task; the CPU outside tasks."""
    from parla import context
    from parla.cpu import cpu

    return context.get_current_context().device if context.has_environment() else cpu(0)


def device_of(device: Any) -> Any:
    """A device by itself or by the number that earlier versions used: -1 is the CPU, others are GPUs.

    Raises:
        TypeError: it is neither.
        IndexError: there is no such device.
    """
    from parla.device import Device
    from parla.devices import cpu, gpu

    if isinstance(device, Device):
        found = device
    elif isinstance(device, int) and not isinstance(device, bool):
        found = cpu(0) if device < 0 else gpu(device)
    else:
        raise TypeError(f"device must be a Device such as gpu(0), or a number, not {type(device).__name__}")
    if not found.exists:
        raise IndexError(f"{found.name} does not exist: {found.architecture.describe_devices()}")
    return found


def number_of(device: Any) -> int:
    """The number of a device among all devices of the process."""
    found = device_of(device)
    for number, entry in enumerate(devices()):
        if entry["architecture"] == found.architecture.id and entry["index"] == found.index:
            return number
    return 0


def memory_of(device: Any) -> int:
    """The number of the memory that tasks on a device work in."""
    return int(devices()[number_of(device)]["memory"])


def device_numbered(number: int) -> Any:
    """The device with a number."""
    from parla.device import get_architecture

    entry = devices()[number]
    return get_architecture(entry["architecture"])(entry["index"])


def block_of(a: Any) -> Any:
    """The block of a device's memory that a NumPy array is laid over; None: it is in the host's memory."""
    while a is not None:
        if isinstance(a, Borrowed):
            return a.keep if isinstance(a.keep, _native.DeviceBlock) else None
        a = getattr(a, "base", None)
    return None


def is_borrowed(a: Any) -> bool:
    """Whether a NumPy array is laid over a device's memory, which is only lent."""
    return block_of(a) is not None


# CUDA, and the libraries that use it.


def dlpack_device() -> tuple[int, int]:
    """Where the local view of an array would be, as DLPack writes it."""
    device = _cuda_device()
    return (DLPACK_CPU, 0) if device is None else (DLPACK_CUDA, int(device["ordinal"]))


def _cuda_device() -> dict[str, Any] | None:
    """The running task's current device, if the CPU can't address its memory."""
    from parla import context

    if not context.has_environment():
        return None
    current = current_device()
    if current.architecture.id == "cpu":
        return None
    entry = devices()[number_of(current)]
    return None if entry["host_access"] else entry


def current_stream() -> int | None:
    """The handle of the current task's stream; None outside tasks and where there is none."""
    placed = _native.assignment()
    if not placed:
        return None
    ordinal_of = _cuda_device()
    for entry in placed:
        same = ordinal_of is None or (entry["architecture"], entry["index"]) == (
            ordinal_of["architecture"],
            ordinal_of["index"],
        )
        if same and entry["stream"] is not None:
            handle: int | None = entry["stream"].raw
            return handle
    return None


def synchronize() -> None:
    """Wait for what the running task has enqueued on its streams."""
    for entry in _native.assignment() or ():
        if entry["stream"] is not None:
            entry["stream"].synchronize()


def synchronize_foreign(a: Any, stream: int | None, number: int) -> None:
    """Wait until what another library enqueued for its array is done.

    Args:
        a: the array.
        stream: what its ``__cuda_array_interface__`` says, in CUDA's numbers: 1 and 2 are the default streams; None is no stream to wait for.
        number: the number of its device.
    """
    synchronize()
    library = type(a).__module__.partition(".")[0]
    if library == "torch":
        sys.modules["torch"].cuda.current_stream(a.device).synchronize()
    elif library == "cupy":
        sys.modules["cupy"].cuda.get_current_stream().synchronize()
    elif stream is not None:
        _native.synchronize_raw(number, stream)


def number_of_foreign(a: Any) -> int:
    """The number of the GPU that another library's array is on: the current one, if it is that GPU by several names.

    Raises:
        TypeError: no GPU of this process has it.
    """
    ordinal = None
    if hasattr(a, "__dlpack_device__"):
        ordinal = int(a.__dlpack_device__()[1])
    elif (device := getattr(a, "device", None)) is not None:
        ordinal = getattr(device, "id", getattr(device, "index", None))
    elif (interface := getattr(a, "__cuda_array_interface__", None)) is not None:
        ordinal = _native.ordinal_of(interface["data"][0] or 0)
    current = _cuda_device()
    known = [(number, entry) for number, entry in enumerate(devices()) if entry["ordinal"] is not None]
    fitting = [(number, entry) for number, entry in known if ordinal is None or entry["ordinal"] == ordinal]
    for number, entry in fitting:
        if current is not None and entry["index"] == current["index"]:
            return number
    if not fitting:
        raise TypeError(
            f"{type(a).__name__} is on a GPU, but {'no such GPU is' if known else 'no CUDA GPU is'} among the devices of this "
            "process, so that Parla handles arrays in CPU memory only; copy it to NumPy first"
        )
    return fitting[0][0]


_without_cupy = False


def cupy() -> Any:
    """The module CuPy; None where it is not installed or can't use the GPUs, which is found out once."""
    global _without_cupy
    found = sys.modules.get("cupy")
    is_half = getattr(getattr(found, "__spec__", None), "_initializing", False)
    if (found is None and not _without_cupy) or is_half:
        try:  # also where another thread is at it, which this waits for
            import cupy as found  # type: ignore[import-not-found,no-redef]
        except Exception:  # broken installations raise what they like
            found, _without_cupy = None, True
    from parla import _libraries

    _libraries.join()
    if found is None:
        return None
    error = _libraries.why_not("cupy")
    if error is None:
        return found
    if not _without_cupy:
        _without_cupy = True
        warnings.warn(
            f"CuPy {getattr(found, '__version__', '')} can't use this machine's GPUs ({error}): arrays there are DeviceArrays, which "
            "do no arithmetic",
            RuntimeWarning,
            stacklevel=2,
        )
    return None


def is_view_of(value: Any, local: Any) -> bool:
    """Whether `value` is the very memory of `local`: what an in-place operator on a local view gives back."""
    if type(value) is not type(local) or value.shape != local.shape or value.dtype != local.dtype:
        return False
    interface = "__array_interface__" if hasattr(local, "__array_interface__") else "__cuda_array_interface__"
    theirs, ours = getattr(value, interface, None), getattr(local, interface, None)
    return theirs is not None and ours is not None and theirs["data"][0] == ours["data"][0] and value.strides == local.strides
