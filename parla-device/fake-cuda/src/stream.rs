//! Streams, each a thread that does one thing after the other, not quickly; and events.

use std::cell::Cell;
use std::collections::VecDeque;
use std::ffi::c_void;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use parla_core::lock::{Condvar, Mutex};

use crate::config::config;
use crate::copies::Rows;
use crate::kernels::Kernel;
use crate::memory::{Device, is_reachable};
use crate::{pool, status};

/// How often those who wait look whether their device is lost.
const LOOK: Duration = Duration::from_millis(2);

/// A point in a stream, recorded any number of times. Who waits for one record of it is not affected by later ones, which may be on other
/// streams and done earlier.
pub(crate) struct Event {
    pub(crate) device: &'static Device,
    last: Mutex<Option<Arc<Mark>>>,
}

/// One record of an event.
pub(crate) struct Mark {
    device: &'static Device,
    done: Mutex<bool>,
    changed: Condvar,
}

/// Something for a stream to do.
pub(crate) enum Work {
    Copy(Rows),
    /// The source's bytes were taken at the call.
    CopyOf(Vec<u8>, Rows),
    Fill(u64, u8, u64),
    Record(Arc<Mark>),
    Wait(Arc<Mark>),
    WaitValue(u64, u32),
    /// A function of the host, on the driver's thread for these.
    Call(unsafe extern "C" fn(*mut c_void), usize),
    /// A function of the host that stands for a kernel.
    Play(unsafe extern "C" fn(*mut c_void), usize),
    Launch(Kernel),
    Free(u64),
    Illegal,
}

/// A queue of work with its thread.
pub(crate) struct Stream {
    pub(crate) device: &'static Device,
    queue: Mutex<Queue>,
    changed: Condvar,
}

struct Queue {
    work: VecDeque<Work>,
    /// Enqueued and not yet done.
    outstanding: usize,
    closed: bool,
}

/// All streams that were not destroyed.
static STREAMS: Mutex<Vec<Weak<Stream>>> = Mutex::new(Vec::new());
/// Functions of the host are called one after the other, whatever stream they are on: the real driver may do so.
static HOST_FUNCTIONS: Mutex<()> = Mutex::new(());

thread_local! {
    static IN_HOST_FUNCTION: Cell<bool> = const { Cell::new(false) };
}

/// Whether the calling thread is in a function that a stream calls: it may not use the driver.
pub(crate) fn in_host_function() -> bool {
    IN_HOST_FUNCTION.get()
}

/// Waits for all streams of a device.
pub(crate) fn synchronize_all(device: &Device) {
    let streams: Vec<_> = STREAMS.lock().iter().filter_map(Weak::upgrade).collect();
    for stream in streams {
        if std::ptr::eq(stream.device, device) {
            stream.synchronize();
        }
    }
}

static N_STREAMS: AtomicUsize = AtomicUsize::new(0);
static N_EVENTS: AtomicUsize = AtomicUsize::new(0);

/// Streams and events that there are: (streams, events).
pub(crate) fn n_live() -> (usize, usize) {
    (
        N_STREAMS.load(Ordering::SeqCst),
        N_EVENTS.load(Ordering::SeqCst),
    )
}

impl Event {
    pub(crate) fn new(device: &'static Device) -> Arc<Self> {
        N_EVENTS.fetch_add(1, Ordering::SeqCst);
        Arc::new(Self {
            device,
            last: Mutex::new(None),
        })
    }

    /// The last record of it, if it was ever recorded.
    pub(crate) fn last(&self) -> Option<Arc<Mark>> {
        self.last.lock().clone()
    }

    pub(crate) fn is_done(&self) -> bool {
        self.last().is_none_or(|mark| *mark.done.lock())
    }
}

impl Mark {
    pub(crate) fn wait(&self) {
        let mut done = self.done.lock();
        while !*done && self.device.check().is_ok() {
            self.changed.wait_until(&mut done, Instant::now() + LOOK);
        }
    }

    fn set_done(&self) {
        *self.done.lock() = true;
        self.changed.notify_all();
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        N_EVENTS.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Stream {
    pub(crate) fn start(device: &'static Device) -> Arc<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::SeqCst);
        N_STREAMS.fetch_add(1, Ordering::SeqCst);
        let stream = Arc::new(Self {
            device,
            queue: Mutex::new(Queue {
                work: VecDeque::new(),
                outstanding: 0,
                closed: false,
            }),
            changed: Condvar::new(),
        });
        let mut all = STREAMS.lock();
        all.retain(|stream| stream.strong_count() > 0);
        all.push(Arc::downgrade(&stream));
        drop(all);
        let worker = Arc::clone(&stream);
        thread::spawn(move || {
            worker.run(Delays::of(number));
            N_STREAMS.fetch_sub(1, Ordering::SeqCst);
        });
        stream
    }

    /// What is enqueued will still be done.
    pub(crate) fn close(&self) {
        self.queue.lock().closed = true;
        self.changed.notify_all();
    }

    pub(crate) fn push(&self, work: Work) {
        let mut queue = self.queue.lock();
        queue.work.push_back(work);
        queue.outstanding += 1;
        self.changed.notify_all();
    }

    pub(crate) fn record(&self, event: &Event) {
        let mark = Arc::new(Mark {
            device: event.device,
            done: Mutex::new(false),
            changed: Condvar::new(),
        });
        *event.last.lock() = Some(Arc::clone(&mark));
        self.push(Work::Record(mark));
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.queue.lock().outstanding == 0
    }

    pub(crate) fn synchronize(&self) {
        let mut queue = self.queue.lock();
        while queue.outstanding > 0 && self.device.check().is_ok() {
            self.changed.wait_until(&mut queue, Instant::now() + LOOK);
        }
        drop(queue);
        pool::seen(self.id());
    }

    /// Tells streams apart.
    pub(crate) fn id(&self) -> usize {
        std::ptr::from_ref(self) as usize
    }

    fn run(&self, mut delays: Delays) {
        loop {
            let work = {
                let mut queue = self.queue.lock();
                loop {
                    if let Some(work) = queue.work.pop_front() {
                        break work;
                    }
                    if queue.closed {
                        return;
                    }
                    self.changed.wait(&mut queue);
                }
            };
            delays.pause();
            if let Err(error) = self.perform(work) {
                self.device.lose(error);
            }
            self.queue.lock().outstanding -= 1;
            self.changed.notify_all();
        }
    }

    fn perform(&self, work: Work) -> Result<(), i32> {
        match work {
            // The order stays what it is on a lost device: whoever waits is told.
            Work::Record(mark) => mark.set_done(),
            Work::Wait(mark) => mark.wait(),
            _ if self.device.check().is_err() => {}
            Work::Copy(rows) => rows.perform()?,
            Work::CopyOf(bytes, rows) => rows.scatter(&bytes)?,
            Work::Fill(address, value, bytes) => {
                let host = crate::memory::resolve(address, bytes)?;
                // SAFETY: resolved as a live piece of so many bytes; the order of access is the business of the program under test.
                unsafe { host.write_bytes(value, bytes as usize) };
            }
            Work::WaitValue(address, value) => {
                let host = crate::memory::resolve(address, 4)?.cast::<u32>();
                // SAFETY: the program under test promises an aligned, live word; it is only ever accessed atomically here.
                let word = unsafe { AtomicU32::from_ptr(host) };
                while (word.load(Ordering::SeqCst).wrapping_sub(value) as i32) < 0 {
                    // As the device does, which polls the word: nobody could wake it.
                    thread::sleep(Duration::from_micros(20));
                }
            }
            Work::Call(function, argument) => {
                let _one_at_a_time = HOST_FUNCTIONS.lock();
                IN_HOST_FUNCTION.set(true);
                // SAFETY: function and argument were given for exactly this call.
                unsafe { function(argument as *mut c_void) };
                IN_HOST_FUNCTION.set(false);
            }
            // SAFETY: as above.
            Work::Play(function, argument) => unsafe { function(argument as *mut c_void) },
            Work::Launch(kernel) => {
                if !kernel
                    .addresses()
                    .into_iter()
                    .all(|address| is_reachable(address, self.device))
                {
                    return Err(status::ILLEGAL_ADDRESS);
                }
                kernel.perform()?;
            }
            Work::Free(address) => self.device.free(address, Some(self.id()))?,
            Work::Illegal => return Err(status::ILLEGAL_ADDRESS),
        }
        Ok(())
    }
}

/// Uneven pauses: each stream has a pace of its own, each operation a random part of it.
struct Delays {
    state: u64,
    longest_us: u64,
}

impl Delays {
    fn of(number: u64) -> Self {
        let mut delays = Self {
            state: (config().seed << 32 | number).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
            longest_us: 0,
        };
        let quarter = delays.random() % 4 + 1;
        delays.longest_us = config().delay_us * quarter / 4;
        delays
    }

    fn random(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state >> 8
    }

    fn pause(&mut self) {
        if self.longest_us == 0 {
            return;
        }
        // The time that the operation takes: modelled, nobody is waited for. Half of them come at once, as on a real device.
        let random = self.random();
        if random & 1 == 0 {
            thread::sleep(Duration::from_micros(random % (self.longest_us + 1)));
        } else {
            thread::yield_now();
        }
    }
}
