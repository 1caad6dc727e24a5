//! Scenarios on devices of memory, one behaviour each.

use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use parla_core::{Access, DeviceId, MachineModel, MemoryId, Region};
use parla_device::{Block, Place};

use super::*;
use crate::Home;

mod eviction;
mod failures;
mod fake;
mod homecoming;
mod model;
mod programs;
mod roles;
mod task;
mod threads;

use fake::{Fakes, World, fill, read};

const CPU: DeviceId = DeviceId(0);
const ITEM: usize = 4;

fn gpu(i: u32) -> DeviceId {
    DeviceId(i + 1)
}

fn memory(i: u32) -> MemoryId {
    MemoryId(i + 1)
}

#[expect(clippy::single_range_in_vec_init, reason = "one dimension")]
fn line(start: usize, end: usize) -> Region {
    Region::new([start..end])
}

struct Bench {
    world: Arc<World>,
    gpus: Fakes,
    store: Arc<Store>,
}

impl Bench {
    fn new(capacities: &[u64]) -> Self {
        let world = Arc::new(World::default());
        world.eager.store(true, Ordering::SeqCst);
        let (machine, gpus) = world.machine(capacities);
        let store = Store::new(machine);
        Self { world, gpus, store }
    }

    fn stage(
        &self,
        operands: &[Operand],
        devices: &[DeviceId],
    ) -> mpsc::Receiver<Result<Staged, DataError>> {
        let (sent, received) = mpsc::channel();
        let done = Box::new(move |staged| drop(sent.send(staged)));
        self.store.stage(operands.into(), devices, 0, done);
        received
    }

    fn staged(&self, operands: &[Operand], devices: &[DeviceId]) -> Staged {
        let staged = self.stage(operands, devices);
        staged
            .recv_timeout(LIMIT)
            .expect("in time")
            .expect("staged")
    }

    /// Runs a body that writes `value` to all elements of what it may write, and returns what it saw.
    fn run(&self, operands: &[Operand], device: DeviceId, value: u32) -> Vec<Vec<u32>> {
        let mut staged = self.staged(operands, &[device]);
        staged.begin();
        let seen = look(&staged, operands);
        for (place, operand) in staged.places().iter().zip(operands) {
            if operand.access.writes() {
                fill(place, &operand.region.shape(), value);
            }
        }
        staged.end(Ended::Well(Vec::new()));
        seen
    }

    fn bytes_into(&self, to: MemoryId) -> u64 {
        let stats = self.store.stats();
        let from = stats.memories[to.0 as usize].bytes_from.iter().enumerate();
        // Copies inside a memory cost no link.
        let from = from.filter(|(from, _)| *from != to.0 as usize);
        from.map(|(_, bytes)| bytes).sum()
    }

    fn check_empty(&self) {
        self.store.close().expect("closes");
        assert!(!self.world.step(0), "nothing is left to do");
        for gpu in &self.gpus.0 {
            assert_eq!(parla_device::Device::memory_used(&**gpu), 0);
        }
        for (memory, stats) in self.store.memories.iter().zip(self.store.stats().memories) {
            assert_eq!((stats.used, memory.recency.lock().bytes()), (0, 0));
        }
    }
}

const LIMIT: Duration = Duration::from_secs(20);

fn look(staged: &Staged, operands: &[Operand]) -> Vec<Vec<u32>> {
    let pairs = staged.places().iter().zip(operands);
    pairs
        .map(|(place, operand)| read(place, &operand.region.shape()))
        .collect()
}

fn wait_until(condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < LIMIT, "it takes too long");
        std::thread::yield_now();
    }
}

fn array(shape: &[usize]) -> Array {
    let n: usize = shape.iter().product();
    let memory: Arc<[u32]> = (0..n as u32).collect();
    let block = Block::foreign(memory.as_ptr() as usize, (n * ITEM) as u64, memory);
    let mut strides: smallvec::SmallVec<[isize; 4]> = smallvec::SmallVec::new();
    let mut stride = ITEM as isize;
    for length in shape.iter().rev() {
        strides.insert(0, stride);
        stride *= *length as isize;
    }
    let home = Home {
        block: Arc::new(block),
        offset: 0,
        strides,
        writable: true,
    };
    Array::new("A", shape, ITEM, home)
}

fn home_of(array: &Array, region: &Region) -> Vec<u32> {
    let home = array.home();
    let mut offset = home.offset;
    for (range, stride) in region.ranges().zip(&home.strides) {
        offset = offset.wrapping_add_signed(stride * range.start as isize);
    }
    let place = Place {
        block: Arc::clone(&home.block),
        offset,
        strides: home.strides.clone(),
        device: None,
    };
    read(&place, &region.shape())
}

fn operand(array: &Array, region: Region, access: Access) -> Operand {
    Operand {
        array: array.clone(),
        region,
        access,
        exact: true,
        slot: 0,
    }
}

#[test]
fn what_a_gpu_wrote_is_read_on_the_host_and_on_another_gpu() {
    let bench = Bench::new(&[1000, 1000]);
    let a = array(&[10]);
    assert!(a.is_host_only());
    let all = line(0, 10);
    let seen = bench.run(&[operand(&a, line(2, 8), Access::InOut)], gpu(0), 70);
    assert_eq!(seen, [[2, 3, 4, 5, 6, 7]]);
    assert!(!a.is_host_only());
    assert_eq!(a.bytes_valid(MachineModel::HOST, &all), 16);
    assert_eq!(a.bytes_valid(memory(0), &all), 24);
    let seen = bench.run(&[operand(&a, all.clone(), Access::Input)], gpu(1), 0);
    assert_eq!(seen, [[0, 1, 70, 70, 70, 70, 70, 70, 8, 9]]);
    bench.store.to_host(&a, &all, false).unwrap();
    assert_eq!(home_of(&a, &all), [0, 1, 70, 70, 70, 70, 70, 70, 8, 9]);
    // Two boxes from the host, one from the other GPU; and home.
    assert_eq!(bench.bytes_into(memory(0)), 24);
    assert_eq!(bench.bytes_into(memory(1)), 40);
    assert_eq!(bench.bytes_into(MachineModel::HOST), 24);
    bench.check_empty();
    assert!(a.is_host_only());
}

#[test]
fn writing_on_the_host_makes_copies_elsewhere_stale() {
    let bench = Bench::new(&[1000]);
    let a = array(&[4]);
    let all = line(0, 4);
    bench.run(&[operand(&a, all.clone(), Access::Input)], gpu(0), 0);
    bench.run(&[operand(&a, line(0, 1), Access::Output)], CPU, 9);
    let seen = bench.run(&[operand(&a, all.clone(), Access::Input)], gpu(0), 0);
    assert_eq!(seen, [[9, 1, 2, 3]]);
    bench.store.to_host(&a, &all, true).unwrap();
    assert_eq!(a.bytes_valid(memory(0), &all), 0);
    bench.check_empty();
}

#[test]
fn an_exact_output_fetches_nothing_another_one_does() {
    let bench = Bench::new(&[1000]);
    let a = array(&[4]);
    let mut output = operand(&a, line(0, 4), Access::Output);
    bench.run(&[output.clone()], gpu(0), 7);
    assert_eq!(bench.bytes_into(memory(0)), 0);
    bench.store.flush(&a).unwrap();
    assert_eq!(home_of(&a, &line(0, 4)), [7; 4]);
    output.exact = false;
    assert_eq!(bench.run(&[output], gpu(0), 8), [[7; 4]]);
    assert_eq!(bench.bytes_into(memory(0)), 16);
    bench.check_empty();
}

#[test]
fn a_failed_body_poisons_what_it_was_to_write() {
    let bench = Bench::new(&[1000]);
    let a = array(&[4]);
    let written = operand(&a, line(1, 3), Access::InOut);
    let mut staged = bench.staged(std::slice::from_ref(&written), &[gpu(0)]);
    staged.begin();
    staged.end(Ended::Badly("T[3] failed".to_owned()));
    let error = bench.stage(&[written], &[CPU]).recv_timeout(LIMIT).unwrap();
    let error = error.unwrap_err().to_string();
    assert_eq!(error, "A[1:3] has no valid contents: T[3] failed");
    assert!(bench.store.to_host(&a, &line(0, 4), false).is_err());
    assert!(bench.store.to_host(&a, &line(0, 1), false).is_ok());
    // Writing all of it makes it good again.
    bench.run(&[operand(&a, line(0, 3), Access::Output)], gpu(0), 5);
    bench.store.to_host(&a, &line(0, 4), false).unwrap();
    assert_eq!(home_of(&a, &line(0, 4)), [5, 5, 5, 3]);
    bench.check_empty();
}

#[test]
fn a_task_that_never_began_changes_nothing() {
    let bench = Bench::new(&[1000]);
    let a = array(&[4]);
    let operands = [operand(&a, line(0, 4), Access::Output)];
    bench.staged(&operands, &[gpu(0)]).end(Ended::NotBegun);
    let failed = Ended::Badly("before its body".to_owned());
    bench.staged(&operands, &[gpu(0)]).end(failed);
    drop(bench.staged(&operands, &[gpu(0)]));
    bench.store.to_host(&a, &line(0, 4), false).unwrap();
    assert_eq!(home_of(&a, &line(0, 4)), [0, 1, 2, 3]);
    let mut staged = bench.staged(&operands, &[gpu(0)]);
    staged.begin();
    drop(staged);
    assert!(bench.store.to_host(&a, &line(0, 4), false).is_err());
    bench.check_empty();
}

#[test]
fn the_least_recently_used_copy_makes_room_and_goes_home_if_it_is_the_last() {
    let bench = Bench::new(&[100]);
    let arrays: Vec<Array> = (0..6).map(|_| array(&[10])).collect();
    for (i, a) in arrays.iter().enumerate() {
        bench.run(
            &[operand(a, line(0, 10), Access::Output)],
            gpu(0),
            i as u32 + 50,
        );
    }
    let stats = &bench.store.stats().memories[1];
    assert_eq!((stats.used, stats.peak, stats.evictions), (80, 80, 4));
    assert_eq!(arrays[3].bytes_allocated(memory(0)), 0);
    assert_eq!(arrays[4].bytes_allocated(memory(0)), 40);
    assert_eq!(home_of(&arrays[3], &line(0, 10)), [53; 10]);
    bench.check_empty();
    assert_eq!(home_of(&arrays[5], &line(0, 10)), [55; 10]);
}

#[test]
fn requests_wait_for_memory_in_use_in_their_order() {
    let bench = Bench::new(&[100]);
    let (a, b, c) = (array(&[20]), array(&[20]), array(&[2]));
    let whole = |a: &Array| operand(a, Region::whole(a.shape()), Access::InOut);
    let first = bench.staged(&[whole(&a)], &[gpu(0)]);
    let second = bench.stage(&[whole(&b)], &[gpu(0)]);
    let third = bench.stage(&[whole(&c)], &[gpu(0)]);
    assert!(second.try_recv().is_err());
    assert!(third.try_recv().is_err(), "it would fit, but is later");
    first.end(Ended::NotBegun);
    second.recv_timeout(LIMIT).unwrap().unwrap();
    third.recv_timeout(LIMIT).unwrap().unwrap();
    let error = bench
        .stage(&[whole(&array(&[26]))], &[gpu(0)])
        .recv_timeout(LIMIT)
        .unwrap();
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("104 bytes in the memory of gpu:0"),
        "{error}"
    );
    bench.check_empty();
}

#[test]
fn a_copy_that_is_larger_than_needed_does_not_block_a_task_that_fits() {
    let bench = Bench::new(&[100]);
    let (a, b) = (array(&[20]), array(&[10]));
    bench.run(&[operand(&a, line(0, 20), Access::InOut)], gpu(0), 3);
    let operands = [
        operand(&a, line(0, 2), Access::Input),
        operand(&b, line(0, 10), Access::Input),
    ];
    assert_eq!(bench.run(&operands, gpu(0), 0)[0], [3, 3]);
    bench.check_empty();
}

#[test]
fn a_device_that_lost_its_memory_poisons_only_what_was_nowhere_else() {
    let bench = Bench::new(&[1000, 1000]);
    let a = array(&[4]);
    bench.run(&[operand(&a, line(0, 4), Access::Input)], gpu(0), 0);
    bench.run(&[operand(&a, line(0, 2), Access::InOut)], gpu(0), 1);
    bench.gpus.0[0].lost.store(true, Ordering::SeqCst);
    let seen = bench.run(&[operand(&a, line(2, 4), Access::Input)], gpu(1), 0);
    assert_eq!(seen, [[2, 3]]);
    let error = bench.store.to_host(&a, &line(0, 4), false).unwrap_err();
    assert!(error.to_string().contains("gpu:0 is lost"), "{error}");
    let lost = bench.stage(&[operand(&a, line(2, 4), Access::Input)], &[gpu(0)]);
    assert!(lost.recv_timeout(LIMIT).unwrap().is_err());
    bench.store.flush(&a).unwrap();
    bench.check_empty();
}

#[test]
fn halos_move_halo_bytes_only() {
    // Also between copies that have room for more.
    for whole in [false, true] {
        let bench = Bench::new(&[10_000, 10_000]);
        let (u, v) = (array(&[20]), array(&[20]));
        let all = [&u, &v].map(|a| operand(a, line(0, 20), Access::Input));
        for half in (0..2).filter(|_| whole) {
            bench.run(&all, gpu(half), 0);
        }
        for step in 0..10 {
            let (from, to) = if step % 2 == 0 { (&u, &v) } else { (&v, &u) };
            for half in 0..2 {
                let (low, high) = (half * 10, half * 10 + 10);
                let halo = line(low.max(1) - 1, (high + 1).min(20));
                let operands = [
                    operand(from, halo, Access::Input),
                    operand(to, line(low, high), Access::Output),
                ];
                bench.run(&operands, gpu(half as u32), step + 1);
            }
        }
        // At first 11 elements of `u` each, or all of both, then one element per step.
        let at_first = if whole { 2 * 20 } else { 11 };
        for i in 0..2 {
            assert_eq!(bench.bytes_into(memory(i)), 4 * (at_first + 9));
        }
        bench.check_empty();
        assert_eq!(home_of(&u, &line(0, 20)), [10; 20]);
    }
}

#[test]
fn tasks_that_write_every_other_element_of_the_same_box_keep_each_others() {
    for (one, other) in [(gpu(0), gpu(1)), (CPU, gpu(0)), (gpu(0), CPU)] {
        let bench = Bench::new(&[1000, 1000]);
        let a = array(&[6]);
        let part = |first: usize| {
            let mut part = operand(&a, line(first, first + 5), Access::InOut);
            part.exact = false;
            [part]
        };
        let write = |mut staged: Staged, value: u32| {
            staged.begin();
            let place = &staged.places()[0];
            for i in [0, 2, 4] {
                let mut element = place.clone();
                element.offset = place.offset + i * ITEM;
                fill(&element, &[1], value);
            }
            staged.end(Ended::Well(Vec::new()));
        };
        let even = part(0);
        let even = match bench.store.try_stage(&even.clone().into(), &[one]) {
            Some(staged) => staged,
            None => bench.staged(&even, &[one]),
        };
        let odd = bench.stage(&part(1), &[other]);
        assert!(odd.try_recv().is_err(), "it has to wait");
        write(even, 10);
        write(odd.recv_timeout(LIMIT).unwrap().unwrap(), 11);
        bench.store.to_host(&a, &line(0, 6), false).unwrap();
        assert_eq!(home_of(&a, &line(0, 6)), [10, 11, 10, 11, 10, 11]);
        bench.check_empty();
    }
}

#[test]
fn a_copy_made_while_a_body_writes_counts_for_nothing() {
    let bench = Bench::new(&[1000, 1000]);
    let a = array(&[4]);
    let whole = |access| operand(&a, line(0, 4), access);
    let mut staged = bench.staged(&[whole(Access::InOut)], &[gpu(0)]);
    staged.begin();
    assert_eq!(
        bench.store.prefetch(
            &whole(Access::Input),
            gpu(1),
            &Ahead::surely(),
            Box::new(|| ())
        ),
        16
    );
    fill(&staged.places()[0], &[4], 7);
    staged.end(Ended::Well(Vec::new()));
    assert_eq!(bench.run(&[whole(Access::Input)], gpu(1), 0), [[7; 4]]);
    bench.check_empty();
}

#[test]
fn what_is_sent_ahead_too_late_is_not_copied() {
    let bench = Bench::new(&[1000, 1000]);
    let a = array(&[4]);
    let whole = operand(&a, line(0, 4), Access::Input);
    let ahead = Ahead::surely();
    ahead.wanted.store(false, Ordering::Relaxed);
    let (sent, received) = mpsc::channel();
    let arrived = Box::new(move || sent.send(()).unwrap());
    assert_eq!(bench.store.prefetch(&whole, gpu(0), &ahead, arrived), 0);
    assert_eq!(received.try_recv(), Ok(()));
    assert_eq!(bench.bytes_into(MemoryId(1)), 0);
    bench.check_empty();
}

#[test]
fn who_sends_data_ahead_hears_when_it_is_there() {
    let bench = Bench::new(&[20]);
    bench.world.eager.store(false, Ordering::SeqCst);
    let (a, too_large) = (array(&[4]), array(&[6]));
    let whole = |a: &Array| operand(a, Region::whole(a.shape()), Access::Input);
    let (sent, received) = mpsc::channel();
    let prefetch = |a: &Array, name| {
        let sent = sent.clone();
        let arrived = Box::new(move || sent.send(name).unwrap());
        bench
            .store
            .prefetch(&whole(a), gpu(0), &Ahead::surely(), arrived)
    };
    assert_eq!(prefetch(&a, "copied"), 16);
    assert!(received.try_recv().is_err(), "it is under way");
    assert_eq!(prefetch(&a, "on its way already"), 0);
    assert_eq!(prefetch(&too_large, "no room"), 0);
    assert_eq!(received.try_recv(), Ok("on its way already"));
    assert_eq!(received.try_recv(), Ok("no room"));
    while bench.world.step(0) {}
    assert_eq!(received.try_recv(), Ok("copied"));
    bench.check_empty();
}

#[test]
fn memory_reserved_beside_the_operands_is_given_back() {
    let bench = Bench::new(&[100]);
    let a = array(&[10]);
    let operands: Arc<[Operand]> = [operand(&a, line(0, 10), Access::InOut)].into();
    let stage = |extra| {
        let (sent, received) = mpsc::channel();
        let done = Box::new(move |staged| drop(sent.send(staged)));
        bench
            .store
            .stage(Arc::clone(&operands), &[gpu(0)], extra, done);
        received
    };
    for _ in 0..3 {
        let first = stage(40).recv_timeout(LIMIT).unwrap().unwrap();
        let second = stage(30);
        assert!(second.try_recv().is_err(), "40 + 40 + 30 bytes of 100");
        first.end(Ended::NotBegun);
        let second = second.recv_timeout(LIMIT).unwrap().unwrap();
        second.end(Ended::NotBegun);
    }
    let most = stage(60).recv_timeout(LIMIT).unwrap().unwrap();
    most.end(Ended::NotBegun);
    bench.check_empty();
}
