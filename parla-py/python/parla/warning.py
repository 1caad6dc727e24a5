"""0.2's module name for the warnings."""

from parla.ldevice import PerformanceWarning

__all__ = ["PerformanceWarning"]
