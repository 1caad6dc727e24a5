"""Task graphs as data: read and written as ``.gph`` files, made in the usual shapes, run with Parla, checked, drawn.

    from parla import graphs

    graph = graphs.reduction(levels=3, branch=2, work=graphs.Work(time_us=1000), size=1000, n_gpus=2)
    graphs.write(graph, "reduction.gph")
    trace = graphs.run(graph, mode="auto")
    assert graphs.verify(graph, trace) == []

`parla.graphs.gph` describes the files, `parla.graphs.generators` the shapes.
"""

from parla.graphs.drawing import draw
from parla.graphs.execution import MODES, run
from parla.graphs.generators import independent, random, reduction, reduction_scatter, serial, stencil, tree
from parla.graphs.gph import dumps, loads, read, write
from parla.graphs.model import (
    ANY_GPU,
    ANYWHERE,
    CPU,
    DataBlock,
    Graph,
    GraphError,
    GraphTask,
    Target,
    TaskKey,
    Work,
    gpu_location,
)
from parla.graphs.trace import TaskRun, Trace
from parla.graphs.verify import races, verify

__all__ = [
    "ANYWHERE",
    "ANY_GPU",
    "CPU",
    "MODES",
    "DataBlock",
    "Graph",
    "GraphError",
    "GraphTask",
    "Target",
    "TaskKey",
    "TaskRun",
    "Trace",
    "Work",
    "draw",
    "dumps",
    "gpu_location",
    "independent",
    "loads",
    "races",
    "random",
    "read",
    "reduction",
    "reduction_scatter",
    "run",
    "serial",
    "stencil",
    "tree",
    "verify",
    "write",
]
