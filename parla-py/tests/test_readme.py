"""The programs and commands of the README do what stands beside them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"
if not README.is_file():
    pytest.skip("only in the repository", allow_module_level=True)

PROGRAMS = re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.M | re.S)
COMMANDS = re.findall(r"^\$ (PARLA_\S.*?) python program\.py", README.read_text(), re.M)
"""The environments in which the README runs its program with data."""


def output_of(source: str, **variables: str) -> list[str]:
    """What a program that must succeed prints, without other settings of Parla."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PARLA_")}
    environment["PARLA_CHECK"] = "1"
    environment.pop("PYTHONUNBUFFERED", None)  # then `print` writes text and newline apart, and threads mix them
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "/dev/stdin"],
        input=textwrap.dedent(source),
        capture_output=True,
        text=True,
        timeout=30,
        env=environment | variables,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_there_is_something_to_test():
    assert (len(PROGRAMS), len(COMMANDS)) == (3, 3)


@pytest.mark.parametrize("workers", ["1", "2", "8"])
def test_the_shortest_program_and_what_comes_next(workers):
    first, coroutine, _ = PROGRAMS
    inside = textwrap.indent(coroutine, "    ").replace("print(total.result())", "print('values:', total.result())")
    text = "\n".join(output_of(first + inside, PARLA_NUM_THREADS=workers))
    assert sorted(re.findall(r"I am task (\d)", text)) == ["0", "1", "2", "3"]
    assert text.count("I run second") == 1
    assert text.rindex("I am task") < text.index("I run second") < text.index("values: 5")


@pytest.mark.parametrize("command", COMMANDS)
def test_the_program_with_data(command):
    pytest.importorskip("numpy")
    program = PROGRAMS[2]
    promised = re.search(r"# (\[.*?\]): at home", program)
    assert promised is not None
    variables = dict(setting.split("=", 1) for setting in command.split())
    assert output_of(program, **variables) == [promised[1]]
