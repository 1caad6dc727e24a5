"""NumPy arrays of every type and layout, and what tests of PArrays compare them by."""

from __future__ import annotations

import pytest

numpy = pytest.importorskip("numpy")

DTYPES = [
    "bool", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "g", "c8", "c16", ">i4", ">f8", "M8[us]", "m8[s]",
    "S5", "U5", "V3", [("a", "i4"), ("b", "f8", (2,))], numpy.dtype([("x", "i1"), ("y", "f8")], align=True),
]  # fmt: skip

LAYOUTS = {
    "c": lambda a: a.copy(),
    "f": lambda a: a.copy(order="F"),
    "transposed": lambda a: a.T.copy().T,
    "reversed": lambda a: a[::-1].copy()[::-1],
    "strided": lambda a: numpy.repeat(a, 3, -1)[..., ::3],
    "unaligned": lambda a: numpy.frombuffer(bytearray(b"x" + a.tobytes()), a.dtype, offset=1).reshape(a.shape),
}


def numbers(*shape, dtype="f8"):
    return numpy.arange(numpy.prod(shape, dtype=int)).reshape(shape).astype(dtype)


def filled(shape, dtype):
    """An array whose bytes all differ from those of its neighbours, as far as the type has room."""
    a = numpy.zeros(shape, dtype)
    if a.dtype.kind in "SU":
        a[...] = numpy.array([f"{i:03}" for i in range(a.size)]).reshape(shape)
    elif a.dtype.kind == "V":
        raw = bytes(i % 100 for i in range(a.nbytes))
        a = numpy.frombuffer(bytearray(raw), a.dtype).reshape(shape)
    else:
        a[...] = numpy.arange(a.size).reshape(shape) % 2 if a.dtype.kind == "b" else numpy.arange(a.size).reshape(shape)
    return a


def same(a, b):
    """Whether two arrays have the same type, shape and bytes."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return bool((a == b).all()) if a.dtype.names else a.tobytes() == b.tobytes()


def box(p):
    return p.__parla_operand__()[1:]


def expected_box(shape, indices):
    """The smallest box around elements given by their numbers, and whether they are all of it."""
    if indices.size == 0:
        return None, None
    if not shape:
        return (), True
    places = numpy.unravel_index(indices.ravel(), shape)
    found = tuple((int(p.min()), int(p.max()) + 1) for p in places)
    return found, len(set(indices.ravel().tolist())) == numpy.prod([b - a for a, b in found], dtype=int)


def check_box(p, shape, indices):
    region, exact = box(p)
    wanted, whole = expected_box(shape, indices)
    assert len(region) == len(shape)
    assert all(0 <= start <= stop <= n for (start, stop), n in zip(region, shape))
    if wanted is None:
        return
    if p._picked is None:
        assert region == wanted
        assert exact == whole
    else:
        assert all(a <= c and d <= b for (a, b), (c, d) in zip(region, wanted))
        assert not exact
