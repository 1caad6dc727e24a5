"""DLPack capsules for arrays that are known by address, shape and strides."""

from __future__ import annotations

import ctypes
from typing import Any

__all__ = ["capsule"]

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
