//! Copies of rows of bytes, as the driver's functions for one, two and three dimensions describe them.

use crate::memory::{is_device, is_pinned, resolve};

/// The largest pitch, as the attribute of the devices says.
const MOST_PITCH: u64 = i32::MAX as u64;

/// `depth` slices of `height` rows of `width` bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows {
    pub(crate) source: Side,
    pub(crate) destination: Side,
    pub(crate) width: u64,
    pub(crate) height: u64,
    pub(crate) depth: u64,
}

/// Where rows are: bytes from a row to the next, and from a slice to the next.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Side {
    pub(crate) address: u64,
    pub(crate) pitch: u64,
    pub(crate) slice: u64,
}

impl Side {
    fn row(&self, y: u64, z: u64) -> u64 {
        self.address + z * self.slice + y * self.pitch
    }
}

impl Rows {
    /// One run of bytes.
    pub(crate) fn line(destination: u64, source: u64, bytes: u64) -> Self {
        let side = |address| Side {
            address,
            pitch: bytes,
            slice: bytes,
        };
        Self {
            source: side(source),
            destination: side(destination),
            width: bytes,
            height: 1,
            depth: 1,
        }
    }

    /// Whether bytes are both read and written: the real driver promises nothing then.
    fn overlaps_itself(&self) -> bool {
        let apart = |a: u64, b: u64, length: u64| a + length <= b || b + length <= a;
        let last = |side: &Side| side.row(self.height.max(1) - 1, self.depth.max(1) - 1);
        let (source, destination) = (&self.source, &self.destination);
        if last(source) + self.width <= destination.address
            || last(destination) + self.width <= source.address
        {
            return false;
        }
        let rows = |side: Side| {
            let slices = 0..self.depth;
            slices.flat_map(move |z| (0..self.height).map(move |y| side.row(y, z)))
        };
        self.width > 0
            && rows(*source).any(|a| rows(*destination).any(|b| !apart(a, b, self.width)))
    }

    /// What the real driver would refuse, or do anything with.
    pub(crate) fn is_sane(&self) -> bool {
        let sides = [&self.source, &self.destination];
        let pitch = |side: &Side| self.height <= 1 && self.depth <= 1 || side.pitch >= self.width;
        let slice = |side: &Side| self.depth <= 1 || side.slice >= side.pitch * self.height;
        sides.iter().all(|side| pitch(side) && slice(side))
            && sides
                .iter()
                .all(|side| side.pitch <= MOST_PITCH || self.height <= 1 && self.depth <= 1)
            && self.width < 1 << 40
            && !self.overlaps_itself()
    }

    fn each(&self, mut row: impl FnMut(u64, u64) -> Result<(), i32>) -> Result<(), i32> {
        (0..self.depth).try_for_each(|z| (0..self.height).try_for_each(|y| row(y, z)))
    }

    /// Whether `side` is memory of the host that is not page-locked.
    pub(crate) fn is_pageable(&self, side: &Side) -> bool {
        let last = side.row(self.height.max(1) - 1, self.depth.max(1) - 1);
        !is_device(side.address) && !is_pinned(side.address, last + self.width - side.address)
    }

    /// Copies now.
    pub(crate) fn perform(&self) -> Result<(), i32> {
        self.each(|y, z| {
            let source = resolve(self.source.row(y, z), self.width)?;
            let destination = resolve(self.destination.row(y, z), self.width)?;
            // SAFETY: device addresses were resolved to live memory of that size, host addresses are the program's business as
            // with the real driver.
            unsafe { source.copy_to(destination, self.width as usize) };
            Ok(())
        })
    }

    /// The source's bytes, row after row.
    pub(crate) fn gather(&self) -> Result<Vec<u8>, i32> {
        let mut bytes = Vec::with_capacity((self.width * self.height * self.depth) as usize);
        self.each(|y, z| {
            let source = resolve(self.source.row(y, z), self.width)?;
            // SAFETY: as in `perform`.
            bytes.extend_from_slice(unsafe {
                std::slice::from_raw_parts(source, self.width as usize)
            });
            Ok(())
        })?;
        Ok(bytes)
    }

    /// Puts what [`gather`](Self::gather) gave where it belongs.
    pub(crate) fn scatter(&self, bytes: &[u8]) -> Result<(), i32> {
        if self.width == 0 {
            return Ok(());
        }
        let mut rows = bytes.chunks_exact(self.width as usize);
        self.each(|y, z| {
            let destination = resolve(self.destination.row(y, z), self.width)?;
            let row = rows.next().expect("gathered with the same numbers");
            // SAFETY: as in `perform`; `row` has `width` bytes and is no memory of the program under test.
            unsafe { destination.copy_from_nonoverlapping(row.as_ptr(), row.len()) };
            Ok(())
        })
    }
}
