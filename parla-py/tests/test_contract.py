"""The lists of promises (contract.toml, contract_devices.toml, contract_earlier.toml) name tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

tomllib = pytest.importorskip("tomllib")  # from Python 3.11 on

ROOT = Path(__file__).parents[2]
if not (ROOT / "parla-data").is_dir():
    pytest.skip("only in the repository", allow_module_level=True)

LISTS = sorted(Path(__file__).parent.glob("contract*.toml"))
TOPICS = {topic: lines for file in LISTS for topic, lines in tomllib.loads(file.read_text()).items()}
FIELDS = {"promise": str, "tests": list, "broken": str, "weaker": str}
KEYWORD = {".py": r"def", ".rs": r"(pub )?fn"}


def is_there(test: str) -> bool:
    """Whether there is a test function of this name in this file."""
    path, _, name = test.partition("::")
    file = ROOT / path
    is_test = file.suffix == ".rs" or file.name == "conftest.py" or name.startswith("test_")
    if not file.is_file() or not is_test:
        return False
    return re.search(rf"^ *(async )?{KEYWORD[file.suffix]} {re.escape(name)}\(", file.read_text(), re.M) is not None


@pytest.mark.parametrize("topic", TOPICS)
def test_every_promise_has_tests_that_exist(topic):
    for line in TOPICS[topic]:
        assert {"promise", "tests"} <= line.keys()
        assert all(isinstance(value, FIELDS[field]) and value for field, value in line.items()), line
        missing = [test for test in line["tests"] if not is_there(test)]
        assert not missing, f"{line['promise']}: {missing}"
    promises = [line["promise"] for line in TOPICS[topic]]
    assert len(set(promises)) == len(promises)


def test_what_is_no_test_is_not_found():
    here = "parla-py/tests/test_contract.py"
    assert is_there(f"{here}::test_what_is_no_test_is_not_found")
    for wrong in (here, f"{here}::test_what_is_no_test", f"{here}::is_there", "parla-py/tests/test_nothing.py::test_what"):
        assert not is_there(wrong)
