"""0.3's module name for devices, which had a class for each kind: libraries register conversions by them."""

from parla.context import GpuStream
from parla.device import Architecture, Device

__all__ = ["PyArchitecture", "PyCPUDevice", "PyCUDADevice", "PyDevice", "PyGPUDevice", "Stream"]

PyArchitecture = Architecture
PyDevice = PyCPUDevice = PyCUDADevice = PyGPUDevice = Device
Stream = GpuStream
