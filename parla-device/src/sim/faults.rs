//! What is to go wrong on a simulated GPU, and when.

use std::sync::atomic::{AtomicBool, Ordering};

use parla_core::lock::Mutex;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// An allocation fails, as if the memory were used up.
    Allocation,
    /// A call that enqueues a copy fails.
    Copy,
    /// A call that enqueues a kernel fails.
    Launch,
    /// The device is lost when a copy or a kernel would start.
    Loss,
}

/// Something that is to go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What.
    pub kind: FaultKind,
    /// At which one, counted from 1.
    pub nth: u64,
    /// Whether all later ones fail too.
    pub repeats: bool,
}

impl Fault {
    /// The `nth` from now on, counted from 1, and no other.
    #[must_use]
    pub fn nth(kind: FaultKind, nth: u64) -> Self {
        Self {
            kind,
            nth,
            repeats: false,
        }
    }
}

/// The faults that one device still has in front of it. `nth` counts what is left.
#[derive(Debug, Default)]
pub(super) struct Armed {
    /// Whether there is any: calls need no lock as long as there is none.
    any: AtomicBool,
    faults: Mutex<Vec<Fault>>,
}

impl Armed {
    pub(super) fn add(&self, fault: Fault) {
        self.faults.lock().push(fault);
        self.any.store(true, Ordering::Release);
    }

    /// Counts one event of this kind: is it meant to go wrong?
    pub(super) fn strikes(&self, kind: FaultKind) -> bool {
        if !self.any.load(Ordering::Acquire) {
            return false;
        }
        let mut struck = false;
        self.faults.lock().retain_mut(|fault| {
            if fault.kind != kind {
                return true;
            }
            if fault.nth > 1 {
                fault.nth -= 1;
                return true;
            }
            struck = true;
            fault.repeats
        });
        struck
    }
}

/// Parses `gpu:0 alloc=3; gpu:* copy=2+`.
pub(super) fn parse_faults(text: &str, n_devices: usize) -> Result<Vec<(u32, Fault)>, String> {
    let mut faults = Vec::new();
    for rule in text.split(';').map(str::trim).filter(|r| !r.is_empty()) {
        let wrong = |what: &str| format!("{rule:?}: {what}");
        let (device, fault) = rule
            .split_once(char::is_whitespace)
            .ok_or_else(|| wrong("expected a device and a fault, as in \"gpu:0 alloc=3\""))?;
        let fault = parse_fault(fault.trim()).ok_or_else(|| {
            wrong("expected alloc, copy, launch or lose, \"=\" and a number from 1, perhaps with a \"+\"")
        })?;
        let n_devices = n_devices as u32;
        let devices = match device.strip_prefix("gpu:") {
            Some("*") => 0..n_devices,
            Some(index) => match index.parse::<u32>() {
                Ok(index) if index < n_devices => index..index + 1,
                Ok(_) => return Err(wrong(&format!("there are {n_devices} simulated GPUs"))),
                Err(_) => return Err(wrong("expected the device as gpu:0 or gpu:*")),
            },
            None => return Err(wrong("expected the device as gpu:0 or gpu:*")),
        };
        faults.extend(devices.map(|device| (device, fault)));
    }
    Ok(faults)
}

fn parse_fault(text: &str) -> Option<Fault> {
    let (kind, count) = text.split_once('=')?;
    let kind = match kind.trim() {
        "alloc" => FaultKind::Allocation,
        "copy" => FaultKind::Copy,
        "launch" => FaultKind::Launch,
        "lose" => FaultKind::Loss,
        _ => return None,
    };
    let count = count.trim();
    let (count, repeats) = count
        .strip_suffix('+')
        .map_or((count, false), |count| (count, true));
    let nth = count.parse().ok().filter(|&nth| nth > 0)?;
    Some(Fault { kind, nth, repeats })
}
