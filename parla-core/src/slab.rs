//! Storage for tasks that grows without moving: a two-level table of chunks, each made once when first needed.
//!
//! An index stays valid for the slab's whole life, so `get` needs no lock: two loads and an addition.

use std::sync::OnceLock;

/// Slots per chunk.
pub(crate) const CHUNK: usize = 1 << CHUNK_BITS;
const CHUNK_BITS: u32 = if cfg!(loom) { 2 } else { 10 };
/// Chunks per directory page.
const PAGE: usize = 1 << PAGE_BITS;
const PAGE_BITS: u32 = if cfg!(loom) { 2 } else { 11 };
/// Directory pages; together 2^31 slots, or somewhat less for loom.
const PAGES: usize = 1
    << if cfg!(loom) {
        4
    } else {
        31 - CHUNK_BITS - PAGE_BITS
    };

type Chunk<T> = OnceLock<Box<[T; CHUNK]>>;
type Page<T> = OnceLock<Box<[Chunk<T>; PAGE]>>;

/// A growing array of `T` that can be read from every thread while it grows.
pub(crate) struct Slab<T> {
    pages: Box<[Page<T>; PAGES]>,
}

impl<T: Default> Slab<T> {
    pub(crate) fn new() -> Self {
        Self {
            pages: boxed_array(OnceLock::new),
        }
    }

    /// The slot at `index`, if its chunk has been made.
    #[inline]
    pub(crate) fn get(&self, index: u32) -> Option<&T> {
        let index = index as usize;
        let page = self.pages[(index >> (CHUNK_BITS + PAGE_BITS)) % PAGES].get()?;
        let chunk = page[(index >> CHUNK_BITS) % PAGE].get()?;
        Some(&chunk[index % CHUNK])
    }

    /// Makes the chunk that holds `index`, if it is not there yet.
    ///
    /// # Panics
    /// When 2^31 tasks are alive at once.
    pub(crate) fn ensure(&self, index: u32) {
        let index = index as usize;
        let page = self
            .pages
            .get(index >> (CHUNK_BITS + PAGE_BITS))
            .expect("fewer than 2^31 tasks are alive at once");
        let page = page.get_or_init(|| boxed_array(OnceLock::new));
        page[(index >> CHUNK_BITS) % PAGE].get_or_init(|| boxed_array(T::default));
    }

    /// Every slot that exists, with its index.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        let chunks = self
            .pages
            .iter()
            .enumerate()
            .filter_map(|(p, page)| Some((p, page.get()?)));
        chunks
            .flat_map(|(p, page)| {
                page.iter()
                    .enumerate()
                    .filter_map(move |(c, chunk)| Some((p * PAGE + c, chunk.get()?)))
            })
            .flat_map(|(c, chunk)| {
                chunk.iter().enumerate().map(move |(i, slot)| {
                    (
                        u32::try_from(c * CHUNK + i).expect("indices stay below 2^31"),
                        slot,
                    )
                })
            })
    }
}

/// An array that never lies on the stack.
fn boxed_array<T, const N: usize>(make: impl Fn() -> T) -> Box<[T; N]> {
    let items: Box<[T]> = (0..N).map(|_| make()).collect();
    items
        .try_into()
        .unwrap_or_else(|_| unreachable!("N items were made"))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn slots_appear_chunk_by_chunk_and_stay_put() {
        let slab = Slab::<u8>::new();
        assert!(slab.get(0).is_none());
        slab.ensure(0);
        let first: *const u8 = slab.get(0).expect("just made");
        slab.ensure(5_000_000);
        assert!(slab.get(CHUNK as u32).is_none());
        assert!(slab.get(5_000_000).is_some());
        assert_eq!(first, slab.get(0).expect("still there") as *const u8);
        let indices: Vec<u32> = slab.iter().map(|(i, _)| i).collect();
        assert_eq!(indices.len(), 2 * CHUNK);
        assert!(indices.contains(&5_000_000));
    }
}
