"""Random programs: what a seed makes of tasks, arrays, devices and faults; NumPy says what must come of it.

A program is a list of tasks, some with children, in an order. It must compute what comes of running them in that order, one after another, a child in
the middle of its parent; the runtime is told only the order that the data needs.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy
from parla import spawn, tasks
from parla.context import get_current_context
from parla.devices import cpu, gpu
from parla.errors import DeviceOutOfMemory, PlacementError
from parla.sim import kernel

PRIME = 1009
SHAPES = [(8,), (40,), (9, 11), (5, 6, 7), (64, 3)]
LINKS = ["latency=300us,bandwidth=1GB/s", "latency=20us,bandwidth=10MB/s", "latency=5us,bandwidth=1GB/s"]


class Fails(Exception):
    """What a body raises that is to fail."""


@dataclass
class Use:
    """An operand: which part of which array, and what for. `mask`: the box it is in, which is what tasks conflict about."""

    array: int
    key: tuple
    access: str
    slot: int
    mask: numpy.ndarray

    @property
    def writes(self):
        return self.access != "input"

    def fetches(self):
        """Whether it needs what is in its box: parts with gaps do in any case."""
        exact = numpy.zeros_like(self.mask)
        exact[self.key] = True
        return self.access != "output" or bool((exact != self.mask).any())


@dataclass
class Node:
    """A task, and what came of it."""

    key: tuple
    uses: list
    value: int
    n_devices: int
    children: list = field(default_factory=list)
    places: list = field(default_factory=list)
    options: dict = field(default_factory=dict)
    deps: list = field(default_factory=list)
    coroutine: bool = False
    how: str = ""
    fails: str | None = None
    cancelled_at: int | None = None
    extra: str | None = None
    kernel_us: float = 0
    touched: list = field(default_factory=list)
    written: list = field(default_factory=list)
    n_runs: int = 0
    first_part_done: bool = False
    task: object = None

    def walk(self):
        """It and all below it."""
        yield self
        for child in self.children:
            yield from child.walk()


def random_key(rng, shape, gaps):
    """Slices (some backwards, with `gaps` some with a step) and now and then an index."""
    key = []
    for n in shape:
        start = rng.randrange(n)
        stop = rng.choice([n, rng.randrange(start + 1, n + 1)])
        step = rng.choice([2, 3, -1, -2]) if gaps and rng.random() < 0.5 else 1
        if step < 0:
            key.append(slice(stop - 1, start - 1 if start else None, step))
        else:
            key.append(start if rng.random() < 0.1 else slice(start, stop, step))
    return tuple(key)


class Program:
    """All that a seed decides. `bodies_fail`: some raise, some are cancelled; `devices_fail`: see PARLA_SIM_FAULTS; `cuda`: not for simulated GPUs."""

    def __init__(self, seed, *, bodies_fail=False, devices_fail=False, cuda=False):
        rng = self.rng = random.Random(seed)
        self.seed, self.bodies_fail, self.devices_fail, self.cuda = seed, bodies_fail, devices_fail, cuda
        self.may_fail = bodies_fail or devices_fail
        self.shapes = [rng.choice(SHAPES) for _ in range(rng.randrange(1, 5))]
        self.initial = [numpy.arange(numpy.prod(s), dtype="i8").reshape(s) for s in self.shapes]
        self.n_gpus = rng.choice([1, 2, 2, 3, 4, 8])
        self.runtime = {
            "workers": rng.choice([1, 1, 2, 2, 3, 8]),
            "policy": rng.choice(["eager", "locality", "random"]),
            "depth": rng.choice([1, 2, 2, 3]),
            "runahead": rng.choice([None, None, "blocking", "none"]),
            "trace": rng.random() < 0.6,
        }
        self.gaps, self.claims, self.kernels = (rng.random() < p for p in (0.5, 0.6, 0.4))
        self.disturbs, self.reserves, self.unequal = (rng.random() < p for p in (0.5, 0.15, 0.3))
        self.timed = rng.random() < 0.4
        self.nodes = [self._node((i,), rng.choice([0, 1, 2, 3])) for i in range(rng.choice([3, 6, 12, 25]))]
        self._order(self.nodes)
        self.all = [node for top in self.nodes for node in top.walk()]
        most = max(8, *(self._bytes(node) for node in self.all))
        every = 8 * sum(a.size for a in self.initial)
        self.capacity = rng.choice([most, most + 64, most * 3 // 2, every, 2 * every, 1 << 20])
        for node in self.all:
            if node.options.get("memory") is not None:
                node.options["memory"] = int(node.options["memory"] * max(0, self.capacity - self._bytes(node)))
        self.runtime["check"] = not self.may_fail and rng.random() < 0.4

    def _bytes(self, node):
        return 8 * sum(self.initial[a].size for a in {use.array for use in node.uses})

    def _node(self, key, depth):
        rng = self.rng
        node = Node(key, [], rng.randrange(PRIME), rng.choice([1, 1, 1, 1, 2]))
        for _ in range(rng.choice([0, 1, 1, 2, 2, 3])):
            a = rng.randrange(len(self.shapes))
            part = random_key(rng, self.shapes[a], self.gaps)
            mask = numpy.zeros(self.shapes[a], bool)
            mask[part] = True
            mask[tuple(slice(w.min(), w.max() + 1) for w in numpy.nonzero(mask))] = True
            new = Use(a, part, rng.choice(["input", "inout", "inout", "output"]), rng.randrange(node.n_devices), mask)
            # On two devices nobody says which of two uses of the same elements comes first.
            if not any(o.array == a and o.slot != new.slot and (o.writes or new.writes) for o in node.uses):
                node.uses.append(new)
        node.coroutine, node.how = rng.random() < 0.5, rng.choice(["each", "together"])
        if depth and rng.random() < 0.4:
            node.children = [self._node((*key, i), depth - 1) for i in range(rng.randrange(1, 4))]
        gpus = range(self.n_gpus)
        if node.n_devices == 1:
            one = rng.choice(gpus)
            node.places = rng.choice([["cpu"], [one], [one], ["gpu"], ["cpu", "gpu"], rng.sample(gpus, min(2, self.n_gpus)), []])
        else:
            pairs = [(rng.choice(gpus), "cpu"), ("cpu", rng.choice(gpus))]
            if self.n_gpus > 1:
                pairs += [tuple(rng.sample(gpus, 2)), tuple(rng.sample(gpus, 2)), ("gpu", "gpu")]
            node.places = rng.sample(pairs, rng.choice([1, 1, 2]))
        if self.claims:
            node.options = {"vcus": rng.choice([None, None, 0.1, 0.5, 1]), "memory": rng.choice([None, None, 0.3, 0.9, 1])}
        if rng.random() < 0.3:
            node.options["priority"] = rng.randrange(-3, 4)
        if rng.random() < 0.3:
            node.options["runahead"] = rng.choice(["none", "blocking", "nonblocking"])
        if not any(use.writes for use in node.uses) and not node.children and rng.random() < 0.3:
            node.options["retries"] = rng.randrange(1, 3)
        if self.bodies_fail and rng.random() < 0.1:
            node.fails = rng.choice(["before", "half-way", "after"])
        if self.bodies_fail and rng.random() < 0.05:
            node.cancelled_at = key[0] + rng.randrange(30)
        if rng.random() < 0.1:
            node.extra = rng.choice(["evict", "evict all", "child"])
        if self.kernels and not self.cuda and rng.random() < 0.5:
            node.kernel_us = rng.choice([1, 50, 1000])
        return node

    def _order(self, nodes):
        """What each comes after: those before it among its siblings that it conflicts with, itself or below."""
        for node in nodes:
            self._order(node.children)
            node.touched, node.written = ([numpy.zeros(s, bool) for s in self.shapes] for _ in range(2))
            for use in (use for one in node.walk() for use in one.uses):
                node.touched[use.array] |= use.mask
                if use.writes:
                    node.written[use.array] |= use.mask
            both = ((c.touched if use.writes else c.written)[use.array] & use.mask for c in node.children for use in node.uses)
            # Who waits for them one after another uses its arrays in between: that is a race if they do, too.
            if any(common.any() for common in both):
                node.how = "together"
        for i, node in enumerate(nodes):
            for before in nodes[:i]:
                pairs = [*zip(node.written, before.touched, strict=True), *zip(node.touched, before.written, strict=True)]
                if any((mine & theirs).any() for mine, theirs in pairs) or self.rng.random() < 0.02:
                    node.deps.append(before)

    def environment(self):
        """The machine, and what goes wrong with it."""
        rng = self.rng
        if self.cuda:
            return {"PARLA_VIRTUAL_GPUS": str(self.n_gpus), "PARLA_GPU_MEM": str(self.capacity)}
        sizes = [rng.choice([1, 0.6, 0.1]) if self.unequal and not self.reserves else 1 for _ in range(self.n_gpus)]
        memory = ",".join(str(max(64, int(size * self.capacity))) for size in sizes)
        env = {"PARLA_SIM_GPUS": str(self.n_gpus), "PARLA_SIM_GPU_MEM": memory}
        if self.timed:
            env |= {"PARLA_SIM_TIME": "1", "PARLA_SIM_LINK": rng.choice(LINKS)}
        if self.devices_fail:
            rules = []
            for _ in range(rng.randrange(1, 4)):
                kind = rng.choice(["alloc", "copy", "launch", "lose"])
                later = "+" if kind != "lose" and rng.random() < 0.25 else ""
                rules.append(f"gpu:{rng.choice(['*', *range(self.n_gpus)])} {kind}={rng.randrange(1, 30)}{later}")
            env["PARLA_SIM_FAULTS"] = "; ".join(rules)
        return env

    def expect(self, arrays, doubtful):
        """Runs it on NumPy arrays, all but what failed, and checks the values of its tasks. `doubtful`: elements that need not have a value then."""
        for node in self.nodes:
            self._expect(arrays, doubtful, node)

    def _expect(self, arrays, doubtful, node):
        """What a body returns: the sum of what it read, and of what its children did."""
        failed = node.task.exception() is not None
        if failed and not node.n_runs:
            return 0  # nor did its children
        total = 0
        if not failed or node.first_part_done:
            for use in node.uses:
                assert not (use.fetches() and doubtful[use.array][use.mask].any()), f"{node.task} read what nobody knows"
                if use.writes:
                    doubtful[use.array][use.mask] = False
            total += compute(node, 0, lambda use: arrays[use.array][use.key], lambda use, value: _set(arrays, use, value))
        total += sum(self._expect(arrays, doubtful, child) for child in node.children if child.task is not None)
        if not failed and node.children:
            total += compute(node, 1, lambda use: arrays[use.array][use.key], lambda use, value: _set(arrays, use, value))
        if failed:
            for use in node.uses:
                if use.writes:
                    doubtful[use.array][use.mask] = True
        elif not self.may_fail:
            assert node.task.result() == total, f"{node.task} gave {node.task.result()}, not {total}"
        return total


def _set(arrays, use, value):
    arrays[use.array][use.key] = value


def compute(node, part, read, write):
    """What a body does before its children (part 0) and after them (1)."""
    total = 0
    for use in node.uses:
        if use.access == "input":
            total += int(read(use).sum())
        elif use.access == "inout":
            write(use, (read(use) * 3 + node.value + total + part) % PRIME)
        else:
            size = use.mask.shape
            ramp = numpy.arange(numpy.prod(size), dtype="i8").reshape(size)[use.key]
            write(use, (ramp + node.value + total + part) % PRIME)
    return total


class Running:
    """A program on its way: its PArrays, and the ids of its tasks."""

    def __init__(self, program, arrays, space):
        self.program, self.arrays, self.space = program, arrays, space

    def spawn(self, node):
        """Spawns a task; one that has no room where it is to run goes to the CPU."""
        part = [self.arrays[use.array][use.key] for use in node.uses]
        options = dict(node.options)
        places = [_place(place) for place in node.places] or None
        for there in (places, places, cpu):
            uses = {}
            for use, p in zip(node.uses, part, strict=True):
                uses.setdefault(use.access, []).append((p, use.slot) if node.n_devices > 1 and there is not cpu else p)
            try:
                deps = [self.space[dep.key] for dep in node.deps]
                node.task = spawn(self.space[node.key], deps, placement=there, **uses, **options)(self._body(node, part))
                return node.task
            except (DeviceOutOfMemory, PlacementError):
                options.pop("memory", None)
        raise AssertionError(f"{node.key} has no place at all")

    def _body(self, node, parts):
        def local(use):
            at = next(i for i, mine in enumerate(node.uses) if mine is use)
            context = get_current_context()
            if len(context.devices) == 1:
                return parts[at].array
            with context[use.slot]:
                return parts[at].array

        def read(use):
            x = local(use)
            return x.copy_to_host() if hasattr(x, "copy_to_host") else numpy.array(x)

        def write(use, value):
            local(use)[...] = value
            if node.fails == "half-way":
                raise Fails

        def begin():
            node.n_runs += 1
            if node.fails == "before" or node.options.get("retries") and node.n_runs == 1 and node.value % 2:
                raise Fails
            if node.kernel_us:
                kernel(node.kernel_us)
            total = compute(node, 0, read, write)
            node.first_part_done = True
            children = [self.spawn(child) for child in node.children]
            return total, [*children, spawn(placement=cpu)(int)] if node.extra == "child" else children

        def end(total):
            if parts and node.extra == "evict":
                parts[0].evict(gpu(0))
            elif parts and node.extra == "evict all":
                parts[0].evict_all()
            if node.children:
                total += compute(node, 1, read, write)
            if node.fails == "after":
                raise Fails
            return total

        def plain():
            total, children = begin()
            if node.how == "together":
                tasks(children).wait()
            return end(total + sum(child.result() for child in children))

        async def coroutine():
            total, children = begin()
            if node.how == "together":
                await tasks(children)
            for child in children:
                total += child.result() if node.how == "together" else await child
            return end(total)

        return coroutine if node.coroutine else plain


def _place(where):
    if isinstance(where, tuple):
        return tuple(map(_place, where))
    return {"cpu": cpu, "gpu": gpu}[where] if isinstance(where, str) else gpu(where)
