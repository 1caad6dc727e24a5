//! One thread for the process that notices when events are done, calls who wants to know, and lets go of what copies kept alive.
//!
//! It asks the driver about the oldest event of each stream, at growing intervals while nothing happens. A function of the host
//! called by the stream would know earlier, but holds the stream up, and is never called once a context is lost. The thread ends
//! when there has been nothing to watch for a moment, and is started again when there is.

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::mem::take;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parla_core::lock::{Condvar, Mutex};

use super::driver::Driver;
use super::event::CudaEvent;
use crate::backend::{Callback, Event as _};

/// Intervals between questions, while something is outstanding.
const SHORTEST: Duration = Duration::from_micros(5);
const LONGEST: Duration = Duration::from_micros(200);
/// How long the thread stays when nothing is.
const PATIENCE: Duration = Duration::from_millis(100);

/// What to do when an event is done.
pub(super) enum Then {
    /// Call this.
    Call(Callback),
    /// Let go of this.
    Drop(Box<dyn Any + Send>),
    /// Let go of what copies before it keep.
    Release,
}

type Entry = (Arc<CudaEvent>, Then);

struct Inbox {
    entries: Vec<Entry>,
    running: bool,
    idle: bool,
}

static INBOX: Mutex<Inbox> = Mutex::new(Inbox {
    entries: Vec::new(),
    running: false,
    idle: false,
});
static ARRIVED: Condvar = Condvar::new();

/// Does `then` on the completion thread once `event` is done, well or badly.
pub(super) fn when_done(event: Arc<CudaEvent>, then: Then) {
    let mut inbox = INBOX.lock();
    inbox.entries.push((event, then));
    if inbox.idle {
        ARRIVED.notify_one();
    }
    if !inbox.running {
        let started = thread::Builder::new()
            .name("parla-cuda".to_owned())
            .spawn(run);
        inbox.running = started.is_ok();
        if started.is_err() {
            // No thread can be had: do here what it would do.
            let entries = take(&mut inbox.entries);
            drop(inbox);
            for (event, then) in entries {
                let _ = event.synchronize();
                finish(&event, then);
            }
        }
    }
}

/// Drops something on the completion thread once `event` is done.
pub(super) fn drop_when_done(event: Arc<CudaEvent>, kept: Box<dyn Any + Send>) {
    when_done(event, Then::Drop(kept));
}

fn run() {
    if let Ok(driver) = Driver::get() {
        driver.ignore_captures();
    }
    let mut streams: HashMap<(usize, usize), VecDeque<Entry>> = HashMap::new();
    let mut interval = SHORTEST;
    loop {
        {
            let mut inbox = INBOX.lock();
            if inbox.entries.is_empty() {
                let nothing = streams.is_empty();
                inbox.idle = nothing;
                let pause = if nothing { PATIENCE } else { interval };
                ARRIVED.wait_until(&mut inbox, Instant::now() + pause);
                inbox.idle = false;
                if nothing && inbox.entries.is_empty() {
                    inbox.running = false;
                    return;
                }
            }
            for entry in take(&mut inbox.entries) {
                interval = SHORTEST;
                let queue = streams.entry(entry.0.stream()).or_default();
                // Mostly the newest; the order counts, as what follows the oldest may wait for what its callback does.
                let later = queue
                    .iter()
                    .rev()
                    .take_while(|other| other.0.number() > entry.0.number());
                queue.insert(queue.len() - later.count(), entry);
            }
        }
        let mut progress = false;
        streams.retain(|_, queue| {
            while queue
                .front()
                .is_some_and(|(event, _)| !matches!(event.is_done(), Ok(false)))
            {
                if let Some((event, then)) = queue.pop_front() {
                    finish(&event, then);
                    progress = true;
                }
            }
            !queue.is_empty()
        });
        interval = if progress {
            SHORTEST
        } else {
            LONGEST.min(interval * 2)
        };
    }
}

fn finish(event: &CudaEvent, then: Then) {
    // A panic of a callback is its caller's bug; the others are still to be called.
    let _ = catch_unwind(AssertUnwindSafe(|| match then {
        Then::Call(callback) => callback(event.is_done().map(drop)),
        Then::Drop(kept) => drop(kept),
        Then::Release => event.let_go(),
    }));
}
