//! What happened to the copies of arrays, in order: a record for traces. Nothing is decided by it.
//!
//! It says what was asked for and what was done, so that somebody else can say whether what was done had to be.

use std::sync::Arc;

use parla_core::lock::Mutex;
use parla_core::{Access, MachineModel, MemoryId, Region};
use smallvec::SmallVec;

use crate::directory::InstanceId;

/// One thing that happened to a box of one instance of an array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happening {
    /// The array's number.
    pub array: u64,
    /// The array's name.
    pub name: Arc<str>,
    /// Its shape.
    pub shape: SmallVec<[usize; 4]>,
    /// Bytes per element.
    pub item: usize,
    /// The instance concerned.
    pub instance: InstanceId,
    /// The memory it is in.
    pub memory: MemoryId,
    /// The box.
    pub region: Region,
    /// What happened.
    pub event: DataEvent,
}

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DataEvent {
    /// A task that is to run there asks for it.
    Asked {
        /// What for.
        access: Access,
        /// Whether the task uses every element of the box.
        exact: bool,
        /// Whether it goes on after it waited for others: then it has been at work there before.
        again: bool,
    },
    /// The host's code outside of tasks on devices asks for it at home.
    Reached {
        /// All of it is going to be replaced.
        overwrites: bool,
    },
    /// A task that waits may ask for it: what of it is missing is copied ahead, as far as there is memory.
    Ahead {
        /// Whether the task runs there for sure, if it runs; else that is a guess.
        sure: bool,
    },
    /// Not all that was asked for can be brought.
    Refused,
    /// It was copied there.
    Copied {
        /// From this instance.
        from: InstanceId,
        /// In this memory.
        source: MemoryId,
    },
    /// It was written there: no other instance has it any more.
    Written,
    /// Nobody knows its contents any more.
    Spoilt,
    /// What was to be written or copied there is not to be trusted.
    Failed,
    /// The instance was given up.
    GivenUp,
    /// The instance was lost with its device.
    Lost,
    /// The instance is to be given up, for others to have room: what it alone has goes home.
    WrittenBack,
    /// The program gives up what is in this memory.
    Evicted,
    /// The program, or the end of the runtime, calls all of it home.
    CalledHome,
    /// The last handle of the array is gone.
    Dropped,
}

impl DataEvent {
    /// Its name in lower case.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Asked { .. } => "asked",
            Self::Reached { .. } => "reached",
            Self::Ahead { .. } => "ahead",
            Self::Refused => "refused",
            Self::Copied { .. } => "copied",
            Self::Written => "written",
            Self::Spoilt => "spoilt",
            Self::Failed => "failed",
            Self::GivenUp => "given up",
            Self::Lost => "lost",
            Self::WrittenBack => "written back",
            Self::Evicted => "evicted",
            Self::CalledHome => "called home",
            Self::Dropped => "dropped",
        }
    }
}

/// The record of one store.
#[derive(Debug, Default)]
pub(crate) struct History(Mutex<Vec<Happening>>);

impl History {
    /// So far.
    pub(crate) fn all(&self) -> Vec<Happening> {
        self.0.lock().clone()
    }
}

/// An array's entry into the record of the store that has instances of it.
#[derive(Debug)]
pub(crate) struct Diary {
    history: Arc<History>,
    array: u64,
    name: Arc<str>,
    shape: SmallVec<[usize; 4]>,
    item: usize,
}

impl Diary {
    pub(crate) fn new(
        history: Arc<History>,
        array: u64,
        name: &str,
        shape: &[usize],
        item: usize,
    ) -> Self {
        Self {
            history,
            array,
            name: Arc::from(name),
            shape: shape.into(),
            item,
        }
    }

    pub(crate) fn is_in(&self, history: &Arc<History>) -> bool {
        Arc::ptr_eq(&self.history, history)
    }

    pub(crate) fn add(
        &self,
        instance: InstanceId,
        memory: MemoryId,
        region: &Region,
        event: DataEvent,
    ) {
        self.history.0.lock().push(Happening {
            array: self.array,
            name: Arc::clone(&self.name),
            shape: self.shape.clone(),
            item: self.item,
            instance,
            memory,
            region: region.clone(),
            event,
        });
    }

    /// Something that happens to all of the array.
    pub(crate) fn add_whole(&self, event: DataEvent) {
        self.add_all_in(MachineModel::HOST, event);
    }

    /// Something that happens to all of the array in a memory.
    pub(crate) fn add_all_in(&self, memory: MemoryId, event: DataEvent) {
        let whole = Region::whole(&self.shape);
        self.add(InstanceId::HOME, memory, &whole, event);
    }
}
