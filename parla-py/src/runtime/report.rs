//! What nobody can go on with, and why, in words.

use std::sync::Arc;

use parla_core::{Blocked, Diagnosis, Reason, TaskId, TaskState};
use parla_sched::{Resource, Shortage, Whereabouts};
use pyo3::prelude::*;

use super::Rt;
use crate::errors;

/// The task's name and place of spawn, wherever it is in its life.
pub(super) fn describe(py: Python<'_>, rt: &Rt, id: TaskId, with_place: bool) -> String {
    let task = rt
        .with_body(id, |body| body.0.clone_ref(py))
        .or_else(|| rt.executor().running(py, id));
    match task {
        Some(task) if with_place => task.get().describe(py),
        Some(task) => task.get().label(py),
        None => {
            rt.executor()
                .declared_name(id)
                .unwrap_or_else(|| match rt.state(id).is_terminal() {
                    true => "a task that has ended".to_owned(),
                    false => "a running task".to_owned(),
                })
        }
    }
}

/// Lines of a diagnosis before it is cut short.
pub(super) const MAX_LINES: usize = 16;

/// What a task waits for, in words.
pub(super) fn reasons(
    py: Python<'_>,
    rt: &Rt,
    blocked: &Blocked,
    never_spawned: &[TaskId],
) -> String {
    let mut waits_for: Vec<_> = blocked
        .reasons
        .iter()
        .take(MAX_LINES)
        .map(|reason| {
            let (verb, on) = match *reason {
                Reason::DependsOn(on) => ("depends on", on),
                Reason::Awaits(on) => ("awaits", on),
            };
            let never = if never_spawned.binary_search(&on).is_ok() {
                ", which was never spawned"
            } else {
                ""
            };
            format!("{verb} {}{never}", describe(py, rt, on, false))
        })
        .collect();
    if let Some((_, on)) = rt.executor().blocked(py, blocked.id) {
        let mut open: Vec<_> = on
            .iter()
            .filter(|on| !rt.state(**on).is_terminal())
            .collect();
        if open.is_empty() {
            open = on.iter().collect(); // they have, but their devices are still at work
        }
        let names = open.into_iter().take(MAX_LINES).map(|on| {
            let never = match never_spawned.binary_search(on) {
                Ok(_) => ", which was never spawned",
                Err(_) => "",
            };
            describe(py, rt, *on, false) + never
        });
        let names: Vec<_> = names.collect();
        waits_for.push(format!("is blocked in a wait for {}", names.join(" and ")));
    }
    let state = blocked.state;
    if waits_for.is_empty() || state == TaskState::Running {
        let whereabouts = py.detach(|| rt.whereabouts(blocked.id));
        waits_for.extend(whereabouts.and_then(|found| in_words(py, rt, state, &found)));
    }
    match (waits_for.is_empty(), state) {
        (false, _) => waits_for.join(" and "),
        (true, TaskState::Running) => "is running".to_owned(),
        (true, TaskState::Ready) => "is ready to run".to_owned(),
        (true, _) => "waits".to_owned(),
    }
}

/// What a task that was given devices, or is to be, is doing or waiting for.
fn in_words(py: Python<'_>, rt: &Rt, state: TaskState, found: &Whereabouts) -> Option<String> {
    let because = |waits: &[Shortage]| {
        let waits = waits.iter().take(MAX_LINES);
        let waits: Vec<_> = waits.map(|wait| shortage(py, rt, wait)).collect();
        match waits.is_empty() {
            true => String::new(),
            false => format!(": {}", waits.join(", and ")),
        }
    };
    Some(match found {
        Whereabouts::Unplaced(waits) if state == TaskState::Running && waits.is_empty() => {
            return None;
        }
        Whereabouts::Unplaced(waits) if waits.is_empty() => {
            "is ready, and its policy has given it no device yet".to_owned()
        }
        Whereabouts::Unplaced(waits) => format!("waits for a device{}", because(waits)),
        Whereabouts::Unadmitted(waits) => format!("waits to run{}", because(waits)),
        Whereabouts::Staging {
            devices,
            n_arrays,
            bytes,
            waits,
        } => {
            let arrays = if *n_arrays == 1 { "array" } else { "arrays" };
            let to = devices.join(" and ");
            let what = match (waits.is_empty(), n_arrays) {
                (_, 0) => format!("waits for its arrays on {to}"),
                (true, n) => format!("is bringing {n} {arrays}, {}, to {to}", mebibytes(*bytes)),
                (false, n) => {
                    format!(
                        "waits to bring {n} {arrays}, {}, to {to}",
                        mebibytes(*bytes)
                    )
                }
            };
            what + &because(waits)
        }
        Whereabouts::Placed { .. } if state == TaskState::Running => return None,
        Whereabouts::Placed { devices, waits } if waits.is_empty() => {
            format!("is ready to run on {}", devices.join(" and "))
        }
        Whereabouts::Placed { devices, waits } => {
            format!("waits on {}{}", devices.join(" and "), because(waits))
        }
        Whereabouts::Draining { devices } => {
            format!(
                "has returned, and {} is still at work for it",
                devices.join(" and ")
            )
        }
        _ => return None,
    })
}

fn shortage(py: Python<'_>, rt: &Rt, short: &Shortage) -> String {
    let holders: Vec<_> = short
        .held_by
        .iter()
        .take(MAX_LINES)
        .map(|&(id, bytes)| {
            let name = describe(py, rt, id, true);
            match bytes {
                0 => name,
                bytes => format!("{name} ({})", mebibytes(bytes)),
            }
        })
        .collect();
    let held = match holders.is_empty() {
        true => String::new(),
        false => format!(" by {}", holders.join(" and by ")),
    };
    let rest = match holders.is_empty() {
        true => String::new(),
        false => format!(", the rest is held{held}"),
    };
    match &short.of {
        Resource::Memory {
            device,
            requested,
            free,
            reserved,
            capacity,
        } => {
            let reserved = match reserved {
                0 => String::new(),
                bytes => format!(", {bytes} are reserved (reserve_persistent_memory)"),
            };
            format!(
                "memory of {device}: {requested} bytes requested, {free} free of {capacity}{reserved}{rest}"
            )
        }
        Resource::Units {
            device,
            requested,
            free,
        } => format!(
            "compute units of {device}: {} requested, {} free{rest}",
            f64::from(requested.0) / 1000.0,
            f64::from(free.0) / 1000.0
        ),
        Resource::Place { device } => {
            format!(
                "{device} has as many tasks in preparation as it may have, its places are held{held}"
            )
        }
        Resource::Data { array, region } => format!("{array}{region} is in use{held}"),
        _ => "something else".to_owned(),
    }
}

/// A number of bytes for people.
fn mebibytes(bytes: u64) -> String {
    const MIB: u64 = 1 << 20;
    match bytes {
        0..MIB => format!("{bytes} bytes"),
        _ => {
            let text = format!("{:.1}", bytes as f64 / MIB as f64);
            format!("{} MiB", text.trim_end_matches(".0"))
        }
    }
}

/// The error of all who waited, in the same words: those who are told first go on, and then what was the case is so no more.
pub(super) fn deadlock(py: Python<'_>, rt: &Rt, diagnosis: &Arc<Diagnosis>) -> PyErr {
    let text = rt.executor().told(diagnosis).unwrap_or_else(|| {
        let text = deadlock_in_words(py, rt, diagnosis);
        rt.executor().tell(diagnosis, text)
    });
    errors::deadlock_error(py, text)
}

fn deadlock_in_words(py: Python<'_>, rt: &Rt, diagnosis: &Diagnosis) -> String {
    let n = diagnosis.blocked.len();
    let plural = if n == 1 {
        "1 task remains"
    } else {
        &format!("{n} tasks remain")
    };
    let mut text = format!("nothing runs and nothing can: {plural}");
    if let Some(policy) = &diagnosis.stalled_policy {
        text += &format!(
            "\n  the policy '{policy}' was offered every device and took none of the ready tasks"
        );
    }
    for cycle in diagnosis.cycles.iter().take(MAX_LINES) {
        let mut names: Vec<_> = cycle
            .iter()
            .take(MAX_LINES)
            .map(|&id| describe(py, rt, id, false))
            .collect();
        if cycle.len() > MAX_LINES {
            names.push(format!("... ({} more)", cycle.len() - MAX_LINES));
        }
        names.push(names[0].clone());
        text += &format!("\n  a cycle: {}", names.join(" waits for "));
    }
    // First those that wait for what nobody spawned, then those in circles: they are the reasons, the others follow from them.
    let is_cause = |blocked: &Blocked| {
        let on = |id: &TaskId| diagnosis.never_spawned.binary_search(id).is_ok();
        let never = blocked.reasons.iter().any(|r| match r {
            Reason::DependsOn(id) | Reason::Awaits(id) => on(id),
        });
        !(never
            || rt
                .executor()
                .blocked(py, blocked.id)
                .is_some_and(|(_, ids)| ids.iter().any(on)))
    };
    let mut blocked: Vec<&Blocked> = diagnosis.blocked.iter().collect();
    blocked.sort_by_cached_key(|blocked| is_cause(blocked));
    for blocked in blocked.iter().take(MAX_LINES) {
        let task = describe(py, rt, blocked.id, true);
        text += &format!(
            "\n  {task} {}",
            reasons(py, rt, blocked, &diagnosis.never_spawned)
        );
    }
    if n > MAX_LINES {
        text += &format!("\n  ... and {} more", n - MAX_LINES);
    }
    if n == 0 {
        let names: Vec<_> = diagnosis
            .never_spawned
            .iter()
            .take(MAX_LINES)
            .map(|&id| describe(py, rt, id, false))
            .collect();
        text += &format!("; {} never spawned", names.join(", "));
    }
    text
}
