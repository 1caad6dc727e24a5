"""0.3's module name for the class `parla.parray.PArray`."""

from parla.parray import PArray

__all__ = ["PArray"]
