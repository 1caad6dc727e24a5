"""0.3's names for the sleeps that measurements use, in microseconds."""

from parla.kernels import sleep_gil as cpu_bsleep_gil
from parla.kernels import sleep_nogil as cpu_bsleep_nogil

__all__ = ["cpu_bsleep_gil", "cpu_bsleep_nogil"]
