//! Copies of boxes of elements between places that the host can reach: whole runs of bytes at a time where the layouts allow it.

use std::mem::MaybeUninit;

use smallvec::SmallVec;

use crate::backend::{Copy, Place};

/// One dimension of a copy: how many elements, how far apart at the source and at the destination.
type Dimension = (usize, isize, isize);

/// Why a copy cannot be done; every copy that passes stays inside its blocks.
pub(crate) fn check(copy: &Copy) -> Result<(), String> {
    if copy.shape.contains(&0) || copy.item == 0 {
        return Ok(());
    }
    inside(&copy.source, copy, "source")?;
    inside(&copy.destination, copy, "destination")?;
    let strides = copy.shape.iter().zip(&copy.destination.strides);
    if strides
        .into_iter()
        .any(|(&n, &stride)| n > 1 && stride == 0)
    {
        return Err(
            "several elements go to one place: a stride of the destination is 0".to_owned(),
        );
    }
    Ok(())
}

fn inside(place: &Place, copy: &Copy, what: &str) -> Result<(), String> {
    if place.strides.len() != copy.shape.len() {
        return Err(format!(
            "the {what} has {} strides for {} dimensions",
            place.strides.len(),
            copy.shape.len()
        ));
    }
    let (mut first, mut last) = (place.offset as i128, place.offset as i128);
    for (&n, &stride) in copy.shape.iter().zip(&place.strides) {
        // Both are at most 2^64 in size, so the product fits; the sum is checked because there may be many dimensions.
        let way = (n as i128 - 1) * stride as i128;
        let end = if way < 0 { &mut first } else { &mut last };
        *end = end
            .checked_add(way)
            .ok_or_else(|| format!("the {what} is larger than any memory"))?;
    }
    let end = last + copy.item as i128;
    if first < 0 || end > i128::from(place.block.bytes()) {
        return Err(format!(
            "the {what} reaches from byte {first} to byte {end} of a block of {} bytes",
            place.block.bytes()
        ));
    }
    Ok(())
}

/// Does a copy.
///
/// # Safety
/// [`check`] accepted it; both blocks are memory of this process that may be read or written now, and nobody else writes the source
/// or touches the destination meanwhile.
pub(crate) unsafe fn run(copy: &Copy) {
    if copy.shape.contains(&0) || copy.item == 0 {
        return;
    }
    let mut source = copy.source.block.address() + copy.source.offset;
    let mut destination = copy.destination.block.address() + copy.destination.offset;
    let mut dimensions: SmallVec<[Dimension; 4]> = SmallVec::new();
    let strides = copy.source.strides.iter().zip(&copy.destination.strides);
    for (&n, (&from, &to)) in copy.shape.iter().zip(strides) {
        if n == 1 {
            continue;
        }
        if to < 0 {
            // The order of the elements does not matter: go through the destination upwards.
            let last = n as isize - 1;
            source = source.wrapping_add_signed(last * from);
            destination = destination.wrapping_add_signed(last * to);
            dimensions.push((n, -from, -to));
        } else {
            dimensions.push((n, from, to));
        }
    }
    dimensions.sort_by_key(|&(_, from, to)| std::cmp::Reverse((to, from.unsigned_abs())));
    let mut dimensions = merged(&dimensions);
    let item = copy.item as isize;
    let mut run = copy.item;
    if let Some(&(n, from, to)) = dimensions.last()
        && (from, to) == (item, item)
    {
        run *= n;
        dimensions.pop();
    }
    let (n, from, to) = dimensions.pop().unwrap_or((1, 0, 0));
    let mut index: SmallVec<[usize; 4]> = SmallVec::from_elem(0, dimensions.len());
    loop {
        // SAFETY: by `check` every element of the box is inside its block, and this is one row of it.
        unsafe { row(source, destination, run, n, from, to) };
        let mut dimension = dimensions.len();
        loop {
            let Some(outer) = dimension.checked_sub(1) else {
                return;
            };
            dimension = outer;
            let (n, from, to) = dimensions[dimension];
            index[dimension] += 1;
            if index[dimension] < n {
                source = source.wrapping_add_signed(from);
                destination = destination.wrapping_add_signed(to);
                break;
            }
            index[dimension] = 0;
            let last = n as isize - 1;
            source = source.wrapping_add_signed(-last * from);
            destination = destination.wrapping_add_signed(-last * to);
        }
    }
}

/// Neighbouring dimensions that one longer one can stand for are made one.
fn merged(dimensions: &[Dimension]) -> SmallVec<[Dimension; 4]> {
    let mut merged: SmallVec<[Dimension; 4]> = SmallVec::new();
    for &(n, from, to) in dimensions {
        match merged.last_mut() {
            Some(outer) if outer.1 == n as isize * from && outer.2 == n as isize * to => {
                *outer = (outer.0 * n, from, to);
            }
            _ => merged.push((n, from, to)),
        }
    }
    merged
}

/// Copies `n` runs of `run` bytes.
///
/// # Safety
/// All runs are memory that may be read, or written.
unsafe fn row(source: usize, destination: usize, run: usize, n: usize, from: isize, to: isize) {
    let at = |k: usize| {
        (
            source.wrapping_add_signed(k as isize * from),
            destination.wrapping_add_signed(k as isize * to),
        )
    };
    macro_rules! each {
        ($element:ty) => {
            for k in 0..n {
                let (source, destination) = at(k);
                // SAFETY: the caller's; nothing is assumed about alignment, or that anybody has written the source.
                unsafe {
                    (destination as *mut MaybeUninit<$element>)
                        .write_unaligned((source as *const MaybeUninit<$element>).read_unaligned());
                }
            }
        };
    }
    match run {
        1 => each!(u8),
        2 => each!(u16),
        4 => each!(u32),
        8 => each!(u64),
        16 => each!(u128),
        _ => {
            for k in 0..n {
                let (source, destination) = at(k);
                // SAFETY: the caller's; overlapping runs, which the contract forbids, would still be copied one by one.
                unsafe {
                    std::ptr::copy(source as *const u8, destination as *mut u8, run);
                }
            }
        }
    }
}
