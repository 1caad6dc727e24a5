"""Names for tasks: `TaskSpace`, `TaskID`, `TaskList`, `tasks`, and the spaces that are complete from the start."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest
from parla import AtomicTaskSpace, CompletedTaskSpace, Parla, TaskID, TaskList, TaskSpace, spawn, tasks
from support import pass_gate


def filled(traced_parla, space, keys):
    """Spawns a task under each key that returns its key."""
    with traced_parla(workers=1):
        for key in keys:
            spawn(space[key])(lambda: key)
    return space


def names(selection):
    return [t.name for t in selection]


def test_one_index_is_one_id():
    space = TaskSpace("T")
    assert isinstance(space[0], TaskID)
    assert (space[0].name, space[0].space, space[0].id) == ("T_0", space, 0)
    assert space[0] == space[0]
    assert hash(space[0]) == hash(space[0])
    assert space[0] != space[1]
    assert TaskSpace("T")[0] != space[0]
    assert "T" in repr(space)
    assert "T_0" in repr(space[0])
    assert "T" in space[0].full_name


def test_ids_have_hashes_of_their_own():
    """Sets and dictionaries of ids would be slow otherwise."""
    T, U = TaskSpace("T"), TaskSpace("U")
    ids = [space[i, j] for space in (T, U) for i in range(50) for j in range(50)]
    assert len({hash(task) for task in ids}) > 0.99 * len(ids)
    # A table of so many places looks at the last bits first.
    assert len({hash(task) & 0xFFFF for task in ids}) > 0.7 * len(ids)


def test_an_id_that_its_space_refers_to_is_collected():
    class Marker:
        pass

    space, marker = TaskSpace("T"), Marker()
    marker.id = space[marker]
    gone = weakref.ref(space)
    del space, marker
    gc.collect()
    assert gone() is None


def test_ids_come_from_spaces_only():
    with pytest.raises(TypeError, match="TaskID"):
        TaskID()
    space = TaskSpace("T")
    with pytest.raises(TypeError, match="not supported"):
        assert space[0] < space[1]
    assert space[0] != (0,)


def test_several_indices_and_strings():
    space = TaskSpace("T")
    assert space[1, 2].name == "T_1_2"
    assert space["solve", 3].name == "T_solve_3"
    assert isinstance(space["solve"], TaskID)
    assert space[1, 2] != space[2, 1]


def test_anything_hashable_that_is_no_sequence_is_a_key():
    space = TaskSpace("T")
    marker = object()
    assert isinstance(space[marker], TaskID)
    assert space[marker] == space[marker]
    assert isinstance(space[frozenset({1})], TaskID)


@pytest.mark.parametrize("key", [{}, {1}, bytearray(b"x"), (1, {}), [[{}]]])
def test_unhashable_keys_are_a_type_error(key):
    with pytest.raises(TypeError, match="unhashable|hashable"):
        TaskSpace("T")[key]


def test_numpy_integers_are_integers():
    np = pytest.importorskip("numpy")
    space = TaskSpace("T", shape=4)
    assert space[np.int64(3)] == space[3]
    assert space[np.int64(3)].name == "T_3"
    assert space[(np.int64(3),)] == space[(3,)] == space[3]
    assert len(space[np.int64(-1)]) == 0


def test_slices_are_exclusive_and_cartesian(traced_parla):
    space = filled(traced_parla, TaskSpace("T"), [(i, j) for i in range(3) for j in range(4)])
    assert isinstance(space[0:2, 1], TaskList)
    assert names(space[0:2, 1]) == ["T_0_1", "T_1_1"]
    assert names(space[1, 0:4]) == ["T_1_0", "T_1_1", "T_1_2", "T_1_3"]
    assert sorted(names(space[0:2, 2:4])) == ["T_0_2", "T_0_3", "T_1_2", "T_1_3"]
    assert names(space[0:3:2, 0]) == ["T_0_0", "T_2_0"]
    assert names(space[[2, 0], 1]) == ["T_2_1", "T_0_1"]
    assert len(space[2:2, 0]) == 0


def test_one_hit_is_an_id_and_several_a_list():
    space = TaskSpace("T")
    assert isinstance(space[0:1], TaskID)
    assert isinstance(space[[5]], TaskID)
    assert isinstance(space[0:2], TaskList)


def test_a_slice_with_a_stop_names_tasks_that_are_not_there_yet():
    assert names(TaskSpace("T")[0:3]) == ["T_0", "T_1", "T_2"]


def test_a_missing_stop_means_the_existing_members(traced_parla):
    space = filled(traced_parla, TaskSpace("T"), [0, 1, 2, 5])
    assert names(space[:]) == ["T_0", "T_1", "T_2", "T_5"]
    assert names(space[1:]) == ["T_1", "T_2", "T_5"]
    assert names(space[::5]) == ["T_0", "T_5"]


def test_a_missing_stop_means_the_shape_if_there_is_one():
    space = TaskSpace("T", shape=(2, 3))
    assert names(space[1, :]) == ["T_1_0", "T_1_1", "T_1_2"]
    assert len(space[:, :]) == 6


@pytest.mark.parametrize(
    ("space", "key"),
    [
        (TaskSpace("T"), -1),
        (TaskSpace("T", shape=4), 4),
        (TaskSpace("T", shape=(2, 2)), (1, 2)),
        (TaskSpace("T", start=2), 1),
        (TaskSpace("T"), (0, -3)),
    ],
)
def test_an_index_out_of_range_names_nothing(traced_parla, space, key):
    assert len(space[key]) == 0
    with traced_parla(workers=1):
        task = spawn(dependencies=[space[key]])(lambda: "ran")
        with pytest.raises(IndexError, match="T"):
            spawn(space[key])(lambda: None)
    assert task.result() == "ran"
    assert len(space) == 0


def test_the_previous_one_as_a_dependency_is_right_at_zero(traced_parla, workers):
    space, order = TaskSpace("T"), []
    with traced_parla(workers=workers):
        for i in range(20):
            spawn(space[i], [space[i - 1]])(lambda: order.append(i))
    assert order == list(range(20))


def test_collection_protocol(traced_parla):
    space = filled(traced_parla, TaskSpace("T"), range(4))
    other = filled(traced_parla, TaskSpace("U"), range(2))
    assert len(space) == 4
    assert list(space) == [space[i] for i in range(4)]
    assert space[2] in space
    assert space[2].task in space
    assert other[0] not in space
    assert other[0].task not in space
    assert [t.result() for t in space.tasks] == [0, 1, 2, 3]
    assert len(space + other) == 6
    assert len(space[0:2] + other[0:2]) == 4
    assert space[3] in space + other
    assert other[1] in space + other


def test_comparison_of_collections():
    """An earlier version's collections compared always equal."""
    space, other = TaskSpace("T"), TaskSpace("T")
    assert space == space
    assert space != other
    assert space[0:3] == space[0:3]
    assert space[0:3] != space[0:2]
    assert space[0:3] != other[0:3]


def test_an_id_knows_its_task_once_it_is_spawned(traced_parla):
    space = TaskSpace("T")
    assert space[0].task is None
    with traced_parla(workers=1):
        task = spawn(space[0])(lambda: None)
        assert space[0].task is task
    assert task.taskid == space[0]


def test_tasks_joins_every_form(traced_parla):
    space = filled(traced_parla, TaskSpace("T"), range(5))
    with traced_parla(workers=1):
        loose = spawn()(lambda: None)
        joined = tasks(loose, space[0], space[1:3], [space[3], (space[4],)])
    assert isinstance(joined, TaskList)
    assert len(joined) == 6
    assert loose in joined
    assert len(tasks()) == 0


@pytest.mark.parametrize("nonsense", [3, "text", None, object()])
def test_tasks_of_nonsense(nonsense):
    with pytest.raises(TypeError, match=type(nonsense).__name__):
        tasks(nonsense)


@pytest.mark.parametrize("space_type", [TaskSpace, AtomicTaskSpace])
def test_waiting_for_a_space(traced_parla, workers, space_type):
    space = space_type("T")
    ran = []
    with traced_parla(workers=workers):
        for i in range(10):
            spawn(space[i])(lambda: ran.append(i))
        space.wait()
        assert sorted(ran) == list(range(10))

        @spawn()
        async def awaiting():
            return await space, await space[0:3], await tasks(space[0], space)

    assert awaiting.result() == (None, None, None)


def test_everything_in_a_completed_space_is_done(traced_parla, workers):
    done = CompletedTaskSpace()
    done.wait()
    with traced_parla(workers=workers):
        by_id = spawn(dependencies=[done[3], done[1, "x"], done[0:4]])(lambda: 1)
        by_space = spawn(dependencies=[done])(lambda: 2)

        @spawn()
        async def awaiting():
            await done[5]
            await done
            return 3

    assert [t.result() for t in (by_id, by_space, awaiting)] == [1, 2, 3]


class Reentrant:
    """A key whose hash and comparison use the space that it is being looked up in."""

    def __init__(self, space, number):
        self.space, self.number = space, number

    def __hash__(self):
        len(self.space)
        self.space["inner"]
        return 7

    def __eq__(self, other):
        repr(self.space)
        self.space["inner", 2]
        return isinstance(other, Reentrant) and self.number == other.number


def test_keys_that_reenter_the_space(traced_parla):
    space = TaskSpace("T")
    with traced_parla(workers=2):
        for i in range(20):
            spawn(space[Reentrant(space, i)])(lambda: i)
    assert [space[Reentrant(space, i)].task.result() for i in range(20)] == list(range(20))


def test_a_key_whose_hash_raises():
    class Bad:
        def __hash__(self):
            raise LookupError("no hash today")

    space = TaskSpace("T")
    with pytest.raises(LookupError, match="no hash today"):
        space[Bad()]
    assert space[0].name == "T_0"


def test_inspection_while_tasks_are_spawned_and_run(workers):
    space, stop = TaskSpace("T"), threading.Event()
    errors = []

    def inspect():
        try:
            while not stop.is_set():
                assert len(list(space)) <= 2000
                repr(space)
                str(space[:])
                space[0] in space  # noqa: B015
        except BaseException as e:
            errors.append(e)

    watcher = threading.Thread(target=inspect)
    with Parla(workers=workers):
        watcher.start()
        try:
            for i in range(2000):
                spawn(space[i], [space[i - 1]])(lambda: None)
        finally:
            stop.set()
            watcher.join(20)
    assert errors == []
    assert len(space) == 2000


def test_a_space_used_by_two_runtimes_one_after_the_other(traced_parla):
    space = filled(traced_parla, TaskSpace("T"), range(3))
    filled(traced_parla, space, range(3, 6))
    assert [t.result() for t in space.tasks] == list(range(6))


def test_waiting_inside_a_gate(traced_parla):
    space, gate = TaskSpace("T"), threading.Event()
    with traced_parla(workers=1):
        spawn(space[0])(lambda: pass_gate(gate))
        opener = threading.Timer(0.05, gate.set)
        opener.start()
        space.wait()
        assert space[0].task.done()
    opener.join()
