//! Copies of boxes within the host's memory.

use super::crew;
use super::shape::{Dimension, Shape};

/// Parts of this size are worth a thread each.
const PART: usize = 1 << 20;

/// Copies now, with several threads when there is much.
///
/// # Safety
/// Both ends are live memory of the host, the destination writable, and do not overlap.
pub(super) unsafe fn pack(shape: &Shape) {
    let n_parts = (shape.bytes() / PART).min(crew::size());
    let copy = |part: Shape| {
        // SAFETY: the caller's promise; parts of a copy do not overlap, and all are done before this function returns.
        move || unsafe { nested(part.source, part.destination, part.run, &part.dimensions) }
    };
    if n_parts < 2 {
        copy(shape.clone())();
        return;
    }
    let mut parts: Vec<Box<dyn FnOnce() + Send>> = Vec::with_capacity(n_parts + 1);
    let cut: Result<(), ()> = shape.pieces(shape.bytes().div_ceil(n_parts), &mut |part| {
        parts.push(Box::new(copy(part)));
        Ok(())
    });
    debug_assert!(cut.is_ok());
    crew::share(parts);
}

/// # Safety
/// As [`pack`].
unsafe fn nested(source: usize, destination: usize, run: usize, dimensions: &[Dimension]) {
    let Some((outer, inner)) = dimensions.split_first() else {
        // SAFETY: the caller's promise.
        unsafe { (source as *const u8).copy_to_nonoverlapping(destination as *mut u8, run) };
        return;
    };
    if inner.is_empty() {
        // SAFETY: the caller's promise; nothing is assumed about alignment.
        unsafe {
            match run {
                1 => elements::<u8>(source, destination, outer),
                2 => elements::<u16>(source, destination, outer),
                4 => elements::<u32>(source, destination, outer),
                8 => elements::<u64>(source, destination, outer),
                16 => elements::<u128>(source, destination, outer),
                _ => {
                    for i in 0..outer.n.cast_signed() {
                        let from = source.wrapping_add_signed(outer.source * i) as *const u8;
                        let to = destination.wrapping_add_signed(outer.destination * i) as *mut u8;
                        from.copy_to_nonoverlapping(to, run);
                    }
                }
            }
        }
        return;
    }
    for i in 0..outer.n.cast_signed() {
        let from = source.wrapping_add_signed(outer.source * i);
        let to = destination.wrapping_add_signed(outer.destination * i);
        // SAFETY: the caller's promise.
        unsafe { nested(from, to, run, inner) };
    }
}

/// # Safety
/// As [`pack`], for elements of type `T`, which has no invalid values.
unsafe fn elements<T>(source: usize, destination: usize, steps: &Dimension) {
    for i in 0..steps.n.cast_signed() {
        let from = source.wrapping_add_signed(steps.source * i) as *const T;
        let to = destination.wrapping_add_signed(steps.destination * i) as *mut T;
        // SAFETY: the caller's promise.
        unsafe { to.write_unaligned(from.read_unaligned()) };
    }
}
