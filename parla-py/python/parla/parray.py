"""Arrays whose bytes are where they are needed: `PArray`.

A PArray is a NumPy array that tasks name as ``input``, ``output`` or ``inout``. The runtime brings what a task names to
the task's device before its body starts, and keeps every copy coherent, also of parts that overlap::

    a = asarray(numpy.zeros((1000, 1000)))   # no copy: the buffer stays the user's

    @spawn(placement=gpu, inout=[a[:500]])
    def upper_half():
        a[:500].array[...] += 1              # the local view: NumPy on CPUs, CuPy on CUDA GPUs

It can be made before a runtime is opened and used after the runtime has ended: then everything is in the user's buffer
again. NumPy is imported when the first array is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from parla import _native, _reach, _views
from parla._numpy_like import NumPyLike
from parla._roots import Root, checked, root_of, to_numpy

if TYPE_CHECKING:
    from parla.device import Device

__all__ = ["PArray", "array", "asarray", "asarray_batch"]


class PArray(NumPyLike):
    """A coherent array, or a view of one; made by `asarray` and `array`.

    Indexing with integers, slices, ``None`` and ``...`` gives views, also of single elements; nothing moves. Indexing
    with lists, arrays and masks gives an object that covers the box around what it selects when a task names it, and is
    a copy of the selected elements, made when it is used, everywhere else. Assigning to either writes through.

    A view of an element follows the array: after ``x = a[0]`` a new ``a[0]`` is a new ``x``, and ``a[i], a[j] = a[j], a[i]`` exchanges nothing, nor does
    what works so, as `numpy.random.shuffle`. Numbers come from ``float(a[0])``, ``a[0].copy()`` or the local view, ``a.array[0]``.

    Operators and NumPy's functions work on the local contents and give plain arrays; in-place operators write through. What operators
    give in NumPy also has `array`, the plain array itself, since ``(a + b).array`` is what programs of version 0.2 say; what they give in CuPy has not.
    Outside tasks, what reads the array waits for the tasks that write it no longer than is needed to have valid bytes:
    wait for the tasks themselves where their results are meant.

    Tasks that write parts of an array which lie in overlapping boxes need an order between them, also where the parts have gaps
    and share no element, as ``a[::2]`` and ``a[1::2]``: what moves is the box.

    Two arrays made from the same buffer with the same layout are the same array, under the name that it got first. One made from
    a slice of the buffer is a slice of that array; one that shares elements in another way is refused (``ValueError``), as the two could
    not be kept coherent: make one array of the whole and slice it.

    Where a device is asked for, a number ``k`` is ``gpu(k)``, and -1 the CPU.
    """

    __slots__ = ("__weakref__", "_axes", "_base", "_operand", "_picked", "_root", "_shown")

    _root: Root
    _axes: tuple[_views.Axis, ...] | None
    """What it takes from each axis of the whole array. None: the box of its operand as it is."""
    _shown: tuple[int, ...]
    """Which of these axes it shows; set if `_axes` is."""
    _base: tuple[int, ...]
    """The shape before anything is picked."""
    _picked: Any
    """What to index the view with to get the elements meant: fields, lists, masks. None: nothing."""
    _operand: tuple[_native.Array, _views.Box, bool]

    def __init__(self, array: Any, name: str | None = None) -> None:
        """Wrap a NumPy array without a copy; `asarray` takes more.

        Raises:
            TypeError: it isn't a NumPy array, or has elements that can't be moved as bytes.
        """
        import numpy

        if not isinstance(array, numpy.ndarray):
            raise TypeError(f"PArray wraps NumPy arrays, not {type(array).__name__}; parla.asarray takes more")
        self._become(*root_of(array, name))

    def _become(self, root: Root, part: Any = None) -> None:
        """Be a whole array, or the part of it that an index and an order of axes give."""
        if part is not None:
            index, order = part
            whole = _new(PArray)
            whole._become(root)
            view = whole[index].transpose(order)
            for slot in ("_root", "_picked", "_axes", "_operand", "_base", "_shape", "_dtype"):
                setattr(self, slot, getattr(view, slot))
            if view._axes is not None:
                self._shown = view._shown
            return
        self._root = root
        self._axes = None
        self._picked = None
        self._operand = root.operand
        self._shape = self._base = root.shape
        self._dtype = root.dtype

    # What it is.

    @property
    def name(self) -> str:
        """The name that messages use."""
        return self._root.name

    @property
    def nbytes(self) -> int:
        """Bytes of the whole array, also when this is a view of a part: `subarray_nbytes` is for that."""
        return int(self._root.host.nbytes)

    @property
    def subarray_nbytes(self) -> int:
        """Bytes of the elements of this view."""
        return self.size * self.itemsize

    @property
    def strides(self) -> tuple[int, ...]:
        """Bytes from one element to the next along each dimension, in the host's buffer."""
        if self._picked is not None:
            return tuple(self._read().strides)
        strides = self._root.host.strides
        axes, shown = self._layout()
        return tuple(0 if axis < 0 else strides[axis] * axes[axis][1] for axis in shown)

    # Views.

    def __getitem__(self, key: Any) -> Any:
        if self._picked is not None:
            return self._of_picked(key)
        if self._axes is None:
            view = _native.box_view(PArray, self, key)
            if view is not None:
                return view
        parts = key if type(key) is tuple else (key,)
        if _views.is_basic(parts):
            axes, shown = self._layout()
            return self._view(*_views.index(axes, shown, self.shape, parts))
        return self._pick(key, parts)

    def _of_picked(self, key: Any) -> Any:
        """What an index selects of elements or fields that are selected already: again fields, or a copy."""
        if _is_field(self._picked) and self._base == self.shape and not _has_names(key):
            view = self._unpicked()[key]
            if view._picked is None:
                return view._pick(self._picked, ())
        return self._read()[key]

    def _layout(self) -> tuple[tuple[_views.Axis, ...], tuple[int, ...]]:
        if self._axes is None:
            return tuple((start, 1, stop - start) for start, stop in self._operand[1]), tuple(range(len(self._base)))
        return self._axes, self._shown

    def _view(self, axes: tuple[_views.Axis, ...], shown: tuple[int, ...], shape: tuple[int, ...]) -> PArray:
        view = _new(PArray)
        view._root = self._root
        view._axes = axes
        view._shown = shown
        view._picked = None
        view._shape = view._base = shape
        view._dtype = self._root.dtype
        box, exact = _views.box_of(axes)
        view._operand = (self._root.native, box, exact)
        return view

    def _pick(self, key: Any, parts: tuple[Any, ...]) -> PArray:
        """The elements, or the fields of structured ones, that an index NumPy calls advanced selects."""
        if _has_names(key):
            base, inside = self, key
        else:
            box, inside = _views.pick(self.shape, parts)
            base = self[box] if box else self[()]
        view = base._view(*base._layout(), base.shape)
        # Fields are views; of elements NumPy makes copies, for which one byte is enough here.
        shadow = _views.shadow(base.shape, base.dtype if base is self else bool)[inside]
        view._picked = inside
        view._shape = shadow.shape
        view._dtype = shadow.dtype if base is self else base.dtype
        view._operand = (*view._operand[:2], False)
        return view

    def _unpicked(self) -> PArray:
        """The view that this selects elements of."""
        return self._view(*self._layout(), self._base)

    @property
    def T(self) -> PArray:
        """The view with the axes in reverse order."""
        return self.transpose()

    def transpose(self, *order: Any) -> PArray:
        """The view with the axes in this order; without arguments in reverse.

        Raises:
            ValueError: `order` is no permutation of the axes.
        """
        if self._picked is not None:
            raise ValueError("transpose the array before selecting elements of it")
        axes, shown = self._layout()
        permutation = _views.transpose(len(self.shape), order)
        return self._view(axes, tuple(shown[i] for i in permutation), tuple(self.shape[i] for i in permutation))

    def __parla_operand__(self) -> tuple[_native.Array, _views.Box, bool]:
        """What ``spawn`` asks: the native array, the box of it that this is in, and whether this is all of the box."""
        return self._operand

    # Contents.

    def _reach(self, access: str) -> Any:
        """The local view, before elements or fields are picked; `access` is as in `_reach.reach`."""
        if access == "write" and not self._operand[2]:
            access = "update"
        shown = () if self._axes is None else self._shown
        return _reach.reach(self._root, self._operand[1], self._axes, shown, self._base, access)

    def _replace(self, value: Any) -> bool:
        """Whether the value has been assigned to all of the view at once; see `_reach.replace`."""
        shown = () if self._axes is None else self._shown
        return self._operand[2] and _reach.replace(self._root, self._operand[1], self._axes, shown, self._base, value)

    def _read(self) -> Any:
        """The local contents, for reading."""
        local = self._reach("read")
        return local if self._picked is None else local[self._picked]

    def _writable(self, access: str = "write") -> Any:
        """The local view, for writing; `access` is "write" or "update", as in `_reach.reach`.

        Raises:
            ValueError: writes would not reach the array: these are elements selected by lists or masks, or it is read-only.
        """
        local = self._reach(access)
        if self._picked is None:
            return local
        if not _is_field(self._picked):
            raise ValueError("destination: elements selected by lists or masks; assign to the PArray to write them")
        return local[self._picked]

    @property
    def array(self) -> Any:
        """The local view.

        In a task it is the memory of the task's (current) device: a NumPy array on CPUs and simulated GPUs, on CUDA a
        CuPy array where CuPy is installed, else a `parla.device_array.DeviceArray`. It can be written if the task names
        it as ``output`` or ``inout``. Outside tasks it is the host's buffer, made current, which may take a while; copies
        elsewhere count as outdated from then on, as the buffer may now be written. Keep it no longer than the task, or
        than it takes to spawn the next task that uses the array. Wait first for the tasks that write the array, unless only
        to look at it (`get`, or elements): the end of one of them makes what was written here meanwhile outdated.

        Of elements selected by lists or masks it is a read-only copy; assign to the PArray to write them.

        Raises:
            ParlaError: the task doesn't name this part of the array, or the contents are lost, as the task that was to write them has failed; the
                text says which task and array.
            DeviceError: a copy failed.
        """
        if self._picked is None:
            return self._reach("either")
        local = self._reach("either" if _is_field(self._picked) else "read")[self._picked]
        if not _is_field(self._picked) and hasattr(local, "flags") and hasattr(local.flags, "writeable"):
            local.flags.writeable = False
        return local

    @array.setter
    def array(self, value: Any) -> None:
        """The same as ``p[...] = value``, so that ``p.array += 1`` means what it says."""
        if self._picked is None and self._replace(value):
            return
        is_view = self._picked is None or _is_field(self._picked)
        if not is_view or not _reach.is_view_of(value, self._writable()):
            self[...] = value

    def __setitem__(self, key: Any, value: Any) -> None:
        from parla import array as arrays

        target = self if key is Ellipsis else self[key]
        if not isinstance(target, PArray):
            raise TypeError("only one selection by lists, arrays or masks can be assigned to, not one of another")
        picked = Ellipsis if target._picked is None else target._picked
        if isinstance(value, PArray):
            value = value._read()
        if target._picked is None and target._replace(value):
            return
        local = target._reach("write")
        arrays.assign(local, picked, value)

    def update(self, array: Any) -> None:
        """Give the array new contents, which are copied.

        With another shape or type than before, it becomes another array under the same name. Views made earlier keep the old one, and so do tasks
        spawned earlier, whose bodies can't use this object any more: wait for them first. The task itself, if it runs on a GPU, can't use it either: the
        new one is for tasks spawned after that.

        Raises:
            ValueError: this is a view of a part, and the shape or type differs.
            ParlaError: in a task that doesn't name the array as ``output`` or ``inout``.
        """
        import numpy

        value = array._read() if isinstance(array, PArray) else array
        if not hasattr(value, "dtype"):
            value = numpy.asarray(value)
        if tuple(value.shape) == self.shape and value.dtype == self.dtype:
            self[...] = value
            return
        if self._operand is not self._root.operand:
            raise ValueError(
                f"a view of shape {self.shape} and type {self.dtype} can't be updated to shape {tuple(value.shape)} "
                f"and type {value.dtype}; update the whole array"
            )
        if self._root.writable and not self._root.native.may_write(self._operand[1]):
            self._reach("write")  # which says why not
        self._become(Root(checked(to_numpy(value, copy=True)), self._root.name))

    def get(self, device: Device | int | None = None) -> Any:
        """A copy of the contents in the memory of `device` (None: the host's, as a NumPy array).

        Raises:
            IndexError: there is no such device.
        """
        from parla import array as arrays

        if device is None:
            return arrays.copy_to_host(self)
        return _reach.device_of(device).memory()(self)

    # Where it is.

    def nbytes_at(self, device: Device | int) -> int:
        """Bytes that copies of the whole array take in the memory of `device`."""
        return int(self._root.native.bytes_allocated(_reach.memory_of(device)))

    def exists_on_device(self, device: Device | int) -> bool:
        """Whether any of the newest contents of the whole array are valid in the memory of `device`."""
        return bool(self._root.native.bytes_valid(_reach.memory_of(device)))

    def evict(self, device: Device | int | None = None, keep_one_copy: bool = True) -> bool:
        """Give back what the whole array takes in the memory of `device` (None: the current one).

        What is newest there goes to the host first. With ``keep_one_copy=False`` nothing is copied: if something would
        be lost then, nothing happens. What tasks use at this moment stays.

        Returns:
            Whether the device has none of the array now. Never true for a CPU: the host's buffer stays.
        """
        memory = _reach.memory_of(_reach.current_device() if device is None else device)
        native = self._root.native
        if memory == _reach.HOST or (not keep_one_copy and native.bytes_valid(_reach.HOST) < native.nbytes):
            return False
        native.evict(memory)
        return not native.bytes_allocated(memory)

    def evict_all(self) -> None:
        """Bring everything to the host and give back all that the whole array takes elsewhere."""
        self._root.native.flush()

    def print_overview(self) -> None:
        """Print where which part of the array is valid."""
        print(f"{self!r}\n{self._root.native.overview()}")

    # Copies and text.

    def __copy__(self) -> PArray:
        return array(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> PArray:
        return array(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickle, (to_numpy(self._read(), copy=True), self.name)

    def __repr__(self) -> str:
        part = "" if self._operand is self._root.operand else f" in {_views.show(self._operand[1])}"
        return f"<PArray {self.name!r}{part}, shape {self.shape}, {self.dtype}>"


_new = PArray.__new__


def array(
    object: Any,
    dtype: Any = None,
    copy: bool = True,
    order: str = "K",
    subok: bool = False,
    ndmin: int = 0,
    like: Any = None,
    on_gpu: bool = False,
    name: str | None = None,
) -> PArray:
    """Make a PArray, of a copy of `object` unless ``copy=False`` and none is needed.

    Args:
        object: an array of any library, a PArray, or anything that ``numpy.array`` takes.
        dtype: the type of the elements; None: as they are.
        copy: whether the result shares nothing with `object`.
        order: layout in memory, as in ``numpy.array``.
        subok: accepted for older programs; the result is a PArray.
        ndmin: number of dimensions at least; new ones have length 1.
        like: accepted for older programs.
        on_gpu: accepted for older programs: data goes to a GPU when a task there needs it.
        name: what messages call the array.

    Raises:
        TypeError: the elements are Python objects or others that can't be moved as bytes.
    """
    import numpy

    if isinstance(object, PArray):
        if not copy and ndmin <= object.ndim and (dtype is None or numpy.dtype(dtype) == object.dtype):
            return object
        object = object._read()
    if isinstance(object, numpy.ma.MaskedArray):
        raise TypeError(
            "a masked array can't be a PArray: its mask would be lost; make one of its data and one of its mask"
        )
    host = to_numpy(object)
    if copy:
        host = numpy.array(host, dtype=dtype, order=order, ndmin=ndmin)  # type: ignore[call-overload]
    else:
        host = numpy.asarray(host, dtype=dtype, order=None if order == "K" else order)  # type: ignore[arg-type]
        if host.ndim < ndmin:
            host = host[(None,) * (ndmin - host.ndim) + (...,)]
        if _reach.is_borrowed(host):
            host = host.copy()
    if host.dtype.hasobject and not isinstance(object, numpy.ndarray):
        raise TypeError(
            f"{type(object).__name__} can't be a PArray: what NumPy makes of it is references to Python objects, which can't be moved "
            "to another memory; make PArrays of the arrays in it"
        )
    result = _new(PArray)
    result._become(*root_of(host, name))
    return result


def asarray(
    a: Any, dtype: Any = None, order: str | None = None, like: Any = None, on_gpu: bool = False, name: str | None = None
) -> PArray:
    """Make a PArray of an array without a copy: the buffer stays the user's.

    It is current at the end of every ``with Parla()`` block, and after ``.array`` outside tasks. While tasks use the array,
    the buffer itself must be left alone. Arguments are those of `array`.

    An array in the memory of a GPU (CuPy, ``__cuda_array_interface__``, DLPack) is copied to the host once, here and now, also if it is used
    on that GPU only: the PArray lives in that copy. What tasks write is never written back to the array that was given; use ``.get()`` or
    ``.array``, or copy to it with `parla.array.copy`. The same holds for what NumPy has to convert: a list, a table with columns of several types.

    Raises:
        TypeError: the elements are Python objects or others that can't be moved as bytes.
    """
    return array(a, dtype=dtype, copy=False, order=order or "K", like=like, on_gpu=on_gpu, name=name)


def asarray_batch(*args: Any) -> Any:
    """Make PArrays of all arrays in the arguments, which may be nested lists, tuples, sets and dicts.

    Returns:
        The same structure with PArrays; of several arguments a list.

    Raises:
        TypeError: something is neither an array nor such a collection.
    """
    converted = [_batch(argument) for argument in args]
    return converted[0] if len(converted) == 1 else converted


def _batch(value: Any) -> Any:
    from parla.array import is_array

    if isinstance(value, PArray):
        return value
    if isinstance(value, dict):
        return {key: _batch(item) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(_batch, value))
    if isinstance(value, (list, tuple, set, frozenset)):
        return type(value)(map(_batch, value))
    if is_array(value):
        return asarray(value)
    raise TypeError(f"asarray_batch takes arrays and collections of arrays, not {type(value).__name__}")


def _has_names(key: Any) -> bool:
    """Whether an index names fields of structured elements."""
    return isinstance(key, str) or (isinstance(key, list) and bool(key) and all(isinstance(k, str) for k in key))


_is_field = _has_names


def _unpickle(host: Any, name: str) -> PArray:
    return asarray(host, name=name)
