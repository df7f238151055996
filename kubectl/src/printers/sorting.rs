//! `--sort-by`: objects or table rows by the value at a path (upstream: `kubectl/pkg/cmd/get/sorter.go`).

use crate::error::{Result, message};
use crate::jsonpath::{JsonPath, Options};
use serde_json::Value;
use std::cmp::Ordering;

/// Sorts `items` by the value that `field` has in the object `of` each; stable.
pub fn sort<T>(items: &mut Vec<T>, field: &str, of: impl Fn(&T) -> &Value) -> Result<()> {
    let path = JsonPath::relaxed(field).map_err(message)?;
    let options = Options { allow_missing_keys: true, json: false };
    let mut keyed: Vec<(Option<Value>, T)> = Vec::new();
    let mut found_any = items.is_empty();
    for item in items.drain(..) {
        let found = path.find(of(&item), options).map_err(message)?;
        let key = found.into_iter().next().and_then(|r| r.into_iter().next());
        found_any |= key.is_some();
        keyed.push((key, item));
    }
    if !found_any {
        return Err(message(format!(
            "couldn't find any field with path {:?} in the list of objects",
            crate::jsonpath::relax(field).map_err(message)?
        )));
    }
    keyed.sort_by(|(a, _), (b, _)| compare(a.as_ref(), b.as_ref()));
    items.extend(keyed.into_iter().map(|(_, item)| item));
    Ok(())
}

fn compare(a: Option<&Value>, b: Option<&Value>) -> Ordering {
    match (a, b) {
        (None | Some(Value::Null), None | Some(Value::Null)) => Ordering::Equal,
        (None | Some(Value::Null), _) => Ordering::Less,
        (_, None | Some(Value::Null)) => Ordering::Greater,
        (Some(Value::Number(x)), Some(Value::Number(y))) => x.as_f64().partial_cmp(&y.as_f64()).unwrap_or(Ordering::Equal),
        (Some(Value::String(x)), Some(Value::String(y))) => match (x.parse::<jiff::Timestamp>(), y.parse::<jiff::Timestamp>()) {
            (Ok(s), Ok(t)) => s.cmp(&t),
            _ => match (quantity(x), quantity(y)) {
                (Some(s), Some(t)) => s.partial_cmp(&t).unwrap_or(Ordering::Equal),
                _ => natural(x, y),
            },
        },
        (Some(Value::Bool(x)), Some(Value::Bool(y))) => x.cmp(y),
        (Some(x), Some(y)) => x.to_string().cmp(&y.to_string()),
    }
}

/// The size of a text that is a quantity: `250m`, `1Gi`.
fn quantity(text: &str) -> Option<f64> {
    const SUFFIXES: [(&str, f64); 12] = [
        ("Ki", 1024.0),
        ("Mi", 1_048_576.0),
        ("Gi", 1_073_741_824.0),
        ("Ti", 1_099_511_627_776.0),
        ("Pi", 1.125_899_906_842_624e15),
        ("n", 1e-9),
        ("u", 1e-6),
        ("m", 1e-3),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
    ];
    let (number, factor) = SUFFIXES.iter().find_map(|(s, f)| text.strip_suffix(s).map(|n| (n, *f))).unwrap_or((text, 1.0));
    let plausible = number.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.'));
    number.parse::<f64>().ok().filter(|_| plausible).map(|n| n * factor)
}

/// Runs of digits compare as numbers.
fn natural(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a, b);
    loop {
        let run = |s: &str| s.bytes().take_while(u8::is_ascii_digit).count();
        let (m, n) = (run(a), run(b));
        if m > 0 && n > 0 {
            let (x, y) = (a[..m].trim_start_matches('0'), b[..n].trim_start_matches('0'));
            let order = x.len().cmp(&y.len()).then(x.cmp(y));
            if order.is_ne() {
                return order;
            }
            (a, b) = (&a[m..], &b[n..]);
            continue;
        }
        match (a.chars().next(), b.chars().next()) {
            (None, None) => return Ordering::Equal,
            (None, _) => return Ordering::Less,
            (_, None) => return Ordering::Greater,
            (Some(x), Some(y)) if x != y => return x.cmp(&y),
            (Some(x), Some(_)) => (a, b) = (&a[x.len_utf8()..], &b[x.len_utf8()..]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_sort_by_what_they_are() {
        let mut items = vec![json!({"k": "pod-10"}), json!({"k": "pod-9"}), json!({})];
        sort(&mut items, ".k", |i| i).unwrap();
        assert_eq!(items, [json!({}), json!({"k": "pod-9"}), json!({"k": "pod-10"})]);
        let mut items = vec![json!({"k": "1Gi"}), json!({"k": "500Mi"})];
        sort(&mut items, "{.k}", |i| i).unwrap();
        assert_eq!(items[0]["k"], "500Mi");
        assert_eq!(
            sort(&mut vec![json!({})], "{.z}", |i| i).unwrap_err().text(),
            "error: couldn't find any field with path \"{.z}\" in the list of objects\n"
        );
    }
}
