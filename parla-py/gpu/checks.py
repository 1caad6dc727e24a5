"""The checks; `run.py` runs each in a process of its own.

`python checks.py NAME` runs one here and prints its result as JSON on the last line.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import measures  # noqa: F401 - each registers its checks
import programs  # noqa: F401
import with_libraries  # noqa: F401
from checking import CHECKS, TARGETS, Missed


def main(name: str) -> int:
    """Run one check and print its result."""
    function = next(function for function, _, _ in CHECKS if function.__name__ == name)
    try:
        result: dict[str, Any] = {"status": "passed", "measured": function()}
    except Missed as missed:
        result = {"status": "missed", "reason": str(missed), "measured": missed.measured}
    except Exception as error:
        result = {"status": "failed", "reason": f"{type(error).__name__}: {error}"}
        import traceback

        traceback.print_exc()
    if TARGETS:
        result["targets"] = TARGETS
    # A line of its own, whatever the libraries have written.
    print("\n" + json.dumps(result, default=str), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
