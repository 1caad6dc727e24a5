//! Arrays: a shape, a home in the host's memory, and copies elsewhere.

use std::sync::Arc;

use parla_core::{MemoryId, Region};
use parla_device::Block;
use smallvec::SmallVec;

/// Names an array, uniquely in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ArrayId(pub u64);

/// An array's place in the host's memory: all of its elements. It is the user's own buffer where there is one, with whatever strides it has.
#[derive(Clone, Debug)]
pub struct Home {
    /// The memory; it keeps the user's buffer alive.
    pub block: Arc<Block>,
    /// Bytes from the block's beginning to the element with all indices 0.
    pub offset: usize,
    /// Bytes from one element to the next along each dimension; may be negative.
    pub strides: SmallVec<[isize; 4]>,
    /// Whether it may be written. An array whose home is read-only can be an input only.
    pub writable: bool,
}

/// A coherent array. Clones are the same array. All copies outside the host are given back when the last clone goes.
#[derive(Clone, Debug)]
pub struct Array(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    home: Home,
}

impl Array {
    /// An array of `item`-byte elements whose contents are in `home`.
    #[must_use]
    pub fn new(_name: &str, _shape: &[usize], _item: usize, home: Home) -> Self {
        Self(Arc::new(Shared { home }))
    }

    /// Its name in messages.
    #[must_use]
    pub fn name(&self) -> &str {
        todo!()
    }

    /// Which.
    #[must_use]
    pub fn id(&self) -> ArrayId {
        todo!()
    }

    /// Number of indices along each dimension.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        todo!()
    }

    /// Bytes per element.
    #[must_use]
    pub fn item(&self) -> usize {
        todo!()
    }

    /// Where it is in the host's memory.
    #[must_use]
    pub fn home(&self) -> &Home {
        &self.0.home
    }

    /// Whether nothing but the home ever held any of it since it was last wholly at home: then no directory is consulted. One atomic load.
    #[must_use]
    pub fn is_host_only(&self) -> bool {
        todo!()
    }

    /// Bytes of the newest contents of `region` that are valid in `memory`.
    #[must_use]
    pub fn bytes_valid(&self, _memory: MemoryId, _region: &Region) -> u64 {
        todo!()
    }

    /// Bytes that its copies occupy in `memory`, valid or not; for the host its own size.
    #[must_use]
    pub fn bytes_allocated(&self, _memory: MemoryId) -> u64 {
        todo!()
    }

    /// For people: one line per box of the directory, with the memories where it is valid.
    #[must_use]
    pub fn overview(&self) -> String {
        todo!()
    }
}
