"""`python -m parla`: what there is, and links of GPUs measured once for all runs."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


def parla(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """What it prints; GPUs, where there are any, are those of the tests' own CUDA driver."""
    settings = {name: value for name, value in os.environ.items() if not name.startswith("PARLA_")}
    command = [sys.executable, "-m", "parla", *arguments]
    return subprocess.run(command, env={**settings, **environment}, capture_output=True, text=True, timeout=50)


def test_devices_without_gpus():
    done = parla(LD_LIBRARY_PATH="")
    if "gpu:0" in done.stdout:
        pytest.skip("this machine has a GPU")
    assert "cpu:0: " in done.stdout and "no GPU: " in done.stdout and "links" not in done.stdout, done.stdout
    refused = parla("--measure-links", LD_LIBRARY_PATH="")
    assert refused.returncode == 1 and "measure_links: libcuda.so.1 not found" in refused.stderr


def test_simulated_links_are_those_that_were_asked_for():
    shown = parla(PARLA_SIM_GPUS="1", PARLA_SIM_LINK="latency=20us,bandwidth=3GB/s").stdout
    assert "links (simulated):" in shown and "host to gpu:0: 20.0 us, 3.0 GB/s" in shown, shown
    refused = parla("--measure-links", PARLA_SIM_GPUS="1")
    assert refused.returncode == 1 and "PARLA_SIM_LINK" in refused.stderr


def test_links_are_measured_once(driver, tmp_path):
    cuda = {"LD_LIBRARY_PATH": str(driver), "FAKE_CUDA_DEVICES": "2", "XDG_CACHE_HOME": str(tmp_path)}
    assumed = parla(**cuda).stdout
    assert "links (assumed):" in assumed and "host to gpu:1: 10.0 us, 24.0 GB/s" in assumed, assumed

    measured = parla("--measure-links", **cuda).stdout
    file = tmp_path / "parla" / "links"
    assert "links (measured):" in measured and f"kept in {file}" in measured, measured
    assert parla(**cuda).stdout == measured.replace(f"kept in {file}\n", "")
    # Of another machine, and when told so, it is not used.
    assert "links (assumed):" in parla(**{**cuda, "FAKE_CUDA_DEVICES": "1"}).stdout
    assert "links (assumed):" in parla(**cuda, PARLA_LINK_FILE="none").stdout

    file.write_text(file.read_text() + "nonsense\n")
    assert "links (assumed):" in parla(**cuda).stdout  # a spoilt cache is no cache
    named = parla(**cuda, PARLA_LINK_FILE=str(file))
    assert named.returncode == 1 and "expected" in named.stderr and str(file) in named.stderr


def test_links_are_not_measured_beside_a_runtime(driver):
    program = "from parla import Parla, _native\nwith Parla(): _native.measure_links()"
    settings = {**os.environ, "LD_LIBRARY_PATH": str(driver)}
    done = subprocess.run([sys.executable, "-c", program], env=settings, capture_output=True, text=True, timeout=50)
    assert "ParlaError: measure_links: a runtime is open" in done.stderr
