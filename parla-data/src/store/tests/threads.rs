//! Many threads at once, on simulated GPUs with their own threads.

use parla_device::{Gpus, MachineOptions, SimOptions};

use super::task::Dice;
use super::*;

const N: usize = 64;
const BYTES: u64 = (N * ITEM) as u64;

fn store(n_gpus: usize, tiles: u64) -> Arc<Store> {
    let mut sim = SimOptions::new(n_gpus);
    sim.memory = vec![tiles * BYTES; n_gpus];
    sim.timed = false;
    let options = MachineOptions {
        gpus: Gpus::Simulated(sim),
        ..MachineOptions::default()
    };
    Store::new(Arc::new(Machine::probe(&options).expect("simulated GPUs")))
}

fn staged(store: &Arc<Store>, operands: &[Operand], device: DeviceId) -> Result<Staged, DataError> {
    let operands = operands.into();
    if let Some(staged) = store.try_stage(&operands, &[device]) {
        return Ok(staged);
    }
    let (sent, received) = mpsc::channel();
    let done = Box::new(move |staged| drop(sent.send(staged)));
    store.stage(operands, &[device], 0, done);
    received.recv_timeout(LIMIT).expect("in time")
}

/// Each thread changes arrays of its own and reads those of all, on any device, with little memory.
fn play(store: &Arc<Store>, shared: &[Array], seed: u64, n_steps: u32) -> usize {
    let gpus = store.model().devices.iter().filter(|d| d.exclusive).count();
    let first_gpu = store.model().devices.len() - gpus;
    let mut dice = Dice(seed);
    let mut n_errors = 0;
    let mut own: Vec<(Array, Option<u32>)> = (0..3).map(|_| (array(&[N]), None)).collect();
    for step in 0..n_steps {
        let device = match dice.roll(gpus + 1) {
            0 => CPU,
            i => DeviceId((first_gpu + i - 1) as u32),
        };
        let at = dice.roll(own.len());
        let half = dice.roll(2) * N / 2;
        let mine = operand(&own[at].0, line(0, N), Access::InOut);
        let theirs = &shared[dice.roll(shared.len())];
        let theirs = operand(theirs, line(half, half + N / 2), Access::Input);
        match dice.roll(8) {
            0 => {
                store.prefetch(&theirs, device, &Ahead::surely(), Box::new(|| ()));
                continue;
            }
            // An array goes, perhaps with copies of it under way.
            1 => {
                store.prefetch(&mine, device, &Ahead::surely(), Box::new(|| ()));
                own[at] = (array(&[N]), None);
                continue;
            }
            2 => {
                n_errors += usize::from(
                    store
                        .evict(&own[at].0, store.model().memory_of(device))
                        .is_err(),
                );
                continue;
            }
            _ => {}
        }
        let operands = [mine, theirs];
        match staged(store, &operands, device) {
            Ok(mut staged) => {
                staged.begin();
                let seen = look(&staged, &operands);
                let expected: Vec<u32> = match own[at].1 {
                    Some(value) => vec![value; N],
                    None => (0..N as u32).collect(),
                };
                assert_eq!(seen[0], expected);
                let start = half as u32;
                assert_eq!(seen[1], (start..start + N as u32 / 2).collect::<Vec<_>>());
                fill(&staged.places()[0], &[N], step + 1000);
                own[at].1 = Some(step + 1000);
                staged.end(Ended::Well(Vec::new()));
            }
            Err(_) => {
                // On a device that was lost; what it held alone is gone.
                n_errors += 1;
                own[at] = (array(&[N]), None);
            }
        }
    }
    n_errors
}

fn used(store: &Store) -> u64 {
    store
        .stats()
        .memories
        .iter()
        .map(|memory| memory.used)
        .sum()
}

#[test]
fn threads_share_arrays_and_little_memory() {
    for seed in 0..4_u64 {
        let store = store(3, 5);
        let shared: Vec<Array> = (0..6).map(|_| array(&[N])).collect();
        let n_errors: usize = std::thread::scope(|scope| {
            let (store, shared) = (&store, &shared);
            let play = |i: u64| scope.spawn(move || play(store, shared, seed * 10 + i, 300));
            let threads: Vec<_> = (0..4).map(play).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .sum()
        });
        assert_eq!(n_errors, 0);
        store.close().unwrap();
        assert_eq!(used(&store), 0);
        let gpus = store.machine().sim().expect("simulated").sim_devices();
        // Copies that have ended let go of their blocks a moment later.
        wait_until(|| {
            gpus.iter()
                .all(|gpu| parla_device::Device::memory_used(&**gpu) == 0)
        });
    }
}

#[test]
fn a_device_is_lost_while_threads_use_it() {
    for seed in 0..4_u64 {
        let store = store(3, 5);
        let shared: Vec<Array> = (0..6).map(|_| array(&[N])).collect();
        std::thread::scope(|scope| {
            let (store, shared) = (&store, &shared);
            for i in 0..4 {
                scope.spawn(move || play(store, shared, seed * 10 + i, 300));
            }
            let gpus = store.machine().sim().expect("simulated").sim_devices();
            let copies = || {
                store
                    .stats()
                    .memories
                    .iter()
                    .map(|m| m.n_copies)
                    .sum::<u64>()
            };
            wait_until(|| copies() > 200);
            gpus[1].lose("the test said so");
        });
        // What was lost is reported, nothing is forgotten.
        drop(store.close());
        assert_eq!(used(&store), 0);
        for array in &shared {
            store.to_host(array, &line(0, N), false).unwrap();
            assert_eq!(
                home_of(array, &line(0, N)),
                (0..N as u32).collect::<Vec<_>>()
            );
        }
    }
}

#[test]
fn what_is_used_for_a_moment_only_is_not_out_of_memory() {
    let store = store(1, 2);
    let arrays: Vec<Array> = (0..4).map(|_| array(&[64])).collect();
    let operands = |of: &[usize]| -> Arc<[Operand]> {
        let whole = |i: &usize| operand(&arrays[*i], line(0, 64), Access::Input);
        of.iter().map(whole).collect()
    };
    let ended = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // The first may be there, the second never is: for a moment the first is in use.
            let tried = operands(&[0, 3]);
            while !ended.load(Ordering::Relaxed) {
                assert!(store.try_stage(&tried, &[gpu(0)]).is_none());
            }
        });
        for _ in 0..3000 {
            for some in [&[0, 1][..], &[1, 2]] {
                let one = staged(&store, &operands(some), gpu(0));
                drop(one.unwrap_or_else(|error| {
                    ended.store(true, Ordering::Relaxed);
                    panic!("{error}")
                }));
            }
        }
        ended.store(true, Ordering::Relaxed);
    });
    store.close().unwrap();
}
