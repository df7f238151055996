//! Semantic versions (semver.org, 2.0.0).

use super::super::value::{Semver, Val};
use super::{Outcome, failed};
use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

impl Semver {
    /// Reads a version. `lenient` takes a leading `v` and missing parts.
    pub fn parse(text: &str, lenient: bool) -> Option<Self> {
        let text = if lenient { text.strip_prefix('v').unwrap_or(text) } else { text };
        let (rest, build) = text.split_once('+').map_or((text, ""), |(rest, build)| (rest, build));
        let (core, pre) = rest.split_once('-').map_or((rest, None), |(core, pre)| (core, Some(pre)));
        let mut numbers = [0; 3];
        let parts: Vec<&str> = core.split('.').collect();
        if parts.len() > 3 || (parts.len() < 3 && !lenient) {
            return None;
        }
        for (number, part) in numbers.iter_mut().zip(parts) {
            if !part.bytes().all(|b| b.is_ascii_digit()) || (part.len() > 1 && part.starts_with('0') && !lenient) {
                return None;
            }
            *number = part.parse().ok()?;
        }
        let identifier = |p: &str| !p.is_empty() && p.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        let pre: Vec<String> = pre.map_or_else(Vec::new, |p| p.split('.').map(str::to_owned).collect());
        let leading_zero = |p: &String| p.len() > 1 && p.starts_with('0') && p.bytes().all(|b| b.is_ascii_digit());
        let fine = pre.iter().all(|p| identifier(p) && !leading_zero(p)) && (build.is_empty() || build.split('.').all(identifier));
        fine.then(|| Semver { numbers, pre, build: build.to_owned() })
    }

    /// The order of two versions; what follows `+` does not count.
    pub fn compare(&self, other: &Semver) -> Ordering {
        let pre = || match (self.pre.is_empty(), other.pre.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => {
                let parts = self.pre.iter().zip(&other.pre).map(|(a, b)| match (a.parse::<u64>(), b.parse::<u64>()) {
                    (Ok(a), Ok(b)) => a.cmp(&b),
                    (Ok(_), Err(_)) => Ordering::Less,
                    (Err(_), Ok(_)) => Ordering::Greater,
                    _ => a.cmp(b),
                });
                parts.into_iter().find(|o| o.is_ne()).unwrap_or_else(|| self.pre.len().cmp(&other.pre.len()))
            }
        };
        self.numbers.cmp(&other.numbers).then_with(pre)
    }
}

impl fmt::Display for Semver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch] = self.numbers;
        write!(f, "{major}.{minor}.{patch}")?;
        if !self.pre.is_empty() {
            write!(f, "-{}", self.pre.join("."))?;
        }
        if self.build.is_empty() { Ok(()) } else { write!(f, "+{}", self.build) }
    }
}

/// `semver(text)` and `isSemver(text)`.
pub(super) fn parse<'a>(name: &str, text: &str, lenient: bool) -> Outcome<'a> {
    match (name, Semver::parse(text, lenient)) {
        ("isSemver", parsed) => Ok(Val::Bool(parsed.is_some())),
        (_, Some(version)) => Ok(Val::Semver(Arc::new(version))),
        (_, None) => failed(format!("No Major.Minor.Patch elements found in {text:?}")),
    }
}

/// A function of a version.
pub(super) fn call<'a>(name: &str, values: &[Val<'a>]) -> Option<Outcome<'a>> {
    let [Val::Semver(version), rest @ ..] = values else { return None };
    let part = |n: usize| Val::Int(i64::try_from(version.numbers[n]).unwrap_or(i64::MAX));
    Some(Ok(match (name, rest) {
        ("major", []) => part(0),
        ("minor", []) => part(1),
        ("patch", []) => part(2),
        ("isGreaterThan", [Val::Semver(other)]) => Val::Bool(version.compare(other).is_gt()),
        ("isLessThan", [Val::Semver(other)]) => Val::Bool(version.compare(other).is_lt()),
        ("compareTo", [Val::Semver(other)]) => Val::Int(version.compare(other) as i64),
        _ => return None,
    }))
}
