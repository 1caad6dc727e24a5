"""What happens when a task fails: the error comes out where it is awaited, and what depends on it does not run."""

import parla
from parla import Parla, TaskSpace, spawn
from parla.cpu import cpu


def handled() -> None:
    """A task may catch the error of another one, as if it had called it."""
    with Parla():

        @spawn(placement=cpu)
        def fails():
            raise ValueError("bad input")

        @spawn(placement=cpu)
        async def recovers():
            try:
                await fails
            except ValueError as error:
                return f"recovered from {error!r}"

        print(recovers.result())


def unhandled() -> None:
    """An error nobody looked at is raised at the end of the block; dependents are cancelled, others run on."""
    T = TaskSpace("T")
    try:
        with Parla():

            @spawn(T[0], placement=cpu)
            def broken():
                return 1 / 0

            @spawn(T[1], [T[0]], placement=cpu)
            def dependent():
                print("never printed")

            @spawn(T[2], placement=cpu)
            def independent():
                return "the independent task ran"

    except ZeroDivisionError as error:
        print(f"raised at the end: {error!r}")
    print(f"dependent: {type(dependent.exception()).__name__}")
    print(independent.result())


def refused() -> None:
    """What can never work is refused where it is spawned, and the program goes on."""
    with Parla():
        try:

            @spawn(placement=cpu, vcus=2)
            def impossible():
                pass

        except parla.PlacementError as error:
            print(f"refused: {error}")


if __name__ == "__main__":
    handled()
    unhandled()
    refused()
