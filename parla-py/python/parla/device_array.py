"""`DeviceArray`: an array in the memory of a device, for programs without a GPU array library.

It has a shape, a type, slices, and copies from and to the host; kernels get it by ``__cuda_array_interface__`` or DLPack.
Where CuPy is installed, Parla gives CuPy arrays instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from parla import _dlpack, _native, _reach, _views
from parla._shaped import Shaped

if TYPE_CHECKING:
    import numpy
    from parla.device import Device

__all__ = ["DeviceArray", "empty", "over", "wrap"]


class DeviceArray(Shaped):
    """An array in the memory of a device; `empty` makes new ones, ``PArray.array`` gives those of a task.

    It does no arithmetic. Copies wait until they are done.
    """

    __slots__ = ("__weakref__", "_keep", "device_number", "pointer", "strides", "writable")

    # NumPy must not try to read it element by element.
    __array_ufunc__ = None

    def __init__(
        self,
        device_number: int,
        pointer: int,
        shape: tuple[int, ...],
        dtype: numpy.dtype[Any],
        strides: tuple[int, ...],
        keep: Any,
        writable: bool = True,
    ) -> None:
        """Describe memory that exists already and that `keep` keeps alive."""
        self.device_number = device_number
        self.pointer = pointer
        self._shape = shape
        self._dtype = dtype
        self.strides = strides
        self._keep = keep
        self.writable = writable

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self.size * self.itemsize

    @property
    def device(self) -> Device:
        """The device whose memory it is in."""
        return _reach.device_numbered(self.device_number)

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of unsized object")
        return self.shape[0]

    def __getitem__(self, key: Any) -> DeviceArray:
        """A view, by integers, slices, ``None`` and ``...``.

        Raises:
            TypeError: the index has lists, arrays or masks.
            IndexError: it is out of bounds.
        """
        parts = key if isinstance(key, tuple) else (key,)
        if not _views.is_basic(parts):
            raise TypeError("a DeviceArray can be indexed with integers, slices, None and ... only; CuPy does more")
        axes, shown, shape = _views.index(*_views.whole(self.shape), self.shape, parts)
        pointer = self.pointer + sum(start * stride for (start, _, _), stride in zip(axes, self.strides))
        strides = tuple(0 if axis < 0 else self.strides[axis] * axes[axis][1] for axis in shown)
        return DeviceArray(self.device_number, pointer, shape, self.dtype, strides, self._keep, self.writable)

    def __setitem__(self, key: Any, value: Any) -> None:
        from parla import array

        array.copy(self[key], value)

    def copy_to_host(self) -> numpy.ndarray[Any, Any]:
        """A NumPy array with the same contents."""
        import numpy
        from parla import array

        result = numpy.empty(self.shape, self.dtype)
        array.copy(result, self)
        return result

    def copy_from_host(self, values: Any) -> None:
        """Replace the contents by those of a NumPy array, or a scalar, of a shape that can be broadcast to this one's.

        Raises:
            ValueError: the shapes don't fit, or this is read-only.
            TypeError: the types don't convert.
        """
        import numpy
        from parla import array

        array.copy(self, numpy.asarray(values))

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Version 3; ``stream`` is the current task's stream, with which the contents are in order."""
        if self._ordinal() is None:
            raise AttributeError("__cuda_array_interface__: the array is not in the memory of a CUDA GPU")
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "descr": self.dtype.descr,
            "data": (self.pointer, not self.writable),
            "strides": self.strides,
            "stream": _reach.current_stream(),
            "version": 3,
        }

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """A DLPack capsule over this memory.

        Raises:
            BufferError: the type is unknown to DLPack, the array is read-only, or a copy or another device was asked for.
        """
        if copy or (dl_device is not None and tuple(dl_device) != self.__dlpack_device__()):
            raise BufferError("a DeviceArray can't be copied by __dlpack__; copy it first")
        if stream != -1:
            _reach.synchronize()
        return _dlpack.capsule(self, self.__dlpack_device__(), max_version is not None and max_version[0] >= 1)

    def __dlpack_device__(self) -> tuple[int, int]:
        """CUDA and the GPU's number; the CPU where its memory is the host's (simulated GPUs)."""
        ordinal = self._ordinal()
        return (_reach.DLPACK_CPU, 0) if ordinal is None else (_reach.DLPACK_CUDA, ordinal)

    def _ordinal(self) -> int | None:
        ordinal: int | None = _reach.devices()[self.device_number]["ordinal"]
        return ordinal

    def __repr__(self) -> str:
        return f"<DeviceArray of shape {self.shape}, {self.dtype}, on {self.device!r}>"


def empty(shape: Any, dtype: Any = float, device: Device | int | None = None) -> DeviceArray:
    """A new array in the memory of `device` (None: the current one), with undefined contents.

    Raises:
        DeviceOutOfMemory: the memory is full.
        TypeError: the elements are Python objects.
    """
    import numpy

    element = numpy.dtype(dtype)
    if element.hasobject:
        raise TypeError(f"an array of {element} can't be in the memory of a device")
    shape = (int(shape),) if hasattr(shape, "__index__") else tuple(int(n) for n in shape)
    number = _reach.number_of(_reach.current_device() if device is None else device)
    block = _native.device_array(number, shape, element.itemsize)
    return DeviceArray(number, block.address, shape, element, dense_strides(shape, element.itemsize), block)


def dense_strides(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Bytes from one element to the next along each dimension of an array without gaps, the last dimension fastest."""
    strides = []
    for n in reversed(shape):
        strides.append(itemsize)
        itemsize *= max(n, 1)
    return tuple(reversed(strides))


def over(
    device_number: int,
    pointer: int,
    shape: tuple[int, ...],
    dtype: numpy.dtype[Any],
    strides: tuple[int, ...],
    keep: Any,
    writable: bool,
) -> Any:
    """The array over memory of a device that the CPU can't address: CuPy's where CuPy is installed, else a `DeviceArray`."""
    cupy = _reach.cupy()
    ordinal = _reach.devices()[device_number]["ordinal"]
    if cupy is None or ordinal is None or dtype.kind not in "biufc" or not dtype.isnative:
        return DeviceArray(device_number, pointer, shape, dtype, strides, keep, writable)
    low = pointer + sum((n - 1) * stride for n, stride in zip(shape, strides) if stride < 0)
    high = pointer + sum((n - 1) * stride for n, stride in zip(shape, strides) if stride > 0) + dtype.itemsize
    memory = cupy.cuda.UnownedMemory(low, high - low, keep, ordinal)
    return cupy.ndarray(shape, dtype, cupy.cuda.MemoryPointer(memory, pointer - low), strides)


def wrap(a: Any) -> DeviceArray:
    """Any library's array on a CUDA GPU as a `DeviceArray` over the same memory; what its library enqueued on its stream is done.

    Raises:
        TypeError: no CUDA GPU of this process has it, or it speaks no protocol that is understood here.
    """
    import numpy

    if isinstance(a, DeviceArray):
        return a
    number = _reach.number_of_foreign(a)
    interface = getattr(a, "__cuda_array_interface__", None)
    if interface is None:
        return _wrap_dlpack(a, number)
    dtype = numpy.dtype(interface["typestr"])
    if dtype.kind == "V" and interface.get("descr"):
        dtype = numpy.dtype(interface["descr"])
    shape = tuple(interface["shape"])
    pointer, read_only = interface["data"]
    strides = interface.get("strides") or dense_strides(shape, dtype.itemsize)
    _reach.synchronize_foreign(a, interface.get("stream"), number)
    return DeviceArray(number, int(pointer or 0), shape, dtype, tuple(strides), a, not read_only)


#: CUDA's legacy default stream, as DLPack and CUDA itself write it.
_DEFAULT_STREAM = 1


def _wrap_dlpack(a: Any, number: int) -> DeviceArray:
    """The same for an array that speaks DLPack only: its library is asked to have it ready on the default stream."""
    import numpy

    export = getattr(a, "__dlpack__", None)
    if export is None:
        raise TypeError(f"{type(a).__name__} is on a GPU and has neither __cuda_array_interface__ nor __dlpack__")
    kind = int(a.__dlpack_device__()[0])
    if kind not in (_reach.DLPACK_CUDA, _reach.DLPACK_CUDA_MANAGED):
        raise TypeError(f"{type(a).__name__} is on a device of DLPack's kind {kind}; GPUs here are CUDA's")
    _reach.synchronize()
    try:
        capsule = export(stream=_DEFAULT_STREAM, max_version=(1, 0))
    except TypeError:  # libraries from before version 1 don't know the argument
        capsule = export(stream=_DEFAULT_STREAM)
    try:
        taken = _dlpack.take(capsule)
    except TypeError as error:
        raise TypeError(f"{type(a).__name__}: {error}") from None
    _native.synchronize_raw(number, _DEFAULT_STREAM)
    dtype = numpy.dtype(taken.typestr)
    strides = dense_strides(taken.shape, dtype.itemsize) if taken.strides is None else taken.strides
    return DeviceArray(number, taken.pointer, taken.shape, dtype, strides, taken, not taken.read_only)
