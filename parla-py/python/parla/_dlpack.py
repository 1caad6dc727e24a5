"""DLPack capsules for arrays that are known by address, shape and strides."""

from __future__ import annotations

import ctypes
from typing import Any

__all__ = ["capsule"]

_CODES = {"i": 0, "u": 1, "f": 2, "c": 5, "b": 6}


class _Device(ctypes.Structure):
    _fields_ = [("kind", ctypes.c_int32), ("index", ctypes.c_int32)]


class _Type(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16)]


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


class _Managed(ctypes.Structure):
    pass


_Deleter = ctypes.CFUNCTYPE(None, ctypes.POINTER(_Managed))
_Managed._fields_ = [("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _Deleter)]

_NAME = b"dltensor"
_Destructor = ctypes.CFUNCTYPE(None, ctypes.c_void_p)

_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, _Destructor]
_is_valid = ctypes.pythonapi.PyCapsule_IsValid
_is_valid.restype = ctypes.c_int
_is_valid.argtypes = [ctypes.c_void_p, ctypes.c_char_p]

# What consumers still use: the structure's address -> all that it points to and the array itself.
_lent: dict[int, tuple[Any, ...]] = {}


def _delete(managed: Any) -> None:
    _lent.pop(ctypes.addressof(managed.contents), None)


_DELETE = _Deleter(_delete)


def _drop(capsule_address: int) -> None:
    # A consumer renames the capsule that it takes; only those nobody took still have the name, and are this function's.
    if _is_valid(capsule_address, _NAME):
        _lent.pop(_pointer(capsule_address, _NAME), None)


_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype = ctypes.c_void_p
_pointer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
_DROP = _Destructor(_drop)


def capsule(a: Any, device: tuple[int, int]) -> Any:
    """A capsule over the memory of `a` (pointer, shape, strides, dtype), which stays alive while somebody uses it.

    Raises:
        BufferError: DLPack has no name for the type, or the strides are no multiples of the element.
    """
    code, itemsize = _CODES.get(a.dtype.kind), int(a.dtype.itemsize)
    if code is None or not a.dtype.isnative:
        raise BufferError(f"DLPack has no name for elements of {a.dtype}")
    if any(stride % itemsize for stride in a.strides):
        raise BufferError("DLPack has no name for strides that are no multiples of the element's size")
    n = len(a.shape)
    shape = (ctypes.c_int64 * max(n, 1))(*a.shape)
    strides = (ctypes.c_int64 * max(n, 1))(*(stride // itemsize for stride in a.strides))
    managed = _Managed()
    managed.tensor.data = a.pointer if a.size else None
    managed.tensor.device = _Device(*device)
    managed.tensor.ndim = n
    managed.tensor.dtype = _Type(code, itemsize * 8, 1)
    managed.tensor.shape = shape
    managed.tensor.strides = strides
    managed.deleter = _DELETE
    address = ctypes.addressof(managed)
    _lent[address] = (managed, shape, strides, a)
    return _new_capsule(address, _NAME, _DROP)
