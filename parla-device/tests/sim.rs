//! Simulated GPUs: modelled times. What every backend promises is in `conformance`.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use parla_core::Link;
use parla_device::{Backend, Block, Copy, DeviceKey, Place, SimBackend, SimLinks, SimOptions};
use smallvec::smallvec;

const PATIENCE: Duration = Duration::from_secs(20);

fn place(block: &Arc<Block>, device: Option<DeviceKey>) -> Place {
    Place {
        block: Arc::clone(block),
        offset: 0,
        strides: smallvec![1],
        device,
    }
}

fn bytes(n: usize, source: Place, destination: Place) -> Copy {
    Copy {
        item: 1,
        shape: smallvec![n],
        source,
        destination,
    }
}

/// Waits for an event, but not for ever.
fn wait(event: &Arc<dyn parla_device::Event>) {
    let (sender, receiver) = mpsc::channel();
    event.on_done(Box::new(move |result| {
        let _ = sender.send(result);
    }));
    let result = receiver.recv_timeout(PATIENCE);
    result.expect("in time").expect("without an error");
}

fn sim(n: usize) -> SimBackend {
    let link = Link {
        latency_ns: 20_000_000,
        bytes_per_second: f64::INFINITY,
        direct: true,
    };
    let mut options = SimOptions::new(n);
    options.links = SimLinks {
        host: link,
        peer: Some(link),
        inside: link,
        pairs: Vec::new(),
    };
    SimBackend::new(&options).expect("the options are good")
}

#[test]
fn engines_overlap_and_each_takes_one_thing_at_a_time() {
    let sim = sim(1);
    let gpu = &sim.devices()[0];
    let key = Some(("gpu", 0));
    let streams: Vec<_> = (0..4).map(|_| gpu.stream().unwrap()).collect();
    let start = Instant::now();
    let mut events = Vec::new();
    // Two launches one after the other, whatever their streams.
    for stream in &streams[..2] {
        stream.launch(Box::new(|| {}), 40_000_000).unwrap();
        events.push(stream.record().unwrap());
    }
    let buffer = Arc::new(vec![7_u8; 16]);
    let pageable = Arc::new(Block::foreign(buffer.as_ptr() as usize, 16, buffer));
    let here = gpu.allocate(16).unwrap();
    streams[2]
        .copy(bytes(16, place(&pageable, None), place(&here, key)))
        .unwrap();
    events.push(streams[2].record().unwrap());
    for event in &events {
        wait(event);
    }
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(80), "{took:?}");
    assert!(took < Duration::from_millis(100), "{took:?}");
}
