//! The native half of the package `parla`: tasks as Python objects, and the executor that runs them.
//!
//! | module | what |
//! |---|---|
//! | `spawn` | the `spawn` function: checks, capture by value, dependencies |
//! | `operands`, `placed` | what `input=`, `output=`, `inout=` and `placement=` mean |
//! | `task`, `space` | `Task`, `TaskID` and the native base of `TaskSpace` |
//! | `runtime` | one open runtime: opening, waiting for the end, diagnosis |
//! | `executor` | how a worker runs a body; coroutines |
//! | `machine` | the machine of this process |
//! | `array`, `keep` | coherent arrays over NumPy's memory, and how that is kept alive |
//! | `device_block`, `room`, `stream` | devices' memory and streams in Python's hands |
//! | `assignment` | what the running task has: devices, streams, operands in place |
//! | `gil` | who holds the interpreter, who wants it, and when it changes hands |
//! | `object` | types of objects without PyO3's classes, for what every task makes |
//! | `python` | the C API beyond the limited one, found at run time; cached imports |
//!
//! Rules of this crate: wait only while detached; hold no lock of ours across a call into Python, the drop of a Python
//! reference included.

mod array;
mod assignment;
mod awaiter;
mod body;
mod device_block;
mod errors;
mod executor;
mod gil;
mod keep;
mod kernels;
mod key;
mod machine;
mod object;
mod operands;
mod placed;
mod policies;
mod python;
mod room;
mod runtime;
mod space;
mod spawn;
mod stream;
mod task;
mod topology;
mod views;

use pyo3::prelude::*;

/// The module `parla._native`.
#[pymodule(gil_used = false)]
mod _native {
    #[pymodule_export]
    use super::array::Array;
    #[pymodule_export]
    use super::assignment::{assignment, lend_task, set_current_slot};
    #[pymodule_export]
    use super::awaiter::Awaiter;
    #[pymodule_export]
    use super::device_block::{
        DeviceBlock, copy_strided, device_array, ordinal_of, synchronize_raw,
    };
    #[pymodule_export]
    use super::kernels::{sleep_gil, sleep_nogil};
    #[pymodule_export]
    use super::machine::{configure_machine, machine, measure_links};
    #[pymodule_export]
    use super::placed::forget_placements;
    #[pymodule_export]
    use super::policies::{check_policy, policies};
    #[pymodule_export]
    use super::runtime::Runtime;
    #[pymodule_export]
    use super::runtime::exit::{after_fork, before_fork, forget_all, stop_all};
    #[pymodule_export]
    use super::runtime::reservation::{Reservation, reserve};
    #[pymodule_export]
    use super::runtime::this_thread::{current_task, current_worker, set_finish_scope};
    #[pymodule_export]
    use super::space::Space;
    #[pymodule_export]
    use super::stream::Stream;
    #[pymodule_export]
    use super::task::{Task, TaskState};
    #[pymodule_export]
    use super::topology::topology;
    #[pymodule_export]
    use super::views::box_view;

    use pyo3::prelude::*;

    /// What is made without PyO3's classes.
    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        let py = module.py();
        module.add("TaskID", super::space::TaskID::class(py)?)?;
        module.add("Spawner", super::spawn::Spawner::class(py)?)?;
        module.add("spawn", super::spawn::function(module)?)
    }
}
