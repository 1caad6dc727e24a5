//! Kernels of the GPU checks (`parla-py/gpu/kernels.ptx`), known by their names: what they do, done by the host.

use std::ffi::c_void;
use std::thread;
use std::time::Duration;

use crate::memory::resolve;
use crate::status;

/// A kernel by the number that is its handle.
pub(crate) const NAMES: [&str; 4] = ["empty", "spin", "scale", "crash"];

/// A launch, ready to be done.
pub(crate) enum Kernel {
    Empty,
    Spin(u64),
    Scale {
        base: u64,
        rows: u32,
        columns: u32,
        pitch: u64,
    },
    Crash,
}

impl Kernel {
    /// Reads the arguments of a launch.
    ///
    /// # Safety
    /// `arguments` points to as many pointers as the kernel has parameters, each to a value of its type.
    pub(crate) unsafe fn new(
        function: usize,
        arguments: *const *const c_void,
    ) -> Result<Self, i32> {
        // SAFETY: the caller's promise.
        let long = |i: usize| unsafe { (*arguments.add(i)).cast::<u64>().read_unaligned() };
        // SAFETY: the caller's promise.
        let short = |i: usize| unsafe { (*arguments.add(i)).cast::<u32>().read_unaligned() };
        match function.checked_sub(1).and_then(|i| NAMES.get(i)) {
            Some(&"empty") => Ok(Self::Empty),
            Some(&"spin") => Ok(Self::Spin(long(0))),
            Some(&"scale") => Ok(Self::Scale {
                base: long(0),
                rows: short(1),
                columns: short(2),
                pitch: long(3),
            }),
            Some(&"crash") => Ok(Self::Crash),
            _ => Err(status::INVALID_HANDLE),
        }
    }

    pub(crate) fn perform(self) -> Result<(), i32> {
        match self {
            Self::Empty => {}
            // The time that the kernel takes: modelled, nobody is waited for.
            Self::Spin(ns) => thread::sleep(Duration::from_nanos(ns)),
            Self::Scale {
                base,
                rows,
                columns,
                pitch,
            } => {
                for row in 0..u64::from(rows) {
                    let bytes = u64::from(columns) * 8;
                    let row = resolve(base + row * pitch, bytes)?.cast::<f64>();
                    for column in 0..columns as usize {
                        // SAFETY: resolved as live memory of so many elements; who else uses it is the business of the program
                        // under test.
                        unsafe {
                            let x = row.add(column);
                            x.write_unaligned(x.read_unaligned() * 1.5 + 1.0);
                        }
                    }
                }
            }
            Self::Crash => return Err(status::ILLEGAL_ADDRESS),
        }
        Ok(())
    }
}
