"""Programs of many tasks on PArrays: the results of running them one after another, with no more moved than needed."""

from __future__ import annotations

import random

import pytest
from machine import configured

numpy = pytest.importorskip("numpy")

from parla import Parla, TaskSpace, spawn  # noqa: E402 - NumPy may be absent
from parla.context import get_current_context  # noqa: E402
from parla.devices import cpu, gpu  # noqa: E402
from parla.parray import asarray  # noqa: E402
from placed_arrays import memories  # noqa: E402

# Any program gives what it gives when its tasks run one after another.


def _random_slices(rng, shape):
    out = []
    for n in shape:
        start = rng.randrange(n)
        stop = rng.randrange(start + 1, n + 1)
        backwards = slice(stop - 1, start - 1 if start else None, -1)
        gaps = rng.choice([slice(start, stop, 2), slice(stop - 1, start - 1 if start else None, -2)])
        out.append(rng.choice([slice(start, stop), slice(start, stop), gaps, backwards, start]))
    return tuple(out)


def _covered(p, shape):
    """Which elements lie in the box of an operand: what tasks conflict about."""
    mask = numpy.zeros(shape, bool)
    mask[tuple(slice(*ends) for ends in p.__parla_operand__()[1])] = True
    return mask


class _Places:
    """By memory: which elements are newest there, and the bytes that had to be brought there."""

    def __init__(self, shape, itemsize):
        self.has = {"host": numpy.ones(shape, bool)}
        self.least = {"host": 0}
        self.itemsize = itemsize

    def _of(self, memory):
        return self.has.setdefault(memory, numpy.zeros_like(self.has["host"]))

    def fetch(self, memory, box):
        missing = box & ~self._of(memory)
        self.least[memory] = self.least.get(memory, 0) + int(missing.sum()) * self.itemsize
        self.has[memory] |= box

    def write(self, memory, box):
        for has in self.has.values():
            has &= ~box
        self.has[memory] = self._of(memory) | box


def _moved(memory):
    return sum(n for source, n in memory["bytes_from"].items() if source != memory["name"])


def _run_random_program(seed, disturbed=True):
    rng = random.Random(seed)
    shape = rng.choice([(40,), (9, 11), (5, 6, 7)])
    a = numpy.arange(numpy.prod(shape), dtype="f8").reshape(shape)
    a = rng.choice([lambda x: x, numpy.asfortranarray, lambda x: x[::-1].copy()[::-1]])(a)
    wanted = a.copy()
    p = asarray(a, name=f"program {seed}")
    before, tasks, uses = [], [], []
    # The other policy copies ahead for tasks that it then may place elsewhere.
    with Parla(workers=3, policy=None if disturbed else "eager") as rt:
        T = TaskSpace()
        for i in range(rng.randrange(5, 30)):
            source, target = _random_slices(rng, shape), _random_slices(rng, shape)
            kind, c = rng.choice(["inout", "output", "sum"]), rng.random()
            if kind == "inout":
                wanted[target] = wanted[target] * 0.5 + c
            elif kind == "output":
                wanted[target] = c
            else:
                wanted[target] = wanted[target] + wanted[source].sum() * 0.01
            writes = _covered(p[target], shape)
            touches = writes | _covered(p[source], shape) if kind == "sum" else writes
            deps = [
                T[j]
                for j, (touched, written) in enumerate(before)
                if (writes & touched).any() or (written & touches).any()
            ]
            before.append((touches, writes))
            where = rng.choice([cpu, *gpu.devices, [cpu, gpu]])
            operands = {"output" if kind == "output" else "inout": [p[target]]}
            if kind == "sum":
                operands["input"] = [p[source]]
            uses.append([(name, _covered(x, shape), x.__parla_operand__()[2]) for name, (x,) in operands.items()])

            @spawn(T[i], deps, placement=where, **operands)
            def body():
                if kind == "inout":
                    x = p[target].array
                    x *= 0.5
                    x += c
                elif kind == "output":
                    p[target] = c
                else:
                    p[target] += p[source].array.sum() * 0.01
                return get_current_context().device

            tasks.append(body)
            if disturbed and rng.random() < 0.2:
                T.wait(20)
                rng.choice([p.evict_all, lambda: p.evict(gpu(0)), lambda: p[source].sum(), lambda: p.array])()
        T.wait(20)
        if disturbed and rng.random() < 0.5:
            assert numpy.allclose(p, wanted)
    if not disturbed:
        places = _Places(shape, a.itemsize)
        for task, operands in zip(tasks, uses, strict=True):
            device = task.result()
            memory = "host" if device.architecture is cpu else f"gpu:{device.index}"
            for name, box, exact in operands:
                if name != "output" or not exact:
                    places.fetch(memory, box)
            for name, box, _ in operands:
                if name != "input":
                    places.write(memory, box)
        places.fetch("host", numpy.ones(shape, bool))
        assert {name: _moved(memory) for name, memory in memories(rt).items() if _moved(memory)} == {
            name: least for name, least in places.least.items() if least
        }, f"seed {seed}"
    assert rt.stats()["failed"] == 0
    assert numpy.allclose(a, wanted), f"seed {seed}"
    for memory in rt.stats()["memories"][1:]:
        assert memory["used"] == 0, memory


@pytest.mark.parametrize("n_gpus", [1, 2, 3, 4])
def test_random_programs_with_overlapping_slices(n_gpus):
    with configured(PARLA_SIM_GPUS=str(n_gpus)):
        for seed in range(30):
            _run_random_program(1000 * n_gpus + seed)


@pytest.mark.parametrize("n_gpus", [1, 2, 3, 4])
def test_no_byte_moves_that_need_not(n_gpus):
    with configured(PARLA_SIM_GPUS=str(n_gpus)):
        for seed in range(30):
            _run_random_program(1000 * n_gpus + seed, disturbed=False)


@pytest.mark.parametrize("whole", [False, True], ids=["", "whole"])
@pytest.mark.parametrize("n_gpus", range(1, 9))
def test_jacobi_moves_halos_only(n_gpus, whole):
    """Also where each GPU has had all of both grids before, and so has room for more than it needs."""
    n, m, steps = 66, 10, 6
    start = numpy.random.default_rng(n_gpus).random((n, m))
    wanted = start.copy()
    for _ in range(steps):
        wanted[1:-1, 1:-1] = (wanted[:-2, 1:-1] + wanted[2:, 1:-1] + wanted[1:-1, :-2] + wanted[1:-1, 2:]) / 4
    buffers = start.copy(), start.copy()
    grids = [asarray(buffers[0], name="even"), asarray(buffers[1], name="odd")]
    bounds = [1 + (n - 2) * k // n_gpus for k in range(n_gpus + 1)]
    row = m * 8
    with configured(PARLA_SIM_GPUS=str(n_gpus)):
        with Parla(workers=2) as rt:
            T, before = TaskSpace("J"), []
            if whole:
                before = [spawn(placement=gpu(k), input=grids)(lambda: None) for k in range(n_gpus)]
            for step in range(steps):
                old, new = grids[step % 2], grids[(step + 1) % 2]
                for k in range(n_gpus):
                    first, last = bounds[k], bounds[k + 1]
                    near = [T[step - 1, j] for j in range(max(0, k - 1), min(n_gpus, k + 2))] if step else before

                    @spawn(
                        T[step, k], near, placement=gpu(k), input=[old[first - 1 : last + 1]], output=[new[first:last]]
                    )
                    def sweep():
                        x, y = old[first - 1 : last + 1].array, new[first:last].array
                        y[:, 1:-1] = (x[:-2, 1:-1] + x[2:, 1:-1] + x[1:-1, :-2] + x[1:-1, 2:]) / 4
                        y[:, 0], y[:, -1] = x[1:-1, 0], x[1:-1, -1]

            T.wait(20)
            found = memories(rt)
            for k in range(n_gpus):
                sources = dict(found[f"gpu:{k}"]["bytes_from"])
                own = bounds[k + 1] - bounds[k]
                # What it starts from with its halos; the outermost halos stay as they are, in both grids.
                edges = (k == 0) + (k == n_gpus - 1)
                assert sources.pop("host") == (2 * n if whole else own + 2 + edges) * row
                for neighbour in (k - 1, k + 1):
                    if 0 <= neighbour < n_gpus:
                        assert sources.pop(f"gpu:{neighbour}") == (steps - 1) * row
                # Within a GPU, what it wrote is joined with its new halos, unless that is one copy already.
                assert sources.pop(f"gpu:{k}") <= (0 if whole else 2 * own * row)
                assert not any(sources.values()), f"gpu:{k} got more: {sources}"
            assert found["host"]["copies"] == 0
        assert numpy.allclose(buffers[steps % 2], wanted)
