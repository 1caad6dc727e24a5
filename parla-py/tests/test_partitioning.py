"""Partitions of graphs: masters, proxies and edges, against a partitioner that follows the definitions word by word."""

from __future__ import annotations

import random

import pytest

numpy = pytest.importorskip("numpy")
sparse = pytest.importorskip("scipy.sparse")

from parla.partitioning import GraphProperties, Partition, PartitioningAlgorithm  # noqa: E402 - SciPy may be absent


class ByTable(PartitioningAlgorithm):
    """Masters from tables."""

    def __init__(self, n_partitions, neighborhood_size, vertices, edge):
        self._n, self._size, self._vertices, self._edge = n_partitions, neighborhood_size, vertices, edge
        self.asked = []

    n_partitions = property(lambda self: self._n)
    neighborhood_size = property(lambda self: self._size)

    def get_vertex_master(self, vertex_id):
        return self._vertices[vertex_id]

    def get_edge_master(self, src_id, dst_id):
        self.asked.append((src_id, dst_id))
        assert self.vertex_masters[src_id] == self._vertices[src_id]
        assert self.vertex_masters[dst_id] == self._vertices[dst_id]
        return self._edge(self, src_id, dst_id)


def of_source(algorithm, i, j):
    return algorithm.vertex_masters[i]


def of_target(algorithm, i, j):
    return algorithm.vertex_masters[j]


def of_neither(algorithm, i, j):
    return (algorithm.vertex_masters[i] + 1) % algorithm.n_partitions


def graph(n, edges):
    matrix = sparse.lil_matrix((n, n))
    for value, (i, j) in enumerate(edges, 1):
        matrix[i, j] = value
    return matrix.tocsr()


def expected(number, n, edges, masters, edge_master, size):
    """The vertices and edges of a partition, as the module's documentation defines them."""
    vertices = {v for v in range(n) if masters[v] == number}
    for _ in range(size):
        vertices |= {b for i, j in edges for a, b in ((i, j), (j, i)) if a in vertices}
    own = [e for e in edges if edge_master[e] == number]
    vertices |= {v for e in own for v in e}
    kept = [e for e in edges if edge_master[e] == number or (size > 0 and e[0] in vertices and e[1] in vertices)]
    return sorted(vertices), set(kept)


def local_edges(partition, matrix):
    coo = sparse.coo_matrix(matrix)
    ids = partition.vertex_global_ids
    return {(int(ids[i]), int(ids[j])): value for i, j, value in zip(coo.row, coo.col, coo.data)}


@pytest.mark.parametrize("size", range(5))
@pytest.mark.parametrize("edge", [of_source, of_target, of_neither], ids=lambda f: f.__name__)
def test_random_graphs(edge, size):
    for seed in range(25):
        rng = random.Random(f"{edge.__name__} {size} {seed}")
        n, n_partitions = rng.randrange(1, 14), rng.randrange(1, 5)
        edges = sorted({(rng.randrange(n), rng.randrange(n)) for _ in range(rng.randrange(2 * n))})
        masters = [rng.randrange(n_partitions) for _ in range(n)]
        matrix = graph(n, edges)
        algorithm = ByTable(n_partitions, size, masters, edge)
        partitions = algorithm.partition(matrix)
        assert len(partitions) == n_partitions
        assert algorithm.asked == edges, "each edge once"
        edge_master = {e: edge(algorithm, *e) for e in edges}
        for number, partition in enumerate(partitions):
            vertices, kept = expected(number, n, edges, masters, edge_master, size)
            assert partition.vertex_global_ids.tolist() == vertices
            assert local_edges(partition, partition.edges) == {e: matrix[e] for e in kept}
            assert local_edges(partition, partition.edge_masters) == {e: edge_master[e] for e in kept}
            assert partition.vertex_masters.tolist() == masters


def test_proxies_are_as_far_away_as_asked():
    path = graph(6, [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)])
    masters = [0, 0, 0, 1, 1, 1]
    found = {
        size: ByTable(2, size, masters, of_source).partition(path)[0].vertex_global_ids.tolist() for size in range(4)
    }
    assert found == {0: [0, 1, 2, 3], 1: [0, 1, 2, 3], 2: [0, 1, 2, 3, 4], 3: [0, 1, 2, 3, 4, 5]}


def test_the_type_of_the_matrices_is_the_callers():
    partition = ByTable(1, 1, [0, 0], of_source).partition(graph(2, [(0, 1)]), sparse.csc_matrix)[0]
    assert isinstance(partition, Partition)
    assert sparse.isspmatrix_csc(partition.edges)
    assert sparse.isspmatrix_csc(partition.edge_masters)


def test_properties():
    matrix = sparse.coo_matrix(([1.0, 2.0, 0.0, 5.0], ([0, 0, 1, 2], [1, 2, 2, 2])), shape=(3, 3))
    properties = GraphProperties(matrix)
    assert (properties.n_vertices, properties.n_edges) == (3, 3)
    assert properties.out_degree.tolist() == [2, 0, 1]
    assert properties.in_degree.tolist() == [0, 1, 2]


def test_graphs_without_edges_and_partitions_without_vertices():
    partitions = ByTable(3, 2, [1, 1], of_source).partition(sparse.csr_matrix((2, 2)))
    assert [p.vertex_global_ids.tolist() for p in partitions] == [[], [0, 1], []]
    assert [p.edges.shape for p in partitions] == [(0, 0), (2, 2), (0, 0)]


@pytest.mark.parametrize(
    ("algorithm", "match"),
    [
        (ByTable(2, 1, [0, 2], of_source), "vertex 1: partition 2 is none of the 2"),
        (ByTable(2, 1, [0, -1], of_source), "vertex 1: partition -1"),
        (ByTable(2, 1, [0, 1], lambda *_: 2), r"edge \(0, 1\): partition 2"),
        (ByTable(0, 1, [0, 0], of_source), "at least one partition"),
        (ByTable(1, -1, [0, 0], of_source), "negative"),
    ],
)
def test_wrong_masters_are_named(algorithm, match):
    with pytest.raises(ValueError, match=match):
        algorithm.partition(graph(2, [(0, 1)]))


def test_only_square_matrices_are_graphs():
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        ByTable(1, 1, [0, 0], of_source).partition(sparse.csr_matrix((2, 3)))
