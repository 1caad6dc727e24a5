//! Arrays in memory of the host and of devices, for tests.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parla_device::{Block, Copy, Device, DeviceKey, Place, Stream};

/// Bytes of the host that copies may use.
pub(crate) fn host(bytes: &[u8]) -> Arc<Block> {
    let memory = bytes.to_vec().into_boxed_slice();
    let (address, length) = (memory.as_ptr() as usize, memory.len());
    Arc::new(Block::foreign(address, length as u64, memory))
}

/// The bytes of a block of the host.
pub(crate) fn bytes(block: &Block) -> &[u8] {
    // SAFETY: a block made by `host`, which lives as long as the result; tests look when no copy writes.
    unsafe { std::slice::from_raw_parts(block.address() as *const u8, block.bytes() as usize) }
}

/// A place with these strides.
pub(crate) fn place(
    block: &Arc<Block>,
    offset: usize,
    strides: &[isize],
    device: Option<&Arc<dyn Device>>,
) -> Place {
    let key = |device: &Arc<dyn Device>| -> DeviceKey { ("gpu", device.index()) };
    Place {
        block: Arc::clone(block),
        offset,
        strides: strides.into(),
        device: device.map(key),
    }
}

/// A copy of all of a block's bytes.
pub(crate) fn whole(
    from: (&Arc<Block>, Option<&Arc<dyn Device>>),
    to: (&Arc<Block>, Option<&Arc<dyn Device>>),
) -> Copy {
    Copy {
        item: 1,
        shape: [from.0.bytes() as usize][..].into(),
        source: place(from.0, 0, &[1], from.1),
        destination: place(to.0, 0, &[1], to.1),
    }
}

/// Bytes that tell where they were.
pub(crate) fn pattern(n: usize, salt: u8) -> Vec<u8> {
    (0..n)
        .map(|i| (i as u8).wrapping_mul(31) ^ (i >> 8) as u8 ^ salt)
        .collect()
}

/// Waits until a condition holds that no event tells about, at most half a minute.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(
            began.elapsed() < Duration::from_secs(30),
            "still not: {what}"
        );
        std::thread::yield_now();
    }
}

/// Copies a block of a device back, after everything on the stream.
pub(crate) fn read(
    stream: &Arc<dyn Stream>,
    device: &Arc<dyn Device>,
    block: &Arc<Block>,
) -> Vec<u8> {
    let back = host(&vec![0; block.bytes() as usize]);
    stream
        .copy(whole((block, Some(device)), (&back, None)))
        .expect("a copy");
    stream.synchronize().expect("no error");
    bytes(&back).to_vec()
}
