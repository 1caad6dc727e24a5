"""GPUs, real or simulated; importing this module is an `ImportError` where there is neither.

Programs that can do without a GPU catch it::

    try:
        from parla.cuda import gpu
    except ImportError:
        gpu = None

From the import on, tasks without a ``placement`` may run on GPUs too.
"""

from typing import TYPE_CHECKING

from parla.device import use_by_default
from parla.devices import gpu
from parla.environments import GPUComponent, MultiGPUComponent

__all__ = ["GPUComponent", "MultiGPUComponent", "gpu"]

if not TYPE_CHECKING and not len(gpu):
    raise ImportError(f"parla.cuda: {gpu.unavailable}", name=__name__)

use_by_default(gpu)
