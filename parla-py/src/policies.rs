//! What `Parla(policy=...)` may be.

use parla_sched::policy;
use pyo3::prelude::*;

use crate::errors;

/// Check a policy's name and options, as in ``locality:window=32``.
///
/// Raises:
///     PolicyError: there is no such policy or option; for ``help``, what there is, a line each.
#[pyfunction]
pub(crate) fn check_policy(py: Python<'_>, policy: &str) -> PyResult<()> {
    match policy::make(policy, 0) {
        Ok(_) => Ok(()),
        Err(error) => Err(errors::policy_error(py, format!("policy: {error}"))),
    }
}

/// The policies, a line each: name, what it does, options.
#[pyfunction]
pub(crate) fn policies() -> String {
    policy::help()
}
