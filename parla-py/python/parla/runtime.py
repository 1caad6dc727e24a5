"""The runtime object: ``with Parla(): ...``."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterable
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from parla import _native, _options, device
from parla import cpu as _cpu
from parla import trace as _trace
from parla._native import Task, TaskID
from parla.device import Architecture, Device
from parla.devices import check_environment
from parla.errors import DeadlockError, ParlaError, SchedulerException

if TYPE_CHECKING:
    from parla.environments import TaskEnvironment

__all__ = ["Parla"]

_hooks_installed = False


class _ClassAsRuntime(type):
    """Lets ``with Parla:`` use the class itself, as the first version's documentation writes it."""

    def __enter__(cls) -> Parla:
        opened = _opened_by_class()
        opened.append(cls())
        return opened[-1].__enter__()

    def __exit__(
        cls, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return _opened_by_class().pop().__exit__(kind, error, traceback)


_by_class = threading.local()


def _opened_by_class() -> list[Parla]:
    """The runtimes that this thread opened with ``with Parla:``, the innermost last."""
    if not hasattr(_by_class, "opened"):
        _by_class.opened = []
    opened: list[Parla] = _by_class.opened
    return opened


class Parla(metaclass=_ClassAsRuntime):
    """A runtime: tasks are spawned inside its ``with`` block, whose end waits for all of them.

    Any number of runtimes may follow each other; each thread may have its own.

    Args:
        environments: what is set up around the bodies of tasks, by device and tags: `parla.environments.TaskEnvironment`.
        workers: how many bodies run at the same time; default: ``PARLA_NUM_THREADS``, else the physical cores that this process may use
            (affinity and cgroup limits respected).
        n_workers: 0.3's name for `workers`.
        policy: who decides where a task runs that may run in several places: a name, with options as in ``"locality:window=32"``.
            Default: ``PARLA_POLICY``, else ``locality``. ``PARLA_POLICY=help`` prints what there is and ends the program.
        depth: how many tasks a device has in preparation beside the one that runs, so that copies of data overlap with work.
        runahead: when dependents of tasks that do not say (``spawn(runahead=...)``) go on: "nonblocking" (the default), "blocking", "user" or "none".
        devices: no task runs on other devices than these (devices, architectures); what asks for others is a `PlacementError`.
        dev_config_file: a YAML file that describes the machine: CPUs, simulated GPUs, links (`parla.devices`). It is that of this process
            from when the block is entered, also after its end.
        trace: True keeps a record of everything that happens (`trace`); a path also writes it there at the end, for Perfetto or Chrome.
            Default: ``PARLA_TRACE``.
        check: look for mistakes in the use of arrays, which costs time and memory. At the end of the block tasks that use the same elements in no
            order are a `RaceError` (`parla.races` says what makes an order); if something else has gone wrong, a note on that. A body that changes
            an ``input``, past its read-only view, fails with an `InputError` (not seen in the memory of CUDA GPUs), and what it changed is
            not read any more, unless it is valid elsewhere; one that uses an array from outside of it which it does not name fails also on CPUs. The core's own invariants are checked, too. Default: ``PARLA_CHECK``.
        sig_type: the signal that interrupts the block as Ctrl-C does.

    Raises:
        TypeError, ValueError, PlacementError, PolicyError: an argument that cannot be used, named in the message.
    """

    def __init__(
        self,
        environments: Iterable[TaskEnvironment] | TaskEnvironment | None = None,
        *,
        workers: int | None = None,
        n_workers: int | None = None,
        policy: str | None = None,
        depth: int = 2,
        runahead: str | None = None,
        devices: Iterable[Architecture | Device] | Architecture | Device | None = None,
        dev_config_file: str | os.PathLike[str] | None = None,
        trace: bool | str | os.PathLike[str] | None = None,
        check: bool | None = None,
        sig_type: int = signal.SIGINT,
    ) -> None:
        """Check the arguments; the workers start when the block is entered."""
        if workers is not None and n_workers is not None:
            raise TypeError("workers and n_workers are two names for the same argument")
        self._workers = _options.count(workers if n_workers is None else n_workers)
        self._policy = _options.policy(policy)
        self._depth = _options.depth(depth)
        self._runahead = runahead
        self._environments: Any = None
        devices = _options.devices(devices, may_come=dev_config_file is not None)
        if devices is not None and dev_config_file is None:
            others = (d for d in device.get_all_devices() if d not in devices and d.architecture not in devices)
            devices = None if next(others, None) is None else devices
        if environments is not None or devices is not None:
            from parla.environments import _Terms

            self._environments = _Terms.check(environments, devices)
        self._config_file = _options.file(dev_config_file)
        if self._config_file is None:
            check_environment()
        self._check = _options.check(check)
        self._trace_path, self._tracing = _options.trace(trace)
        try:
            self._signal = signal.Signals(sig_type)
        except ValueError:
            raise ValueError(f"sig_type: {sig_type!r} is no signal") from None
        self._native: _native.Runtime | None = None
        self._open = False
        self._handler: Any = None
        self._watchdog: _Watchdog | None = None
        self._last_trace: list[dict[str, Any]] = []
        self._last_stats: dict[str, Any] = {}

    def __enter__(self) -> Parla:
        """Start the workers; this thread spawns into this runtime from here on.

        Raises:
            ValueError: this runtime is open already.
        """
        if self._open:
            raise ValueError("this runtime is open already: a Parla object cannot be entered twice at the same time")
        _install_hooks()
        if self._trace_path is not None:
            _trace.check_writable(self._trace_path)
        if self._config_file is not None:
            _native.configure_machine({"file": str(self._config_file)})
        workers = self._workers or _cpu.default_workers()
        native = None
        try:
            native = _native.Runtime(
                workers,
                _cpu.memory_capacity(),
                devices=len(_cpu.cpu.devices),
                trace=self._tracing or self._check,
                policy=self._policy,
                depth=self._depth,
                environments=self._environments,
                runahead=self._runahead,
                check=self._check,
            )
            self._handler = _raise_on(self._signal)
            self._native = native
            self._watchdog = _Watchdog.start(self)
            native.open()
            self._open = True
        except BaseException:
            # An interrupt may come anywhere in between: nothing half open is left behind.
            self._open = False
            if native is not None:
                native.close()
            self._end()
            raise
        return self

    def _end(self) -> None:
        """Take back what entering the block did, but for the workers."""
        watchdog, self._watchdog = self._watchdog, None
        if watchdog is not None:
            watchdog.stop()
        handler, self._handler = self._handler, None
        _restore(self._signal, handler)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        """Wait for all tasks; raise what nobody has looked at.

        After an exception in the block, what has not started is cancelled and the exception is raised on, with the
        failures of tasks as notes.
        """
        native = self._native
        if native is None or not self._open:
            raise SchedulerException("this runtime is not open")
        try:
            failed, deadlock, interrupt = native.finish(error is not None, interrupted=isinstance(error, KeyboardInterrupt))
        finally:
            self._open = False
            try:
                self._end()
            finally:
                native.close()
                self._last_stats = native.stats()
        records = native.trace() if self._tracing or self._check else []
        if self._tracing:
            self._last_trace = records
            if self._trace_path is not None:
                _trace.write(self._trace_path, records)
        hurried = interrupt is not None or isinstance(error, KeyboardInterrupt)
        mistakes = _mistakes(native, records) if self._check and not hurried else []
        _raise_failures(error, failed, deadlock, interrupt, mistakes)
        return None

    def stats(self) -> dict[str, Any]:
        """Counts since the block was entered.

        Keys: ``workers``, tasks ``spawned``, ``pending``, ``done``, ``failed``, ``cancelled``; ``steps_per_worker`` (bodies run, an
        awaiting body counts each time it goes on), ``steals``, ``parks`` (times a worker went to sleep); ``vcus_claimed``,
        ``memory_claimed`` and ``memory`` (bytes). Where there are GPUs also ``devices``, a list with ``name``, ``tasks`` (ended there, of
        those that a policy placed) and ``busy_s`` (seconds) of each, and ``memories``, a list with ``name``, ``used`` and ``peak``
        (bytes), ``evictions``, ``copies`` (to it) and ``bytes_from`` (bytes copied to it, by the name of the memory they came from).
        """
        return self._last_stats if self._native is None or not self._open else self._native.stats()

    @property
    def trace(self) -> list[dict[str, Any]]:
        """Everything that happened, in order of time; empty without ``trace=``. `parla.trace` describes the records."""
        if not self._tracing:
            return []
        return self._native.trace() if self._native is not None and self._open else self._last_trace

    def why(self, task: Task | TaskID) -> str:
        """What a task is doing or waiting for, in words.

        Raises:
            TypeError: it is neither a task nor the name of one.
        """
        found = task.task if isinstance(task, TaskID) else task
        if found is None and task is not None:
            return f"{task} was never spawned"
        if not isinstance(found, Task):
            raise TypeError(f"why: expected a task, or its name such as T[0], not {type(task).__name__}")
        if self._native is None:
            raise SchedulerException("this runtime was never entered")
        return self._native.why(found)

    def get_all_devices(self) -> list[Device]:
        """Every device that tasks can be placed on."""
        return device.get_all_devices()

    def get_all_architectures(self) -> list[Architecture]:
        """Every kind of device."""
        return device.get_all_architectures()

    def get_architecture(self, name: str) -> Architecture:
        """The architecture of that name (``"cpu"``).

        Raises:
            ValueError: there is none.
        """
        return device.get_architecture(name)

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><td>{key}</td><td>{value}</td></tr>" for key, value in self.stats().items())
        return f"<table><caption>Parla ({'open' if self._open else 'closed'})</caption>{rows}</table>"


def _mistakes(native: _native.Runtime, records: list[dict[str, Any]]) -> list[ParlaError]:
    """What is wrong though no task failed for it: with the program, and with the runtime."""
    from parla import races

    found: list[ParlaError] = []
    try:
        native.validate()
    except ParlaError as violated:
        found.append(violated)
    race = races.error_of(races.find_races(records))
    return found if race is None else [*found, race]


def _raise_failures(
    error: BaseException | None,
    failed: list[Task],
    deadlock: BaseException | None,
    interrupt: BaseException | None,
    mistakes: list[ParlaError],
) -> None:
    """Raise what the block has to raise: the body's error (by returning), an interrupt, a task's error, or several; else what a check found."""
    errors = [exception for task in failed if (exception := task.exception()) is not None]
    if deadlock is not None:
        errors = [e for e in errors if not isinstance(e, DeadlockError)]  # the same one, seen from inside a task
        errors.append(deadlock)
    if error is not None:
        for other in errors:
            _note(error, f"besides, {_first_line(other)}")
        _note_all(error, mistakes)
        return
    # What is meant to end the program leaves as it is.
    leaving = interrupt or next((e for e in errors if not isinstance(e, Exception)), None)
    if leaving is not None:
        for other in errors:
            if other is not leaving:
                _note(leaving, f"besides, {_first_line(other)}")
        _note_all(leaving, mistakes)
        raise leaving
    if not errors and mistakes:
        first, *mistakes = mistakes
        errors.append(first)
    if errors:
        raised = errors[0] if len(errors) == 1 else _group(errors)
        _note_all(raised, mistakes)
        raise raised


def _note_all(error: BaseException, mistakes: list[ParlaError]) -> None:
    for mistake in mistakes:
        _note(error, f"besides, {type(mistake).__name__}: {mistake}")


def _group(errors: list[Any]) -> BaseException:
    message = "several tasks failed"
    if sys.version_info >= (3, 11):
        return ExceptionGroup(message, errors)
    return ParlaErrorGroup(message, errors)


class ParlaErrorGroup(ParlaError):
    """Several failed tasks, on Python 3.10, which has no ``ExceptionGroup``."""

    def __init__(self, message: str, exceptions: list[Exception]) -> None:
        """A group like Python 3.11's, without its filtering."""
        lines = "".join(f"\n  {_first_line(e)}" for e in exceptions)
        super().__init__(f"{message} ({len(exceptions)} sub-exceptions){lines}")
        self.exceptions = tuple(exceptions)


def _note(error: BaseException, note: str) -> None:
    if hasattr(error, "add_note"):
        error.add_note(note)
    else:  # before Python 3.11
        error.__notes__ = [*getattr(error, "__notes__", ()), note]


def _first_line(error: BaseException) -> str:
    try:
        text = str(error).partition("\n")[0]
    except Exception:
        text = "(its text cannot be shown)"
    where = "".join(f" [{note}]" for note in getattr(error, "__notes__", ())[:1])
    return f"{type(error).__name__}: {text}{where}"


def _raise_on(number: signal.Signals) -> Any:
    """Make a signal other than Ctrl-C's raise KeyboardInterrupt during the block; returns the handler before."""
    if number == signal.SIGINT or threading.current_thread() is not threading.main_thread():
        return None

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    return signal.signal(number, interrupt)


def _restore(number: signal.Signals, handler: Any) -> None:
    if handler is not None:
        signal.signal(number, handler)


def _install_hooks() -> None:
    """Once per process, when the first runtime opens: end with the interpreter, and notice forks."""
    global _hooks_installed
    if _hooks_installed:
        return
    _hooks_installed = True
    register = getattr(threading, "_register_atexit", None)
    if register is None:
        import atexit

        register = atexit.register
    register(_native.stop_all)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(
            before=_native.before_fork, after_in_parent=_native.after_fork, after_in_child=_native.forget_all
        )


class _Watchdog:
    """Prints the state of a runtime to stderr when no task has ended for a while: ``PARLA_WATCHDOG=seconds``."""

    def __init__(self, runtime: Parla, seconds: float) -> None:
        self._runtime = runtime
        self._seconds = seconds
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="parla-watchdog", daemon=True)

    @classmethod
    def start(cls, runtime: Parla) -> _Watchdog | None:
        """Watch `runtime` if the environment asks for it."""
        variable = os.environ.get("PARLA_WATCHDOG")
        if variable is None:
            return None
        try:
            seconds = float(variable)
        except ValueError:
            seconds = 0.0
        if not 0 < seconds < 1e9:
            raise ValueError(f"PARLA_WATCHDOG={variable!r}: expected a number of seconds above 0")
        watchdog = cls(runtime, seconds)
        watchdog._thread.start()
        return watchdog

    def stop(self) -> None:
        """The block has ended."""
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        before = -1
        while not self._stopped.wait(self._seconds):
            stats = self._runtime.stats()
            ended = stats["spawned"] - stats["pending"]
            if stats["pending"] and ended == before:
                native = self._runtime._native
                report = native.report() if native is not None else ""
                print(f"parla: no task has ended for {self._seconds:g} s; {stats}\n{report}", file=sys.stderr, flush=True)
            before = ended
