"""What programs on NumPy bring along: SciPy, pandas, and the other arrays of NumPy's own. Each works, or is refused by its name."""

from __future__ import annotations

import array as standard_array

import numpy as np
import pytest
from parla import Parla, SpawnError, array, spawn
from parla.devices import cpu, gpu
from parla.parray import asarray


def turn(p):
    """Reverses the array in a task on a GPU."""
    with Parla():

        @spawn(placement=gpu, inout=[p])
        def body():
            p.array[...] = p.array[..., ::-1].copy()


def refused(a, text: str, hint: bool = False) -> None:
    """`a` can be neither an array nor an operand."""
    with pytest.raises(TypeError, match=f"^{text}"):
        asarray(a)
    operand = f"input: expected PArrays.* not {type(a).__name__}"
    with Parla(workers=1), pytest.raises(TypeError, match=operand + (r"; wrap it: parla\.asarray" if hint else "(; lists in lists.*)?$")):
        spawn(placement=cpu, input=[a])(lambda: None)


@pytest.mark.filterwarnings("ignore:the matrix subclass")
@pytest.mark.usefixtures("two_gpus")
def test_numpys_other_arrays_are_changed_in_place(tmp_path):
    memmap = np.memmap(tmp_path / "file", "f8", "w+", shape=(3,))
    memmap[:] = [1, 2, 3]
    records = np.array([(1, 2.0), (3, 4.0)], [("a", "i4"), ("b", "f8")])
    for a, expected in [
        (memmap, [3, 2, 1]),
        (np.matrix([[1, 2], [3, 4]]), [[2, 1], [4, 3]]),
        (np.char.array(["ab", "c"]), ["c", "ab"]),
        (records, [(3, 4.0), (1, 2.0)]),
        (records.copy().view(np.recarray), [(3, 4.0), (1, 2.0)]),
        (np.arange(3, dtype=np.longdouble), [2, 1, 0]),
        (standard_array.array("d", [1, 2]), [2, 1]),
        (bytearray(b"abc"), list(b"cba")),
    ]:
        turn(asarray(a))
        assert (a.tolist() if hasattr(a, "tolist") else list(a)) == expected, type(a)
    memmap.flush()
    assert np.fromfile(tmp_path / "file").tolist() == [3, 2, 1]


@pytest.mark.parametrize("mask", [[0, 1, 0], np.ma.nomask])
def test_masked_arrays(mask):
    """A mask would be lost."""
    a = np.ma.masked_array([1.0, 2.0, 3.0], mask)
    refused(a, "a masked array can't be a PArray: its mask would be lost", hint=True)
    assert (array.asnumpy(a) is a) and (array.clone_here(a).mask == a.mask).all()


def test_what_is_objects_to_numpy_is_refused_by_the_name_of_its_type():
    """Not only by what NumPy makes of it."""
    sparse = pytest.importorskip("scipy.sparse")
    for a in (sparse.csr_array(np.eye(3)), sparse.coo_matrix(np.eye(3))):
        refused(a, f"{type(a).__name__} can't be a PArray: .*references to Python objects")
        assert not array.is_array(a)
        with pytest.raises(TypeError, match=f"not {type(a).__name__}"):
            array.storage_size(a)
    refused([object()], "list can't be a PArray")
    refused({"a": 1}, "dict can't be a PArray")
    refused(np.array([object()]), "an array of object can't be a PArray", hint=True)
    assert asarray([1, 2]).tolist() == [1, 2]


def test_scipy_takes_arrays_as_they_are():
    fft, linalg, sparse = (pytest.importorskip(f"scipy.{name}") for name in ("fft", "linalg", "sparse"))
    a = np.array([[4.0, 1.0], [1.0, 3.0]])
    p, b = asarray(a.copy()), asarray(np.array([1.0, 2.0]))
    with Parla():

        @spawn(placement=cpu, input=[p, b])
        def body():
            lower = linalg.cholesky(p, lower=True)
            return lower @ lower.T, linalg.solve(p, b), sparse.csr_array(a) @ b, fft.fft(b)

    square, x, product, spectrum = body.result()
    np.testing.assert_allclose(square, a)
    np.testing.assert_allclose(a @ x, [1, 2])
    np.testing.assert_allclose(product, a @ [1, 2])
    np.testing.assert_allclose(spectrum, [3, -1])


@pytest.mark.usefixtures("two_gpus")
def test_pandas():
    """Numbers are read without a copy; pandas lets nobody write through them (from version 3 on). Text and categories are refused."""
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    series = pandas.Series([1.0, 2.0, 3.0])
    frame = pandas.DataFrame(np.arange(6.0).reshape(3, 2))
    for a in (series, frame):
        p = asarray(a)
        assert (
            array.is_array(a)
            and array.get_memory(a) == cpu(0).memory()
            and array.storage_size(a) == a.to_numpy().nbytes
        )
        assert np.shares_memory(p.array, a.to_numpy())
        with Parla():
            total = spawn(placement=gpu, input=[p])(lambda p=p: float(p.array.sum()))
        assert total.result() == a.to_numpy().sum()
        with pytest.raises(
            TypeError, match=f"destination: {type(a).__name__} can be read as an array but not written in place"
        ):
            array.copy(a, 0)
        if not p.array.flags.writeable:
            with Parla(workers=1), pytest.raises(SpawnError, match="read-only"):
                spawn(placement=cpu, inout=[p])(lambda: None)
        with Parla(workers=1), pytest.raises(TypeError, match=rf"not {type(a).__name__}; wrap it: parla\.asarray"):
            spawn(placement=cpu, input=[a])(lambda: None)
    assert pandas.Series(asarray(series)).equals(series)
    assert isinstance(asarray(series) + series, pandas.Series)
    for a in (
        pandas.Series(["a", "b"]),
        pandas.DataFrame({"a": [1], "b": ["x"]}),
        pandas.Series(["a"], dtype="category"),
    ):
        refused(a, f"{type(a).__name__} can't be a PArray", hint=True)
