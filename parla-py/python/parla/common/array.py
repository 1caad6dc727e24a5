"""0.3's module name for `parla.array`."""

from parla.array import asnumpy, clone_here, copy, get_array_module, get_memory, is_array, storage_size

__all__ = ["asnumpy", "clone_here", "copy", "get_array_module", "get_memory", "is_array", "storage_size"]
