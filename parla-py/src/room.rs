//! Room on a device for memory that is none of the store's: what a body allocates itself.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use parla_core::DeviceId;
use parla_data::{Staged, Store};
use pyo3::prelude::*;

/// How long to wait for copies that are in use, or on their way home. Whoever uses them may be waiting for the caller.
const PATIENCE: Duration = Duration::from_secs(1);

/// Gives up copies of arrays that nobody uses, until so many bytes are free or no more can be done. While the result lives the store does not take
/// the room for itself. `free`: what the device said it has, if it did.
pub(crate) fn make(
    py: Python<'_>,
    store: &Arc<Store>,
    device: DeviceId,
    bytes: u64,
    free: Option<u64>,
) -> Option<Staged> {
    py.detach(|| {
        // The store does not know of what others have allocated: to make so many bytes more free on the device, it has to have more than it thinks.
        let bytes = match free {
            Some(free) if free < bytes => {
                let memory = store.machine().model().memory_of(device);
                bytes.max(store.free(memory).saturating_add(bytes - free))
            }
            _ => bytes,
        };
        let (told, staged) = mpsc::channel();
        // The store may answer when nobody waits for it any more: then the answer is dropped, and the room with it.
        let done = Box::new(move |answer| drop(told.send(answer)));
        store.room(device, bytes, done);
        staged.recv_timeout(PATIENCE).ok()?.ok()
    })
}
