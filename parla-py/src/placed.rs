//! Where a task may run: a resolved `placement=`, with what it claims of each device.

use std::sync::Arc;

use parla_core::lock::Mutex;
use parla_core::{Claim, Vcus};
use parla_device::Machine;
use parla_sched::Choice;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyInt, PyTuple};
use smallvec::SmallVec;

use crate::{errors, machine, python};

/// A placement that was checked and found possible.
pub(crate) struct Placed {
    pub(crate) object: Py<PyAny>,
    /// Of the CPU device, if it runs on one.
    pub(crate) claim: Claim,
    pub(crate) worker: Option<u16>,
    pub(crate) choices: Choices,
}

/// The devices it may run on.
#[derive(Clone)]
pub(crate) enum Choices {
    /// As `Cpu`, or one choice of several CPU devices, on a machine with no memory but the host's: nobody has to choose.
    HostOnly,
    /// One CPU device, or any: without operands there is nothing to choose.
    Cpu(Arc<[Choice]>),
    /// Several kinds of devices, several devices at a time, or some of the CPU devices.
    Devices(Arc<[Choice]>),
}

/// The last placements given as one object with nothing else, by identity.
static KNOWN: Mutex<Vec<(Option<Py<PyAny>>, Placed)>> = Mutex::new(Vec::new());
const MAX_KNOWN: usize = 16;

/// Forgets resolved placements; called when a runtime ends, since the environment may change before the next, and when other devices are to be
/// used than before.
#[pyfunction]
pub(crate) fn forget_placements() {
    let known = std::mem::take(&mut *KNOWN.lock());
    drop(known);
}

impl Placed {
    pub(crate) fn clone_ref(&self, py: Python<'_>) -> Self {
        Self {
            object: self.object.clone_ref(py),
            claim: self.claim,
            worker: self.worker,
            choices: self.choices.clone(),
        }
    }

    /// What a `parla._placement.Placement` says.
    pub(crate) fn of(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let affinity: i64 = object.getattr("affinity")?.extract()?;
        Ok(Self {
            claim: Claim {
                vcus: Vcus(object.getattr("vcus")?.extract()?),
                memory: object.getattr("memory")?.extract()?,
            },
            worker: u16::try_from(affinity).ok(),
            choices: choices(object)?,
            object: object.clone().unbind(),
        })
    }

    /// What no placement at all means, if that was asked before.
    pub(crate) fn known_default(py: Python<'_>) -> Option<Self> {
        let known = KNOWN.lock();
        let mut entries = known.iter();
        let (_, placed) = entries.find(|(key, _)| key.is_none())?;
        Some(placed.clone_ref(py))
    }

    pub(crate) fn resolve(
        py: Python<'_>,
        placement: Option<&Bound<'_, PyAny>>,
        vcus: Option<&Bound<'_, PyAny>>,
        memory: Option<&Bound<'_, PyAny>>,
        ndevices: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let plain = vcus.is_none() && memory.is_none() && ndevices.is_none();
        if plain {
            let known = KNOWN.lock();
            for (key, placed) in &*known {
                let same = match (key, placement) {
                    (None, None) => true,
                    (Some(key), Some(placement)) => placement.is(key),
                    _ => false,
                };
                if same {
                    return Ok(placed.clone_ref(py));
                }
            }
        }
        let ndevices = match ndevices {
            Some(n) => n.clone(),
            None => PyInt::new(py, 1).into_any(),
        };
        let object = python::resolve_placement(py)?.call1((placement, vcus, memory, ndevices))?;
        let placed = Self::of(&object)?;
        let cachable = match placement {
            None => true,
            Some(placement) => {
                placement.is_instance(python::architecture(py)?)?
                    || placement.is_instance(python::device(py)?)?
            }
        };
        if plain && cachable {
            let mut known = KNOWN.lock();
            if known.len() < MAX_KNOWN {
                known.push((placement.map(|p| p.clone().unbind()), placed.clone_ref(py)));
            }
        }
        Ok(placed)
    }
}

/// The choices of a resolved placement, in the numbers of the machine.
fn choices(placement: &Bound<'_, PyAny>) -> PyResult<Choices> {
    let py = placement.py();
    let machine = machine::current(py)?;
    let model = machine.model();
    let one_memory = model.memories.len() == 1;
    let n_cpus = model.devices.iter().filter(|d| !d.exclusive).count();
    if one_memory && n_cpus == 1 {
        return Ok(Choices::HostOnly);
    }
    let common = Claim {
        vcus: Vcus(placement.getattr(intern!(py, "vcus"))?.extract()?),
        memory: placement.getattr(intern!(py, "memory"))?.extract()?,
    };
    let options = placement.getattr(intern!(py, "options"))?;
    let options = options.cast::<PyTuple>()?;
    let claims = placement.getattr(intern!(py, "claims")).ok();
    let mut choices = Vec::with_capacity(options.len());
    for (at, option) in options.iter().enumerate() {
        let own = match &claims {
            Some(claims) => Some(claims.get_item(at)?.extract()?),
            None => None,
        };
        choices.push(choice(&machine, option.cast::<PyTuple>()?, own, common)?);
    }
    let is_cpu = |choice: &Choice| match choice.devices[..] {
        [device] => !model.device(device).exclusive,
        _ => false,
    };
    let all_cpus = choices.iter().all(is_cpu);
    let any_cpu = all_cpus && choices.len() == n_cpus;
    if choices.len() > 1 && !any_cpu {
        Ok(Choices::Devices(choices.into()))
    } else if one_memory {
        Ok(Choices::HostOnly)
    } else if all_cpus {
        Ok(Choices::Cpu(choices.into()))
    } else {
        Ok(Choices::Devices(choices.into()))
    }
}

/// Thousandths of a device and bytes of its memory; no or negative thousandths: not stated.
type OwnClaim = (Option<i64>, u64);

/// One option: its devices by architecture and index, with what it claims of each, which is `common` unless it has claims of its own.
fn choice(
    machine: &Machine,
    option: &Bound<'_, PyTuple>,
    own: Option<Vec<OwnClaim>>,
    common: Claim,
) -> PyResult<Choice> {
    let py = option.py();
    let mut devices = SmallVec::new();
    let mut claims = SmallVec::new();
    for (slot, device) in option.iter_borrowed().enumerate() {
        let architecture: String = device
            .getattr(intern!(py, "architecture"))?
            .getattr(intern!(py, "id"))?
            .extract()?;
        let index: u32 = device.getattr(intern!(py, "index"))?.extract()?;
        let Some(id) = machine.find(&architecture, index) else {
            return Err(errors::placement_error(
                py,
                format!(
                    "placement: {architecture}({index}) is not among the devices of this machine"
                ),
            ));
        };
        devices.push(id);
        claims.push(match own.as_ref().and_then(|own| own.get(slot)) {
            Some(&(vcus, memory)) => Claim {
                vcus: Vcus(
                    vcus.and_then(|vcus| u32::try_from(vcus).ok())
                        .unwrap_or_default(),
                ),
                memory,
            },
            None => common,
        });
    }
    Ok(Choice {
        devices,
        claims,
        variant: 0,
    })
}
