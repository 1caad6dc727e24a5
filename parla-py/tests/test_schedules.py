"""The schedules that benchmarks compare with, against numbers computed by hand."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
from parla import graphs
from parla.graphs import DataBlock, Graph, GraphTask, TaskKey, Work

_PATH = Path(__file__).parents[2] / "parla-bench/python/schedules.py"
if not _PATH.is_file():
    pytest.skip("only in the repository", allow_module_level=True)
_SPEC = importlib.util.spec_from_file_location("schedules", _PATH)
schedules = importlib.util.module_from_spec(_SPEC)
sys.modules["schedules"] = schedules
_SPEC.loader.exec_module(schedules)

LINKS = schedules.Links(host_gb_s=1.0, latency_us=0.0, peer=False)
MB = 1_000_000
SECOND = Work(1e6)


def chain(n, n_gpus, own_data):
    return graphs.serial(n, SECOND, size=1, n_gpus=n_gpus, own_data=own_data)


def seconds(graph, n_gpus, megabytes, **how):
    return schedules.schedule(graph, LINKS, n_gpus, [megabytes * MB] * len(graph.data), **how).seconds


def test_short_copies_are_hidden_but_for_the_first():
    graph = chain(4, 2, own_data=True)
    assert seconds(graph, 2, 500) == pytest.approx(0.5 + 4)
    assert seconds(graph, 2, 500, prefetch=False) == pytest.approx(4 * 1.5)


def test_each_gpu_has_a_link_of_its_own():
    # Copies take 3 s; the GPUs take turns, so the copy for step i is done at 3 * (i // 2 + 1).
    assert seconds(chain(4, 2, own_data=True), 2, 3000) == pytest.approx(8)
    assert seconds(chain(4, 1, own_data=True), 1, 3000) == pytest.approx(3 * 4 + 1)


def test_nothing_is_hidden_when_a_block_is_handed_on():
    graph = chain(3, 2, own_data=False)
    # In from the host, then twice from GPU to GPU: out and in.
    expected = 0.5 + 1 + 2 * (1.0 + 1)
    assert seconds(graph, 2, 500) == pytest.approx(expected)
    assert seconds(graph, 2, 500, prefetch=False) == pytest.approx(expected)
    with_peers = schedules.Links(1.0, 0.0, peer=True)
    assert schedules.schedule(graph, with_peers, 2, [500 * MB]).seconds == pytest.approx(expected - 2 * 0.5)


def test_choosing_the_gpu_leaves_a_chain_where_it_is():
    result = schedules.schedule(chain(5, 2, own_data=False), LINKS, 2, [500 * MB], choose=True)
    assert result.seconds == pytest.approx(5.5)
    assert result.bytes_moved == 500 * MB
    assert len(set(result.device.values())) == 1


def test_independent_tasks_share_the_gpus():
    graph = graphs.independent(6, SECOND, n_gpus=2)
    assert seconds(graph, 2, 0) == pytest.approx(3)
    assert seconds(graph, 3, 0, choose=True) == pytest.approx(2)
    assert schedules.bound(graph, 4) == pytest.approx(1.5)


def test_latency_counts_for_each_way():
    links = schedules.Links(1.0, 1e6, peer=False)
    assert links.seconds(schedules.HOST, 0, 1000 * MB) == pytest.approx(2)
    assert links.seconds(0, 1, 1000 * MB) == pytest.approx(4)


def test_data_that_are_there_are_not_moved():
    task = GraphTask(TaskKey((0,)), {(2,): SECOND}, reads=(0,))
    graph = Graph.of([task], [DataBlock(1, 2)])
    result = schedules.schedule(graph, LINKS, 2, [500 * MB])
    assert (result.seconds, result.bytes_moved) == (pytest.approx(1), 0)


def test_outputs_fetch_nothing():
    task = GraphTask(TaskKey((0,)), {(1,): SECOND}, writes=(0,))
    result = schedules.schedule(Graph.of([task], [DataBlock(1)]), LINKS, 1, [500 * MB])
    assert (result.seconds, result.bytes_moved) == (pytest.approx(1), 0)


def test_no_schedule_beats_the_bound():
    for seed in range(10):
        graph = graphs.random(30, Work(1e5), seed=seed, size=1, n_gpus=3)
        least = schedules.bound(graph, 3)
        for how in ({}, {"prefetch": False}, {"choose": True}):
            assert seconds(graph, 3, 10, **how) >= least - 1e-9
        assert seconds(graph, 3, 10) <= seconds(graph, 3, 10, prefetch=False) + 1e-9


def test_a_task_without_a_gpu_has_no_schedule():
    with pytest.raises(ValueError, match="needs one of 2 GPUs"):
        seconds(graphs.independent(1, SECOND), 2, 0)
