"""The least that can be an operand, and what tests of native arrays ask of a runtime."""

from __future__ import annotations

import numpy as np
import pytest
from parla import Parla, _native

HOST = 0


class Memory:
    """What NumPy asks for a view of memory."""

    def __init__(self, address: int, shape: tuple[int, ...], strides: tuple[int, ...], typestr: str, keep: object):
        self.keep = keep
        data = (address, False)
        self.__array_interface__ = {"version": 3, "data": data, "shape": shape, "strides": strides, "typestr": typestr}


class Simple:
    """The least that can be an operand: an array and one box of it."""

    def __init__(self, array: np.ndarray, name: str = "a", of: Simple | None = None, region=None) -> None:
        self.array = array
        self.native = _native.Array(array, name) if of is None else of.native
        self.region = tuple((0, n) for n in array.shape) if region is None else region

    def __parla_operand__(self):
        return self.native, self.region, True

    def rows(self, start: int, stop: int) -> Simple:
        return Simple(self.array, of=self, region=((start, stop), *self.region[1:]))

    def here(self, write: bool = False) -> np.ndarray:
        """What the calling code may use of it."""
        found = self.native.access(self.region, write)
        if found is None:
            return self.array[tuple(slice(*bounds) for bounds in self.region)]
        _, address, strides, keep = found

        shape = tuple(stop - start for start, stop in self.region)
        return np.asarray(Memory(address, shape, strides, self.array.dtype.str, keep))


def one_to(n: int, name: str = "a") -> Simple:
    return Simple(np.arange(1.0, n + 1), name)


def used(rt: Parla) -> dict[str, int]:
    return {memory["name"]: memory["used"] for memory in rt.stats()["memories"]}


def copied(rt: Parla) -> dict[tuple[str, str], int]:
    memories = rt.stats()["memories"]
    return {(s, m["name"]): n for m in memories for s, n in m["bytes_from"].items() if n}


def raises_in(body, kind: type[BaseException], match: str | None = None) -> BaseException:
    """Runs a block that must raise `kind` at its end."""
    with pytest.raises(kind, match=match) as raised:
        body()
    return raised.value


class Owned(np.ndarray):
    """An array that can be watched and put into cycles."""
