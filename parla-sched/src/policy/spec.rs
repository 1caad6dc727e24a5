//! Policies by name and options: `locality:window=32`.

use thiserror::Error;

use super::{POLICIES, SchedulingPolicy};

/// A policy, or why there is none.
pub(super) type Made = Result<Box<dyn SchedulingPolicy>, PolicyError>;

/// A policy that can be chosen by name.
pub struct PolicyEntry {
    /// Its name.
    pub name: &'static str,
    /// What it does, in a line, with its options.
    pub about: &'static str,
    pub(super) make: fn(&mut Settings, seed: u64) -> Made,
}

/// Why no policy could be made.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum PolicyError {
    /// The list of policies was asked for; this is it.
    #[error("{0}")]
    Help(String),
    /// There is no policy of that name.
    #[error("there is no policy '{name}'; there are: {known}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// The policy has no such option.
    #[error("policy '{policy}' has no option '{option}'; it has: {known}")]
    Option {
        /// The policy.
        policy: String,
        /// What was given.
        option: String,
        /// What there is.
        known: String,
    },
    /// An option with a value it cannot have.
    #[error("policy '{policy}': {option} is {wanted}, not '{value}'")]
    Value {
        /// The policy.
        policy: String,
        /// The option.
        option: String,
        /// What was given.
        value: String,
        /// What it may be.
        wanted: String,
    },
}

/// The options of a policy that is being made. What nobody takes is an error.
#[derive(Debug)]
pub(super) struct Settings {
    policy: String,
    given: Vec<(String, String)>,
    known: Vec<&'static str>,
}

impl Settings {
    /// An option that is a number.
    pub(super) fn number(
        &mut self,
        option: &'static str,
        range: std::ops::RangeInclusive<usize>,
        default: usize,
    ) -> Result<usize, PolicyError> {
        self.known.push(option);
        let Some(at) = self.given.iter().position(|(key, _)| key == option) else {
            return Ok(default);
        };
        let (_, value) = self.given.remove(at);
        match value.parse() {
            Ok(number) if range.contains(&number) => Ok(number),
            _ => Err(PolicyError::Value {
                policy: self.policy.clone(),
                option: option.to_owned(),
                value,
                wanted: format!("a number from {} to {}", range.start(), range.end()),
            }),
        }
    }

    fn finish(self) -> Result<(), PolicyError> {
        let known = match self.known.as_slice() {
            [] => "none".to_owned(),
            known => known.join(", "),
        };
        match self.given.into_iter().next() {
            None => Ok(()),
            Some((option, _)) => Err(PolicyError::Option {
                policy: self.policy,
                option,
                known,
            }),
        }
    }
}

/// Makes a policy from `name` or `name:option=value,...`. The same seed and the same events give the same decisions.
///
/// # Errors
/// When there is no such policy, it has no such option, or that cannot have such a value; for `help`, the list of policies.
pub fn make(spec: &str, seed: u64) -> Result<Box<dyn SchedulingPolicy>, PolicyError> {
    let (name, options) = spec.split_once(':').unwrap_or((spec, ""));
    let name = name.trim();
    if name == "help" {
        return Err(PolicyError::Help(help()));
    }
    let Some(entry) = POLICIES.iter().find(|entry| entry.name == name) else {
        let known: Vec<_> = POLICIES.iter().map(|entry| entry.name).collect();
        return Err(PolicyError::Unknown {
            name: name.to_owned(),
            known: known.join(", "),
        });
    };
    let given = (options.split(',').map(str::trim))
        .filter(|option| !option.is_empty())
        .map(|option| {
            let (key, value) = option.split_once('=').unwrap_or((option, ""));
            (key.trim().to_owned(), value.trim().to_owned())
        });
    let mut settings = Settings {
        policy: name.to_owned(),
        given: given.collect(),
        known: Vec::new(),
    };
    let policy = (entry.make)(&mut settings, seed)?;
    settings.finish()?;
    Ok(policy)
}

/// The policies, a line each.
#[must_use]
pub fn help() -> String {
    let width = POLICIES.iter().map(|entry| entry.name.len()).max();
    let width = width.unwrap_or(0);
    let line = |entry: &PolicyEntry| format!("{:width$}  {}", entry.name, entry.about);
    POLICIES.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(spec: &str) -> String {
        match make(spec, 0) {
            Ok(policy) => format!("made {}", policy.name()),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn every_policy_is_made_by_its_name_and_by_what_it_calls_itself() {
        for entry in POLICIES {
            let policy = make(entry.name, 1).map_err(|e| e.to_string());
            let name = policy.map(|policy| policy.name().to_owned());
            let again = make(&name.clone().unwrap(), 1).map(|policy| policy.name().to_owned());
            assert_eq!(name.unwrap(), again.unwrap());
        }
    }

    #[test]
    fn what_is_not_there_is_an_error_that_says_what_is() {
        let names: Vec<_> = POLICIES.iter().map(|entry| entry.name).collect();
        let names = names.join(", ");
        assert_eq!(
            refused("fastest"),
            format!("there is no policy 'fastest'; there are: {names}")
        );
        assert_eq!(
            refused("eager:window=2"),
            "policy 'eager' has no option 'window'; it has: none"
        );
        assert_eq!(
            refused("locality:windows=2"),
            "policy 'locality' has no option 'windows'; it has: window"
        );
        assert_eq!(
            refused("locality: window = 0"),
            "policy 'locality': window is a number from 1 to 1048576, not '0'"
        );
        assert_eq!(refused("locality:window=7,"), "made locality:window=7");
    }

    #[test]
    fn help_has_a_line_for_each() {
        let text = refused("help");
        assert_eq!(text.lines().count(), POLICIES.len());
        for (line, entry) in text.lines().zip(POLICIES) {
            assert!(line.starts_with(entry.name), "{line}");
        }
    }
}
