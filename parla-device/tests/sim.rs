//! Simulated GPUs: modelled times, faults, panics, ends. What every backend promises is in `conformance`.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use parla_core::Link;
use parla_device::conformance::{
    Gate, PATIENCE, all_of, copy_of_bytes, end_of, finish, good, host_block,
};
use parla_device::{
    Backend, Device, DeviceError, Fault, FaultKind, Machine, MachineOptions, SIM_FILL, SimBackend,
    SimLinks, SimOptions, Stream,
};

/// GPUs whose copies take so long, whatever their size.
fn sim(n_devices: usize, latency: Duration) -> SimBackend {
    let link = Link {
        latency_ns: latency.as_nanos() as u64,
        bytes_per_second: f64::INFINITY,
        direct: true,
    };
    let mut options = SimOptions::new(n_devices);
    options.links = SimLinks {
        host: link,
        peer: Some(link),
        inside: link,
        pairs: Vec::new(),
    };
    good(SimBackend::new(&options))
}

const GPU: Option<(&str, u32)> = Some(("gpu", 0));

#[test]
fn engines_overlap_and_each_takes_one_thing_at_a_time() {
    let sim = sim(1, Duration::from_millis(300));
    let gpu = &sim.devices()[0];
    let streams: Vec<_> = (0..4).map(|_| good(gpu.stream())).collect();
    let (host, here) = (host_block(vec![7; 16]), good(gpu.allocate(16)));
    let start = Instant::now();
    // Two launches one after the other, whatever their streams; copies both ways meanwhile.
    good(streams[0].launch(Box::new(|| {}), 300_000_000));
    good(streams[1].launch(Box::new(|| {}), 300_000_000));
    good(streams[2].copy(copy_of_bytes(all_of(&host, None), all_of(&here, GPU))));
    let copied = good(streams[2].record());
    good(streams[3].wait(&copied));
    good(streams[3].copy(copy_of_bytes(all_of(&here, GPU), all_of(&host, None))));
    for stream in &streams {
        finish(stream);
    }
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(600), "{took:?}");
    assert!(took < Duration::from_millis(900), "{took:?}");
}

#[test]
fn without_time_nothing_takes_any() {
    let mut options = SimOptions::new(1);
    options.timed = false;
    let sim = good(SimBackend::new(&options));
    let stream = good(sim.devices()[0].stream());
    let start = Instant::now();
    good(stream.launch(Box::new(|| {}), 3_600_000_000_000));
    finish(&stream);
    assert!(start.elapsed() < PATIENCE);
}

#[test]
fn memory_is_filled_so_that_a_missing_copy_shows() {
    let sim = sim(1, Duration::ZERO);
    let gpu = &sim.devices()[0];
    let (block, host) = (good(gpu.allocate(1000)), host_block(vec![0; 1000]));
    let stream = good(gpu.stream());
    good(stream.copy(copy_of_bytes(all_of(&block, GPU), all_of(&host, None))));
    finish(&stream);
    assert_eq!(parla_device::conformance::contents(&host), [SIM_FILL; 1000]);
}

#[test]
fn copies_that_leave_their_blocks_are_refused() {
    let sim = sim(2, Duration::ZERO);
    let gpu = &sim.devices()[0];
    let stream = good(gpu.stream());
    let (block, host) = (good(gpu.allocate(10)), host_block(vec![0; 10]));
    let whole = copy_of_bytes(all_of(&host, None), all_of(&block, GPU));
    let refused = |change: &dyn Fn(&mut parla_device::Copy), what: &str| {
        let mut copy = whole.clone();
        change(&mut copy);
        match stream.copy(copy) {
            Err(DeviceError::Driver { reason, .. }) => assert!(reason.contains(what), "{reason}"),
            other => panic!("{other:?}, not {what}"),
        }
    };
    refused(&|copy| copy.shape[0] = 11, "byte 11 of a block of 10 bytes");
    refused(&|copy| copy.source.offset = 1, "source reaches");
    refused(&|copy| copy.source.strides[0] = -1, "from byte -9");
    refused(
        &|copy| copy.source.strides[0] = isize::MAX,
        "source reaches",
    );
    refused(&|copy| copy.destination.strides[0] = 0, "several elements");
    refused(&|copy| copy.shape.push(1), "1 strides for 2 dimensions");
    refused(&|copy| copy.destination.device = None, "neither side");
    refused(
        &|copy| copy.destination.device = Some(("gpu", 1)),
        "neither side",
    );
    refused(
        &|copy| copy.destination.device = Some(("gpu", 2)),
        "gpu:2 is not one",
    );
    finish(&stream);
}

#[test]
fn the_nth_copy_and_launch_fail_and_the_device_goes_on() {
    let sim = sim(1, Duration::ZERO);
    let gpu = &sim.sim_devices()[0];
    gpu.inject(Fault::nth(FaultKind::Copy, 2));
    gpu.inject(Fault {
        kind: FaultKind::Launch,
        nth: 2,
        repeats: true,
    });
    let stream = good(gpu.stream());
    let (block, host) = (good(gpu.allocate(10)), host_block(vec![0; 10]));
    let copy = || stream.copy(copy_of_bytes(all_of(&host, None), all_of(&block, GPU)));
    let launch = || stream.launch(Box::new(|| {}), 0);
    let calls = [copy(), copy(), copy(), launch(), launch(), launch()];
    let failed = calls.map(|result| result.is_err());
    assert_eq!(failed, [false, true, false, false, true, true]);
    finish(&stream);
    assert!(gpu.failure().is_none());
}

#[test]
fn a_device_is_lost_at_the_nth_operation() {
    let mut options = SimOptions::new(2);
    good(options.add_faults("gpu:0 lose=3"));
    let sim = good(SimBackend::new(&options));
    let gpu = &sim.devices()[0];
    let stream = good(gpu.stream());
    let gate = Gate::on(&stream);
    good(stream.launch(Box::new(|| {}), 0));
    let before = good(stream.record());
    good(stream.launch(
        Box::new(|| panic!("the device is lost before this runs")),
        0,
    ));
    let after = good(stream.record());
    gate.open();
    good(end_of(&before));
    assert!(matches!(end_of(&after), Err(DeviceError::Lost { .. })));
    assert!(gpu.failure().is_some());
    assert!(sim.devices()[1].failure().is_none());
}

#[test]
fn a_kernel_that_panics_is_an_error_of_the_next_event() {
    let sim = sim(1, Duration::ZERO);
    let stream = good(sim.devices()[0].stream());
    good(stream.launch(Box::new(|| panic!("on purpose")), 0));
    good(stream.launch(Box::new(|| panic!("this must be skipped")), 0));
    let error = end_of(&good(stream.record())).expect_err("the kernel panicked");
    assert!(error.to_string().contains("on purpose"), "{error}");
    finish(&stream);
}

#[test]
fn a_callback_that_panics_harms_nobody() {
    let sim = sim(1, Duration::ZERO);
    let stream = good(sim.devices()[0].stream());
    let gate = Gate::on(&stream);
    let event = good(stream.record());
    event.on_done(Box::new(|_| panic!("on purpose")));
    gate.open();
    finish(&stream);
}

#[test]
fn streams_are_used_again() {
    let sim = sim(1, Duration::ZERO);
    let gpu = &sim.sim_devices()[0];
    for _ in 0..1000 {
        let pair = [good(gpu.stream()), good(gpu.stream())];
        good(pair[0].launch(Box::new(|| {}), 0));
        finish(&pair[0]);
    }
    assert!(gpu.n_pooled_streams() <= 4, "{}", gpu.n_pooled_streams());
}

#[test]
fn the_last_handle_may_go_in_a_callback() {
    let sim = sim(1, Duration::from_millis(1));
    let gpu = Arc::clone(&sim.devices()[0]);
    let stream = good(gpu.stream());
    let gate = Gate::on(&stream);
    gate.wait_until_reached();
    let event = good(stream.record());
    let (sender, receiver) = channel();
    event.on_done(Box::new(move |result| {
        drop((gpu, stream, sim));
        let _ = sender.send(result.is_ok());
    }));
    drop(event);
    gate.open();
    assert_eq!(receiver.recv_timeout(PATIENCE), Ok(true));
}

#[test]
#[cfg(target_os = "linux")]
fn threads_end_with_the_last_handle() {
    let names = || -> Vec<String> {
        let tasks = good(std::fs::read_dir("/proc/self/task"));
        let name = |task: std::io::Result<std::fs::DirEntry>| {
            std::fs::read_to_string(task.ok()?.path().join("comm")).ok()
        };
        tasks.filter_map(name).collect()
    };
    // A name of its own, since other tests run beside this one: the host's threads.
    let machine = good(Machine::probe(&MachineOptions::default()));
    let cpus = || {
        names()
            .iter()
            .filter(|name| name.starts_with("parla-cpu"))
            .count()
    };
    assert_eq!(cpus(), 0, "probing starts no thread");
    let stream = good(machine.device(parla_core::DeviceId(0)).stream());
    let gate = Gate::on(&stream);
    gate.wait_until_reached();
    assert!(cpus() > 0);
    gate.open();
    finish(&stream);
    drop((stream, machine));
    let until = Instant::now() + PATIENCE;
    while cpus() > 0 {
        assert!(Instant::now() < until, "threads stay: {:?}", names());
        std::thread::yield_now();
    }
}

#[test]
#[cfg(target_os = "linux")]
fn in_a_fork_everything_is_refused_and_nothing_hangs() {
    let sim = sim(1, Duration::from_millis(1));
    let gpu = Arc::clone(&sim.devices()[0]);
    let stream = good(gpu.stream());
    let gate = Gate::on(&stream);
    gate.wait_until_reached();
    let event = good(stream.record());
    // SAFETY: the child calls nothing that another thread of this process may have locked, and leaves by `_exit`.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let lost = |failed: bool| i32::from(!failed);
        let mut wrong = lost(gpu.stream().is_err())
            + lost(gpu.allocate(1).is_err())
            + lost(stream.launch(Box::new(|| {}), 0).is_err())
            + lost(stream.synchronize().is_err())
            + lost(event.synchronize().is_err());
        let mut called = false;
        event.on_done(Box::new(drop));
        called |= event.is_done().is_err();
        wrong += i32::from(!called);
        drop((event, stream, gpu, sim));
        // SAFETY: ends the child at once, without what the parent has registered for its end.
        unsafe { libc::_exit(wrong) };
    }
    let until = Instant::now() + PATIENCE;
    let mut status = -1;
    // SAFETY: `status` is a place to write to, and the child is ours.
    while unsafe { libc::waitpid(child, &raw mut status, libc::WNOHANG) } == 0 {
        if Instant::now() > until {
            // SAFETY: the child is ours and has not been waited for.
            unsafe { libc::kill(child, libc::SIGKILL) };
            panic!("the child of a fork hangs");
        }
        std::thread::yield_now();
    }
    assert_eq!(status, 0);
    gate.open();
    good(end_of(&event));
}

#[test]
fn a_pipeline_keeps_the_time_of_the_model() {
    let sim = sim(1, Duration::from_millis(2));
    let gpu = &sim.devices()[0];
    let (host, here) = (host_block(vec![7; 16]), good(gpu.allocate(16)));
    let stream: Arc<dyn Stream> = good(gpu.stream());
    let start = Instant::now();
    for _ in 0..100 {
        good(stream.copy(copy_of_bytes(all_of(&host, None), all_of(&here, GPU))));
    }
    finish(&stream);
    let took = start.elapsed();
    println!("100 copies of 2 ms: {took:?}");
    assert!(took >= Duration::from_millis(200), "{took:?}");
    // Wake-ups of threads do not add up: half of it is a loaded machine, not a drift.
    assert!(took < Duration::from_millis(300), "{took:?}");
}
