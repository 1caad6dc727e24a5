//! Many threads on all simulated GPUs at once, with waits between streams, losses and dropped handles: everything ends, memory comes back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use parla_core::lock::Mutex;
use parla_device::conformance::{all_of, copy_of_bytes, end_of, good, host_block};
use parla_device::{Backend, Device, Event, SimBackend, SimOptions};

const N_GPUS: usize = 4;
const N_THREADS: usize = 4;
const N_ROUNDS: usize = 300;

/// Numbers that look random and are always the same.
fn random(state: &mut u64) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 33) as usize
}

/// One thread's work; counts callbacks that are to come and that came.
fn work(sim: &SimBackend, seed: u64, events: &Mutex<Vec<Arc<dyn Event>>>, open: &Arc<AtomicUsize>) {
    let mut state = seed;
    for _ in 0..N_ROUNDS {
        let gpu = &sim.sim_devices()[random(&mut state) % N_GPUS];
        let key = Some(("gpu", gpu.index()));
        let Ok(stream) = gpu.stream() else { continue };
        let host = host_block(vec![1; 512]);
        for _ in 0..random(&mut state) % 6 {
            // The device may be lost at any of these.
            let _ = match random(&mut state) % 4 {
                0 => stream.launch(Box::new(|| {}), (random(&mut state) % 50_000) as u64),
                1 => match gpu.allocate(512) {
                    Ok(block) => {
                        stream.copy(copy_of_bytes(all_of(&host, None), all_of(&block, key)))
                    }
                    Err(error) => Err(error),
                },
                2 => {
                    let events = events.lock();
                    let event = events
                        .get(random(&mut state) % events.len().max(1))
                        .cloned();
                    drop(events);
                    event.map_or(Ok(()), |event| stream.wait(&event))
                }
                _ => stream.is_idle().map(|_| ()),
            };
        }
        let Ok(event) = stream.record() else { continue };
        open.fetch_add(1, Ordering::SeqCst);
        let called = Arc::clone(open);
        event.on_done(Box::new(move |_| {
            called.fetch_sub(1, Ordering::SeqCst);
        }));
        let mut events = events.lock();
        if events.len() < 16 {
            events.push(event);
        } else {
            let place = random(&mut state) % 16;
            let old = std::mem::replace(&mut events[place], event);
            drop(events);
            drop(old);
        }
    }
}

fn storm(seed: u64, faults: &str, timed: bool) {
    let mut options = SimOptions::new(N_GPUS);
    options.timed = timed;
    good(options.add_faults(faults));
    let sim = Arc::new(good(SimBackend::new(&options)));
    let events: Arc<Mutex<Vec<Arc<dyn Event>>>> = Arc::default();
    let open = Arc::new(AtomicUsize::new(0));
    let threads: Vec<_> = (1..=N_THREADS as u64)
        .map(|k| {
            let (sim, events, open) = (Arc::clone(&sim), Arc::clone(&events), Arc::clone(&open));
            thread::spawn(move || work(&sim, seed * 1000 + k, &events, &open))
        })
        .collect();
    for thread in threads {
        assert!(thread.join().is_ok());
    }
    // Waits for the last events of every stream there is: by now all of them can only wait for each other.
    for event in std::mem::take(&mut *events.lock()) {
        let _ = end_of(&event);
    }
    let until = std::time::Instant::now() + parla_device::conformance::PATIENCE;
    let used = || {
        sim.devices()
            .iter()
            .map(|gpu| gpu.memory_used())
            .sum::<u64>()
    };
    while open.load(Ordering::SeqCst) > 0 || used() > 0 {
        assert!(
            std::time::Instant::now() < until,
            "{} events are open, {} bytes used",
            open.load(Ordering::SeqCst),
            used()
        );
        thread::yield_now();
    }
}

#[test]
fn a_storm_ends() {
    for seed in 1..=3 {
        storm(seed, "", seed % 2 == 0);
    }
}

#[test]
fn a_storm_with_losses_ends() {
    for seed in 1..=6 {
        storm(
            seed,
            "gpu:1 lose=40; gpu:2 lose=300; gpu:* copy=20; gpu:* alloc=30",
            seed % 2 == 0,
        );
    }
}
