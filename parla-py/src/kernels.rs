//! Bodies of a known length, for benchmarks and tests.

use std::time::{Duration, Instant};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::gil;

/// Keep the GIL and the core busy for `us` microseconds.
#[pyfunction]
pub(crate) fn sleep_gil(us: f64) -> PyResult<()> {
    spin(duration(us)?);
    Ok(())
}

/// Keep the core busy for `us` microseconds with the GIL released.
#[pyfunction]
pub(crate) fn sleep_nogil(py: Python<'_>, us: f64) -> PyResult<()> {
    let duration = duration(us)?;
    gil::released(py, || spin(duration));
    Ok(())
}

fn duration(us: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(us * 1e-6).map_err(|_| {
        PyValueError::new_err(format!("us is a number of microseconds >= 0, not {us}"))
    })
}

#[allow(
    clippy::disallowed_methods,
    reason = "measuring a length of time is what these are for"
)]
fn spin(duration: Duration) {
    let start = Instant::now();
    while start.elapsed() < duration {
        std::hint::spin_loop();
    }
}
