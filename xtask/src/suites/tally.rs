//! How many tests passed, failed and were skipped, read from what the runners
//! write.

use std::fmt;
use std::iter::Sum;

/// Counts of one suite, or of several added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) n_passed: usize,
    pub(crate) n_failed: usize,
    pub(crate) n_skipped: usize,
}

impl Tally {
    /// The counts in the attributes of a JUnit report's first tag that has them.
    pub(crate) fn from_junit(text: &str) -> Option<Self> {
        let tag = text
            .split('<')
            .find(|tag| tag.starts_with("testsuite") && tag.contains(" tests=\""))?;
        let count = |name: &str| attribute(tag, name);
        let n_failed = count("failures")? + count("errors")?;
        let n_skipped = count("skipped").unwrap_or(0);
        let n_passed = count("tests")?.checked_sub(n_failed + n_skipped)?;
        Some(Self {
            n_passed,
            n_failed,
            n_skipped,
        })
    }

    /// Adds the counts of a line such as `test result: ok. 3 passed; 0 failed; 1 ignored; ...`.
    pub(crate) fn add_libtest_line(&mut self, line: &str) {
        let Some((_, counts)) = line
            .strip_prefix("test result: ")
            .and_then(|rest| rest.split_once(". "))
        else {
            return;
        };
        for count in counts.split("; ") {
            let Some((number, what)) = count.split_once(' ') else {
                continue;
            };
            let number = number.parse().unwrap_or(0);
            match what {
                "passed" => self.n_passed += number,
                "failed" => self.n_failed += number,
                "ignored" => self.n_skipped += number,
                _ => {}
            }
        }
    }
}

fn attribute(tag: &str, name: &str) -> Option<usize> {
    let (_, rest) = tag.split_once(&format!(" {name}=\""))?;
    rest.split('"').next()?.parse().ok()
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.n_passed, self.n_failed)?;
        if self.n_skipped > 0 {
            write!(f, ", {} skipped", self.n_skipped)?;
        }
        Ok(())
    }
}

impl Sum for Tally {
    fn sum<I: Iterator<Item = Self>>(tallies: I) -> Self {
        tallies.fold(Self::default(), |sum, next| Self {
            n_passed: sum.n_passed + next.n_passed,
            n_failed: sum.n_failed + next.n_failed,
            n_skipped: sum.n_skipped + next.n_skipped,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Tally;

    fn tally(n_passed: usize, n_failed: usize, n_skipped: usize) -> Tally {
        Tally {
            n_passed,
            n_failed,
            n_skipped,
        }
    }

    #[test]
    fn nextest_counts_are_on_the_outer_tag() {
        let text = r#"<?xml version="1.0"?>
            <testsuites name="nextest-run" tests="7" failures="1" errors="1" uuid="x">
            <testsuite name="a" tests="3" disabled="0" errors="0" failures="0">"#;
        assert_eq!(Tally::from_junit(text), Some(tally(5, 2, 0)));
    }

    #[test]
    fn pytest_counts_are_on_the_inner_tag() {
        let text = r#"<?xml version="1.0"?><testsuites name="pytest tests"><testsuite
            name="pytest" errors="1" failures="2" skipped="3" tests="10" time="1.0">"#;
        assert_eq!(Tally::from_junit(text), Some(tally(4, 3, 3)));
    }

    #[test]
    fn a_text_without_counts_has_none() {
        assert_eq!(Tally::from_junit("<testsuites/>"), None);
        assert_eq!(Tally::from_junit(""), None);
    }

    #[test]
    fn libtest_lines_add_up() {
        let mut sum = Tally::default();
        for line in [
            "running 4 tests",
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.1s",
            "test result: FAILED. 2 passed; 5 failed; 0 ignored; 0 measured; 9 filtered out",
        ] {
            sum.add_libtest_line(line);
        }
        assert_eq!(sum, tally(5, 5, 1));
    }

    #[test]
    fn skipped_tests_are_named_only_if_there_are_any() {
        assert_eq!(tally(2, 0, 0).to_string(), "2 passed, 0 failed");
        assert_eq!(tally(2, 1, 3).to_string(), "2 passed, 1 failed, 3 skipped");
    }
}
