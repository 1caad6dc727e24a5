"""Were any bytes moved that need not be? An oracle that shares no code with the runtime.

With a trace the runtime writes down what happened to arrays: who asked for which box where, what was written, given up and lost, and which
copies were made. From all but the copies this computes, element by element, how often each has to travel at least:

* A task that reads a box in a memory, or leaves parts of it as they were, needs there what is newest. What the memory does not have yet must
  come, once. An `output` that covers its box needs nothing. After a wait a task needs all of its boxes: it has been at work on them.
* The host's code needs at home what it reads, and not what it is about to replace.
* When a copy is given up, what is newest there and nowhere else must go home; when the block ends, whatever is not at home.
* A write leaves the newest in one place. What nobody knows any more cannot travel.

That is the least for the places where tasks ran, the order in which they did, and the copies that were given up. The copies that were made have to come
to as many bytes for each array and memory. What failed may be made once more; and what was copied ahead for a task that then ran elsewhere
or not at all, or was evicted by the program before the task came, is not held against the runtime.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from parla import Parla, _native

Happening = Mapping[str, Any]
HOME = 0


def find_waste(history: Iterable[Happening], stats: Mapping[str, Any]) -> list[str]:
    """One sentence per array and memory to which not as much was moved as had to be.

    Args:
        history: what happened to arrays, in order.
        stats: the runtime's own counts, from `Parla.stats`; no copy that it counts may be missing.
    """
    by_array: dict[int, list[Happening]] = {}
    for one in history:
        by_array.setdefault(one["array"], []).append(one)
    found: list[str] = []
    made: Counter[tuple[str, str]] = Counter()
    for happenings in by_array.values():
        array = _Array(happenings, all_ran=not stats["cancelled"])
        for one in happenings:
            array.take(one)
        found += array.verdict()
        made.update(array.made)
    for memory in stats.get("memories", ()):
        for source, counted in memory["bytes_from"].items():
            known = made[source, memory["name"]]
            if known < counted:
                found.append(f"{counted} bytes were counted from {source} to {memory['name']}, the record has {known}")
    return found


def watch(patch: Callable[[object, str, object], object] = setattr) -> list[str]:
    """From now on runtimes with GPUs keep the record; what it shows at their ends comes into the list that this returns."""
    make, leave, found = _native.Runtime, Parla.__exit__, []

    def recording(*args: Any, trace: bool = False, **options: Any) -> _native.Runtime:
        return make(*args, trace=trace or len(_native.machine()["memories"]) > 1, **options)

    def checked(self: Parla, *exc: Any) -> bool | None:
        try:
            return leave(self, *exc)
        finally:
            if self._native is not None:
                found.extend(find_waste(self._native.data_history(), self.stats()))

    patch(_native, "Runtime", recording)
    patch(Parla, "__exit__", checked)
    return found


class _Array:
    """Where the newest elements of an array have to be, and where they are; what had to be moved for that, and what was."""

    def __init__(self, happenings: list[Happening], all_ran: bool) -> None:
        import numpy

        first = happenings[0]
        self._name, shape = first["name"], first["shape"]
        self._all_ran = all_ran
        # Elements between which no box begins or ends have the same fate.
        edges = [sorted({0, n, *(edge for one in happenings for edge in one["region"][i])}) for i, n in enumerate(shape)]
        self._index = [{edge: at for at, edge in enumerate(those)} for those in edges]
        lengths = [numpy.diff(numpy.array(those, dtype=numpy.int64)) for those in edges]
        self._bytes_of = numpy.array(first["item"], dtype=numpy.int64)
        for of_axis in lengths:
            self._bytes_of = self._bytes_of[..., None] * of_axis
        self._none = numpy.zeros(self._bytes_of.shape, bool)
        self._memory = {HOME: "host"}
        self._needed = {HOME: ~self._none}
        """By instance: what is newest and has to be there."""
        self._there = {HOME: ~self._none}
        """By instance: what is newest and is there."""
        self._ahead: dict[int, Any] = {}
        """By instance: what was copied there and nobody has needed yet."""
        self._excused: dict[int, Any] = {}
        """By instance: what of that may turn out not to be needed."""
        self._evicted: set[str] = set()
        """Memories that the program has evicted it from, which may still be going on."""
        self._guess: int | None = None
        """Where copies go that are made on a guess."""
        self._excess: Counter[str] = Counter()
        self._least: Counter[str] = Counter()
        self._may_come_again: Counter[str] = Counter()
        self._less_may_do = False
        self._doubts: dict[str, Counter[str]] = {}
        self.made: Counter[tuple[str, str]] = Counter()
        """Bytes copied, by the memories they came from and went to."""

    def take(self, one: Happening) -> None:
        """What happened next."""
        at, memory = one["instance"], one["memory"]
        box = self._none.copy()
        box[tuple(slice(index[start], index[stop]) for index, (start, stop) in zip(self._index, one["region"]))] = True
        if one["event"] != "evicted":
            self._memory[at] = memory
        if one["event"] != "copied":
            self._guess = None
        match one["event"]:
            case "asked":
                if one["again"] or one["access"] != "output" or not one["exact"]:
                    self._need(at, box)
            case "reached":
                if not one["overwrites"]:
                    self._need(at, box)
            case "written":
                self._outdate(box, "not needed before others were written")
                self._needed[at] = self._of(self._needed, at) | box
                self._there[at] = self._of(self._there, at) | box
            case "spoilt":
                self._outdate(box, "not needed before they were spoilt")
            case "failed":
                self._may_come_again[memory] += self._bytes(box)
                for those in (self._needed, self._there, self._ahead):
                    those[at] = self._of(those, at) & ~box
            case "given up":
                if memory in self._evicted:  # what was copied ahead may have to come again
                    self._excused[at] = ~self._none
                self._doubt(at, self._of(self._ahead, at), "not needed before the copy was given up")
                others = self._anywhere(but=at)
                self._need(HOME, self._of(self._needed, at) & ~others)
                self._leave(at)
            case "evicted":
                there = {at for at, of in self._memory.items() if of == memory and at in self._needed}
                elsewhere = self._none.copy()
                for other in self._needed.keys() - there:
                    elsewhere |= self._needed[other]
                self._need(HOME, ~elsewhere)
                self._evicted.add(memory)
            case "written back":
                self._need(HOME, self._of(self._needed, at) & ~self._anywhere(but=at))
            case "lost":
                self._leave(at)
            case "ahead":
                self._guess = None if one["sure"] and self._all_ran else at
            case "called home":
                self._need(HOME, ~self._none)
            case "refused":
                self._less_may_do = True
            case "copied":
                # A runtime before this one may have left copies, on their way home: then less is enough.
                self._less_may_do |= one["from"] not in self._memory
                self._copied(one["source"], at, box)
            case "dropped":
                pass
            case unknown:
                raise AssertionError(f"unknown event {unknown!r}")

    def verdict(self) -> list[str]:
        """Whether what was moved to each memory had to be."""
        moved: Counter[str] = Counter()
        for (source, memory), n in self.made.items():
            if source != memory:
                moved[memory] += n
        for at, ahead in self._ahead.items():
            self._doubt(at, ahead, "never needed")
        found = []
        for memory in sorted(moved.keys() | self._least.keys()):
            least, there = self._least[memory], moved[memory]
            if there > least + self._may_come_again[memory] + self._excess[memory]:
                why = ", ".join(f"{n} {what}" for what, n in self._doubts.get(memory, {}).items())
                found.append(f"{self._name}: {there} bytes were moved to {memory}, where {least} had to be: {why}")
            elif there < least and not self._less_may_do:
                found.append(f"{self._name}: {there} bytes were moved to {memory}, where {least} had to be")
        return found

    def _need(self, at: int, box: Any) -> None:
        """What is newest of a box has to be in an instance: what its memory does not have has to come."""
        wanted, has = self._anywhere() & box, self._none.copy()
        for other, those in self._needed.items():
            if self._memory[other] == self._memory[at]:
                has |= those
        self._least[self._memory[at]] += self._bytes(wanted & ~has)
        self._needed[at] = self._of(self._needed, at) | wanted
        for other in self._ahead:
            if self._memory[other] == self._memory[at]:
                self._ahead[other] = self._ahead[other] & ~wanted

    def _copied(self, source: str, at: int, box: Any) -> None:
        self.made[source, self._memory[at]] += self._bytes(box)
        if source == self._memory[at]:
            return
        there = self._of(self._there, at)
        self._doubt(at, box & there, "were there")
        self._there[at] = there | box
        self._ahead[at] = self._of(self._ahead, at) | box & ~self._of(self._needed, at)
        guessed = self._of(self._excused, at)
        self._excused[at] = guessed | box if self._guess == at else guessed & ~box

    def _outdate(self, box: Any, why: str) -> None:
        for at, ahead in self._ahead.items():
            self._doubt(at, ahead & box, why)
        for those in (self._needed, self._there, self._ahead):
            for at in those:
                those[at] = those[at] & ~box

    def _leave(self, at: int) -> None:
        for those in (self._needed, self._there, self._ahead):
            those.pop(at, None)

    def _doubt(self, at: int, box: Any, why: str) -> None:
        guessed = box & self._of(self._excused, at)
        self._excess[self._memory[at]] += self._bytes(guessed)
        if n := self._bytes(box & ~guessed):
            self._doubts.setdefault(self._memory[at], Counter())[why] += n

    def _anywhere(self, but: int | None = None) -> Any:
        found = self._none.copy()
        for at, those in self._needed.items():
            if at != but:
                found |= those
        return found

    def _of(self, those: dict[int, Any], at: int) -> Any:
        return those.get(at, self._none)

    def _bytes(self, box: Any) -> int:
        return int(self._bytes_of[box].sum())
