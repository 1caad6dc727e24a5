"""Checks with the libraries that share the GPU: CuPy, Torch, Numba, Nsight Systems; and the examples."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from checking import HERE, check


@check("cupy")
def cupy_arrays() -> dict[str, Any]:
    """In a task an array is CuPy's, on the task's stream; afterwards the current stream and device are as before."""
    import cupy
    from parla import Parla, TaskSpace, get_current_stream, spawn
    from parla.devices import cpu, gpu
    from parla.parray import asarray

    a = np.random.default_rng(0).random((512, 512))
    array, expected, before = asarray(a.copy()), a, cupy.cuda.get_current_stream().ptr
    with Parla():
        T = TaskSpace("T")
        for step in range(10):
            expected = expected @ a / 256

            @spawn(T[step], [T[step - 1]], placement=gpu(step % len(gpu)), inout=[array])
            def multiply():
                if not isinstance(array.array, cupy.ndarray):
                    raise TypeError(type(array.array).__name__)
                if cupy.cuda.get_current_stream().ptr != get_current_stream().ptr:
                    raise AssertionError("CuPy's current stream is not the task's")
                array.array[...] = array.array @ cupy.asarray(a) / 256

        # On a thread that has run such a task, and has no context current any more.
        for _ in range(4):
            after = spawn(dependencies=[T[9]], placement=cpu)(lambda: float(cupy.ones(3).sum()))
            if after.result(60) != 3:
                raise AssertionError("CuPy does not work in a CPU's task")

    np.testing.assert_allclose(np.asarray(array.array), expected, rtol=1e-9)
    if cupy.cuda.get_current_stream().ptr != before:
        raise AssertionError("CuPy's current stream is not as before")
    return {"cupy": cupy.__version__}


@check("cupy")
def cupy_comes_late() -> dict[str, Any]:
    """CuPy that nobody has imported before a body asks for its array is on the task's stream in this body already."""
    from parla import Parla, get_current_stream, spawn
    from parla.devices import cpu, gpu
    from parla.parray import asarray

    array = asarray(np.ones(1 << 22))
    with Parla(workers=1):

        @spawn(placement=gpu(0), inout=[array])
        def first() -> bool:
            early = "cupy" in sys.modules
            here = array.array
            if sys.modules["cupy"].cuda.get_current_stream().ptr != get_current_stream().ptr:
                raise AssertionError("CuPy's current stream is not the task's")
            for _ in range(20):
                here *= 1.5
                here -= 0.5
            return early

        after = spawn(dependencies=[first], placement=cpu)(lambda: sys.modules["cupy"].cuda.get_current_stream().ptr)
    if first.result():
        raise AssertionError("CuPy was imported before: this checks nothing")
    if after.result():
        raise AssertionError("after the body CuPy's current stream is not the default one")
    if not (np.asarray(array.array) == 1).all():
        raise AssertionError("the result is not right")
    return {"cupy": sys.modules["cupy"].__version__}


@check("torch")
def torch_memory() -> dict[str, Any]:
    """Torch's own tensors on a GPU are arrays for Parla: where they are, copies to and from them."""
    import torch
    from parla import Parla, array, spawn
    from parla.devices import cpu, gpu

    values = np.random.default_rng(0).random((64, 48))
    with Parla():

        @spawn(placement=gpu(0))
        def make() -> tuple[Any, Any]:
            tensor = torch.zeros(48, 64, dtype=torch.float64, device="cuda")
            array.copy(tensor.T, values)
            return tensor, array.get_memory(tensor)

        tensor, memory = make.result()
        back = spawn(placement=cpu)(lambda: array.asnumpy(tensor[::2]))
    if memory != gpu(0).memory():
        raise AssertionError(f"the tensor is in {memory}")
    np.testing.assert_array_equal(back.result(), values.T[::2])
    for refused in (torch.ones(3, device="cuda", requires_grad=True), torch.eye(3, device="cuda").to_sparse()):
        try:
            array.asnumpy(refused)
        except TypeError:
            continue
        raise AssertionError(f"{refused} was taken for an array")
    return {"torch": torch.__version__}


@check("torch")
def torch_tensors() -> dict[str, Any]:
    """In a task an array is a tensor on the task's stream without a copy; afterwards the current stream and device are as before."""
    import torch
    from parla import Parla, TaskSpace, get_current_stream, spawn
    from parla.devices import gpu
    from parla.parray import asarray

    a = np.random.default_rng(0).random((256, 256))
    array, expected, before = asarray(a.copy()), a, (torch.cuda.current_device(), torch.cuda.current_stream().cuda_stream)
    with Parla():
        T = TaskSpace("T")
        for step in range(10):
            expected = expected * 1.5 + 1

            @spawn(T[step], [T[step - 1]], placement=gpu(step % len(gpu)), inout=[array])
            def scale():
                if torch.cuda.current_stream().cuda_stream != get_current_stream().ptr:
                    raise AssertionError("Torch's current stream is not the task's")
                torch.as_tensor(array.array, device="cuda").mul_(1.5).add_(1)

    np.testing.assert_allclose(np.asarray(array.array), expected, rtol=1e-12)
    if (torch.cuda.current_device(), torch.cuda.current_stream().cuda_stream) != before:
        raise AssertionError("Torch's current stream is not as before")
    return {"torch": torch.__version__}


@check("numba")
def numba_kernels() -> dict[str, Any]:
    """A kernel of Numba's takes an array as it is, on the task's stream."""
    from numba import __version__, cuda
    from parla import Parla, TaskSpace, get_current_stream, spawn
    from parla.devices import gpu
    from parla.parray import asarray

    @cuda.jit
    def scale(x):  # type: ignore[no-untyped-def]
        i, j = cuda.grid(2)
        if i < x.shape[0] and j < x.shape[1]:
            x[i, j] = x[i, j] * 1.5 + 1

    array = asarray(np.ones((256, 256)))
    with Parla():
        T = TaskSpace("T")
        for step in range(2):

            @spawn(T[step], [T[step - 1]], placement=gpu(step % len(gpu)), inout=[array])
            def launch():
                stream = cuda.external_stream(get_current_stream().ptr)
                scale[(16, 16), (16, 16), stream](cuda.as_cuda_array(array.array, sync=False))

    if not (np.asarray(array.array) == 4.75).all():
        raise AssertionError("the result is not right")
    return {"numba": __version__}


@check("numba arrays")
def numba_arrays() -> dict[str, Any]:
    """Numba's current device is the task's, and as before afterwards; its arrays are arrays for Parla, the task's are arrays for it."""
    from numba import __version__, cuda
    from parla import Parla, array, get_current_stream, spawn
    from parla.devices import cpu, gpu
    from parla.parray import asarray

    def current() -> int | None:
        device = cuda.gpus.current
        return None if device is None else device.id

    values = asarray(np.arange(6.0).reshape(2, 3))
    with Parla(workers=1):
        before = spawn(placement=cpu)(current).result(60)
        for device in gpu.devices:

            @spawn(placement=device, inout=[values])
            def body() -> tuple[Any, Any, Any]:
                stream = cuda.external_stream(get_current_stream().ptr)
                here = cuda.as_cuda_array(values.array, sync=False)
                here.copy_to_device(here.copy_to_host(stream=stream) + 1, stream=stream)
                own = cuda.to_device(np.arange(5.0), stream=stream)
                array.copy(own, own[::-1])
                cuda.select_device(0)
                return array.get_memory(own), array.asnumpy(own).tolist(), own

            memory, found, own = body.result(60)
            if found != [4, 3, 2, 1, 0] or array.asnumpy(own).tolist() != found:
                raise AssertionError(f"the array has {found}")
            if memory.device.name != device.name and len(gpu) == len(cuda.gpus):
                raise AssertionError(f"the array of {device} is in {memory}")
            after = spawn(placement=cpu)(current).result(60)
            # CuPy's context stays on a thread that had none.
            if after != before and (before is not None or "cupy" not in sys.modules):
                raise AssertionError(f"Numba's current device was {before}, and is {after} after a task on {device}")
    if values.tolist() != (np.arange(6.0).reshape(2, 3) + len(gpu)).tolist():
        raise AssertionError(f"the result is {values.tolist()}")
    return {"numba": __version__}


@check("nsys")
def profile() -> dict[str, Any]:
    """Nsight Systems sees the bodies and the copies."""
    program = """
import numpy as np
from parla import Parla, spawn
from parla.devices import gpu
from parla.parray import asarray
array = asarray(np.ones(1000))
with Parla():
    @spawn(placement=gpu(0), inout=[array])
    def a_body_with_this_name():
        array.array
"""
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report"
        command = ["nsys", "profile", "--trace=cuda,nvtx", f"--output={report}", "--export=sqlite", sys.executable, "-c", program]
        done = subprocess.run(command, capture_output=True, text=True, timeout=150)
        if done.returncode:
            raise AssertionError(f"nsys: {done.stdout[-1000:]}{done.stderr[-1000:]}")
        with sqlite3.connect(report.with_suffix(".sqlite")) as tables:
            texts = {row[0] for row in tables.execute("SELECT value FROM StringIds")}
            texts |= {row[0] for row in tables.execute("SELECT text FROM NVTX_EVENTS")}
    seen = sorted(text for text in texts if text and ("a_body_with_this_name" in text or text.startswith("copy host to gpu")))
    if len(seen) < 2:
        raise AssertionError(f"expected a body and a copy among the ranges, found {seen}")
    return {"ranges": seen}


@check("cupy", PARLA_VIRTUAL_GPUS="4")
def example_jacobi() -> dict[str, Any]:
    """Jacobi's method with CuPy, neighbours on four GPUs."""
    return example("jacobi.py", "moved")


@check("gpu")
def example_hello() -> dict[str, Any]:
    """The first program."""
    return example("hello_gpu.py", "I run second on any GPU")


@check("cupy")
def example_cholesky() -> dict[str, Any]:
    """The blocked factorisation, where SciPy and threadpoolctl are there."""
    return example("cholesky_parray.py", "", "--n", "4000", "--block", "500", "--on", "gpu")


def example(name: str, says: str, *arguments: str) -> dict[str, Any]:
    """Run one of the examples."""
    began = time.perf_counter()
    # Beside the checks in the bundle, beside their directory in the repository.
    directory = next(path / "examples" for path in (HERE, HERE.parent) if (path / "examples").exists())
    command = [sys.executable, str(directory / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    if done.returncode or says not in done.stdout:
        raise AssertionError(f"status {done.returncode}: {done.stdout[-500:]}{done.stderr[-1500:]}")
    return {"seconds": time.perf_counter() - began, "output": done.stdout.splitlines()[-12:]}
