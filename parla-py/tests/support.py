"""What the tests share: programs in a subprocess with a time limit, gates, and a look at this process."""

from __future__ import annotations

import gc
import os
import queue
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
from pathlib import Path

LIMIT = 20.0
"""Seconds that a wait in a test may take before the test has failed."""

WORKER_COUNTS = (1, 2, 3, 8)
"""The pool sizes that every scheduling promise is tested at."""


def pass_gate(event: threading.Event, limit: float = LIMIT) -> None:
    """Waits for `event`; an event that doesn't come is a failure, not a hang."""
    assert event.wait(limit), "the gate was not opened in time"


def carried(exc: BaseException) -> list[BaseException]:
    """Every exception reachable from `exc` by cause, context and group membership, `exc` first."""
    found: list[BaseException] = []
    todo: list[BaseException | None] = [exc]
    while todo:
        e = todo.pop()
        if e is None or any(e is f for f in found):
            continue
        found.append(e)
        todo += [e.__cause__, e.__context__, *getattr(e, "exceptions", ())]
    return found


def notes(exc: BaseException) -> str:
    """The notes of an exception as one text."""
    return "\n".join(getattr(exc, "__notes__", ()))


def leaves(exc: BaseException) -> list[BaseException]:
    """The exceptions of a group, nested groups flattened; a plain exception is its own only leaf."""
    members = getattr(exc, "exceptions", None)
    if members is None:
        return [exc]
    return [leaf for member in members for leaf in leaves(member)]


class Program:
    """A Python program in its own process group, read line by line, that never outlives its limit."""

    def __init__(self, source: str, *, env: dict[str, str] | None = None, args: tuple[str, ...] = ()) -> None:
        self._dir = tempfile.TemporaryDirectory(prefix="parla-test-")
        self.path = Path(self._dir.name) / "prog.py"
        self.path.write_text(textwrap.dedent(source))
        full_env = {k: v for k, v in os.environ.items() if not k.startswith(("PARLA_", "PYTHON")) or k == "PYTHONPATH"}
        full_env.update(env or {})
        self.process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", *args, str(self.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=full_env,
            cwd=self._dir.name,
            start_new_session=True,
        )
        self._out: list[str] = []
        self._err: list[str] = []
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._readers = [
            threading.Thread(target=self._read_out, daemon=True),
            threading.Thread(target=self._read_err, daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def _read_out(self) -> None:
        for line in self.process.stdout:
            self._out.append(line)
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def _read_err(self) -> None:
        for line in self.process.stderr:
            self._err.append(line)

    def expect(self, wanted: str, timeout: float = LIMIT) -> None:
        """Reads output lines up to the one that equals `wanted`."""
        while True:
            try:
                line = self._lines.get(timeout=timeout)
            except queue.Empty:
                self._abort(f"no line {wanted!r} within {timeout} s")
            if line == wanted:
                return
            if line is None:
                self.finish(timeout)
                raise AssertionError(f"the program ended without printing {wanted!r}:\n{self._story()}")

    def interrupt(self, sig: int = signal.SIGINT) -> None:
        """Sends the signal to the program, as a terminal would send Ctrl-C."""
        self.process.send_signal(sig)

    def release(self) -> None:
        """Gives the program a line to read, which is what a body that waits on `sys.stdin` needs to go on."""
        try:
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass

    def finish(self, timeout: float = LIMIT) -> subprocess.CompletedProcess[str]:
        """Waits for the end; a program that doesn't end fails the test with the stacks of its threads."""
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._abort(f"the program did not end within {timeout} s")
        self._close()
        return subprocess.CompletedProcess(
            self.process.args, self.process.returncode, "".join(self._out), "".join(self._err)
        )

    def _abort(self, why: str) -> None:
        # faulthandler answers SIGABRT with the Python stack of every thread.
        self.process.send_signal(signal.SIGABRT)
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            pass
        self._close()
        raise AssertionError(f"{why}\n{self._story()}")

    def _close(self) -> None:
        try:
            os.killpg(self.process.pid, signal.SIGKILL)  # forked children keep the pipes open
        except ProcessLookupError:
            pass
        self.process.wait()
        for reader in self._readers:
            reader.join(5)
        for pipe in (self.process.stdin, self.process.stdout):
            try:
                pipe.close()
            except BrokenPipeError:
                pass
        self.process.stderr.close()
        self._dir.cleanup()

    def _story(self) -> str:
        return f"--- stdout\n{''.join(self._out)}\n--- stderr\n{''.join(self._err)}"


def run_py(
    source: str,
    timeout: float = LIMIT,
    env: dict[str, str] | None = None,
    *,
    args: tuple[str, ...] = (),
    check: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Runs `source` as a script `prog.py` of its own interpreter.

    With `check`, the script must end with status 0 and print nothing to stderr: a good program is silent.
    """
    done = Program(source, env=env, args=args).finish(timeout)
    if check:
        story = f"--- stdout\n{done.stdout}\n--- stderr\n{done.stderr}"
        assert done.returncode == 0, f"status {done.returncode}\n{story}"
        assert done.stderr == "", f"a good program prints nothing to stderr\n{story}"
    return done


def n_threads() -> int:
    """Threads of this process as the kernel counts them."""
    return len(os.listdir("/proc/self/task"))


def n_descriptors() -> int:
    """Open file descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))


def resident_bytes() -> int:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def collect() -> None:
    """Runs the cyclic collector until it finds nothing more."""
    while gc.collect():
        pass
