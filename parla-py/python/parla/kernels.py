"""Bodies of a known length, for benchmarks and tests."""

from parla._native import sleep_gil, sleep_nogil

__all__ = ["sleep_gil", "sleep_nogil"]
