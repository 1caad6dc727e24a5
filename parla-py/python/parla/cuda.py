"""CUDA GPUs. This version has no GPU backend, so importing this module is an `ImportError`.

Programs that can do without a GPU catch it::

    try:
        from parla.cuda import gpu
    except ImportError:
        gpu = None
"""

from typing import TYPE_CHECKING

from parla.devices import gpu

__all__ = ["gpu"]

if not TYPE_CHECKING and not len(gpu):
    raise ImportError(f"parla.cuda: {gpu.unavailable}", name=__name__)
