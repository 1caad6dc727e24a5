//! Devices and their memory.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::mpsc::channel;

use super::{
    Gate, PATIENCE, Subject, all_of, copy_of_bytes, download, finish, good, host_block, upload,
};
use crate::backend::Device;
use crate::error::DeviceError;

/// Devices have the names, indices and capacities that the contract asks for, and always the same.
pub fn devices_are_what_they_say(subject: &Subject) {
    let devices = subject.backend.devices();
    assert!(!devices.is_empty());
    assert_eq!(subject.backend.unavailable(), None);
    let architecture = subject.backend.architecture();
    assert_eq!(architecture, architecture.to_lowercase());
    let mut names = HashSet::new();
    for (index, device) in devices.iter().enumerate() {
        assert_eq!(device.index() as usize, index);
        assert_eq!(device.name(), format!("{architecture}:{index}"));
        assert!(names.insert(device.name().to_owned()));
        assert!(device.memory_capacity() > 0);
        assert!(device.failure().is_none());
    }
    let again = subject.backend.devices();
    let same = |(a, b): (&std::sync::Arc<dyn Device>, _)| std::sync::Arc::ptr_eq(a, b);
    assert!(again.iter().zip(&devices).all(same));
}

/// Blocks are aligned, distinct, counted while they live and not after, also those without a byte.
pub fn blocks_are_aligned_and_accounted(subject: &Subject) {
    let device = subject.device();
    assert_eq!(device.memory_used(), 0);
    let sizes = [1, 3, 256, 257, 4096, 1 << 20, 0];
    let blocks: Vec<_> = sizes.map(|n| good(device.allocate(n))).into();
    for (block, n_bytes) in blocks.iter().zip(sizes) {
        assert_eq!(block.bytes(), n_bytes);
        assert!(n_bytes == 0 || block.address() % 256 == 0, "{block:?}");
    }
    let mut ends: Vec<(usize, usize)> = blocks
        .iter()
        .filter(|block| block.bytes() > 0)
        .map(|block| (block.address(), block.address() + block.bytes() as usize))
        .collect();
    ends.sort_unstable();
    assert!(ends.windows(2).all(|pair| pair[0].1 <= pair[1].0));
    // A backend may round sizes up, but gives back what it took.
    assert!(device.memory_used() >= sizes.iter().sum());
    drop(blocks);
    assert_eq!(device.memory_used(), 0);
}

/// What does not fit is refused with the numbers; what is there stays, and what fits can still be had.
pub fn too_much_is_refused_with_numbers(subject: &Subject) {
    let device = subject.device();
    let kept = upload(subject, &device, vec![7; 1000]);
    let used = device.memory_used();
    let capacity = device.memory_capacity();
    for too_much in [capacity, capacity + 1, u64::MAX] {
        match device.allocate(too_much) {
            Err(DeviceError::OutOfMemory {
                device: name,
                requested,
                free,
                total,
            }) => {
                assert_eq!(name, device.name());
                assert_eq!((requested, total), (too_much, capacity));
                assert!(free <= capacity - used, "{free}");
            }
            other => panic!("{too_much} bytes of {capacity}: {other:?}"),
        }
        assert_eq!(device.memory_used(), used, "what is refused is not counted");
    }
    drop(good(device.allocate(1000)));
    assert_eq!(download(subject, &device, &kept), vec![7; 1000]);
    drop(kept);
    assert_eq!(device.memory_used(), 0);
}

/// A copy keeps its blocks until it is done, whoever drops them, and not longer.
pub fn blocks_in_use_by_a_copy_may_be_dropped(subject: &Subject) {
    let device = subject.device();
    let key = subject.key(&*device);
    let stream = good(device.stream());
    let source = upload(subject, &device, (0..=255).collect());
    let middle = good(device.allocate(256));
    let target = host_block(vec![0; 256]);
    let gate = Gate::on(&stream);
    good(stream.copy(copy_of_bytes(all_of(&source, key), all_of(&middle, key))));
    good(stream.copy(copy_of_bytes(all_of(&middle, key), all_of(&target, None))));
    drop((source, middle));
    assert!(device.memory_used() >= 512, "the copies hold their blocks");
    // Would be reused if the copies did not hold them.
    let others: Vec<_> = (0..4).map(|_| good(device.allocate(256))).collect();
    gate.open();
    finish(&stream);
    assert_eq!(super::contents(&target), (0..=255).collect::<Vec<u8>>());
    drop(others);
    assert_eq!(device.memory_used(), 0);
}

/// Whoever learns that an event is done, in whichever way, finds the memory given back that copies before it held.
pub fn who_hears_of_the_end_of_a_copy_may_have_its_memory(subject: &Subject) {
    let device = subject.device();
    let key = subject.key(&*device);
    let stream = good(device.stream());
    let target = host_block(vec![0; 256]);
    let copied = || {
        let source = good(device.allocate(256));
        good(stream.copy(copy_of_bytes(all_of(&source, key), all_of(&target, None))));
        good(stream.record())
    };
    for _ in 0..100 {
        good(copied().synchronize());
        assert_eq!(device.memory_used(), 0, "after a wait");
        let event = copied();
        while !good(event.is_done()) {
            std::hint::spin_loop();
        }
        assert_eq!(device.memory_used(), 0, "after a look");
        let (sender, receiver) = channel();
        let asked = Arc::clone(&device);
        copied().on_done(Box::new(move |_| {
            let _ = sender.send(asked.memory_used());
        }));
        assert_eq!(receiver.recv_timeout(PATIENCE), Ok(0), "in a callback");
    }
}
