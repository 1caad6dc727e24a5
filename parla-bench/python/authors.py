"""The authors' own measurements behind the paper's figure 13, from their published logs.

A 56-core CPU node; 1 000 tasks each. Lengths and GIL-held times in milliseconds, totals in seconds.
"""

from __future__ import annotations

N_TASKS = 1000

OVERHEAD_THREADS = 55
"""The most threads of the overhead experiment; the totals are the best over 1 to 55."""

OVERHEAD_SECONDS: dict[str, dict[float, float]] = {
    "parla": {0.8: 0.254, 1.6: 0.257, 6.4: 0.297, 25.6: 0.555, 51.2: 1.027, 102.4: 1.982},
    "dask_delayed": {0.8: 0.112, 1.6: 0.114, 6.4: 0.178, 25.6: 0.541, 51.2: 1.027, 102.4: 2.007},
    "dask_processes": {0.8: 0.467, 1.6: 0.688, 6.4: 0.860, 25.6: 1.78, 51.2: 2.75, 102.4: 4.76},
}
"""Best total by system and task length; ``parla`` is Parla 0.2, ``dask_delayed`` Dask's threads."""

OVERHEAD_SPEED_UP: dict[str, dict[float, float]] = {
    "parla": {0.8: 3.2, 1.6: 6.2, 6.4: 21.6, 25.6: 46.1, 51.2: 49.8, 102.4: 51.7},
    "dask_delayed": {0.8: 7.1, 1.6: 14.0, 6.4: 36.0, 25.6: 47.3, 51.2: 49.8, 102.4: 51.0},
    "dask_processes": {0.8: 1.7, 1.6: 2.3, 6.4: 7.4, 25.6: 14.4, 51.2: 18.6, 102.4: 21.5},
}
"""The same as speed-up over one core's work, from the logs' unrounded totals."""

GIL_THREADS = 50
GIL_TASK_MS = 50.0
GIL_SECONDS: dict[str, dict[float, float]] = {
    "dask_delayed": {0.5: 1.16, 1: 1.38, 2.5: 3.01, 5: 5.21, 10: 10.5, 25: 25.2},
}
"""Total by system and GIL-held time of each task."""
