"""The program that runs the checks on machines with a GPU: what hangs, dies or talks too much spoils no more than its own line."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cuda_driver import ROOT

CHECKS = """
import os, subprocess, sys

def hangs():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with open(sys.argv[0] + ".child", "w") as file:
        file.write(str(child.pid))
    child.wait()

def talks():
    print('{"status": "passed", "measured": {"x": 1}}')
    print("[a library says goodbye]")
    print("{}")

def dies():
    print('{"status": "passed", "measured": {"x": 1}}', flush=True)
    os._exit(3)

def says_nothing():
    pass

globals()[sys.argv[1]]()
"""


@pytest.fixture
def script(tmp_path):
    """`run.py` as a module, with checks of our own."""
    spec = importlib.util.spec_from_file_location("gpu_check_run", ROOT / "parla-py/gpu/run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.HERE = tmp_path
    (tmp_path / "checks.py").write_text(CHECKS)
    return module


def is_gone(pid):
    """Whether a process has ended, be it that nobody has asked for its status."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_what_hangs_is_ended_with_all_that_it_started(script, tmp_path):
    result = script.perform("hangs", {}, 5)
    assert result["status"] == "failed" and result["reason"] == "not done after 5 s"
    child, until = int((tmp_path / "checks.py.child").read_text()), time.monotonic() + 20
    while not is_gone(child):
        assert time.monotonic() < until, "what it started is still there"


def test_the_result_is_found_among_other_lines(script):
    assert script.perform("talks", {}, 30) == {"status": "passed", "measured": {"x": 1}}


def test_a_process_that_ends_badly_after_its_result_has_failed(script):
    result = script.perform("dies", {}, 30)
    assert result["status"] == "failed" and result["measured"] == {"x": 1}
    assert result["reason"] == "status 3, after it had passed: its process did not end well"


def test_no_result_is_a_failure(script):
    assert script.perform("says_nothing", {}, 30)["reason"] == "status 0"


def test_when_the_time_is_over_the_rest_is_not_run(tmp_path):
    command = [sys.executable, str(ROOT / "parla-py/gpu/run.py"), "--minutes", "0", "--out", str(tmp_path), "cpu_program"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert done.returncode == 1 and "| cpu_program | not run: no time left" in (tmp_path / "gpu-check.md").read_text()


def test_targets_are_a_table_of_their_own(script):
    target = {"measure": "task_us", "target": "<= 12", "measured": 14.251, "met": False}
    result = {"status": "missed", "reason": "task_us is 14.25, must be <= 12", "targets": [target]}
    about = dict.fromkeys(["date", "commit", "processor", "cpus", "system", "python", "numpy"], "?") | {"nvidia_smi": []}
    text = script.in_words({"machine": about, "gpu": "found", "cupy": "found", "checks": {"empty_kernels": result}})
    assert "| empty_kernels: task_us | <= 12 | 14.25 | **not met** |" in text
