//! What tasks are told that use an array in a way which they have not named.

use parla_core::Region;
use pyo3::prelude::*;

use super::Array;
use crate::assignment::Current;
use crate::task::Task;
use crate::{errors, runtime};

impl Array {
    pub(super) fn no_operand(&self, py: Python<'_>, current: &Current, region: &Region) -> PyErr {
        let used: Vec<_> = current
            .operands()
            .iter()
            .filter(|operand| operand.array.id() == self.data.id())
            .map(|operand| operand.region.to_string())
            .collect();
        let has = if used.is_empty() {
            "does not name it in its input, output or inout".to_owned()
        } else {
            format!("named only {} of it", used.join(" and "))
        };
        let how = if self.made_in_task {
            ". A task made this array, or gave it another shape with update(): on a device it is for tasks spawned after that, which name it"
        } else {
            ""
        };
        errors::parla_error(
            py,
            format!(
                "{} runs on {} and uses {}{region}, but {has}: what a task uses there must be among its operands{how}",
                current.task.get().describe(py),
                current.device_names(py),
                self.data.name(),
            ),
        )
    }

    /// Whether a task where nothing has to be brought must name it: with `Parla(check=True)`, unless it was made in a task, for its own use.
    pub(super) fn must_be_named(&self, task: &Py<Task>) -> bool {
        task.get().rt.executor().check && !self.made_in_task
    }

    /// With `Parla(check=True)`: a task without operands that uses an array all the same.
    pub(super) fn check_undeclared(&self, py: Python<'_>, region: &Region) -> PyResult<()> {
        match runtime::current_task(py) {
            Some(task) if self.must_be_named(&task) => Err(errors::parla_error(
                py,
                format!(
                    "{} uses {}{region}, but does not name it in its input, output or inout: what a task uses must be among its operands",
                    task.get().describe(py),
                    self.data.name(),
                ),
            )),
            _ => Ok(()),
        }
    }

    pub(super) fn no_data(&self, py: Python<'_>, current: &Current) -> PyErr {
        errors::parla_error(
            py,
            format!(
                "{} has no longer {} on {}: it could not be brought there again after a wait",
                current.task.get().describe(py),
                self.data.name(),
                current.device_names(py),
            ),
        )
    }

    pub(super) fn only_input(&self, py: Python<'_>, current: &Current, region: &Region) -> PyErr {
        errors::parla_error(
            py,
            format!(
                "{} writes {}{region}, which it has as an input only: name it in output or inout",
                current.task.get().describe(py),
                self.data.name(),
            ),
        )
    }
}
