"""DLPack capsules: made for arrays that are known by address, shape and strides, and taken from other libraries."""

from __future__ import annotations

import ctypes
from typing import Any

__all__ = ["Taken", "capsule", "take"]

_CODES = {"i": 0, "u": 1, "f": 2, "c": 5, "b": 6}


class _Device(ctypes.Structure):
    _fields_ = [("kind", ctypes.c_int32), ("index", ctypes.c_int32)]
    kind: Any
    index: Any


class _Type(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16)]
    code: Any
    bits: Any
    lanes: Any


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("ndim", ctypes.c_int32),
        ("dtype", _Type),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]
    data: Any
    device: Any
    ndim: Any
    dtype: Any
    shape: Any
    strides: Any
    byte_offset: Any


class _Managed(ctypes.Structure):
    _fields_ = [("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p)]
    tensor: Any
    context: Any
    deleter: Any


class _Versioned(ctypes.Structure):
    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _Tensor),
    ]
    major: Any
    minor: Any
    context: Any
    deleter: Any
    flags: Any
    tensor: Any


_NAME = b"dltensor"
_VERSIONED_NAME = b"dltensor_versioned"
# What a capsule is called once somebody has taken what is in it; capsules keep the address of their name, not a copy.
_USED = {name: ctypes.create_string_buffer(b"used_" + name) for name in (_NAME, _VERSIONED_NAME)}
_READ_ONLY = 1
_Callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p)

_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, _Callback]
_is_valid = ctypes.pythonapi.PyCapsule_IsValid
_is_valid.restype = ctypes.c_int
_is_valid.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype = ctypes.c_void_p
_pointer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
_rename = ctypes.pythonapi.PyCapsule_SetName
_rename.restype = ctypes.c_int
_rename.argtypes = [ctypes.py_object, ctypes.c_char_p]

# What consumers still use: the structure's address -> all that it points to and the array itself.
_lent: dict[int, tuple[Any, ...]] = {}


def _delete(address: int) -> None:
    _lent.pop(address, None)


def _drop(capsule_address: int) -> None:
    # A consumer renames the capsule that it takes; only those nobody took still have the name, and are this function's.
    for name in (_NAME, _VERSIONED_NAME):
        if _is_valid(capsule_address, name):
            _lent.pop(_pointer(capsule_address, name), None)


_DELETE = _Callback(_delete)
_DROP = _Callback(_drop)


def capsule(a: Any, device: tuple[int, int], versioned: bool) -> Any:
    """A capsule over the memory of `a` (pointer, shape, strides, dtype, writable), which stays alive while somebody uses it.

    Args:
        a: the array.
        device: DLPack's kind and number of its device.
        versioned: whether the consumer understands version 1, which can say that an array is read-only.

    Raises:
        BufferError: DLPack has no name for the type, the strides are no multiples of the element, or the array is read-only
            and the consumer can't be told.
    """
    code, itemsize = _CODES.get(a.dtype.kind), int(a.dtype.itemsize)
    if code is None or not a.dtype.isnative:
        raise BufferError(f"DLPack has no name for elements of {a.dtype}")
    if any(stride % itemsize for stride in a.strides):
        raise BufferError("DLPack has no name for strides that are no multiples of the element's size")
    if not a.writable and not versioned:
        raise BufferError("the array is read-only, which DLPack can't say before version 1")
    n = len(a.shape)
    shape = (ctypes.c_int64 * max(n, 1))(*a.shape)
    strides = (ctypes.c_int64 * max(n, 1))(*(stride // itemsize for stride in a.strides))
    managed: Any = _Versioned() if versioned else _Managed()
    if versioned:
        managed.major, managed.minor, managed.flags = 1, 0, 0 if a.writable else _READ_ONLY
    managed.deleter = ctypes.cast(_DELETE, ctypes.c_void_p)
    tensor = managed.tensor
    tensor.data = a.pointer if a.size else None
    tensor.device = _Device(*device)
    tensor.ndim = n
    tensor.dtype = _Type(code, itemsize * 8, 1)
    tensor.shape = shape
    tensor.strides = strides
    address = ctypes.addressof(managed)
    _lent[address] = (managed, shape, strides, a)
    return _new_capsule(address, _VERSIONED_NAME if versioned else _NAME, _DROP)


class Taken:
    """Memory that another library has lent: given back when this is dropped."""

    __slots__ = ("__weakref__", "_managed", "pointer", "read_only", "shape", "strides", "typestr")

    def __init__(self, managed: Any, typestr: str) -> None:
        """Describe what is in a capsule; `typestr` is the type of its elements in NumPy's words."""
        tensor = managed.tensor
        shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
        itemsize = tensor.dtype.bits // 8
        self._managed = managed
        self.pointer: int = (tensor.data or 0) + tensor.byte_offset
        self.read_only = isinstance(managed, _Versioned) and bool(managed.flags & _READ_ONLY)
        self.shape: tuple[int, ...] = shape
        self.strides: tuple[int, ...] | None = (
            tuple(tensor.strides[i] * itemsize for i in range(tensor.ndim)) if tensor.strides else None
        )
        """Bytes from one element to the next along each dimension; None: without gaps, the last dimension fastest."""
        self.typestr = typestr

    def __del__(self) -> None:
        if self._managed.deleter:
            _Callback(self._managed.deleter)(ctypes.addressof(self._managed))


def take(found: Any) -> Taken:
    """What a capsule of another library describes, which is this process's from now on.

    Raises:
        TypeError: it is no such capsule, or its elements have no counterpart in NumPy.
    """
    for name, kind in ((_VERSIONED_NAME, _Versioned), (_NAME, _Managed)):
        if type(found).__name__ == "PyCapsule" and _is_valid(id(found), name):
            break
    else:
        raise TypeError(
            f"__dlpack__ gave {type(found).__name__}, which is no capsule with an array that nobody has taken"
        )
    managed: Any = kind.from_address(_pointer(id(found), name))
    if kind is _Versioned and managed.major != 1:
        raise TypeError(f"its __dlpack__ speaks version {managed.major}.{managed.minor}; version 1 is understood here")
    element = managed.tensor.dtype
    kinds = {code: letter for letter, code in _CODES.items()}
    if element.code not in kinds or element.lanes != 1 or element.bits % 8:
        raise TypeError(
            f"NumPy has no type for its elements (DLPack's code {element.code}, {element.bits} bits, {element.lanes} lanes)"
        )
    _rename(found, ctypes.cast(_USED[name], ctypes.c_char_p))
    return Taken(managed, f"={kinds[element.code]}{element.bits // 8}")
