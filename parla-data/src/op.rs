//! Work of a device that instances depend on: a copy, or what a task's body left on a stream.

use std::sync::{Arc, Weak};

use parla_core::lock::Mutex;
use parla_device::{DeviceError, Event};
use rustc_hash::FxHashSet;
use smallvec::SmallVec;

use crate::array::Shared;
use crate::store::Store;

type Waiter = Box<dyn FnOnce(Option<&DeviceError>) + Send>;

/// A piece of work under way, with the event that tells its end.
pub(crate) struct Op {
    pub(crate) event: Arc<dyn Event>,
    /// For people: what failed, if it does.
    pub(crate) what: Arc<str>,
    arrays: SmallVec<[Weak<Shared>; 1]>,
    store: Weak<Store>,
    // Taken last, and nothing else is taken while it is held.
    progress: Mutex<Progress>,
}

struct Progress {
    // The end: with an error or without.
    outcome: Option<Result<(), DeviceError>>,
    // What it read was written by these; empty once it ended.
    sources: Vec<Arc<Op>>,
    waiters: Vec<Waiter>,
}

/// What can be said of work at a moment.
enum Look {
    /// It has ended, and everybody was told.
    Ended(Result<(), DeviceError>),
    /// Its own error, if it has one already, and what it depends on.
    Sources(Option<DeviceError>, Vec<Arc<Op>>),
}

impl std::fmt::Debug for Op {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Op({}, {:?})", self.what, self.event)
    }
}

impl Op {
    /// Work that is done at `event`, concerns instances of `arrays` and uses what `sources` wrote. It has to be [watched](Self::watch).
    pub(crate) fn new(
        event: Arc<dyn Event>,
        what: Arc<str>,
        arrays: SmallVec<[Weak<Shared>; 1]>,
        store: Weak<Store>,
        sources: Vec<Arc<Self>>,
    ) -> Arc<Self> {
        let progress = Mutex::new(Progress {
            outcome: None,
            sources,
            waiters: Vec::new(),
        });
        Arc::new(Self {
            event,
            what,
            arrays,
            store,
            progress,
        })
    }

    /// Sees to it that its end is noticed. Called once, with no lock held, since that may be at once.
    pub(crate) fn watch(self: &Arc<Self>) {
        let op = Arc::clone(self);
        self.event
            .on_done(Box::new(move |result| op.settle(result.err())));
    }

    /// The error that it, or something it depends on, ended with. Only meaningful once its event is done.
    fn failure(&self) -> Option<DeviceError> {
        let own = match self.look() {
            Look::Ended(outcome) => return outcome.err(),
            Look::Sources(own, sources) => own.map_or(Ok(sources), Err),
        };
        let mut open = match own {
            Ok(sources) => sources,
            Err(error) => return Some(error),
        };
        // Chains may be long, and meet.
        let mut seen: FxHashSet<*const Self> = open.iter().map(Arc::as_ptr).collect();
        while let Some(op) = open.pop() {
            match op.look() {
                Look::Ended(Ok(())) => {}
                Look::Ended(Err(error)) | Look::Sources(Some(error), _) => return Some(error),
                Look::Sources(None, sources) => {
                    open.extend(
                        sources
                            .into_iter()
                            .filter(|op| seen.insert(Arc::as_ptr(op))),
                    );
                }
            }
        }
        None
    }

    fn look(&self) -> Look {
        let sources = {
            let progress = self.progress.lock();
            if let Some(outcome) = &progress.outcome {
                return Look::Ended(outcome.clone());
            }
            progress.sources.clone()
        };
        Look::Sources(self.event.is_done().err(), sources)
    }

    /// It ended. A failure takes what it wrote out of the directories before anybody who waits is told.
    fn settle(&self, error: Option<DeviceError>) {
        let error = error.or_else(|| self.failure());
        for array in self.arrays.iter().filter_map(Weak::upgrade) {
            array.settle(self, error.as_ref());
        }
        let (waiters, _sources) = {
            let mut progress = self.progress.lock();
            progress.outcome = Some(error.clone().map_or(Ok(()), Err));
            (
                std::mem::take(&mut progress.waiters),
                std::mem::take(&mut progress.sources),
            )
        };
        for waiter in waiters {
            waiter(error.as_ref());
        }
        if let Some(store) = self.store.upgrade() {
            store.given_back();
        }
    }

    /// Calls `waiter` once it has ended: here and now if it has. No lock may be held.
    pub(crate) fn then(&self, waiter: Waiter) {
        let mut progress = self.progress.lock();
        let Some(outcome) = &progress.outcome else {
            progress.waiters.push(waiter);
            return;
        };
        let error = outcome.clone().err();
        drop(progress);
        waiter(error.as_ref());
    }

    /// Blocks until it has ended and everybody concerned knows.
    pub(crate) fn wait(&self) -> Result<(), DeviceError> {
        let gate = Arc::new((Mutex::new(None), parla_core::lock::Condvar::new()));
        let opened = Arc::clone(&gate);
        self.then(Box::new(move |error| {
            *opened.0.lock() = Some(error.cloned());
            opened.1.notify_all();
        }));
        let mut outcome = gate.0.lock();
        loop {
            if let Some(outcome) = outcome.take() {
                return outcome.map_or(Ok(()), Err);
            }
            gate.1.wait(&mut outcome);
        }
    }
}
