//! `$(NAME)` in commands, arguments and environment values (upstream: `third_party/forked/golang/expansion`).

/// Replaces every `$(NAME)` that `lookup` knows; others stay as they stand, and `$$` becomes `$`, so `$$(NAME)` escapes.
pub fn expand(input: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(input.len());
    let mut rest = input;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(tail) = after.strip_prefix('$') {
            out.push('$');
            rest = tail;
        } else if let Some(end) = after.strip_prefix('(').and_then(|inner| inner.find(')')) {
            let name = &after[1..=end];
            match lookup(name) {
                Some(value) => out.push_str(&value),
                None => out.push_str(&rest[at..at + end + 3]),
            }
            rest = &after[end + 2..];
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

/// The same where every name has to have a value, as in `subPathExpr`. The error names those that have none, as upstream does.
pub fn expand_all(input: &str, lookup: impl Fn(&str) -> Option<String>) -> Result<String, String> {
    let missing = std::cell::RefCell::new(std::collections::BTreeSet::new());
    let expanded = expand(input, |name| {
        let value = lookup(name).filter(|value| !value.is_empty());
        if value.is_none() {
            missing.borrow_mut().insert(name.to_owned());
        }
        value
    });
    let missing = missing.into_inner();
    if missing.is_empty() {
        return Ok(expanded);
    }
    Err(format!("missing value for {}", missing.into_iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ")))
}

#[cfg(test)]
mod tests {
    use super::{expand, expand_all};

    #[test]
    fn where_all_must_have_a_value_the_missing_are_named() {
        let lookup = |name: &str| Some(if name == "A" { "1" } else { "" }.to_owned());
        assert_eq!(expand_all("$(A)/x", lookup), Ok("1/x".into()));
        assert_eq!(expand_all("$(C)/$(A)/$(B)", lookup), Err("missing value for \"B\", \"C\"".into()));
    }

    #[test]
    fn references_are_replaced_and_escapes_undone() {
        let lookup = |name: &str| match name {
            "A" => Some("1".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        for (given, want) in [
            ("plain", "plain"),
            ("$(A)", "1"),
            ("x$(A)y$(A)", "x1y1"),
            ("$(EMPTY)|", "|"),
            ("$(B)", "$(B)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$(A", "$(A"),
            ("$A $", "$A $"),
            ("$()", "$()"),
            ("$(A))", "1)"),
        ] {
            assert_eq!(expand(given, lookup), want, "{given}");
        }
    }
}
