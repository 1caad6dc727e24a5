"""Dividing graphs, given as sparse matrices, among partitions.

An algorithm says which partition is the *master* of each vertex and of each edge. Each partition then gets the vertices and
edges that it is master of, and *proxies* of those around them: all vertices that can be reached from its own along up to
`neighborhood_size` edges, in whichever direction these point, and all edges between vertices that it has. With a
neighbourhood of 0 there are no proxies but the ends of the edges it is master of.

This needs SciPy, which is imported when a graph is partitioned.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy

__all__ = ["GraphProperties", "Partition", "PartitionID", "PartitioningAlgorithm", "VertexID"]

VertexID = int
PartitionID = int


class GraphProperties:
    """What can be known of a graph: its size and its degrees."""

    A: Any
    """The sparse matrix of the edges: (i, j) is the edge from i to j."""
    n_vertices: int
    n_edges: int
    in_degree: numpy.ndarray[Any, Any]
    """By vertex, how many edges point to it."""
    out_degree: numpy.ndarray[Any, Any]
    """By vertex, how many edges leave it."""

    def __init__(self, A: Any) -> None:
        """Count the edges of `A`; entries that are zero are none.

        Raises:
            ValueError: the matrix isn't square.
        """
        import numpy
        from scipy import sparse  # type: ignore[import-untyped]

        if A.ndim != 2 or A.shape[0] != A.shape[1]:
            raise ValueError(f"the edges of a graph are a square matrix, not one of shape {A.shape}")
        self.A = A
        self.n_vertices = int(A.shape[0])
        source, target = _edges(sparse.coo_matrix(A))[:2]
        self.n_edges = len(source)
        self.in_degree = numpy.bincount(target, minlength=self.n_vertices)
        self.out_degree = numpy.bincount(source, minlength=self.n_vertices)


class Partition(NamedTuple):
    """All that one partition has."""

    edges: Any
    """A sparse matrix of the edges here, those it is master of and proxies, between local vertices."""
    vertex_global_ids: numpy.ndarray[Any, Any]
    """By local vertex, its number in the whole graph; ascending."""
    vertex_masters: numpy.ndarray[Any, Any]
    """By vertex of the whole graph, the partition that is its master."""
    edge_masters: Any
    """A sparse matrix of the same structure as `edges`: the partition that is the master of each. Partition 0 is a stored zero."""


class PartitioningAlgorithm(ABC):
    """How to divide a graph; subclasses say who is the master of what."""

    graph_properties: GraphProperties
    """Those of the graph that is being partitioned."""
    vertex_masters: numpy.ndarray[Any, Any]
    """By vertex, its master, as far as that is decided; -1 if not."""

    @property
    @abstractmethod
    def n_partitions(self) -> int:
        """How many partitions to make; they are numbered from 0, and this number is not among them."""

    @property
    @abstractmethod
    def neighborhood_size(self) -> int:
        """How many edges away from a partition's own vertices there are proxies; 0 is none."""

    @abstractmethod
    def get_vertex_master(self, vertex_id: VertexID) -> PartitionID:
        """The master of a vertex; may use `graph_properties`."""

    @abstractmethod
    def get_edge_master(self, src_id: VertexID, dst_id: VertexID) -> PartitionID:
        """The master of an edge; may use `graph_properties`, and `vertex_masters` of its two ends. Called once per edge."""

    def partition(self, A: Any, edge_matrix_type: Callable[[Any], Any] | None = None) -> Sequence[Partition]:
        """Divide a graph.

        Args:
            A: the sparse matrix of its edges.
            edge_matrix_type: what makes the matrices of the partitions; None is ``scipy.sparse.csr_matrix``.

        Returns:
            The partitions, by number.

        Raises:
            ValueError: the matrix isn't square, or a master is no partition; the text says whose.
        """
        import numpy
        from scipy import sparse

        make = sparse.csr_matrix if edge_matrix_type is None else edge_matrix_type
        if self.n_partitions < 1:
            raise ValueError(f"there must be at least one partition, not {self.n_partitions}")
        if self.neighborhood_size < 0:
            raise ValueError(f"neighborhood_size can't be negative, got {self.neighborhood_size}")
        self.graph_properties = GraphProperties(A)
        n = self.graph_properties.n_vertices
        self.vertex_masters = numpy.full(n, -1, dtype=int)
        for vertex in range(n):
            self.vertex_masters[vertex] = self._check(self.get_vertex_master(vertex), f"vertex {vertex}")
        source, target, values = _edges(sparse.coo_matrix(A))
        masters = numpy.array(
            [
                self._check(self.get_edge_master(i, j), f"edge ({i}, {j})")
                for i, j in zip(source.tolist(), target.tolist())
            ],
            dtype=int,
        )
        either_way = sparse.csr_matrix((numpy.ones(2 * len(source), bool), _both(source, target)), shape=(n, n))
        return [
            self._one(number, source, target, values, masters, either_way, make) for number in range(self.n_partitions)
        ]

    def _one(
        self,
        number: int,
        source: Any,
        target: Any,
        values: Any,
        masters: Any,
        either_way: Any,
        make: Callable[[Any], Any],
    ) -> Partition:
        import numpy
        from scipy import sparse

        n = self.graph_properties.n_vertices
        here = self.vertex_masters == number
        own_edges = masters == number
        reached = here
        for _ in range(self.neighborhood_size):
            reached = reached | (either_way @ reached).astype(bool)
        reached = reached.copy()
        reached[source[own_edges]] = True
        reached[target[own_edges]] = True
        local = numpy.flatnonzero(reached)
        number_here = numpy.full(n, -1)
        number_here[local] = numpy.arange(len(local))
        kept = own_edges
        if self.neighborhood_size > 0:
            kept = own_edges | (reached[source] & reached[target])
        index = (number_here[source[kept]], number_here[target[kept]])
        shape = (len(local), len(local))
        edges = make(sparse.coo_matrix((values[kept], index), shape=shape))
        edge_masters = make(sparse.coo_matrix((masters[kept], index), shape=shape))
        return Partition(edges, local, self.vertex_masters, edge_masters)

    def _check(self, master: Any, whose: str) -> int:
        if not 0 <= master < self.n_partitions:
            raise ValueError(f"{whose}: partition {master} is none of the {self.n_partitions} partitions")
        return int(master)


def _edges(A: Any) -> tuple[Any, Any, Any]:
    """From where, to where, and with what value the edges go, in the order of rows; each once."""
    import numpy

    A = A.copy()
    A.sum_duplicates()
    order = numpy.lexsort((A.col, A.row))
    order = order[A.data[order] != 0]
    return A.row[order], A.col[order], A.data[order]


def _both(source: Any, target: Any) -> tuple[Any, Any]:
    import numpy

    return numpy.concatenate([source, target]), numpy.concatenate([target, source])
