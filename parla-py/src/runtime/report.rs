//! What nobody can go on with, and why, in words.

use parla_core::{Blocked, Diagnosis, Reason, TaskId, TaskState};
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
        None => rt
            .executor()
            .declared_name(id)
            .unwrap_or_else(|| "a running task".to_owned()),
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
        let never = if never_spawned.binary_search(&on).is_ok() {
            ", which was never spawned"
        } else {
            ""
        };
        waits_for.push(format!(
            "is blocked in a wait for {}{never}",
            describe(py, rt, on, false)
        ));
    }
    match (waits_for.is_empty(), blocked.state) {
        (false, _) => waits_for.join(" and "),
        (true, TaskState::Running) => "is running".to_owned(),
        (true, TaskState::Ready) => "is ready to run".to_owned(),
        (true, _) => "waits".to_owned(),
    }
}

pub(super) fn deadlock(py: Python<'_>, rt: &Rt, diagnosis: &Diagnosis) -> PyErr {
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
                .is_some_and(|(_, id)| on(&id)))
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
    errors::deadlock_error(py, text)
}
