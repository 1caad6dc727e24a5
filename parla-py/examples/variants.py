"""One function, an implementation per architecture: a task calls the one for its own device."""

from parla import Parla, spawn
from parla.devices import cpu, gpu
from parla.function_decorators import specialized


@specialized
def describe(n: int) -> str:
    """The default, used wherever there is no variant."""
    return f"{n}: anywhere"


@describe.variant(cpu)
def describe_on_cpu(n: int) -> str:
    return f"{n}: on a CPU"


# Declared on every machine, called only where the task has two GPUs.
@describe.variant((gpu, gpu))
def describe_on_two_gpus(n: int) -> str:
    return f"{n}: on two GPUs"


def main() -> None:
    """Call the function outside a task, in a task, and as a task."""
    print(describe(0))
    with Parla():

        @spawn(placement=[cpu, gpu])
        def inside():
            return describe(1)

    print(inside.result())

    @specialized
    def body():
        return "2: default body"

    @body.variant(cpu)
    def body_on_cpu():
        return "2: a variant as the body of a task"

    with Parla():
        task = spawn(placement=cpu)(body)
    print(task.result())


if __name__ == "__main__":
    main()
