//! What a stream's work relies on beyond its own card, so that its events end badly when that is lost; and the memory that its copies use.
//!
//! The driver lets waits for events of a lost card pass, and tells only that card's own streams about the loss. So each stream
//! remembers what it was told to wait for or to copy from elsewhere, until an event after that was seen done; an event is done well only
//! if all of that is well.

use std::any::Any;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parla_core::lock::Mutex;
use smallvec::SmallVec;

use super::physical::Physical;
use crate::DeviceError;

/// Something beyond the stream's card.
#[derive(Clone)]
pub(super) enum Upstream {
    /// Another card, and what users call the device on it.
    Card(Arc<Physical>, Arc<str>),
    /// An event of another backend, once it ended badly.
    Event(Arc<OnceLock<DeviceError>>),
}

/// What an event relies on.
pub(super) type Upstreams = SmallVec<[Upstream; 1]>;

/// The history of a stream, shared with its events.
#[derive(Default)]
pub(super) struct History {
    /// How many events were recorded.
    n_events: AtomicU64,
    /// The events with lower numbers are all done.
    n_done: AtomicU64,
    /// Each with the number of the next event when it came up.
    upstreams: Mutex<Vec<(u64, Upstream)>>,
    /// What copies keep alive, each with the number of the event that follows it.
    kept: Mutex<Vec<(u64, Box<dyn Any + Send>)>>,
}

impl Upstream {
    /// What went wrong there.
    pub(super) fn failure(&self) -> Option<DeviceError> {
        match self {
            Self::Card(card, name) => card.loss().map(|reason| DeviceError::Lost {
                device: name.to_string(),
                reason: reason.to_owned(),
            }),
            Self::Event(ended) => ended.get().cloned(),
        }
    }
}

impl History {
    /// What is enqueued from now on relies on this.
    pub(super) fn rely_on(&self, upstream: Upstream) {
        let next = self.n_events.load(Ordering::Relaxed);
        self.upstreams.lock().push((next, upstream));
    }

    /// The number of a new event, and what it relies on.
    pub(super) fn next_event(&self) -> (u64, Upstreams) {
        let number = self.n_events.fetch_add(1, Ordering::Relaxed);
        let mut upstreams = self.upstreams.lock();
        if upstreams.is_empty() {
            return (number, Upstreams::new());
        }
        let done = self.n_done.load(Ordering::Relaxed);
        upstreams.retain(|(next, _)| *next >= done);
        (
            number,
            upstreams
                .iter()
                .map(|(_, upstream)| upstream.clone())
                .collect(),
        )
    }

    /// Keeps what a copy uses until an event with this number, or a later one, [ended](Self::ended). Dropping it must ask no event of this stream.
    pub(super) fn keep(&self, number: u64, kept: Box<dyn Any + Send>) {
        self.kept.lock().push((number, kept));
    }

    /// An event ended, well or badly. The memory that copies before it used is free when this returns, whoever calls it: who hears that a copy is done
    /// may count on that.
    pub(super) fn ended(&self, number: u64) {
        self.n_done.fetch_max(number + 1, Ordering::Relaxed);
        self.kept.lock().retain(|(at, _)| *at > number);
    }
}
