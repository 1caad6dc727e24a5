"""Files of task graphs: ``.gph`` as Parla 0.2 and 0.3 wrote them.

Version 0.2: the first line has the element counts of the data blocks, separated by commas; then a task a line::

    id | us, 1/vcus, location, GIL accesses, us per GIL access | dependency : dependency | in : out : inout

An id is one or more integers; ``us`` is the time without the GIL; a location is 0 (CPU), 1 (any GPU), 2 (either), 3, 4, ... (GPU 0, 1, ...).

Version 0.3: the first line is ``{size : location}, ...``; then a task a line::

    id | {targets : us, fraction, GIL accesses, GIL fraction, memory}, ... | dependency : dependency | read : write : readwrite

An id is one or more integers or ``('Space', index)``; a location -2 (anywhere), -1 (CPU), 0 (any GPU), 1, 2, ... (GPU 0, 1, ...).

In both, the last parts of a line may be missing, and empty lines and what follows a ``#`` mean nothing.
"""

from __future__ import annotations

import os
import re
from ast import literal_eval
from collections.abc import Callable, Iterable
from pathlib import Path

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
    check_task,
)

__all__ = ["dumps", "loads", "read", "write"]

VERSIONS = ("0.2", "0.3")
_BRACES = re.compile(r"\{([^{}]*)\}")


def read(path: str | os.PathLike[str]) -> Graph:
    """The graph in a file of either version.

    Raises:
        GraphError: a line can't be understood; the text has the file, the line and what was expected.
        OSError: the file can't be read.
    """
    path = Path(path)
    try:
        text = path.read_text()
    except UnicodeDecodeError as error:
        raise GraphError(f"{path}: not a text file: {error}") from None
    return loads(text, name=str(path))


def write(graph: Graph, path: str | os.PathLike[str], version: str = "0.3") -> None:
    """Write a graph to a file.

    Raises:
        GraphError: it can't be expressed in this version.
        OSError: the file can't be written.
    """
    Path(path).write_text(dumps(graph, version))


def loads(text: str, name: str = "<string>") -> Graph:
    """The graph in a text of either version; `name` stands for its file in errors.

    Raises:
        GraphError: a line can't be understood.
    """
    lines = text.splitlines()
    if not lines:
        raise GraphError(f"{name}: empty; the first line of a graph is about its data")
    if lines[0].lstrip().startswith("{"):
        parse_data, parse_work = _data_03, _work_03
    else:
        parse_data, parse_work = _data_02, _work_02
    graph = Graph()
    numbers: dict[TaskKey, int] = {}
    number = 1
    try:
        graph.data = parse_data(_content(lines[0]))
        for number, line in enumerate(lines[1:], start=2):
            if content := _content(line):
                task = _task(content, parse_work)
                if task.key in graph.tasks:
                    raise GraphError(f"{task.key} was on line {numbers[task.key]} already")
                graph.tasks[task.key] = task
                numbers[task.key] = number
        for task in graph:
            number = numbers[task.key]
            check_task(task, graph)
    except GraphError as error:
        raise GraphError(f"{name}:{number}: {error}") from None
    try:
        graph.order()
    except GraphError as error:
        raise GraphError(f"{name}: {error}") from None
    return graph


def dumps(graph: Graph, version: str = "0.3") -> str:
    """A graph as text.

    Raises:
        GraphError: it can't be expressed in this version.
        ValueError: there is no such version.
    """
    if version not in VERSIONS:
        raise ValueError(f"no version {version!r} of .gph files; there are {', '.join(VERSIONS)}")
    graph.check()
    new = version == "0.3"
    if new:
        data = ", ".join(f"{{{block.size} : {block.location}}}" for block in graph.data) or "{}"
    else:
        for i, block in enumerate(graph.data):
            if block.location != CPU:
                raise GraphError(f"data block {i} is not on the CPU at first; version 0.2 can't say that")
        data = ", ".join(str(block.size) for block in graph.data)
    lines = [data]
    for task in graph:
        parts = [
            _show_key(task.key, "T", new),
            _show_work_03(task) if new else _show_work_02(task),
            " : ".join(_show_key(key, task.key.space, new) for key in task.dependencies),
            " : ".join(", ".join(map(str, role)) for role in (task.reads, task.writes, task.readwrites)),
        ]
        lines.append(" | ".join(parts))
    return "\n".join(lines) + "\n"


def _content(line: str) -> str:
    return line.partition("#")[0].strip()


def _task(line: str, parse_work: Callable[[str], dict[Target, Work]]) -> GraphTask:
    parts = [part.strip() for part in line.split("|")]
    if not 2 <= len(parts) <= 4:
        raise GraphError(f"expected 'id | cost | dependencies | data', got {len(parts)} part{'s'[: len(parts) != 1]}")
    parts += [""] * (4 - len(parts))
    key = _key(parts[0], "T")
    dependencies = tuple(_key(word, key.space) for word in _split(parts[2], ":") if word)
    roles = [_blocks(role) for role in _split(parts[3], ":")]
    if len(roles) > 3:
        raise GraphError(f"data: expected 'read : write : readwrite', got {len(roles)} parts")
    roles += [()] * (3 - len(roles))
    return GraphTask(key, parse_work(parts[1]), dependencies, *roles)


def _key(text: str, space: str) -> TaskKey:
    if not text:
        raise GraphError("a task without a name")
    try:
        value = literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise GraphError(f"{text!r} is not a task's name: expected integers or ('Space', index)") from None
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str):
        space, value = value
        if not space.isidentifier():
            raise GraphError(f"{space!r} can't name a space of tasks")
    index = value if isinstance(value, tuple) else (value,)
    if not index or not all(type(i) is int and i >= 0 for i in index):
        raise GraphError(f"{text!r} is not a task's name: expected integers from 0 or ('Space', index)")
    return TaskKey(index, space)


def _blocks(text: str) -> tuple[int, ...]:
    return tuple(_integer(word, "a data block") for word in _split(text, ",") if word)


def _split(text: str, separator: str) -> list[str]:
    return [word.strip() for word in text.split(separator)]


def _integer(text: str, what: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise GraphError(f"{what}: expected an integer, got {text!r}") from None


def _decimal(text: str, what: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise GraphError(f"{what}: expected a number, got {text!r}") from None


def _data_02(line: str) -> list[DataBlock]:
    return [DataBlock(_integer(word, "element counts of the data blocks")) for word in _split(line, ",") if word]


def _data_03(line: str) -> list[DataBlock]:
    blocks = []
    for inside in _in_braces(line, "'{size : location}, ...'"):
        if not inside:  # {}: no data
            continue
        size, colon, location = inside.partition(":")
        if not colon:
            raise GraphError(f"data: expected '{{size : location}}', got '{{{inside}}}'")
        blocks.append(DataBlock(_integer(size.strip(), "size"), _integer(location.strip(), "location")))
    return blocks


def _in_braces(text: str, expected: str) -> list[str]:
    """What is inside each of several pairs of braces with commas between them."""
    if not re.fullmatch(r"\s*\{[^{}]*\}(\s*,\s*\{[^{}]*\})*\s*,?\s*", text):
        raise GraphError(f"expected {expected}, got {text!r}")
    return [inside.strip() for inside in _BRACES.findall(text)]


def _work_02(text: str) -> dict[Target, Work]:
    words = _split(text, ",")
    if len(words) != 5:
        raise GraphError(f"cost: expected 'us, 1/vcus, location, GIL accesses, GIL us', got {len(words)} numbers")
    free_us, per_device = _decimal(words[0], "us"), _decimal(words[1], "1/vcus")
    location = _integer(words[2], "location")
    accesses, gil_us = _integer(words[3], "GIL accesses"), _decimal(words[4], "GIL us")
    if per_device < 0 or 0 < per_device < 1:
        raise GraphError(f"1/vcus: expected 1 or more, or 0 for no claim, got {words[1]}")
    if min(free_us, accesses, gil_us) < 0:
        raise GraphError(f"cost: a negative time or count in {text!r}")
    if location < 0:
        raise GraphError(f"location: expected 0 (CPU), 1 (any GPU), 2 (either), 3, 4, ... (GPU 0, 1, ...), got {location}")
    time_us = _rounded(free_us + accesses * gil_us)
    fraction = accesses * gil_us / time_us if time_us else 0.0
    target = ({0: CPU, 1: ANY_GPU, 2: ANYWHERE}.get(location, location - 2),)
    return {target: Work(time_us, 1 / per_device if per_device else 0.0, accesses, fraction)}


def _work_03(text: str) -> dict[Target, Work]:
    work: dict[Target, Work] = {}
    expected = "{targets : us, fraction, GIL accesses, GIL fraction, memory}"
    for inside in _in_braces(text, f"'{expected}, ...'"):
        targets, colon, numbers = inside.partition(":")
        words = _split(numbers, ",")
        if not colon or len(words) != 5:
            raise GraphError(f"cost: expected '{expected}', got '{{{inside}}}'")
        target = tuple(_integer(word, "targets") for word in _split(targets.strip().strip("()"), ",") if word)
        if target in work:
            raise GraphError(f"cost: the target {target} is there twice")
        work[target] = Work(
            _decimal(words[0], "us"),
            _decimal(words[1], "fraction"),
            _integer(words[2], "GIL accesses"),
            _decimal(words[3], "GIL fraction"),
            _integer(words[4], "memory"),
        )
    return work


def _show_key(key: TaskKey, space: str, new: bool) -> str:
    """The name of a task where an index alone means one in `space`."""
    index = ", ".join(map(str, key.index))
    if not new and key.space != "T":
        raise GraphError(f"{key}: version 0.2 has no names for spaces of tasks")
    if key.space == space:
        return index
    return f"('{key.space}', ({index}{',' * (len(key.index) == 1)}))"


def _show_work_03(task: GraphTask) -> str:
    def one(target: Target, work: Work) -> str:
        locations = str(target[0]) if len(target) == 1 else f"({', '.join(map(str, target))})"
        costs = (_show(work.time_us), _show(work.vcus), str(work.gil_accesses), _show(work.gil_fraction), str(work.memory))
        return f"{{{locations} : {', '.join(costs)}}}"

    return ", ".join(one(target, work) for target, work in task.work.items())


def _show_work_02(task: GraphTask) -> str:
    if len(task.work) != 1 or any(len(target) != 1 for target in task.work):
        raise GraphError(f"{task.key}: version 0.2 can name one target only, and one cost")
    ((location,), work) = next(iter(task.work.items()))
    if work.memory:
        raise GraphError(f"{task.key}: version 0.2 can't name memory")
    if work.gil_fraction and not work.gil_accesses:
        work = Work(work.time_us, work.vcus)
    number = {CPU: 0, ANY_GPU: 1, ANYWHERE: 2}.get(location, location + 2)
    per_device = _show(1 / work.vcus) if work.vcus else "0"
    costs: Iterable[str] = (_show(work.free_us), per_device, str(number), str(work.gil_accesses), _show(work.gil_us))
    return ", ".join(costs)


def _rounded(value: float) -> float:
    """Without what binary fractions add at the far end."""
    return float(f"{value:.12g}")


def _show(value: float) -> str:
    short = f"{value:.12g}"
    return short if "e" not in short else f"{value:.15f}".rstrip("0").rstrip(".")
