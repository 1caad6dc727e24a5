"""Pictures of task graphs, for Graphviz."""

from __future__ import annotations

from parla.graphs.model import ANY_GPU, ANYWHERE, CPU, Graph, GraphTask, Target

__all__ = ["draw"]

_COLOURS = ("#a6cee3", "#b2df8a", "#fdbf6f", "#cab2d6", "#fb9a99", "#ffff99", "#8dd3c7", "#fccde5")


def draw(graph: Graph, *, data: bool = False) -> str:
    """The graph in Graphviz's language DOT, tasks coloured by where they may run; with `data` the blocks they use too.

    ``dot -Tsvg`` makes a picture of it.
    """
    lines = ["digraph {", "  node [shape=box, style=filled, fontname=sans];"]
    for task in graph:
        targets = "\\n".join(f"{_name(target)}: {work.time_us:g} us" for target, work in task.work.items())
        lines.append(f'  "{task.key}" [label="{task.key}\\n{targets}", fillcolor="{_colour(task)}"];')
    lines += [f'  "{before}" -> "{after}";' for before, after in graph.edges()]
    if data:
        for i, block in enumerate(graph.data):
            lines.append(f'  "data {i}" [shape=ellipse, fillcolor=white, label="{i}: {block.size}\\n{_name((block.location,))}"];')
        for task in graph:
            lines += [f'  "data {i}" -> "{task.key}" [style=dashed];' for i in task.inputs]
            lines += [f'  "{task.key}" -> "data {i}" [style=dashed];' for i in task.outputs]
    return "\n".join([*lines, "}"]) + "\n"


def _name(target: Target) -> str:
    names = {ANYWHERE: "anywhere", CPU: "cpu", ANY_GPU: "gpu"}
    return "+".join(names.get(location, f"gpu:{location - 1}") for location in target)


def _colour(task: GraphTask) -> str:
    if len(task.work) != 1:
        return "#eeeeee"
    first = next(iter(task.work))[0]
    return _COLOURS[(first - 1) % len(_COLOURS)] if first > 0 else {CPU: "#ffffff", ANY_GPU: "#d9d9d9"}.get(first, "#eeeeee")
