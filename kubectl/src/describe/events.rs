//! The events at the end of a description.

use super::Asker;
use super::writer::{Writer, ago, show};
use serde_json::Value;

/// The events of an object, oldest first.
pub fn table(asker: &Asker<'_>, object: &Value, quiet_when_empty: bool, w: &mut Writer) {
    let meta = &object["metadata"];
    let namespace = meta["namespace"].as_str().unwrap_or("");
    let mut fields = format!("involvedObject.name={}", show(&meta["name"]));
    if !namespace.is_empty() {
        fields += &format!(",involvedObject.namespace={namespace}");
    }
    fields += &format!(",involvedObject.kind={}", show(&object["kind"]));
    // Events about a node carry its name in place of a UID.
    if object["kind"] != "Node" && !meta["uid"].is_null() {
        fields += &format!(",involvedObject.uid={}", show(&meta["uid"]));
    }
    let path = if namespace.is_empty() { "/api/v1/events".to_owned() } else { format!("/api/v1/namespaces/{namespace}/events") };
    let mut events = asker.list(&path, "", &fields);
    if events.is_empty() {
        if !quiet_when_empty {
            w.line(0, "Events:\t<none>");
        }
        return;
    }
    events.sort_by_key(when);
    w.line(0, "Events:");
    w.line(1, "Type\tReason\tAge\tFrom\tMessage");
    w.line(1, "----\t------\t----\t----\t-------");
    for e in &events {
        let message = show(&e["message"]).trim().to_owned();
        w.line(1, format!("{}\t{}\t{}\t{}\t{message}", show(&e["type"]), show(&e["reason"]), interval(e, asker.now), source(e)));
    }
}

/// When an event last happened.
pub fn when(e: &Value) -> String {
    ["lastTimestamp", "eventTime", "firstTimestamp"].iter().find_map(|f| e[*f].as_str()).unwrap_or("").to_owned()
}

/// Who reported it.
pub fn source(e: &Value) -> String {
    match e["source"]["component"].as_str().filter(|s| !s.is_empty()) {
        Some(component) => component.to_owned(),
        None => show(&e["reportingComponent"]),
    }
}

/// `3s`, or `3s (x4 over 1m)`.
pub fn interval(e: &Value, now: i64) -> String {
    let first = e["firstTimestamp"].as_str().or(e["eventTime"].as_str());
    let first = first.map_or("<unknown>".to_owned(), |t| crate::printers::table::age(t, now));
    let series = &e["series"];
    if let Some(count) = series["count"].as_i64() {
        return format!("{} (x{count} over {first})", ago(&series["lastObservedTime"], now));
    }
    match e["count"].as_i64() {
        Some(count) if count > 1 => format!("{} (x{count} over {first})", ago(&e["lastTimestamp"], now)),
        _ => first,
    }
}
