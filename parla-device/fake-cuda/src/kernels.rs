//! Kernels of the GPU checks (`parla-py/gpu/kernels.ptx`), known by their names: what they do, done by the host.

use std::ffi::c_void;
use std::thread;
use std::time::Duration;

use crate::memory::resolve;
use crate::status;

/// A kernel by the number that is its handle.
pub(crate) const NAMES: [&str; 5] = ["empty", "spin", "scale", "sweep", "crash"];

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
    Sweep {
        old: u64,
        new: u64,
        rows: u32,
        columns: u32,
        first: u32,
        old_rows: u32,
        old_pitch: u64,
        new_pitch: u64,
    },
    Crash,
}

impl Kernel {
    /// Reads the arguments of a launch.
    ///
    /// # Safety
    /// `arguments` points to as many pointers as the kernel has parameters, each to a value of its type.
    pub(crate) unsafe fn new(kernel: usize, arguments: *const *const c_void) -> Result<Self, i32> {
        // SAFETY: the caller's promise.
        let long = |i: usize| unsafe { (*arguments.add(i)).cast::<u64>().read_unaligned() };
        // SAFETY: the caller's promise.
        let short = |i: usize| unsafe { (*arguments.add(i)).cast::<u32>().read_unaligned() };
        match NAMES.get(kernel) {
            Some(&"empty") => Ok(Self::Empty),
            Some(&"spin") => Ok(Self::Spin(long(0))),
            Some(&"scale") => Ok(Self::Scale {
                base: long(0),
                rows: short(1),
                columns: short(2),
                pitch: long(3),
            }),
            Some(&"sweep") => Ok(Self::Sweep {
                old: long(0),
                new: long(1),
                rows: short(2),
                columns: short(3),
                first: short(4),
                old_rows: short(5),
                old_pitch: long(6),
                new_pitch: long(7),
            }),
            Some(&"crash") => Ok(Self::Crash),
            _ => Err(status::INVALID_HANDLE),
        }
    }

    /// The device memory that it uses.
    pub(crate) fn addresses(&self) -> Vec<u64> {
        match *self {
            Self::Scale { base, rows, .. } if rows > 0 => vec![base],
            Self::Sweep { old, new, rows, .. } if rows > 0 => vec![old, new],
            _ => Vec::new(),
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
            Self::Sweep {
                old,
                new,
                rows,
                columns,
                first,
                old_rows,
                old_pitch,
                new_pitch,
            } => {
                let at = |row: u32| old_row(old, row, columns, old_pitch);
                for row in 0..rows {
                    let here = at(first + row)?;
                    let mut result = here.clone();
                    if first + row > 0 && first + row + 1 < old_rows {
                        let (above, below) = (at(first + row - 1)?, at(first + row + 1)?);
                        for c in 1..columns as usize - 1 {
                            result[c] = 0.25 * (above[c] + below[c] + here[c - 1] + here[c + 1]);
                        }
                    }
                    let bytes = u64::from(columns) * 8;
                    let to = resolve(new + u64::from(row) * new_pitch, bytes)?.cast::<f64>();
                    for (c, value) in result.into_iter().enumerate() {
                        // SAFETY: as in `Scale`.
                        unsafe { to.add(c).write_unaligned(value) };
                    }
                }
            }
            Self::Crash => return Err(status::ILLEGAL_ADDRESS),
        }
        Ok(())
    }
}

/// A row of a matrix of doubles in the memory of a device.
fn old_row(base: u64, row: u32, columns: u32, pitch: u64) -> Result<Vec<f64>, i32> {
    let from = resolve(base + u64::from(row) * pitch, u64::from(columns) * 8)?.cast::<f64>();
    // SAFETY: resolved as live memory of so many elements; who else uses it is the business of the program under test.
    let at = |c: usize| unsafe { from.add(c).read_unaligned() };
    Ok((0..columns as usize).map(at).collect())
}
