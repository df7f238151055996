//! Event: what happened to an object, told once and then counted. Served under `events.k8s.io` too, where the same object has other field names.

use crate::field::{ErrorList, Path};
use crate::kind::Kind;
use crate::printer::{self, WIDE_NAME, shown, wide};
use crate::resource::{Cells, Column, PrintContext};
use crate::resource::{NameRule, Resource, SelectableField, texts};
use k8s_openapi::api::core::v1::Event;
use k8s_openapi::jiff::Timestamp;
use serde_json::json;

impl Kind for Event {
    fn validate(&self, errors: &mut ErrorList) {
        // An event about something of the cluster is in the default namespace, any other beside what it is about.
        let about = self.involved_object.namespace.as_deref().unwrap_or("");
        let namespace = self.metadata.namespace.as_deref().unwrap_or("");
        let path = Path::new("involvedObject").child("namespace");
        let fits = if about.is_empty() { matches!(namespace, "default" | "kube-system" | "") } else { about == namespace };
        if !fits {
            errors.invalid(&path, about, "does not match event.namespace");
        }
    }

    fn cells(&self, context: &PrintContext) -> Cells {
        let series = self.series.as_ref();
        let first = self.first_timestamp.as_ref().map(|t| t.0).or_else(|| self.event_time.as_ref().map(|t| t.0));
        let last = series.and_then(|s| s.last_observed_time.as_ref()).map(|t| t.0);
        let last = last.or_else(|| self.last_timestamp.as_ref().map(|t| t.0)).or(first);
        let since = |time: Option<Timestamp>| time.map_or(printer::UNKNOWN.into(), |t| printer::since_timestamp(t, context));
        let count = series.and_then(|s| s.count).or(self.count).filter(|c| *c > 0).unwrap_or(1);
        let component = self.source.as_ref().and_then(|s| s.component.clone()).filter(|c| !c.is_empty());
        let (component, host) = match component {
            Some(component) => (component, self.source.as_ref().and_then(|s| s.host.clone())),
            None => (self.reporting_component.clone().unwrap_or_default(), self.reporting_instance.clone()),
        };
        let source = match host.filter(|h| !h.is_empty()) {
            Some(host) => format!("{component}, {host}"),
            None => component,
        };
        let object = &self.involved_object;
        let kind = object.kind.as_deref().unwrap_or("").to_lowercase();
        let name = object.name.as_deref().unwrap_or("");
        let target = if name.is_empty() { kind } else { format!("{kind}/{name}") };
        vec![
            json!(since(last)),
            json!(self.type_.as_deref().unwrap_or("")),
            json!(self.reason.as_deref().unwrap_or("")),
            json!(target),
            json!(object.field_path.as_deref().unwrap_or("")),
            json!(source),
            json!(self.message.as_deref().unwrap_or("").trim()),
            json!(since(first)),
            json!(count),
            printer::name(&self.metadata),
        ]
    }
}

/// The columns of events, in both groups.
pub const COLUMNS: &[Column] = &[
    shown("Last Seen", "string"),
    shown("Type", "string"),
    shown("Reason", "string"),
    shown("Object", "string"),
    wide("Subobject", "string"),
    wide("Source", "string"),
    shown("Message", "string"),
    wide("First Seen", "string"),
    wide("Count", "string"),
    WIDE_NAME,
];

fn selectable_fields() -> Vec<SelectableField> {
    let same = [
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.resourceVersion",
        "involvedObject.fieldPath",
        "reason",
        "reportingComponent",
        "type",
    ];
    let mut fields = same.map(SelectableField::at).to_vec();
    fields.push(SelectableField::with("source", &["source.component", "reportingComponent"], ""));
    fields
}

/// The row.
pub fn row() -> Resource {
    Resource {
        short_names: texts(&["ev"]),
        name_rule: NameRule::PathSegment,
        selectable_fields: selectable_fields().into(),
        columns: COLUMNS.into(),
        ..Resource::of::<Event>()
    }
}
