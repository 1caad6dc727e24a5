//! Queues of work for a GPU.

use std::any::Any;
use std::ffi::c_void;
use std::fmt::{self, Debug};
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use cudarc::driver::sys::{CUDA_MEMCPY3D, CUDA_MEMCPY3D_PEER, CUmemorytype};
use parla_core::lock::Mutex;

use super::completion::drop_when_done;
use super::device::{ARCHITECTURE, Logical};
use super::driver::{Driver, Failure, Handle, check};
use super::event::CudaEvent;
use super::physical::Physical;
use super::pinning;
use super::shape::{End, Rows, Shape};
use super::staging;
use super::upstream::{History, Upstream};
use super::words::Word;
use crate::DeviceError;
use crate::ProfilerRange;
use crate::backend::{Block, Copy, Event, Place, Stream};

/// Runs shorter than this from or to memory of the host are packed by the host first: the device's copy engines take them one by one.
const SHORT_RUN: usize = 256;
/// Copies inside a card of more calls than this go through the host: a call costs about a microsecond.
const MOST_CALLS: usize = 4096;
/// The word that a foreign event sets.
const DONE: u32 = 1;

/// A stream of the driver's, borrowed from the card.
pub(super) struct CudaStream {
    device: Arc<Logical>,
    raw: Handle,
    /// A second one, on which the host packs and unpacks pieces while the first copies.
    side: OnceLock<Handle>,
    history: Arc<History>,
}

impl Debug for CudaStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stream({:#x} of {})", self.raw, self.device.name)
    }
}

/// What a copy needs until it is done. Dropped in this order: first the host's part is certain not to run.
struct Kept {
    jobs: staging::Jobs,
    pinned: Option<Arc<Block>>,
    /// Memory of the host that a copy goes through.
    between: Option<Box<[u8]>>,
    #[expect(dead_code, reason = "it is there to be dropped")]
    blocks: (Arc<Block>, Arc<Block>),
}

/// Where memory is, for the driver.
#[derive(Clone)]
enum Where {
    Host,
    Card(Arc<Physical>),
}

impl CudaStream {
    pub(super) fn take(device: &Arc<Logical>) -> Result<Self, DeviceError> {
        let raw = device
            .card
            .take_stream()
            .map_err(|failure| device.error(failure))?;
        Ok(Self {
            device: Arc::clone(device),
            raw,
            side: OnceLock::new(),
            history: Arc::default(),
        })
    }

    fn card(&self) -> &Arc<Physical> {
        &self.device.card
    }

    /// Does something with the context current; an error is one of this device.
    fn with_context<T>(
        &self,
        work: impl FnOnce(&Driver) -> Result<T, Failure>,
    ) -> Result<T, DeviceError> {
        self.device.check()?;
        let done = self
            .card()
            .enter()
            .and_then(|_current| work(self.card().driver));
        done.map_err(|failure| self.device.error(failure))
    }

    fn event(&self) -> Result<Arc<CudaEvent>, DeviceError> {
        self.device.check()?;
        let _current = self
            .card()
            .enter()
            .map_err(|failure| self.device.error(failure))?;
        CudaEvent::record(&self.device, self.raw, &self.history)
    }

    /// Keeps something until everything enqueued so far is done; for ever, rather than too short, when the driver refuses events.
    fn keep(
        &self,
        kept: impl Send + 'static,
        until: fn(Arc<CudaEvent>, Box<dyn Any + Send>),
    ) -> Result<(), DeviceError> {
        match self.event() {
            Ok(event) => until(event, Box::new(kept)),
            // Nothing runs on a lost device.
            Err(error @ DeviceError::Lost { .. }) => return Err(error),
            Err(error) => {
                std::mem::forget(kept);
                return Err(error);
            }
        }
        Ok(())
    }

    fn place(&self, place: &Place) -> Where {
        match place.device {
            Some((ARCHITECTURE, index)) => self
                .device
                .cards
                .get(index as usize)
                .map_or(Where::Host, |card| Where::Card(Arc::clone(card))),
            _ => Where::Host,
        }
    }

    fn side(&self) -> Result<Handle, Failure> {
        if let Some(&side) = self.side.get() {
            return Ok(side);
        }
        // That there is none now does not mean that there will be none.
        let made = self.card().take_stream()?;
        let side = *self.side.get_or_init(|| made);
        if side != made {
            self.card().put_stream(made); // another thread was faster
        }
        Ok(side)
    }

    /// Enqueues a copy between memory of the host and of the device.
    fn copy_with_host(&self, shape: &Shape, host: End, kept: &mut Kept) -> Result<(), Failure> {
        let card = self.card();
        let rows = |rows: Rows| self.copy_rows(rows, Some(host));
        if shape.run >= SHORT_RUN || shape.dimensions.is_empty() {
            let (low, length) = shape.extent(host);
            kept.pinned = pinning::cover(low, length);
            if kept.pinned.is_some() || card.driver.is_pinned(low, length) {
                return shape.calls(card.max_pitch, rows);
            }
        }
        let lanes = staging::Lanes {
            card,
            main: self.raw,
            side: self.side()?,
        };
        staging::copy(&lanes, shape, host, &mut kept.jobs, rows)
    }

    /// Enqueues a copy inside the card that the driver would need too many calls for: out to the host, densely, and back in again.
    fn copy_through_host(&self, shape: &Shape, kept: &mut Kept) -> Result<(), Failure> {
        let mut between = vec![0_u8; shape.bytes()].into_boxed_slice();
        let address = between.as_mut_ptr() as usize;
        kept.between = Some(between);
        let outwards = shape.packed(End::Destination, address);
        self.copy_with_host(&outwards, End::Destination, kept)?;
        let inwards = shape.packed(End::Source, address);
        self.copy_with_host(&inwards, End::Source, kept)
    }

    /// One call of the driver that has at most one end in the host's memory, which is page-locked.
    fn copy_rows(&self, rows: Rows, host: Option<End>) -> Result<(), Failure> {
        let driver = self.card().driver;
        let (from, to, bytes) = (rows.source, rows.destination, rows.width);
        if rows.height == 1 && rows.depth == 1 {
            // SAFETY: the caller of `Stream::copy` vouches for the ranges and keeps them until the copy is done.
            return unsafe {
                match host {
                    Some(End::Source) => check(
                        "cuMemcpyHtoDAsync",
                        (driver.copy_to_device)(to as u64, from, bytes, self.raw),
                    ),
                    Some(End::Destination) => check(
                        "cuMemcpyDtoHAsync",
                        (driver.copy_to_host)(to, from as u64, bytes, self.raw),
                    ),
                    None => check(
                        "cuMemcpyDtoDAsync",
                        (driver.copy_on_device)(to as u64, from as u64, bytes, self.raw),
                    ),
                }
            };
        }
        let kind = |end| {
            if host == Some(end) {
                CUmemorytype::CU_MEMORYTYPE_HOST
            } else {
                CUmemorytype::CU_MEMORYTYPE_DEVICE
            }
        };
        let mut what = MaybeUninit::<CUDA_MEMCPY3D>::zeroed();
        let c = what.as_mut_ptr();
        // SAFETY: `c` points to zeroed memory of ours. What stays zero is a number or a pointer; the two enumerations are set. The
        // description is read at the call, the memory is vouched for as above.
        unsafe {
            ((*c).srcMemoryType, (*c).dstMemoryType) = (kind(End::Source), kind(End::Destination));
            ((*c).srcHost, (*c).srcDevice) = (from as *const c_void, from as u64);
            ((*c).dstHost, (*c).dstDevice) = (to as *mut c_void, to as u64);
            ((*c).srcPitch, (*c).dstPitch) = rows.pitch;
            ((*c).srcHeight, (*c).dstHeight) = rows.slice;
            ((*c).WidthInBytes, (*c).Height, (*c).Depth) = (rows.width, rows.height, rows.depth);
            check("cuMemcpy3DAsync", (driver.copy_3d)(c, self.raw))
        }
    }

    /// One call of the driver from card to card. Where they do not reach each other the driver goes through the host.
    fn copy_rows_to_peer(
        &self,
        rows: Rows,
        source: Handle,
        destination: Handle,
    ) -> Result<(), Failure> {
        let driver = self.card().driver;
        let (from, to) = (rows.source as u64, rows.destination as u64);
        if rows.height == 1 && rows.depth == 1 {
            // SAFETY: the caller of `Stream::copy` vouches for the ranges and keeps them until the copy is done.
            return check("cuMemcpyPeerAsync", unsafe {
                (driver.copy_to_peer)(to, destination, from, source, rows.width, self.raw)
            });
        }
        let mut what = MaybeUninit::<CUDA_MEMCPY3D_PEER>::zeroed();
        let c = what.as_mut_ptr();
        // SAFETY: as in `copy_rows`.
        unsafe {
            (*c).srcMemoryType = CUmemorytype::CU_MEMORYTYPE_DEVICE;
            (*c).dstMemoryType = CUmemorytype::CU_MEMORYTYPE_DEVICE;
            ((*c).srcDevice, (*c).dstDevice) = (from, to);
            ((*c).srcContext, (*c).dstContext) = (source as *mut _, destination as *mut _);
            ((*c).srcPitch, (*c).dstPitch) = rows.pitch;
            ((*c).srcHeight, (*c).dstHeight) = rows.slice;
            ((*c).WidthInBytes, (*c).Height, (*c).Depth) = (rows.width, rows.height, rows.depth);
            check("cuMemcpy3DPeerAsync", (driver.copy_3d_to_peer)(c, self.raw))
        }
    }

    /// Enqueues a copy from one card to another, of which one is this stream's.
    fn copy_between(
        &self,
        shape: &Shape,
        [from, to]: [&Arc<Physical>; 2],
    ) -> Result<(), DeviceError> {
        let own = self.card();
        let done = own.enter().and_then(|_current| {
            let (source, destination) = (from.context()?, to.context()?);
            shape.calls(own.max_pitch, |rows| {
                self.copy_rows_to_peer(rows, source, destination)
            })
        });
        done.map_err(|failure| {
            let other = if Arc::ptr_eq(from, own) { to } else { from };
            if failure.is_final() && !self.is_lost() {
                // The driver says of one call what is wrong with any of the contexts that it is about.
                other.lose(failure);
                return other.error(&self.device.name_of(other), failure);
            }
            self.device.error(failure)
        })
    }

    /// Asks the driver whether this stream's own context cannot be used any more.
    fn is_lost(&self) -> bool {
        let asked = self.card().enter().and_then(|_current| {
            // SAFETY: the stream is ours.
            let code = unsafe { (self.card().driver.stream_query)(self.raw) };
            check("cuStreamQuery", code)
        });
        asked.is_err_and(Failure::is_final)
    }

    /// Copies from or to another card end badly when that is lost; an error if it is.
    fn rely_on_place(&self, place: &Place) -> Result<(), DeviceError> {
        let Where::Card(card) = self.place(place) else {
            return Ok(());
        };
        if Arc::ptr_eq(&card, self.card()) {
            return Ok(());
        }
        let index = place.device.map_or(0, |(_, index)| index);
        let upstream = Upstream::Card(card, format!("{ARCHITECTURE}:{index}").into());
        if let Some(lost) = upstream.failure() {
            return Err(lost);
        }
        self.history.rely_on(upstream);
        Ok(())
    }

    /// Events from now on end with this error, until one did.
    fn rely_on_failure(&self, error: DeviceError) {
        self.history
            .rely_on(Upstream::Event(Arc::new(OnceLock::from(error))));
    }

    /// Lets the stream wait for an event of another backend, through a word that its callback sets.
    fn wait_for_foreign(&self, event: &Arc<dyn Event>) -> Result<(), DeviceError> {
        let card = self.card();
        let waiting = self.with_context(|driver| {
            if !card.can_wait_for_value.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let word = Word::new(card)?;
            let address = word.device_address();
            // SAFETY: the word is kept below until the stream has seen it. 0 is "greater or equal".
            let code = unsafe { (driver.stream_wait_value)(self.raw, address, DONE, 0) };
            if code != 0 {
                card.cannot_wait_for_value();
                return Ok(None);
            }
            Ok(Some(Arc::new(word)))
        })?;
        let Some(word) = waiting else {
            // The driver cannot: the only way left is to wait here.
            if let Err(error) = event.synchronize() {
                self.rely_on_failure(error);
            }
            return Ok(());
        };
        let seen = Arc::clone(&word);
        let ended = Arc::new(OnceLock::new());
        self.history.rely_on(Upstream::Event(Arc::clone(&ended)));
        event.on_done(Box::new(move |result| {
            if let Err(error) = result {
                let _ = ended.set(error);
            }
            seen.set(DONE);
        }));
        self.keep(word, drop_when_done)
    }
}

impl Drop for CudaStream {
    fn drop(&mut self) {
        self.card().put_stream(self.raw);
        if let Some(side) = self.side.get() {
            self.card().put_stream(*side);
        }
    }
}

/// A function for a stream to call: taken by whoever is first, the stream or those who know that it never will.
type Launched = Mutex<Option<Box<dyn FnOnce() + Send>>>;

/// # Safety
/// `argument` is an `Arc<Launched>` turned into a pointer, whose count is given away with this call.
unsafe extern "C" fn run_launched(argument: *mut c_void) {
    // SAFETY: the caller's promise.
    let launched = unsafe { Arc::from_raw(argument.cast::<Launched>().cast_const()) };
    let kernel = launched.lock().take();
    if let Some(kernel) = kernel {
        // Nothing may unwind into the driver; the panic's message was printed.
        let _ = catch_unwind(AssertUnwindSafe(kernel));
    }
}

impl Stream for CudaStream {
    fn raw(&self) -> Option<usize> {
        Some(self.raw)
    }

    fn copy(&self, copy: Copy) -> Result<(), DeviceError> {
        self.device.check()?;
        let Some(shape) = Shape::of(&copy) else {
            return Ok(());
        };
        let _range = ProfilerRange::open(|| in_words(&copy));
        let ends = (self.place(&copy.source), self.place(&copy.destination));
        for place in [&copy.source, &copy.destination] {
            self.rely_on_place(place)?;
        }
        let most_pitch = self.card().max_pitch;
        let mut kept = Kept {
            jobs: staging::Jobs::default(),
            pinned: None,
            between: None,
            blocks: (copy.source.block, copy.destination.block),
        };
        let enqueued = match ends {
            (Where::Card(from), Where::Card(to)) if !Arc::ptr_eq(&from, &to) => {
                self.copy_between(&shape, [&from, &to])
            }
            ends => self.with_context(|_| match ends {
                (Where::Host, Where::Card(_)) => {
                    self.copy_with_host(&shape, End::Source, &mut kept)
                }
                (Where::Card(_), Where::Host) => {
                    self.copy_with_host(&shape, End::Destination, &mut kept)
                }
                (Where::Card(_), Where::Card(_)) if shape.n_calls(most_pitch) > MOST_CALLS => {
                    self.copy_through_host(&shape, &mut kept)
                }
                (Where::Card(_), Where::Card(_)) => {
                    shape.calls(most_pitch, |rows| self.copy_rows(rows, None))
                }
                (Where::Host, Where::Host) => Err(Failure {
                    call: "copy from host to host",
                    code: 1,
                }),
            }),
        };
        // What was enqueued before an error still uses the memory.
        let watched = self.keep(kept, CudaEvent::keep);
        enqueued.and(watched)
    }

    fn launch(&self, kernel: Box<dyn FnOnce() + Send>, _busy_ns: u64) -> Result<(), DeviceError> {
        let launched: Arc<Launched> = Arc::new(Mutex::new(Some(kernel)));
        let argument = Arc::into_raw(Arc::clone(&launched)).cast_mut();
        let enqueued = self.with_context(|driver| {
            // SAFETY: the stream calls it once, with the count of `argument`; if the device is lost first, that count stays, and
            // with it a few bytes: the function itself is dropped with what `keep` keeps.
            check("cuLaunchHostFunc", unsafe {
                (driver.launch_host)(self.raw, run_launched, argument.cast())
            })
        });
        if let Err(error) = enqueued {
            // SAFETY: the driver refused, so nobody else will take this count.
            drop(unsafe { Arc::from_raw(argument.cast_const()) });
            return Err(error);
        }
        struct Dropped(Arc<Launched>);
        impl Drop for Dropped {
            fn drop(&mut self) {
                drop(self.0.lock().take());
            }
        }
        self.keep(Dropped(launched), drop_when_done)
    }

    fn occupy(&self, ns: u64) -> Result<(), DeviceError> {
        self.with_context(|_| self.card().occupy(self.raw, ns, self.device.n_sharing()))
    }

    fn record(&self) -> Result<Arc<dyn Event>, DeviceError> {
        Ok(self.event()?)
    }

    fn wait(&self, event: &Arc<dyn Event>) -> Result<(), DeviceError> {
        self.device.check()?;
        match event.is_done() {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(error) => {
                self.rely_on_failure(error);
                return Ok(());
            }
        }
        let Some(ours) = event.as_any().downcast_ref::<CudaEvent>() else {
            return self.wait_for_foreign(event);
        };
        if !ours.is_of(self.card()) {
            self.history.rely_on(ours.as_upstream());
        }
        self.with_context(|_| self.card().wait(self.raw, ours.raw()))
    }

    fn is_idle(&self) -> Result<bool, DeviceError> {
        self.with_context(|driver| {
            // SAFETY: the stream is ours.
            match unsafe { (driver.stream_query)(self.raw) } {
                super::driver::NOT_READY => Ok(false),
                code => check("cuStreamQuery", code).map(|()| true),
            }
        })
    }
}

/// A copy as a profiler shows it, around the calls of the driver that enqueue it.
fn in_words(copy: &Copy) -> String {
    let name = |place: &Place| match place.device {
        None => "host".to_owned(),
        Some((architecture, index)) => format!("{architecture}:{index}"),
    };
    let (from, to) = (name(&copy.source), name(&copy.destination));
    format!("copy {from} to {to}, {} bytes", copy.bytes())
}

/// A word that streams wait for.
pub(super) fn set(word: *mut u32, value: u32) {
    // SAFETY: the callers pass an aligned word of live page-locked memory, which the host accesses only here.
    unsafe { AtomicU32::from_ptr(word) }.store(value, Ordering::SeqCst);
}
