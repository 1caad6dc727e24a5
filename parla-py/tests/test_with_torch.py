"""Torch's tensors in CPU memory: as arrays, in tasks, and what can't be an array. No GPU is needed."""

from __future__ import annotations

import sys
import threading

import numpy as np
import pytest
from parla import Parla, TaskEnvironment, TaskSpace, array, spawn
from parla.array import asnumpy, clone_here, copy, get_memory, is_array, storage_size
from parla.devices import cpu
from parla.environments import ThreadLimit
from parla.parray import asarray

torch = pytest.importorskip("torch", reason="Torch is not installed")


def counting(*shape):
    """A tensor of 0, 1, 2, ..."""
    return torch.arange(int(np.prod(shape)), dtype=torch.float32).reshape(shape)


VIEWS = {
    "whole": lambda x: x,
    "transposed": lambda x: x.T,
    "steps": lambda x: x[:, ::2],
    "row": lambda x: x[1],
    "repeated": lambda x: x[:1].expand(3, 4),
    "element": lambda x: x[1, 2],
    "empty": lambda x: x[:0],
}


@pytest.mark.parametrize("view", VIEWS)
def test_a_tensor_is_an_array_without_a_copy(view):
    x = VIEWS[view](counting(3, 4))
    seen = asnumpy(x)
    assert is_array(x) and get_memory(x) == cpu(0).memory() and array.get_array_module(x) is np
    assert storage_size(x) == x.numel() * 4
    assert seen.shape == tuple(x.shape) and (seen == np.array(x.tolist(), np.float32).reshape(seen.shape)).all()
    assert x.numel() == 0 or seen.__array_interface__["data"][0] == x.data_ptr()
    assert not np.shares_memory(clone_here(x), seen)
    assert (asarray(x).array == seen).all()


def test_copies_into_and_out_of_tensors():
    x = counting(3, 4)
    y, n = torch.zeros(4, 3), np.zeros((2, 4))
    copy(y.T, x)
    copy(n, x[1:])
    assert (y.T == x).all() and n.tolist() == x[1:].tolist()
    copy(y, n[:, :3].repeat(2, axis=0)[::-1])
    assert y.tolist() == [[8, 9, 10]] * 2 + [[4, 5, 6]] * 2
    copy(x[:, 1:], x[:, :-1])
    assert x[0].tolist() == [0, 0, 1, 2]
    copy(y, 5)
    assert (y == 5).all()


REFUSED = {
    "needs a gradient": (lambda: torch.ones(3, requires_grad=True), r"Tensor.*detach\(\)"),
    "parameter": (lambda: torch.nn.Parameter(torch.ones(3)), r"Parameter.*detach\(\)"),
    "bfloat16": (lambda: torch.ones(3, dtype=torch.bfloat16), "Tensor.*dtype"),
    "sparse": (lambda: torch.eye(3).to_sparse(), "Tensor.*layout"),
    "meta": (lambda: torch.ones(3, device="meta"), "Tensor is in no memory.*meta"),
    "conjugate": (lambda: torch.ones(3, dtype=torch.complex64).conj(), "Tensor.*conjugate bit"),
    "negative": (lambda: torch.ones(3, dtype=torch.complex64).conj().imag, r"Tensor.*resolve_neg\(\)"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_plain_memory_is_refused_by_name(kind):
    """Torch raises four kinds of errors for these, and for one of them none: it would give wrong values."""
    make, text = REFUSED[kind]
    x = make()
    uses = [asnumpy, asarray, clone_here, storage_size, lambda x: copy(x, 0), lambda x: copy(np.zeros(3), x)]
    for use in uses:
        with pytest.raises(TypeError, match=text):
            use(x)


def test_a_tensor_is_no_operand():
    with Parla(workers=1), pytest.raises(TypeError, match=r"not Tensor; wrap it: parla\.asarray"):
        spawn(placement=cpu, inout=[counting(3)])(lambda: None)


def test_tasks_work_on_the_tensor_itself():
    """In place, through Torch, by parts, wherever the task runs; tensors are captured by reference as all objects are."""
    x, expected = counting(6, 4), counting(6, 4)
    p = asarray(x)
    with Parla(workers=3):
        T = TaskSpace("T")
        for i in range(6):
            part = p[i]

            @spawn(T[i], placement=cpu, inout=[part])
            def body():
                torch.from_numpy(part.array).mul_(i).add_(1)

        @spawn(T[6], [T[:6]], placement=cpu, input=[p])
        def total():
            assert not p.array.flags.writeable
            return float(torch.from_dlpack(p).sum()), float(x.sum())

    expected = expected * torch.arange(6.0)[:, None] + 1
    assert torch.equal(x, expected)
    assert total.result() == (float(expected.sum()), float(expected.sum()))
    assert torch.equal(torch.as_tensor(p), x)


def test_gradients_are_each_tasks_own():
    """Autograd's mode and graphs belong to the thread that runs the body."""
    with Parla(workers=3):
        tasks = []
        for i in range(6):

            @spawn(placement=cpu)
            def body():
                w = torch.ones(4, requires_grad=True)
                ((w * i) ** 2).sum().backward()
                with torch.no_grad():
                    return torch.is_grad_enabled(), w.grad.tolist()

            tasks.append(body)
    assert [task.result() for task in tasks] == [(False, [2.0 * i * i] * 4) for i in range(6)]


def test_bodies_inside_torch_let_others_run():
    """Without a switch between threads by Python, another body gets on only if Torch's operations release the GIL."""
    x, started, n = torch.rand(600, 600), threading.Event(), [0]
    before = sys.getswitchinterval()
    try:
        with Parla(workers=2):

            @spawn(placement=cpu)
            def other():
                started.wait(20)
                n[0] = 1

            @spawn(placement=cpu)
            def multiplies():
                sys.setswitchinterval(1000)
                started.set()
                for _ in range(300):
                    x @ x
                    if n[0]:
                        return True
                return False

            assert multiplies.result(60)
    finally:
        sys.setswitchinterval(before)


def test_a_limit_of_threads_holds_for_torch():
    """Also on a thread that Torch meets for the first time, where it sets its own number."""
    pytest.importorskip("threadpoolctl")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    environments = [TaskEnvironment(cpu), TaskEnvironment(cpu, [ThreadLimit(1)], tags=["one"])]
    try:
        for workers in (1, 2):
            with Parla(workers=workers, environments=environments):
                for tags, n in ((["one"], 1), ([], 2), (["one"], 1)):
                    assert spawn(placement=cpu, tags=tags)(torch.get_num_threads).result(20) == n
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
