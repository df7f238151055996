//! The order of API versions by their names: `v2` before `v1` before `v1beta1`, and whatever is not named so behind, by its text
//! (upstream: `apimachinery/pkg/version.CompareKubeAwareVersionStrings`).

use std::cmp::Ordering;

/// A version's parts: how stable it is, and its numbers.
fn parse(name: &str) -> Option<(u8, u64, u64)> {
    let rest = name.strip_prefix('v')?;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let major = rest[..digits].parse().ok()?;
    let number = |text: &str| text.parse::<u64>().ok();
    match &rest[digits..] {
        "" => Some((2, major, 0)),
        tail => match (tail.strip_prefix("beta"), tail.strip_prefix("alpha")) {
            (Some(minor), _) => Some((1, major, number(minor)?)),
            (_, Some(minor)) => Some((0, major, number(minor)?)),
            _ => None,
        },
    }
}

/// Which of two versions is the newer and more stable one: that is the greater.
pub fn compare(a: &str, b: &str) -> Ordering {
    match (parse(a), parse(b)) {
        (Some(a), Some(b)) => a.cmp(&b),
        (Some(_), None) => Ordering::Greater,
        (None, Some(_)) => Ordering::Less,
        (None, None) => b.cmp(a),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn stable_and_new_comes_first() {
        let mut names = vec!["foo1", "v1alpha1", "v1", "v12alpha1", "v2beta2", "v10", "v1beta1", "bar", "v2"];
        names.sort_by(|a, b| super::compare(b, a));
        assert_eq!(names, ["v10", "v2", "v1", "v2beta2", "v1beta1", "v12alpha1", "v1alpha1", "bar", "foo1"]);
    }
}
