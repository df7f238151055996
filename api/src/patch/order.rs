//! The order of a merged list: what the patch names stands in the patch's order, what only the server has keeps its order among itself, and the two are
//! woven together by the server's order where it knows both (upstream: `normalizeElementOrder`).

use serde_json::Value;

/// What tells items apart: their merge key's value, or all of them for lists of scalars.
fn identity<'a>(item: &'a Value, key: Option<&str>) -> &'a Value {
    static NONE: Value = Value::Null;
    key.map_or(item, |k| item.get(k).unwrap_or(&NONE))
}

pub(super) fn position(list: &[Value], item: &Value, key: Option<&str>) -> Option<usize> {
    let wanted = identity(item, key);
    list.iter().position(|i| identity(i, key) == wanted)
}

/// Puts `merged` in order. `wanted` is the order of what the patch names, `server` the list as it was.
pub(super) fn arrange(merged: Vec<Value>, wanted: &[Value], server: &[Value], key: Option<&str>) -> Vec<Value> {
    let (mut named, mut rest): (Vec<Value>, Vec<Value>) = merged.into_iter().partition(|i| position(wanted, i, key).is_some());
    named.sort_by_key(|i| position(wanted, i, key));
    rest.sort_by_key(|i| position(server, i, key).unwrap_or(usize::MAX));
    let mut out = Vec::with_capacity(named.len() + rest.len());
    let (mut named, mut rest) = (named.into_iter().peekable(), rest.into_iter().peekable());
    loop {
        match (rest.peek(), named.peek()) {
            (Some(left), Some(right)) => {
                let before = matches!((position(server, left, key), position(server, right, key)), (Some(l), Some(r)) if l < r);
                out.extend(if before { rest.next() } else { named.next() });
            }
            (Some(_), None) => out.extend(rest.next()),
            (None, Some(_)) => out.extend(named.next()),
            (None, None) => return out,
        }
    }
}
