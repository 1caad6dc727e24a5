//! Points in streams.

use std::any::Any;
use std::fmt::{self, Debug};
use std::sync::{Arc, OnceLock, Weak};

use super::completion::{Then, when_done};
use super::device::Logical;
use super::driver::Handle;
use super::physical::Physical;
use super::upstream::{History, Upstream, Upstreams};
use crate::DeviceError;
use crate::backend::{Callback, Event};

/// An event that was recorded once and never will be again, while this lives.
pub(super) struct CudaEvent {
    device: Arc<Logical>,
    raw: Handle,
    stream: Handle,
    /// Later ones on the same stream have higher numbers.
    number: u64,
    history: Arc<History>,
    upstreams: Upstreams,
    /// How it ended, once that is known; what is true of the whole device is asked of that.
    end: OnceLock<Result<(), DeviceError>>,
    this: Weak<Self>,
}

impl Debug for CudaEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Event({} on stream {:#x} of {})",
            self.number, self.stream, self.device.name
        )
    }
}

impl CudaEvent {
    /// Marks what is on the stream; the context is current.
    pub(super) fn record(
        device: &Arc<Logical>,
        stream: Handle,
        history: &Arc<History>,
    ) -> Result<Arc<Self>, DeviceError> {
        let card = &device.card;
        let (number, upstreams) = history.next_event();
        let raw = card.take_event().map_err(|failure| device.error(failure))?;
        if let Err(failure) = card.record(raw, stream) {
            card.put_event(raw);
            return Err(device.error(failure));
        }
        Ok(Arc::new_cyclic(|this| Self {
            device: Arc::clone(device),
            raw,
            stream,
            number,
            history: Arc::clone(history),
            upstreams,
            end: OnceLock::new(),
            this: Weak::clone(this),
        }))
    }

    pub(super) fn raw(&self) -> Handle {
        self.raw
    }

    /// Tells streams of all cards apart.
    pub(super) fn stream(&self) -> (usize, usize) {
        (Arc::as_ptr(&self.device.card) as usize, self.stream)
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// What a stream that waits for this relies on, if it is of another card.
    pub(super) fn as_upstream(&self) -> Upstream {
        Upstream::Card(
            Arc::clone(&self.device.card),
            self.device.name.as_str().into(),
        )
    }

    /// Whether it is an event of this card.
    pub(super) fn is_of(&self, card: &Arc<Physical>) -> bool {
        Arc::ptr_eq(&self.device.card, card)
    }

    /// Keeps what a copy before it uses until it is done.
    pub(super) fn keep(self: Arc<Self>, kept: Box<dyn Any + Send>) {
        self.history.keep(self.number, kept);
        // Somebody has to notice.
        when_done(self, Then::Release);
    }

    /// It is over, also if nobody can say how.
    pub(super) fn let_go(&self) {
        self.history.ended(self.number);
    }

    /// The driver says that it is done: well, if everything is well that it relied on.
    fn ended(&self) -> Result<(), DeviceError> {
        let end = self.end.get_or_init(|| {
            self.history.ended(self.number);
            self.upstreams
                .iter()
                .find_map(Upstream::failure)
                .map_or(Ok(()), Err)
        });
        end.clone()
    }
}

impl Event for CudaEvent {
    fn is_done(&self) -> Result<bool, DeviceError> {
        if let Some(end) = self.end.get() {
            return end.clone().map(|()| true);
        }
        self.device.check()?;
        match self.device.card.query_event(self.raw) {
            Ok(false) => Ok(false),
            Ok(true) => self.ended().map(|()| true),
            Err(failure) => {
                // What an event tells is what went wrong on the device.
                self.device.card.lose(failure);
                Err(self.device.error(failure))
            }
        }
    }

    fn synchronize(&self) -> Result<(), DeviceError> {
        if self.is_done()? {
            return Ok(());
        }
        match self.device.card.synchronize_event(self.raw) {
            Ok(()) => self.ended(),
            Err(failure) if failure.is_forbidden_by_capture() => Err(self.device.error(failure)),
            Err(failure) => {
                self.device.card.lose(failure);
                Err(self.device.error(failure))
            }
        }
    }

    fn on_done(&self, callback: Callback) {
        match self.is_done() {
            Ok(false) => {
                let this = self
                    .this
                    .upgrade()
                    .expect("`self` is borrowed from an Arc: there is no other way to make one");
                when_done(this, Then::Call(callback));
            }
            Ok(true) => callback(Ok(())),
            Err(error) => callback(Err(error)),
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for CudaEvent {
    fn drop(&mut self) {
        self.device.card.put_event(self.raw);
    }
}
