"""0.3's module name for the architectures; `cuda` is an earlier name of `gpu`."""

from parla.devices import cpu, gpu

__all__ = ["cpu", "cuda", "gpu"]

cuda = gpu
