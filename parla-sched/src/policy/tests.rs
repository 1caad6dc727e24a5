//! Every policy against the conformance check, and what each does with a few programs.

use std::fmt::Write as _;
use std::sync::Arc;

use parla_core::{DeviceId, MachineModel, TaskId};

use super::conformance::programs::{Sequential, machine, on};
use super::conformance::simulate::{Program, simulate};
use super::conformance::{Violation, check};
use super::*;
use crate::Choice;

mod faulty;
mod knowledge;
mod snapshot;

#[test]
fn every_policy_conforms() {
    for entry in POLICIES {
        let report = check(&mut |seed| make(entry.name, seed).unwrap(), 100);
        let report = report.unwrap_or_else(|violation| panic!("{violation}"));
        assert!(report.n_tasks > 2_000);
    }
    for spec in ["locality:window=1", "random:window=1"] {
        let report = check(&mut |seed| make(spec, seed).unwrap(), 20);
        assert!(report.is_ok(), "{report:?}");
    }
}
