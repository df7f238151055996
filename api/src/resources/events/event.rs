//! Event of `events.k8s.io`: the newer names for the fields of core events. Stored as those, so that each can be read through the other.

use crate::kind::Kind;
use crate::resource::{Cells, PrintContext};
use crate::resource::{NameRule, Resource, SelectableField, StorageVersion, texts};
use crate::resources::core::event::COLUMNS;
use k8s_openapi::api::core::v1::Event as CoreEvent;
use k8s_openapi::api::events::v1::Event;
use serde_json::Value;

/// The name of each field here, and in a core event. Everything else has the same name in both.
const NAMES: &[(&str, &str)] = &[
    ("deprecatedCount", "count"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedSource", "source"),
    ("note", "message"),
    ("regarding", "involvedObject"),
    ("reportingController", "reportingComponent"),
];

fn renamed(mut event: Value, api_version: &str, names: impl Iterator<Item = (&'static str, &'static str)>) -> Value {
    if let Some(fields) = event.as_object_mut() {
        for (from, to) in names {
            if let Some(value) = fields.remove(from) {
                fields.insert(to.to_owned(), value);
            }
        }
        fields.insert("apiVersion".to_owned(), api_version.into());
    }
    event
}

const STORAGE: StorageVersion = StorageVersion {
    group: "",
    version: "v1",
    to_storage: |event| renamed(event, "v1", NAMES.iter().copied()),
    from_storage: |event| renamed(event, "events.k8s.io/v1", NAMES.iter().map(|(here, core)| (*core, *here))),
};

impl Kind for Event {
    fn cells(&self, context: &PrintContext) -> Cells {
        let stored = (STORAGE.to_storage)(serde_json::to_value(self).expect("an event has string keys"));
        // The columns are those of the stored form; a rename of fields cannot make it undecodable.
        let core: CoreEvent = serde_json::from_value(stored).expect("an event by its other names is an event");
        Kind::cells(&core, context)
    }
}

fn selectable_fields() -> Vec<SelectableField> {
    let mut fields: Vec<_> = ["kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath"]
        .into_iter()
        .map(|f| {
            let label = format!("regarding.{f}");
            SelectableField { paths: vec![label.clone().into()].into(), label: label.into(), absent: "".into() }
        })
        .collect();
    fields.extend(["reason", "type"].map(SelectableField::at));
    fields.push(SelectableField::with("reportingController", &["reportingController"], ""));
    fields
}

/// The row.
pub fn row() -> Resource {
    Resource {
        short_names: texts(&["ev"]),
        name_rule: NameRule::PathSegment,
        selectable_fields: selectable_fields().into(),
        storage: Some(STORAGE),
        columns: COLUMNS.into(),
        ..Resource::of::<Event>()
    }
}

#[cfg(test)]
mod tests {
    use super::STORAGE;
    use serde_json::json;

    #[test]
    fn the_way_to_storage_and_back_changes_nothing() {
        let served = json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"}, "eventTime": "2026-01-01T00:00:00.000000Z",
            "regarding": {"kind": "Pod", "name": "p"}, "note": "n", "reportingController": "c", "reportingInstance": "i", "deprecatedCount": 3,
        });
        let stored = (STORAGE.to_storage)(served.clone());
        assert_eq!(stored["apiVersion"], "v1");
        assert_eq!(stored["involvedObject"], served["regarding"]);
        assert_eq!(stored["count"], 3);
        assert_eq!((STORAGE.from_storage)(stored), served);
    }
}
