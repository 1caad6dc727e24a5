"""Every example runs as a newcomer would run it, and prints what its text promises."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from trace_checker import check_trace

EXAMPLES = Path(__file__).parents[1] / "examples"
LIMIT = 60.0

needs_linear_algebra = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("numpy", "scipy", "threadpoolctl")),
    reason="the Cholesky example needs NumPy, SciPy and threadpoolctl",
)


def run(
    name: str, *arguments: str, workers: int | None = None, trace: Path | None = None, gpus: int | None = None
) -> subprocess.CompletedProcess[str]:
    """Run an example in its own interpreter, with a time limit."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PARLA_")}
    environment["PARLA_CHECK"] = "1"  # the examples are to be right
    environment.pop("PYTHONUNBUFFERED", None)  # then `print` writes text and newline apart, and threads mix them
    if workers is not None:
        environment["PARLA_NUM_THREADS"] = str(workers)
    if trace is not None:
        environment["PARLA_TRACE"] = str(trace)
    if gpus is not None:
        environment["PARLA_SIM_GPUS"] = str(gpus)
    return subprocess.run(
        [sys.executable, "-X", "faulthandler", str(EXAMPLES / f"{name}.py"), *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        env=environment,
    )


def lines_of(name: str, *arguments: str, workers: int | None = None, gpus: int | None = None) -> list[str]:
    """The output of an example that must succeed silently."""
    done = run(name, *arguments, workers=workers, gpus=gpus)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.fixture(params=[1, 2, 3, 8], ids=lambda n: f"w{n}")
def pool(request):
    """The number of workers, as a variable of the environment."""
    return request.param


SMALL = {
    "cholesky": ("--n", "200", "--block", "50"),
    "cholesky_parray": ("--n", "200", "--block", "50"),
    "jacobi": ("--n", "50", "--steps", "5"),
}
NEED_GPUS = {"cholesky_parray", "hello_gpu", "jacobi"}


def test_every_example_has_a_test():
    tested = {"cholesky", "cholesky_parray", "errors", "fibonacci", "hello", "hello_gpu", "jacobi", "reduction", "variants"}
    assert {path.stem for path in EXAMPLES.glob("*.py")} == tested


@pytest.mark.parametrize("name", sorted(path.stem for path in EXAMPLES.glob("*.py")))
def test_every_example_leaves_a_correct_trace(name, pool, tmp_path):
    """The checker rebuilds from the trace what must have happened before what, knowing nothing of the runtime."""
    if name.startswith("cholesky"):
        pytest.importorskip("scipy")
    arguments = SMALL.get(name, ())
    path = tmp_path / "trace.json"
    run(name, *arguments, workers=pool, trace=path, gpus=2 if name in NEED_GPUS else None)
    records = json.loads(path.read_text())["parlaRecords"]
    # The last block of an example about errors may be one that refuses its tasks.
    assert records or name == "errors"
    assert check_trace(records) == []


def test_hello(pool):
    lines = lines_of("hello", workers=pool)
    assert sorted(lines[:4]) == [f"We run first on the CPU. I am task {i}" for i in range(4)]
    assert lines[4:] == ["I run second"]


def test_hello_gpu(pool):
    lines = lines_of("hello_gpu", workers=pool, gpus=1)
    assert sorted(lines[:4]) == [f"We run first on the CPU. I am task {i}" for i in range(4)]
    assert lines[4:] == ["I run second on any GPU"]


def test_hello_gpu_without_a_gpu_says_why():
    done = run("hello_gpu", gpus=0)
    if done.returncode == 0:
        pytest.skip("there is a GPU")
    assert re.search(r"ImportError: parla.cuda: .*PARLA_SIM_GPUS", done.stderr)


def test_fibonacci(pool):
    assert lines_of("fibonacci", workers=pool) == ["fibonacci(15) = 610"]
    assert lines_of("fibonacci", "3", workers=pool) == ["fibonacci(3) = 2"]


def test_reduction(pool):
    assert lines_of("reduction", workers=pool) == ["63 tasks, sum of 0..319999 = 51199840000"]


def test_variants(pool):
    assert lines_of("variants", workers=pool) == ["0: anywhere", "1: on a CPU", "2: a variant as the body of a task"]


def test_errors(pool):
    assert lines_of("errors", workers=pool) == [
        "recovered from ValueError('bad input')",
        "raised at the end: ZeroDivisionError('division by zero')",
        "dependent: DependencyFailed",
        "the independent task ran",
        "refused: placement=cpu can't be satisfied: it needs vcus=2, one cpu device has 1 (vcus is a fraction of a device)",
    ]


RESULT = re.compile(
    r"time (?P<time>[\d.]+) s, ideal (?P<ideal>[\d.]+) s \(sum of kernel times / workers\), time/ideal (?P<ratio>[\d.]+), "
    r"workers (?P<workers>\d+), workers used (?P<used>\d+), residual (?P<residual>[\d.e+-]+)"
)


@needs_linear_algebra
@pytest.mark.parametrize(("n", "block", "tasks"), [(200, 50, 20), (200, 200, 1), (7, 100, 1), (203, 50, 35), (101, 100, 4), (5, 1, 35)])
def test_cholesky(pool, n, block, tasks):
    heading, result = lines_of("cholesky", "--n", str(n), "--block", str(block), "--workers", str(pool))
    assert heading == f"Cholesky factorisation, n = {n}, block = {block}, {tasks} tasks"
    match = RESULT.fullmatch(result)
    assert match, result
    assert float(match["residual"]) < 1e-14
    assert int(match["workers"]) == pool
    assert 1 <= int(match["used"]) <= pool


@needs_linear_algebra
def test_cholesky_repeats(pool):
    lines = lines_of("cholesky", "--n", "60", "--block", "20", "--repeat", "3", "--seed", "7", workers=pool)
    assert len(lines) == 5
    assert lines[4].startswith("median of 3: time ")


@needs_linear_algebra
def test_cholesky_reads_a_matrix(tmp_path):
    import numpy

    factor = numpy.tril(numpy.random.default_rng(1).random((30, 30))) + 5 * numpy.eye(30)
    for dtype in ("f8", "f4"):
        numpy.save(tmp_path / "a.npy", numpy.asfortranarray((factor @ factor.T).astype(dtype)))
        heading, result = lines_of("cholesky", "--input", str(tmp_path / "a.npy"), "--block", "7")
        assert "n = 30, block = 7" in heading
        assert RESULT.fullmatch(result)


@needs_linear_algebra
@pytest.mark.parametrize(
    ("matrix", "status", "text"),
    [
        ([[1.0, 2.0], [2.0, 1.0]], 1, "not positive definite"),
        ([[-1.0]], 1, "not positive definite"),
        ([[1.0, 2.0], [0.0, 1.0]], 2, "not symmetric"),
        ([[1.0, 2.0]], 2, r"square matrix, got an array of shape \(1, 2\)"),
        ([1.0, 2.0], 2, "square matrix"),
        ([[]], 2, "square matrix"),
        ([[1j]], 2, "real numbers, got complex"),
        ([[float("nan")]], 2, "infinite or undefined"),
        ([["1"]], 2, "real numbers"),
    ],
)
def test_cholesky_refuses_other_matrices(tmp_path, matrix, status, text):
    import numpy

    numpy.save(tmp_path / "a.npy", numpy.array(matrix))
    done = run("cholesky", "--input", str(tmp_path / "a.npy"), "--block", "1")
    assert done.returncode == status
    assert re.search(text, done.stderr)
    assert "Traceback" not in done.stderr


@needs_linear_algebra
@pytest.mark.parametrize(
    ("arguments", "text"),
    [(("--n", "0"), "--n"), (("--block", "-1"), "--block"), (("--workers", "0"), "--workers"), (("--repeat", "x"), "--repeat"),
     (("--seed", "-1"), "--seed"), (("--input", "absent.npy"), "absent.npy"), (("--input", __file__), "test_examples.py")],
)  # fmt: skip
def test_cholesky_refuses_bad_arguments(arguments, text):
    done = run("cholesky", *arguments)
    assert done.returncode == 2
    assert text in done.stderr
    assert "Traceback" not in done.stderr


@needs_linear_algebra
@pytest.mark.parametrize(
    ("workers", "gpus", "on", "n", "block", "tasks"),
    [
        (1, 1, "gpu", 200, 50, 20),
        (1, 3, "both", 203, 50, 35),
        (2, 4, "both", 200, 50, 20),
        (3, 1, "both", 203, 50, 35),
        (3, 3, "gpu", 203, 50, 35),
        (8, 2, "both", 203, 50, 35),
        (2, 2, "gpu", 7, 100, 1),
    ],
)
def test_cholesky_parray(workers, gpus, on, n, block, tasks):
    arguments = ("--n", str(n), "--block", str(block), "--on", on)
    heading, result, *table = lines_of("cholesky_parray", *arguments, workers=workers, gpus=gpus)
    assert heading == f"Cholesky factorisation of a PArray, n = {n}, block = {block}, {tasks} tasks on {on}"
    assert float(result.rpartition(" ")[2]) < 1e-14
    devices, memories = table[1 : gpus + 2], table[gpus + 3 :]
    assert [line.split()[0] for line in devices] == ["cpu:0", *(f"gpu:{i}" for i in range(gpus))]
    assert sum(int(line.split()[1]) for line in devices) == tasks
    assert [line.split()[0] for line in memories] == ["host", *(f"gpu:{i}" for i in range(gpus))]
    if on == "gpu":
        assert devices[0].split()[1] == "0"


@needs_linear_algebra
def test_cholesky_parray_on_the_cpu():
    heading, result, *_ = lines_of("cholesky_parray", "--n", "203", "--block", "50", "--on", "cpu", workers=3, gpus=0)
    assert heading.endswith("35 tasks on cpu")
    assert float(result.rpartition(" ")[2]) < 1e-14


@needs_linear_algebra
@pytest.mark.parametrize(("arguments", "text"), [(("--n", "0"), "--n"), (("--block", "-1"), "--block"), (("--on", "tpu"), "--on"), (("--seed", "-1"), "--seed")])
def test_cholesky_parray_refuses_bad_arguments(arguments, text):
    done = run("cholesky_parray", *arguments, gpus=1)
    assert done.returncode == 2
    assert text in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("gpus", range(1, 9))
def test_jacobi_moves_the_halos_only(gpus):
    """It compares its result with NumPy's and the bytes with the least possible."""
    pytest.importorskip("numpy")
    for n, steps in ((50, 6), (37, 1)) if gpus < 4 else ((37, 5),):
        heading, moved = lines_of("jacobi", "--n", str(n), "--steps", str(steps), workers=3, gpus=gpus)
        bands = ", ".join(f"gpu({i})" for i in range(gpus))
        assert heading == f"{steps} steps on a grid of {n} x {n}, bands on {bands}"
        there, back = n + 2 * (gpus - 1) * steps, n * min(steps, 2)
        assert moved == f"moved {(there + back) * n * 8} bytes, the least possible is {(there + back) * n * 8}"


def test_jacobi_without_a_gpu():
    pytest.importorskip("numpy")
    done = run("jacobi", "--n", "40", gpus=0)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("arguments", [("--n", "2"), ("--steps", "0"), ("--gpus", "9")])
def test_jacobi_refuses_bad_arguments(arguments):
    done = run("jacobi", *arguments, gpus=1)
    assert done.returncode == 2
    assert arguments[0] in done.stderr
    assert "Traceback" not in done.stderr
