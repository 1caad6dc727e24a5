"""0.3's module name for the functions that make PArrays."""

from parla.parray import array, asarray, asarray_batch

__all__ = ["array", "asarray", "asarray_batch"]
