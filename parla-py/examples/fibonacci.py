"""Tasks that wait for tasks: Fibonacci numbers with ``await``.

A waiting task gives its worker back, so any depth works with any number of workers.
"""

import sys

from parla import Parla, spawn
from parla.cpu import cpu


def fibonacci(n: int):
    """Spawn the task that computes the n-th Fibonacci number."""

    @spawn(placement=cpu)
    async def fib():
        if n < 2:
            return n
        left, right = fibonacci(n - 1), fibonacci(n - 2)
        return await left + await right

    return fib


def main(n: int) -> None:
    """Print the n-th Fibonacci number."""
    with Parla():
        task = fibonacci(n)
        print(f"fibonacci({n}) = {task.result()}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 15)
