"""0.3's package for synthetic task graphs and their measurement; importing it is an `ImportError`."""

raise ImportError(
    "parla.utility: graphs are read, made, run and verified by parla.graphs, which has other names for it: `graphs.read`, `graphs.serial`, "
    "`graphs.reduction`, `graphs.run(graph)`, `graphs.verify(graph, trace)`",
    name=__name__,
)
