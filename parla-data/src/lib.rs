//! Coherent arrays: a task says what it reads and writes, and the bytes are where it runs.
//!
//! * [`Directory`]: per array, which of its *instances* (copies of a box of it in some memory) hold the newest bytes of which boxes. Pure.
//! * [`Array`]: a shape, a home in the host's memory, a directory, and the instances there are.
//! * [`Store`]: allocates instances, plans and starts copies, evicts what has not been used for longest.
//!
//! Knows nothing of tasks: [`Operand`]s go in, a [`Staged`] comes out that keeps them in place until it is finished.
#![cfg_attr(not(test), forbid(unsafe_code))]

mod array;
pub mod directory;
mod error;
mod history;
mod instance;
mod op;
mod operand;
mod store;
mod versions;

pub use array::{Array, ArrayId, Home};
pub use directory::{Directory, InstanceId};
pub use error::DataError;
pub use history::{DataEvent, Happening};
pub use operand::Operand;
pub use store::{
    Ahead, ArrivedCallback, Ended, Held, MemoryStats, Order, Staged, StagedCallback, Store,
    StoreStats,
};
