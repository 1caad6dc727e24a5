"""Placed tasks that wait in the middle of their bodies: no silent hang, nothing overbooked, the error of a child reaches its parent."""

from __future__ import annotations

import pytest
from placed_programs import HEAD, run
from support import run_py

# A parent that waits gives back what its child needs.

WAITS = {
    "await": ("async def", "await child"),
    "wait": ("def", "child.wait()"),
    "result": ("def", "child.result()"),
}


@pytest.mark.parametrize("how", WAITS)
def test_the_claim_of_a_parent_is_there_for_its_child(workers, how):
    kind, wait = WAITS[how]
    run(f"""
with Parla(workers=WORKERS, check=True) as rt:
    @spawn(placement=gpu(0), memory=60 * MIB)
    {kind} parent():
        @spawn(placement=gpu(0), memory=60 * MIB)
        def child():
            return 1
        {wait}
        return 2
assert parent.result() == 2
""", workers)


@pytest.mark.parametrize("how", WAITS)
def test_the_claim_of_a_parent_makes_room_for_its_child_s_arrays(workers, how):
    kind, wait = WAITS[how]
    run(f"""
a, b = np.ones(4 * MIB), np.ones(6 * MIB)
A, B = asarray(a), asarray(b)
with Parla(workers=WORKERS, check=True) as rt:
    @spawn(placement=gpu(0), memory=30 * MIB, inout=[A])
    {kind} parent():
        A.array[:] += 1
        @spawn(placement=gpu(0), memory=40 * MIB, inout=[B])
        def child():
            B.array[:] += 1
        {wait}
        A.array[:] *= 2
assert (a == 4).all() and (b == 2).all()
""", workers)


@pytest.mark.parametrize("how", WAITS)
def test_claims_are_taken_again_and_devices_are_never_overbooked(workers, how):
    kind, wait = WAITS[how]
    run(f"""
import threading
lock, held, most = threading.Lock(), 0, 0
def hold(mib):
    global held, most
    with lock:
        held += mib
        most = max(most, held)
with Parla(workers=WORKERS, check=True) as rt:
    for _ in range(6):
        @spawn(placement=gpu(0), memory=60 * MIB, vcus=0.1)
        {kind} parent():
            for _ in range(3):
                hold(60)
                time.sleep(0.001)
                @spawn(placement=gpu(0), memory=40 * MIB, vcus=0.1)
                def child():
                    hold(40)
                    time.sleep(0.001)
                    hold(-40)
                hold(-60)
                {wait}
assert held == 0 and most <= 100, (held, most)
""", workers)


def test_deep_nesting_with_all_of_the_memory(workers):
    run("""
def body(depth):
    async def inner():
        if depth:
            await spawn(placement=gpu(0), memory=90 * MIB)(body(depth - 1))
        return depth
    return inner
def plain(depth):
    def inner():
        if depth:
            spawn(placement=gpu(0), memory=90 * MIB)(plain(depth - 1)).wait()
    return inner
with Parla(workers=WORKERS, check=True):
    spawn(placement=gpu(0), memory=90 * MIB)(body(30))
    spawn(placement=gpu(0), memory=90 * MIB)(plain(10))
""", workers)


@pytest.mark.parametrize("how", WAITS)
def test_parents_come_back_one_after_the_other(workers, how):
    """Each parent needs most of the memory for its array, before and after: none may hold the GPU while it waits for room."""
    kind, wait = WAITS[how]
    run(f"""
arrays = [np.ones(8 * MIB) for _ in range(4)]
wrapped = [asarray(a) for a in arrays]
with Parla(workers=WORKERS, check=True):
    for i in range(4):
        @spawn(placement=gpu(0), inout=[wrapped[i]])
        {kind} parent():
            wrapped[i].array[:] += 1
            @spawn(placement=gpu(0), vcus=0.5)
            def child():
                pass
            {wait}
            wrapped[i].array[:] *= 2
assert all((a == 4).all() for a in arrays)
""", workers)


@pytest.mark.parametrize("how", WAITS)
@pytest.mark.parametrize("places", ["gpu(0), gpu(0)", "gpu(0), gpu(1)", "cpu, gpu(0)", "gpu(0), cpu"])
def test_two_children_that_change_the_same_array(workers, how, places):
    """The second child is staged as soon as the first is over, while the parent wants the array, too. (A race, so not with `check`.)"""
    kind, wait = WAITS[how]
    other = wait.replace("child", "second")
    run(f"""
mine, theirs = ({places},)
for _ in range(5):
    a = np.zeros(1000)
    A = asarray(a)
    with Parla(workers=WORKERS):
        @spawn(placement=mine, inout=[A])
        {kind} parent():
            A.array[:] += 1
            @spawn(placement=theirs, inout=[A])
            def child():
                A.array[:] += 10
            @spawn(placement=theirs, inout=[A])
            def second():
                A.array[:] += 100
            {wait}
            {other}
            A.array[:] *= 2
    assert (a == 222).all(), a
""", workers)


def test_after_a_wait_that_timed_out_the_body_has_its_data(workers):
    run("""
a = np.zeros(1000)
A = asarray(a)
import threading
gate = threading.Event()
with Parla(workers=WORKERS, check=True):
    @spawn(placement=gpu(0), inout=[A], memory=60 * MIB)
    def parent():
        A.array[:] += 1
        @spawn(placement=cpu)
        def child():
            gate.wait(20)
        for _ in range(3):
            try:
                child.wait(0.02)
            except TimeoutError:
                A.array[:] += 1
        gate.set()
        child.wait()
        A.array[:] *= 2
assert (a == 8).all(), a
""", workers)


# The errors of children.


@pytest.mark.parametrize("place", ["cpu", "gpu(0)"])
@pytest.mark.parametrize("how", WAITS)
def test_a_parent_catches_the_error_of_a_child_that_spoilt_its_array(workers, how, place):
    kind, wait = WAITS[how]
    raising = wait if how != "wait" else "child.result()"
    run(f"""
a = np.zeros(8)
A = asarray(a, name="shared")
with Parla(workers=WORKERS, check=True):
    @spawn(placement={place}, inout=[A])
    {kind} parent():
        A.array[:] += 1
        @spawn(placement=gpu(1), inout=[A])
        def child():
            raise KeyError("half-way")
        try:
            {raising}
        except KeyError as error:
            assert "half-way" in str(error)
        else:
            raise AssertionError("no error")
        try:
            A.array
        except ParlaError as error:
            text = str(error)
            assert "shared" in text and "no valid contents" in text and "child" in text, text
        else:
            raise AssertionError("it can be read")
        A[:] = 7
        A.array[:] += 1
    parent.wait()
assert (a == 8).all(), a
""", workers)


@pytest.mark.parametrize("how", WAITS)
@pytest.mark.parametrize("gpus", ["0", "2"])
def test_a_child_that_fails_before_its_parent_waits(how, gpus):
    """On the CPU both use the same bytes: what the child spoilt is invalid, although its parent had not let go of it yet."""
    kind, wait = WAITS[how]
    raising = wait if how != "wait" else "child.result()"
    run(f"""
A, seen = asarray(np.zeros(8), name="shared"), []
with Parla(workers=2):
    @spawn(placement=cpu, inout=[A])
    {kind} parent():
        A.array[:] += 1
        @spawn(placement=cpu, inout=[A[:4]])
        def child():
            A[:2].array[:] = 5
            raise KeyError("half-way")
        while not child.done():
            pass
        try:
            {raising}
        except KeyError:
            pass
        assert A[4:].array.tolist() == [1] * 4
        try:
            A.array
        except ParlaError as error:
            seen.append(str(error))
        A[:] = 7
    parent.wait()
assert len(seen) == 1 and "shared[0:4]" in seen[0] and "child" in seen[0], seen
assert (A.array == 7).all()
""", env={"PARLA_SIM_GPUS": gpus})


def test_without_gpus_it_is_the_same(workers):
    run_py(HEAD + """
a = np.zeros(8)
A = asarray(a, name="shared")
with Parla(workers=WORKERS, check=True):
    @spawn(inout=[A])
    async def parent():
        A.array[:] += 1
        @spawn(inout=[A])
        def child():
            raise KeyError("half-way")
        try:
            await child
        except KeyError:
            pass
        try:
            A.array
        except ParlaError as error:
            assert "shared" in str(error), error
        else:
            raise AssertionError("it can be read")
        A[:] = 7
        A.array[:] += 1
assert (a == 8).all(), a
""", env={"WORKERS": str(workers)})


def test_what_nobody_writes_again_stays_invalid(workers):
    run("""
a = np.arange(10.0)
A = asarray(a, name="shared")
try:
    with Parla(workers=WORKERS):
        @spawn(placement=gpu(0), inout=[A])
        async def parent():
            @spawn(placement=gpu(1), inout=[A[:5]])
            def child():
                raise KeyError("half-way")
            try:
                await child
            except KeyError:
                pass
            A[5:].array[:] += 100  # this half is sound
        parent.wait()
        assert parent.exception() is None
        @spawn(placement=gpu(1), input=[A[5:]])
        def sound():
            return float(A[5:].array.sum())
        assert sound.result() == sum(range(5, 10)) + 500
        @spawn(placement=gpu(1), input=[A])
        def later():
            return float(A.array.sum())
except ParlaError as error:
    assert "shared[0:5]" in str(error) and "child" in str(error), error
else:
    raise AssertionError("the invalid half was read")
assert a[5:].tolist() == [105, 106, 107, 108, 109]
""", workers)


def test_an_output_that_a_child_spoilt_can_be_written(workers):
    run("""
a = np.zeros(8)
A = asarray(a)
with Parla(workers=WORKERS, check=True):
    @spawn(placement=gpu(0), output=[A])
    async def parent():
        @spawn(placement=gpu(1), inout=[A])
        def child():
            raise KeyError("half-way")
        try:
            await child
        except KeyError:
            pass
        A.array[:] = 3
assert (a == 3).all(), a
""", workers)


def test_finally_runs_when_an_awaited_child_failed(workers):
    run("""
A = asarray(np.zeros(8))
order = []
try:
    with Parla(workers=WORKERS):
        @spawn(placement=gpu(0), inout=[A])
        async def parent():
            @spawn(placement=gpu(0), inout=[A])
            def child():
                raise KeyError("half-way")
            try:
                await child
            finally:
                order.append("finally")
except KeyError as error:
    order.append("raised")
assert order == ["finally", "raised"], order
""", workers)


@pytest.mark.parametrize("how", WAITS)
def test_a_device_that_is_lost_while_its_task_waits(workers, how):
    kind, wait = WAITS[how]
    done = run(f"""
A = asarray(np.zeros(1000))
order = []
try:
    with Parla(workers=WORKERS) as rt:
        @spawn(placement=gpu(0), inout=[A], memory=10 * MIB)
        {kind} parent():
            A.array[:] += 1
            @spawn(placement=gpu(0), vcus=0.1)
            def child():
                from parla.sim import kernel
                kernel(1000)
                kernel(1000)
            try:
                {wait}
            finally:
                order.append("finally")
        fine = spawn(placement=cpu)(lambda: order.append("cpu"))
except BaseException as error:
    from parla.errors import DeviceError
    found = getattr(error, "exceptions", [error])
    print(*sorted({{type(e).__name__ for e in found}}), *sorted(order))
""", workers, check=False, env={"PARLA_SIM_FAULTS": "gpu:0 lose=4"})
    assert done.returncode == 0, done.stderr
    assert "finally" in done.stdout and "cpu" in done.stdout, (done.stdout, done.stderr)
