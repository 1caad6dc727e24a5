"""Specialized functions, and what a task can ask about where it runs."""

from __future__ import annotations

import inspect
import threading

import parla
import pytest
from machine import pretend
from parla import Parla, TaskSpace, context, spawn
from parla.cpu import cpu
from parla.devices import gpu
from parla.errors import InvalidSchedulerAccessException, VariantDefinitionError
from parla.function_decorators import specialize, specialized
from support import notes


def in_task(body, **options):
    """The result of `body` as a task."""
    with Parla(workers=2):
        task = spawn(**options)(body)
    return task.result()


def make():
    @specialized
    def kernel(a, b=2, *, c=3):
        """What it does."""
        return "default", a, b, c

    return kernel


def test_the_default_outside_a_task():
    kernel = make()
    assert kernel(1, c=4) == ("default", 1, 2, 4)

    @kernel.variant(cpu)
    def kernel_cpu(a, b=2, *, c=3):
        return "cpu", a, b, c

    assert kernel(1) == ("default", 1, 2, 3)
    assert kernel_cpu(1) == ("cpu", 1, 2, 3)


def test_dispatch_by_the_devices_of_the_task():
    kernel = make()

    @kernel.variant(gpu)
    def kernel_gpu(a, b=2, *, c=3):
        return "gpu", a, b, c

    assert in_task(lambda: kernel(1), placement=[cpu, gpu]) == ("default", 1, 2, 3)

    @kernel.variant(cpu)
    def kernel_cpu(a, b=2, *, c=3):
        return "cpu", a, b, c

    assert in_task(lambda: kernel(1, 5), placement=cpu) == ("cpu", 1, 5, 3)
    assert in_task(lambda: kernel(1, c=0)) == ("cpu", 1, 2, 0)


def test_it_looks_like_the_default():
    kernel = make()
    assert kernel.__name__ == "kernel"
    assert kernel.__doc__ == "What it does."
    assert kernel.__wrapped__(1) == ("default", 1, 2, 3)
    assert list(inspect.signature(kernel).parameters) == ["a", "b", "c"]
    assert inspect.isfunction(kernel)
    assert specialize is specialized


def test_forms_of_variant():
    kernel = make()

    @kernel.variant(cpu, gpu)
    def either(a):
        return "either"

    @kernel.variant([(gpu, gpu), cpu * 2])
    def two(a):
        return "two"

    @kernel.variant(architecture=gpu * 1 == (gpu,) and gpu, max_amount=4, override=True)
    def many(a):
        return "many"

    assert dict(kernel.variants) == {
        (cpu,): either, (cpu, cpu): two, (gpu,): many, (gpu,) * 2: many, (gpu,) * 3: many, (gpu,) * 4: many,
    }
    assert kernel.variants[gpu] is many
    assert (cpu, gpu) not in kernel.variants
    assert len(kernel.variants) == 6
    with pytest.raises(TypeError):
        kernel.variants[cpu] = two


def test_eight_devices_unless_said_otherwise():
    kernel = make()
    kernel.variant(architecture=gpu)(lambda a: None)
    assert sorted(map(len, kernel.variants)) == list(range(1, 9))


def test_twice_is_an_error_that_names_both():
    kernel = make()
    first = kernel.variant(gpu)(lambda a: 1)
    with pytest.raises(VariantDefinitionError, match="kernel already has a variant for gpu"):
        kernel.variant(gpu)
    with pytest.raises(VariantDefinitionError, match="gpu"):
        kernel.variant(cpu, gpu)
    kernel.variant(gpu * 2)(lambda a: 1)
    with pytest.raises(VariantDefinitionError, match=r"\(gpu, gpu\)"):
        kernel.variant((gpu, gpu))
    assert (cpu,) not in kernel.variants
    assert kernel.variants[gpu] is first
    second = kernel.variant(gpu, override=True)(lambda a: 2)
    assert kernel.variants[gpu] is second


def test_twice_is_noticed_also_when_the_decorators_were_made_before():
    kernel = make()
    one, two = kernel.variant(gpu), kernel.variant(gpu)
    one(lambda a: 1)
    with pytest.raises(VariantDefinitionError, match="already"):
        two(lambda a: 2)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "text"),
    [
        ((), {}, TypeError, "needs an architecture"),
        (([],), {}, TypeError, "needs an architecture"),
        (((),), {}, TypeError, "names no architecture"),
        (("gpu",), {}, TypeError, "str"),
        ((cpu(0),), {}, TypeError, r"architectures.*cpu\(0\)"),
        ((cpu[{"vcus": 1}],), {}, TypeError, "architectures.*vcus"),
        (((cpu, None),), {}, TypeError, "NoneType"),
        ((gpu,), {"architecture": gpu}, TypeError, "not both"),
        ((), {"architecture": "gpu"}, TypeError, "str"),
        ((gpu,), {"max_amount": 2}, TypeError, "architecture="),
        ((), {"architecture": gpu, "max_amount": 0}, ValueError, "at least 1"),
        ((), {"architecture": gpu, "max_amount": 1.5}, TypeError, "float"),
        ((gpu,), {"overide": True}, TypeError, "overide"),
    ],
)
def test_bad_variants(arguments, options, error, text):
    kernel = make()
    with pytest.raises(error, match=text):
        kernel.variant(*arguments, **options)
    assert not kernel.variants


def test_only_functions_can_be_specialized():
    with pytest.raises(TypeError, match="int"):
        specialized(3)
    with pytest.raises(TypeError, match="kernel.variant needs a function, not int"):
        make().variant(gpu)(3)


def test_the_same_name_stays_the_specialized_function():
    @specialized
    def f():
        return "default"

    before = f

    @f.variant(cpu)
    def f():
        return "cpu"

    assert f is before
    assert f() == "default"
    assert in_task(lambda: f()) == "cpu"


def test_a_default_that_cannot_be():
    @specialized
    def only_gpu():
        raise NotImplementedError("only on a GPU")

    with pytest.raises(NotImplementedError, match="only on a GPU"):
        in_task(lambda: only_gpu())


def test_as_the_body_of_a_task(traced_parla, workers):
    @specialized
    def body():
        return "default"

    @body.variant(cpu)
    def body_cpu():
        return "cpu"

    with traced_parla(workers=workers):
        tasks = [spawn(placement=[cpu, gpu])(body) for _ in range(10)]
        assert tasks[0].name.startswith("body")
    assert [task.result() for task in tasks] == ["cpu"] * 10


def test_coroutine_functions(traced_parla, workers):
    @specialized
    async def body():
        raise AssertionError("there is a variant")

    with traced_parla(workers=workers):
        leaf = spawn()(lambda: 20)

        @body.variant(cpu)
        async def body_cpu():
            return await leaf + 1

        assert inspect.iscoroutinefunction(body)
        direct = spawn(placement=cpu)(body)

        @spawn()
        async def calls():
            return await body()

    assert (direct.result(), calls.result()) == (21, 21)


@pytest.mark.parametrize("is_async", [False, True])
def test_an_error_names_the_users_line(is_async):
    def fails():
        raise KeyError("in a variant")

    async def fails_later():
        raise KeyError("in a variant")

    chosen = fails_later if is_async else fails
    body = specialized(chosen)
    line = chosen.__code__.co_firstlineno
    line_of_spawn = test_an_error_names_the_users_line.__code__.co_firstlineno + 13
    with pytest.raises(KeyError, match="in a variant") as caught, Parla(workers=1):
        task = spawn()(body)
    assert task.name == chosen.__name__
    assert f"{__file__}:{line_of_spawn}" in notes(caught.value)
    places = [(entry.name, entry.path, entry.lineno + 1) for entry in caught.traceback]
    assert (chosen.__name__, places[-1][1], line) in places
    assert not any(place[1].name == "function_decorators.py" for place in places)


def test_plain_and_coroutine_do_not_mix():
    async def coroutine(a):
        return a

    with pytest.raises(VariantDefinitionError, match="kernel is a plain function.*gpu"):
        make().variant(gpu)(coroutine)
    with pytest.raises(VariantDefinitionError, match="coroutine function"):
        specialized(coroutine).variant(gpu)(lambda a: a)


QUESTIONS = [
    context.get_current_context,
    context.get_current_devices,
    context.get_current_stream,
    context.get_current_task,
]


@pytest.mark.parametrize("question", QUESTIONS)
def test_outside_a_task_there_is_no_answer(question):
    with pytest.raises(InvalidSchedulerAccessException, match="inside a task"):
        question()
    assert not context.has_environment()
    with Parla(workers=1), pytest.raises(InvalidSchedulerAccessException):
        question()


def test_in_a_task(traced_parla, workers):
    with traced_parla(workers=workers):
        T = TaskSpace("T")

        @spawn(T[0], placement=cpu)
        def body():
            cx = context.get_current_context()
            assert context.has_environment()
            assert context.get_current_devices() == [cpu(0)] == list(cx.devices)
            assert (cx.device, len(cx)) == (cpu(0), 1)
            assert cx == context.get_current_context()
            assert repr(cx) == "<Context of cpu(0)>"
            return context.get_current_task().name

    assert body.result() == "body"
    assert not context.has_environment()


def test_the_answers_follow_the_task_over_an_await(traced_parla, workers):
    with traced_parla(workers=workers):
        T = TaskSpace("T")
        leaves = [spawn(T[i])(lambda: None) for i in range(20)]
        tasks = []
        for leaf in leaves:

            @spawn()
            async def body():
                me, cx = context.get_current_task(), context.get_current_context()
                with cx[0]:
                    await leaf
                    assert context.get_current_context() == cx[0]
                assert context.get_current_context() == cx
                return me.taskid == context.get_current_task().taskid

            tasks.append(body)
    assert all(task.result() for task in tasks)
    assert not context._narrowed


def test_the_stream_of_a_cpu():
    def body():
        stream = context.get_current_stream()
        stream.synchronize()
        with stream as entered:
            assert entered is stream
        context.get_current_context().synchronize()
        assert stream == context.get_current_context().stream
        assert context.get_current_context().streams == (stream,)
        assert stream != 0
        assert len({stream, context.get_current_stream()}) == 1
        return bool(stream), repr(stream)

    assert in_task(body) == (False, "<CPU: no stream>")


def test_an_exception_leaves_no_narrowed_context():
    def body():
        with context.get_current_context()[0]:
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        in_task(body)
    assert not context._narrowed


def test_a_context_belongs_to_its_task():
    cx = in_task(context.get_current_context)
    with pytest.raises(InvalidSchedulerAccessException, match="in the task that it belongs to"):
        cx.__enter__()

    def body():
        with cx:
            pass

    with pytest.raises(InvalidSchedulerAccessException, match="in the task that it belongs to"):
        in_task(body)


@pytest.fixture
def three():
    """The context of a task of three devices, as its body would see it."""

    class Task:
        """Stands for a running task with three devices, which one CPU device can't give."""

    task = Task()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(context, "_running_task", lambda: context._lent.task or task)
        slots = tuple(context._Slot(None, device, None, context._CPU_STREAM) for device in (cpu(0), cpu(1), gpu(0)))
        patch.setattr(context, "_slots_of", lambda task: slots)
        yield context.get_current_context()


def test_parts_of_a_context(three):
    assert three.devices == (cpu(0), cpu(1), gpu(0))
    assert three[1].devices == (cpu(1),)
    assert three[-1].device == gpu(0)
    assert three[0:2].devices == (cpu(0), cpu(1))
    assert [part.device for part in three] == list(three.devices)
    assert three[0:2] != three
    assert len({three, three[0:3], three[0]}) == 2
    for key in (3, -4, slice(3, 5)):
        with pytest.raises(IndexError):
            three[key]


def test_loop_makes_each_device_current(three):
    seen = []
    for device in three.loop():
        assert context.get_current_devices() == [device]
        with context.get_current_context() as inner:
            assert inner.devices == (device,)
        seen.append(device)
    assert seen == list(three.devices)
    assert context.get_current_context() == three
    assert not context._narrowed


def test_leaving_a_loop_early(three):
    loop = three.loop()
    next(loop)
    loop.close()
    assert context.get_current_context() == three


def test_dispatch_on_several_devices(three):
    @specialized
    def f():
        return "default"

    f.variant((cpu, cpu, gpu))(lambda: "all")
    f.variant(cpu)(lambda: "one cpu")
    f.variant(cpu * 2)(lambda: "two cpus")
    assert f() == "all"
    with three[0:2]:
        assert f() == "two cpus"
    assert [f() for _ in three.loop()] == ["one cpu", "one cpu", "default"]
    with three[1:3]:
        assert f() == "default"


def test_parfor_returns_all_results_in_order(three):
    together = threading.Barrier(3, timeout=10)

    @three.parfor()
    def results(part):
        together.wait()
        assert context.get_current_devices() == [part.device]
        assert context.has_environment()
        return part.device

    assert results == list(three.devices)
    assert context.get_current_context() == three
    assert not context._narrowed


def test_parfor_in_a_task():
    def body():
        @context.get_current_context().parfor()
        def results(part):
            return part.device, context.get_current_task().name

        return results

    assert in_task(body, name="me") == [(cpu(0), "me")]


def test_parfor_loses_no_error(three):
    with pytest.raises(ValueError, match="0") as caught:

        @three.parfor()
        def results(part):
            if part.device != cpu(1):
                raise ValueError(part.device)

    assert any("gpu(0)" in note for note in getattr(caught.value, "__notes__", ["gpu(0)"]))
    assert context.get_current_context() == three


def test_parfor_needs_a_plain_function(three):
    async def coroutine(part):
        pass

    def generator(part):
        yield

    for body in (coroutine, generator):
        with pytest.raises(TypeError, match="plain function"):
            three.parfor()(body)


@pytest.mark.parametrize("module", ["parla", "parla.tasks", "parla.task_runtime"])
@pytest.mark.parametrize("question", [*QUESTIONS, context.has_environment])
def test_programs_find_the_questions_where_they_look(module, question):
    import importlib

    assert getattr(importlib.import_module(module), question.__name__) is question
    assert parla.Parla


def test_devices_per_core_are_the_tasks_own():
    with pretend(cores=2, per_core=True), Parla(workers=2):
        tasks = [spawn(placement=cpu(i))(context.get_current_devices) for i in (0, 1)]
    assert [task.result() for task in tasks] == [[cpu(0)], [cpu(1)]]
