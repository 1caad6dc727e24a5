"""0.3's package name for `parla.parray`."""

from parla.parray import PArray, array, asarray, asarray_batch

__all__ = ["PArray", "array", "asarray", "asarray_batch"]
