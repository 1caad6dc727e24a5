//! Tasks that run ahead of their devices: simulated GPUs whose bodies only enqueue.

use std::sync::atomic::AtomicU64;
use std::sync::mpsc::channel;
use std::time::Duration;

use parla_core::Access;
use parla_device::{Copy, Event, Place, SimOptions, Stream};

use super::places::{Numbers, World, block_over, task};
use super::*;
use crate::Placing;

fn world(n_gpus: u32) -> World {
    let sim = SimOptions {
        timed: false,
        stream_ordered: true,
        ..SimOptions::new(n_gpus as usize)
    };
    World::with(n_gpus, sim, "locality")
}

/// Enqueues a kernel that applies `change` to `n` numbers at `place`.
fn enqueue(
    stream: &Arc<dyn Stream>,
    place: &Place,
    n: usize,
    change: impl FnOnce(&[AtomicU64]) + Send + 'static,
) -> Arc<dyn Event> {
    let memory: Arc<[AtomicU64]> = (0..n).map(|_| AtomicU64::new(0)).collect();
    let here = Place {
        block: block_over(&memory),
        offset: 0,
        strides: [8].into_iter().collect(),
        device: None,
    };
    let copy = |source: &Place, destination: &Place| Copy {
        item: 8,
        shape: [n].into_iter().collect(),
        source: source.clone(),
        destination: destination.clone(),
    };
    let kernel = {
        let memory = Arc::clone(&memory);
        Box::new(move || change(&memory))
    };
    stream.copy(copy(place, &here)).expect("a copy");
    stream.launch(kernel, 0).expect("a launch");
    stream.copy(copy(&here, place)).expect("a copy");
    stream.record().expect("an event")
}

/// A task whose kernel applies `change` to each of its first operand's numbers; `begun` is called when its body runs.
fn kernel(
    world: &World,
    after: &[TaskId],
    placing: Arc<Placing>,
    begun: impl FnOnce() + Send + 'static,
    change: impl FnOnce(&[AtomicU64]) + Send + 'static,
) -> TaskId {
    let mut once = Some((begun, change));
    let body = move |cx: &Cx<'_, Script>| {
        if let Some(drained) = cx.drained() {
            return drained.map_or(Say::Fail, |()| Say::Done);
        }
        let (begun, change) = once.take().expect("runs once");
        begun();
        let assigned = cx.assigned().expect("it was placed");
        let stream = assigned.streams[0].as_ref().expect("a GPU has streams");
        let n = assigned.operands[0].region.n_elements();
        Say::Drain(vec![enqueue(stream, &assigned.places()[0], n, change)])
    };
    world
        .rt
        .spawn(task(after, placing), |_| Box::new(body))
        .expect("spawns")
}

/// A task on the first GPU whose kernel adds 1 to all of `numbers`, and what is 1 once it has.
fn told_kernel(world: &World, numbers: &Numbers) -> (TaskId, Arc<AtomicU64>) {
    let done = Arc::new(AtomicU64::new(0));
    let told = Arc::clone(&done);
    let change = move |numbers: &[AtomicU64]| {
        for number in numbers {
            number.fetch_add(1, Ordering::SeqCst);
        }
        told.store(1, Ordering::SeqCst);
    };
    let placing = world.placing(&[0], vec![numbers.operand(0..8, Access::InOut)]);
    (kernel(world, &[], placing, || (), change), done)
}

/// The numbers times `by`, and `and` more: in no other order do several of these come to the same.
fn times(by: u64, and: u64) -> impl FnOnce(&[AtomicU64]) + Send + 'static {
    move |numbers| {
        for number in numbers {
            let old = number.load(Ordering::SeqCst);
            number.store(old.wrapping_mul(by).wrapping_add(and), Ordering::SeqCst);
        }
    }
}

#[test]
fn bodies_run_while_the_first_kernel_is_held_up() {
    limited(|| {
        let world = world(2);
        let numbers = Numbers::new(16);
        let last_began = Gate::default();
        let mut after = Vec::new();
        const LAST: usize = 5;
        for i in 0..=LAST {
            let placing = world.placing(&[i % 2], vec![numbers.operand(0..16, Access::InOut)]);
            let (opens, waits) = (last_began.clone(), last_began.clone());
            let begun = move || {
                if i == LAST {
                    opens.open();
                }
            };
            let change = move |numbers: &[AtomicU64]| {
                if i == 0 {
                    waits.pass();
                }
                times(3, i as u64)(numbers);
            };
            after = vec![kernel(&world, &after, placing, begun, change)];
        }
        world.finish();
        let expected = (0..=LAST as u64).fold(0, |old, i| old * 3 + i);
        assert_eq!(numbers.values(), vec![expected; 16]);
    });
}

/// What a library keeps on a GPU is none of our arrays.
#[test]
fn a_kernel_follows_those_its_task_depends_on_also_without_a_common_array() {
    limited(|| {
        let world = world(2);
        let (first, second) = (Numbers::new(8), Numbers::new(8));
        let gate = Gate::default();
        let waits = gate.clone();
        let placing = world.placing(&[0], vec![first.operand(0..8, Access::InOut)]);
        let change = move |_: &[AtomicU64]| waits.pass();
        let before = kernel(&world, &[], placing, || (), change);
        let (begin, begun) = channel();
        let (run, ran) = channel();
        let placing = world.placing(&[1], vec![second.operand(0..8, Access::InOut)]);
        let begins = move || begin.send(()).expect("the test waits");
        let change = move |_: &[AtomicU64]| run.send(()).expect("the test waits");
        kernel(&world, &[before], placing, begins, change);
        begun.recv().expect("its body runs ahead");
        // The time in which nothing is to happen, nor does it count as the end.
        let moment = Duration::from_millis(50);
        let early = ran.recv_timeout(moment);
        let waited = world.rt.wait(before, Some(moment), None);
        gate.open();
        assert!(early.is_err());
        assert!(matches!(waited, Waited::TimedOut), "{waited:?}");
        world.finish();
        ran.recv().expect("at last");
    });
}

/// Where bodies touch arrays themselves: no dependent begins before the end, but others do.
#[test]
fn an_unordered_body_begins_while_the_kernel_before_it_is_at_work() {
    limited(|| {
        let world = World::new(1, 1 << 20, "locality");
        let (first, second) = (Numbers::new(8), Numbers::new(8));
        let second_began = Gate::default();
        let (opens, waits) = (second_began.clone(), second_began);
        let placing = world.placing(&[0], vec![first.operand(0..8, Access::InOut)]);
        let change = move |numbers: &[AtomicU64]| {
            waits.pass();
            times(1, 1)(numbers);
        };
        kernel(&world, &[], placing, || (), change);
        let placing = world.placing(&[0], vec![second.operand(0..8, Access::InOut)]);
        kernel(&world, &[], placing, move || opens.open(), times(1, 2));
        world.finish();
        assert_eq!((first.values(), second.values()), (vec![1; 8], vec![2; 8]));
    });
}

/// The first task ends when the input of the second has been brought to a GPU, which nobody has chosen yet.
#[test]
fn the_input_of_a_task_with_a_choice_travels_while_it_waits() {
    limited(|| {
        let world = World::new(2, 1 << 20, "locality");
        let (first, second) = (Numbers::new(8), Numbers::new(8));
        let store = Arc::clone(&world.store);
        let has_come = move || {
            let memories = store.stats().memories;
            memories.iter().map(|memory| memory.n_copies).sum::<u64>() >= 2
        };
        let placing = world.placing(&[0], vec![first.operand(0..8, Access::InOut)]);
        let wait = move || {
            while !has_come() {
                std::thread::yield_now();
            }
        };
        let before = kernel(&world, &[], placing, wait, times(1, 1));
        let placing = world.placing(&[0, 1], vec![second.operand(0..8, Access::InOut)]);
        kernel(&world, &[before], placing, || (), times(1, 2));
        world.finish();
        assert_eq!((first.values(), second.values()), (vec![1; 8], vec![2; 8]));
    });
}

#[test]
fn who_is_not_in_the_order_of_streams_waits_for_the_end() {
    limited(|| {
        for round in 0..200 {
            let world = world(1);
            let numbers = Numbers::new(8);
            let (first, done) = told_kernel(&world, &numbers);
            let seen = Arc::clone(&done);
            let plain = spawn(&world.rt, after(&[first]), move |_| {
                assert_eq!(seen.load(Ordering::SeqCst), 1);
                seen.store(2, Ordering::SeqCst);
            });
            if round % 2 == 0 {
                assert!(matches!(world.rt.wait(first, None, None), Waited::Ended));
                assert!(done.load(Ordering::SeqCst) >= 1);
                // Spawned when the task is over, or ran ahead.
                let seen = Arc::clone(&done);
                spawn(&world.rt, after(&[first, plain]), move |_| {
                    assert_eq!(seen.swap(3, Ordering::SeqCst), 2);
                });
            }
            world.finish();
            // Bodies that fail an assertion leave it as it was.
            assert_eq!(done.load(Ordering::SeqCst), 3 - round % 2);
            assert_eq!(world.rt.state(plain), TaskState::Done);
            assert_eq!(numbers.values(), vec![1; 8]);
        }
    });
}

#[test]
fn an_await_waits_for_the_end() {
    limited(|| {
        for _ in 0..100 {
            let world = world(1);
            let numbers = Numbers::new(8);
            let (first, done) = told_kernel(&world, &numbers);
            let seen = Arc::clone(&done);
            let mut awaited = false;
            let body = move |_: &Cx<'_, Script>| {
                if !std::mem::replace(&mut awaited, true) {
                    return Say::Await(vec![first]);
                }
                if seen.load(Ordering::SeqCst) == 1 {
                    Say::Done
                } else {
                    Say::Fail
                }
            };
            let awaiting = world.rt.spawn(Task::default(), |_| Box::new(body));
            let awaiting = awaiting.expect("spawns");
            world.finish();
            assert_eq!(world.rt.state(awaiting), TaskState::Done);
        }
    });
}

/// A task that runs ahead with a kernel that waits at `gate`, and fails once that is done.
fn failing(world: &World, gate: Gate) -> TaskId {
    let mut gate = Some(gate);
    let body = move |cx: &Cx<'_, Script>| {
        let Some(gate) = gate.take() else {
            return Say::Fail;
        };
        let assigned = cx.assigned().expect("it was placed");
        let stream = assigned.streams[0].as_ref().expect("a GPU has streams");
        let kernel = Box::new(move || gate.pass());
        stream.launch(kernel, 0).expect("a launch");
        Say::Drain(vec![stream.record().expect("an event")])
    };
    let placing = world.placing(&[0], Vec::new());
    let task = world.rt.spawn(task(&[], placing), |_| Box::new(body));
    task.expect("spawns")
}

/// Whether they are held when it fails, become ready at that moment, or are spawned later.
#[test]
fn nobody_runs_after_a_task_that_ran_ahead_and_failed_but_who_awaits_it_goes_on() {
    limited(|| {
        for round in 0..40 {
            let world = world(2);
            let gate = Gate::default();
            let held = round % 2 == 0;
            if !held {
                gate.open();
            }
            let first = failing(&world, gate.clone());
            let ran = Arc::new(AtomicUsize::new(0));
            let dependent = |on: TaskId| {
                let ran = Arc::clone(&ran);
                spawn(&world.rt, after(&[on]), move |_| add_one(&ran))
            };
            let placed = |on: TaskId| {
                let numbers = Numbers::new(8);
                let placing = world.placing(&[0, 1], vec![numbers.operand(0..8, Access::InOut)]);
                world
                    .rt
                    .spawn(task(&[on], placing), |_| once(|_| ()))
                    .expect("spawns")
            };
            let one = dependent(first);
            let mut awaited = false;
            let body = move |_: &Cx<'_, Script>| {
                if std::mem::replace(&mut awaited, true) {
                    Say::Done
                } else {
                    Say::Await(vec![first])
                }
            };
            let awaiting = world.rt.spawn(Task::default(), |_| Box::new(body));
            let awaiting = awaiting.expect("spawns");
            if held {
                // It has ended for the graph when a dependent in the order of streams has begun.
                let (begin, begun) = channel();
                let placing = world.placing(&[1], Vec::new());
                let begins = move |_: &Cx<'_, Script>| begin.send(()).expect("the test waits");
                let spawned = world.rt.spawn(task(&[first], placing), |_| once(begins));
                spawned.expect("spawns");
                begun.recv().expect("its body runs ahead");
                gate.open();
            }
            assert!(matches!(world.rt.wait(first, None, None), Waited::Ended));
            let two = dependent(one);
            let late = dependent(first);
            let all = [one, two, late, placed(first)];
            world.finish();
            assert_eq!(ran.load(Ordering::SeqCst), 0);
            assert_eq!(world.rt.state(awaiting), TaskState::Done);
            let cancelled = world.rt.executor().cancelled.lock();
            for id in all {
                assert!(cancelled.contains(&(id, first)), "{id}: {cancelled:?}");
            }
        }
    });
}

#[test]
fn many_chains_over_several_gpus() {
    limited(|| {
        let world = world(3);
        let all: Vec<_> = (0..6).map(|_| Numbers::new(32)).collect();
        let mut last: Vec<Vec<TaskId>> = vec![Vec::new(); all.len()];
        for step in 0..40_u64 {
            for (which, numbers) in all.iter().enumerate() {
                let gpu = (which + step as usize) % 3;
                let placing = world.placing(&[gpu], vec![numbers.operand(0..32, Access::InOut)]);
                let task = kernel(&world, &last[which], placing, || (), times(5, step));
                last[which] = vec![task];
            }
        }
        world.finish();
        let expected = (0..40).fold(0_u64, |old, step| old.wrapping_mul(5).wrapping_add(step));
        for numbers in &all {
            assert_eq!(numbers.values(), vec![expected; 32]);
        }
    });
}
