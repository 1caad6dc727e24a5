//! Copies between a device and memory of the host that is not page-locked: in pieces, through page-locked ones.
//!
//! The driver would read such memory at the call, which is too early when something enqueued before still writes it, and would
//! block for the other direction. So the host's part is a function that a second stream calls (the side lane), while the main lane
//! copies the piece before: each piece waits for what it needs, through events that the driver knows, and nobody else waits.
//! A piece of page-locked memory is used again as soon as the stream that used it last is past that point; who takes it waits for
//! that in stream order. All of a copy is enqueued under one lock, so that waits only ever point to what was enqueued earlier: no cycle.

use std::ffi::c_void;
use std::sync::Arc;

use parla_core::lock::Mutex;

use super::driver::{Driver, Failure, Handle, check};
use super::pack::pack;
use super::physical::Physical;
use super::shape::{End, Rows, Shape};

/// Sizes of pieces, and how many of each there are at most per card.
const SMALL: usize = 64 << 10;
const LARGE: usize = 8 << 20;
const MOST_SMALL: usize = 64;
const MOST_LARGE: usize = 6;
/// Copies are cut into so many pieces at least, if these are not small: so that packing and copying overlap.
const PIECES: usize = 8;
const SHORTEST_PIECE: usize = 512 << 10;
/// `CU_MEMHOSTALLOC_PORTABLE`: page-locked for all contexts.
const PORTABLE: u32 = 1;

/// The page-locked pieces of a card.
#[derive(Debug, Default)]
pub(super) struct Staging {
    small: Vec<Piece>,
    large: Vec<Piece>,
    uses: u64,
}

#[derive(Debug)]
struct Piece {
    address: usize,
    /// Recorded after its last use.
    event: Handle,
    last_use: u64,
}

/// The streams that a copy uses.
pub(super) struct Lanes<'a> {
    pub(super) card: &'a Physical,
    pub(super) main: Handle,
    pub(super) side: Handle,
}

/// The host's part of a piece: taken by whoever is first, the stream or those who know that it never will.
pub(super) struct Job(Mutex<Option<Shape>>);

/// The jobs of a copy. When they go, none of them runs or will run, so that the memory may go as well.
#[derive(Default)]
pub(super) struct Jobs(Vec<Arc<Job>>);

impl Drop for Jobs {
    fn drop(&mut self) {
        for job in &self.0 {
            // A job that runs holds the lock.
            *job.0.lock() = None;
        }
    }
}

/// # Safety
/// `argument` is an `Arc<Job>` turned into a pointer, whose count is given away with this call.
unsafe extern "C" fn run(argument: *mut c_void) {
    // SAFETY: the caller's promise.
    let job = unsafe { Arc::from_raw(argument.cast::<Job>().cast_const()) };
    let mut shape = job.0.lock();
    if let Some(shape) = shape.take() {
        // SAFETY: whoever enqueued the job keeps both ends alive until `Jobs` is dropped, which waits for the lock held here; nobody
        // else uses the piece at this point of the stream.
        unsafe { pack(&shape) };
    }
}

impl Lanes<'_> {
    fn call(&self, shape: Shape, jobs: &mut Jobs) -> Result<(), Failure> {
        let job = Arc::new(Job(Mutex::new(Some(shape))));
        let argument = Arc::into_raw(Arc::clone(&job)).cast_mut().cast();
        // SAFETY: the stream calls it once with the count of `argument`; when the device is lost before, that count stays.
        let code = unsafe { (self.card.driver.launch_host)(self.side, run, argument) };
        if code != 0 {
            // SAFETY: the driver refused, so nobody else will take this count.
            drop(unsafe { Arc::from_raw(argument.cast::<Job>().cast_const()) });
        }
        jobs.0.push(job);
        check("cuLaunchHostFunc", code)
    }

    /// Whether the main lane has nothing to do, so that the host may do its part at once.
    fn is_idle(&self) -> bool {
        // SAFETY: the stream belongs to this card.
        unsafe { (self.card.driver.stream_query)(self.main) == 0 }
    }
}

/// Enqueues a copy whose `host` end is memory of the host. `rows` enqueues calls on the main lane, that end being a piece.
pub(super) fn copy(
    lanes: &Lanes<'_>,
    shape: &Shape,
    host: End,
    jobs: &mut Jobs,
    mut rows: impl FnMut(Rows) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let card = lanes.card;
    let device = if host == End::Source {
        End::Destination
    } else {
        End::Source
    };
    // Packed in the order of the device's memory, so that the device copies runs that are as long as possible.
    let shape = shape.clone().ordered_by(device);
    let bytes = shape.bytes();
    let longest = if bytes <= SMALL {
        SMALL
    } else {
        (bytes / PIECES).clamp(SHORTEST_PIECE, LARGE)
    };
    let mut staging = card.staging.lock();
    let at_once = host == End::Source && bytes <= SMALL && lanes.is_idle();
    if host == End::Source && !at_once {
        card.join(lanes.side, lanes.main)?;
    }
    shape.pieces(longest, &mut |part: Shape| {
        let piece = staging.take(card, part.bytes())?;
        let on_host = part.packed(device, piece.address);
        let on_device = part.packed(host, piece.address).ordered_by(device);
        let mut copy_on_device = || on_device.calls(card.max_pitch, &mut rows);
        match host {
            End::Source => {
                if at_once && card.query_event(piece.event) == Ok(true) {
                    // SAFETY: everything before is done, so the source is final and the piece is free; the caller keeps the source.
                    unsafe { pack(&on_host) };
                } else {
                    card.wait(lanes.side, piece.event)?;
                    lanes.call(on_host, jobs)?;
                    card.join(lanes.main, lanes.side)?;
                }
                copy_on_device()?;
                card.record(piece.event, lanes.main)
            }
            End::Destination => {
                card.wait(lanes.main, piece.event)?;
                copy_on_device()?;
                card.join(lanes.side, lanes.main)?;
                lanes.call(on_host, jobs)?;
                card.record(piece.event, lanes.side)
            }
        }
    })?;
    match host {
        End::Source => Ok(()),
        End::Destination => card.join(lanes.main, lanes.side),
    }
}

impl Staging {
    /// A piece of at least so many bytes: one that nobody uses, a new one, or else the one whose use began longest ago.
    fn take(&mut self, card: &Physical, bytes: usize) -> Result<&Piece, Failure> {
        self.uses += 1;
        let uses = self.uses;
        let (pieces, size, most) = if bytes <= SMALL {
            (&mut self.small, SMALL, MOST_SMALL)
        } else {
            (&mut self.large, LARGE, MOST_LARGE)
        };
        pieces.sort_by_key(|piece| piece.last_use);
        let is_free = |piece: &Piece| card.query_event(piece.event) == Ok(true);
        let chosen = match pieces.iter().position(is_free) {
            Some(free) => free,
            None if pieces.len() < most => {
                pieces.push(Piece::new(card, size)?);
                pieces.len() - 1
            }
            None => 0,
        };
        let piece = &mut pieces[chosen];
        piece.last_use = uses;
        Ok(piece)
    }

    /// Gives the memory back; its context is current, and nothing uses it any more.
    pub(super) fn free(self, driver: &Driver) {
        for piece in self.small.into_iter().chain(self.large) {
            // SAFETY: both were made by `Piece::new`, and are forgotten here.
            unsafe {
                (driver.host_free)(piece.address);
                (driver.event_destroy)(piece.event);
            }
        }
    }
}

impl Piece {
    fn new(card: &Physical, bytes: usize) -> Result<Self, Failure> {
        let event = card.take_event()?;
        let mut address = 0;
        // SAFETY: writes one address; the context is current.
        let code = unsafe { (card.driver.host_allocate)(&raw mut address, bytes, PORTABLE) };
        if let Err(failure) = check("cuMemHostAlloc", code) {
            card.put_event(event);
            return Err(failure);
        }
        Ok(Self {
            address,
            event,
            last_use: 0,
        })
    }
}
