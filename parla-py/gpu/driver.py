"""The CUDA driver through ctypes: what the checks compare Parla with, and kernels that need no compiler."""

from __future__ import annotations

import ctypes
import time
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_uint, c_uint64, c_void_p
from pathlib import Path
from typing import Any

import numpy as np


class DriverError(Exception):
    """The driver refused."""


class Driver:
    """One GPU, with its primary context current on the threads that say `use`."""

    def __init__(self, ordinal: int = 0) -> None:
        """Load the driver; raises OSError where there is none, DriverError where it has no such device."""
        self.library = ctypes.CDLL("libcuda.so.1")
        self.call("cuInit", c_uint(0))
        self.context = c_void_p()
        self.call("cuDevicePrimaryCtxRetain", byref(self.context), c_int(ordinal))
        self.use()
        module = c_void_p()
        self._image = Path(__file__).with_name("kernels.ptx").read_bytes() + b"\0"
        self.call("cuModuleLoadData", byref(module), c_char_p(self._image))
        self.kernels: dict[str, c_void_p] = {}
        for name in ("empty", "spin", "scale", "sweep", "crash"):
            function = c_void_p()
            self.call("cuModuleGetFunction", byref(function), module, c_char_p(name.encode()))
            self.kernels[name] = function
        # Types once, so that a launch costs as little as ctypes can do.
        self.launch_kernel = self.library.cuLaunchKernel
        self.launch_kernel.argtypes = [c_void_p] + [c_uint] * 7 + [c_void_p, POINTER(c_void_p), c_void_p]
        self._load_kernels()

    def _load_kernels(self) -> None:
        """Launch what can be launched: CUDA loads kernels at their first launch, for which it may wait for all others."""
        stream, nothing, one = self.stream(), c_uint64(0), c_uint(1)
        self.launch("empty", stream.value)
        self.launch("spin", stream.value, nothing)
        # Without rows.
        self.launch("scale", stream.value, nothing, c_uint(0), one, nothing)
        self.launch("sweep", stream.value, nothing, nothing, c_uint(0), one, one, one, nothing, nothing)
        self.synchronize(stream)

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function of the driver."""
        code = getattr(self.library, name)(*arguments)
        if code:
            text = c_char_p()
            self.library.cuGetErrorName(c_int(code), byref(text))
            raise DriverError(f"{name}: {(text.value or str(code).encode()).decode()}")

    def use(self) -> None:
        """Make the context current on this thread."""
        self.call("cuCtxSetCurrent", self.context)

    def version(self) -> int:
        """The driver's version: 12040 is CUDA 12.4."""
        version = c_int()
        self.call("cuDriverGetVersion", byref(version))
        return version.value

    def name(self, ordinal: int) -> str:
        """What NVIDIA calls a device."""
        text = ctypes.create_string_buffer(128)
        self.call("cuDeviceGetName", text, c_int(128), c_int(ordinal))
        return text.value.decode()

    def total_memory(self, ordinal: int) -> int:
        """Bytes of a device."""
        total = c_size_t()
        self.call("cuDeviceTotalMem_v2", byref(total), c_int(ordinal))
        return total.value

    def stream(self) -> c_void_p:
        """A new stream."""
        stream = c_void_p()
        self.call("cuStreamCreate", byref(stream), c_uint(1))
        return stream

    def synchronize(self, stream: c_void_p) -> None:
        """Wait for a stream."""
        self.call("cuStreamSynchronize", stream)

    def pinned(self, n_bytes: int) -> np.ndarray:
        """Page-locked memory as an array of bytes; never freed."""
        address = c_void_p()
        self.call("cuMemHostAlloc", byref(address), c_size_t(n_bytes), c_uint(1))
        return np.ctypeslib.as_array(ctypes.cast(address, POINTER(ctypes.c_uint8)), (n_bytes,))

    def launch(self, name: str, stream: int, *arguments: Any, threads: int = 1) -> None:
        """Launch a kernel with ctypes values as arguments, in blocks of at most 128 threads."""
        pointers = (c_void_p * max(len(arguments), 1))(*[ctypes.addressof(value) for value in arguments])
        block = min(threads, 128)
        grid = -(-threads // block)
        code = self.launch_kernel(self.kernels[name], grid, 1, 1, block, 1, 1, 0, stream, pointers, None)
        if code:
            raise DriverError(f"cuLaunchKernel({name}): error {code}")

    def scale(self, array: Any, stream: int) -> None:
        """``array * 1.5 + 1`` in place, for a matrix of doubles on the device whose rows are dense."""
        base, pitch = _dense_rows(array)
        rows, columns = array.shape
        self.launch("scale", stream, base, c_uint(rows), c_uint(columns), pitch, threads=rows * columns)

    def sweep(self, old: Any, new: Any, first: int, stream: int) -> None:
        """One step of Jacobi's method: `new` from `old`, whose row `first` is row 0 of `new`; what is at a border of `old` stays."""
        (from_, old_pitch), (to, new_pitch) = _dense_rows(old), _dense_rows(new)
        rows, columns = new.shape
        numbers = [c_uint(n) for n in (rows, columns, first, old.shape[0])]
        self.launch("sweep", stream, from_, to, *numbers, old_pitch, new_pitch, threads=rows * columns)

    def copy_rates(self, n_bytes: int, repeat: int = 3) -> dict[str, float]:
        """Bytes per second of the driver's own copies between page-locked memory and the device: the best of some."""
        host, device, stream = self.pinned(n_bytes), c_uint64(), self.stream()
        self.call("cuMemAlloc_v2", byref(device), c_size_t(n_bytes))
        address, rates = c_void_p(host.ctypes.data), {}
        for name, function, ends in (
            ("to_device", "cuMemcpyHtoDAsync_v2", (device, address)),
            ("to_host", "cuMemcpyDtoHAsync_v2", (address, device)),
        ):
            times = []
            for _ in range(repeat):
                began = time.perf_counter()
                self.call(function, *ends, c_size_t(n_bytes), stream)
                self.synchronize(stream)
                times.append(time.perf_counter() - began)
            rates[name] = n_bytes / min(times)
        self.call("cuMemFree_v2", device)
        return rates

    def pipeline(self, chunks: list[np.ndarray], spin: c_uint64) -> float:
        """Seconds for copying in, a kernel of `spin` ns and copying out, chunk after chunk, each on a stream of its own: what the card can do."""
        streams, event, devices = [self.stream() for _ in range(3)], c_void_p(), [c_uint64() for _ in chunks]
        for chunk, device in zip(chunks, devices):
            self.call("cuMemAlloc_v2", byref(device), c_size_t(chunk.nbytes))
        self.call("cuEventCreate", byref(event), c_uint(2))

        def follow(first: c_void_p, then: c_void_p) -> None:
            self.call("cuEventRecord", event, first)
            self.call("cuStreamWaitEvent", then, event, c_uint(0))

        began = time.perf_counter()
        for chunk, device in zip(chunks, devices):
            address, n_bytes = c_void_p(chunk.ctypes.data), c_size_t(chunk.nbytes)
            self.call("cuMemcpyHtoDAsync_v2", device, address, n_bytes, streams[0])
            follow(streams[0], streams[1])
            self.launch("spin", streams[1].value, spin)
            follow(streams[1], streams[2])
            self.call("cuMemcpyDtoHAsync_v2", address, device, n_bytes, streams[2])
        self.synchronize(streams[2])
        took = time.perf_counter() - began
        for device in devices:
            self.call("cuMemFree_v2", device)
        return took


def _dense_rows(array: Any) -> tuple[c_uint64, c_uint64]:
    """Address and bytes from row to row of a matrix of doubles on the device."""
    about = array.__cuda_array_interface__
    pitch = (about.get("strides") or (about["shape"][1] * 8, 8))[0]
    return c_uint64(about["data"][0]), c_uint64(pitch)
