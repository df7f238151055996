//! IPAddress: a cluster address that is taken, and by what.

use crate::field::{ErrorList, Path};
use crate::kind::Kind;
use crate::printer::{self, AGE, NAME, shown};
use crate::resource::{Cells, Column, NameRule, PrintContext, Resource, texts};
use crate::validation::IMMUTABLE;
use crate::validation::names::{dns1123_subdomain, path_segment};
use k8s_openapi::api::networking::v1::IPAddress;
use serde_json::json;

const COLUMNS: &[Column] = &[NAME, shown("ParentRef", "string"), AGE];

impl Kind for IPAddress {
    fn validate(&self, errors: &mut ErrorList) {
        let parent = &self.spec.parent_ref;
        let path = Path::new("spec").child("parentRef");
        let text = |part: &Option<String>| part.clone().unwrap_or_default();
        type Check = fn(&str) -> Vec<String>;
        // The core group's name is empty.
        let parts: [(&str, String, bool, Check); 4] = [
            ("group", text(&parent.group), false, dns1123_subdomain),
            ("resource", parent.resource.clone(), true, path_segment),
            ("name", parent.name.clone(), true, path_segment),
            ("namespace", text(&parent.namespace), false, path_segment),
        ];
        for (name, value, required, check) in parts {
            let path = path.child(name);
            match value.is_empty() {
                true if required => errors.required(&path, ""),
                true => {}
                false => check(&value).iter().for_each(|why| errors.invalid(&path, value.as_str(), why)),
            }
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut ErrorList) {
        if self.spec.parent_ref != old.spec.parent_ref {
            errors.invalid(&Path::new("spec").child("parentRef"), json!(self.spec.parent_ref), IMMUTABLE);
        }
    }

    fn cells(&self, context: &PrintContext) -> Cells {
        let parent = &self.spec.parent_ref;
        let given = |part: &Option<String>| part.clone().filter(|p| !p.is_empty());
        let mut text = parent.resource.clone();
        if let Some(group) = given(&parent.group) {
            text = format!("{text}.{group}");
        }
        if let Some(namespace) = given(&parent.namespace) {
            text = format!("{text}/{namespace}");
        }
        text = format!("{text}/{}", parent.name);
        vec![printer::name(&self.metadata), json!(text), printer::age(&self.metadata, context)]
    }
}

/// The row.
pub fn row() -> Resource {
    Resource { short_names: texts(&["ip"]), name_rule: NameRule::Address, columns: COLUMNS.into(), ..Resource::of::<IPAddress>() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_of_something_and_stays_so() {
        let address = |parent: serde_json::Value| -> IPAddress { serde_json::from_value(json!({"spec": {"parentRef": parent}})).unwrap() };
        let found = |address: &IPAddress, old: Option<&IPAddress>| {
            let mut errors = ErrorList::default();
            match old {
                Some(old) => address.validate_update(old, &mut errors),
                None => address.validate(&mut errors),
            }
            errors.0.iter().map(|e| format!("{}: {}", e.path, e.message)).collect::<Vec<_>>()
        };
        let good = address(json!({"resource": "services", "name": "s", "namespace": "ns"}));
        assert_eq!(found(&good, None), Vec::<String>::new());
        let empty = found(&address(json!({"resource": "", "name": ""})), None);
        assert_eq!(empty, ["spec.parentRef.resource: Required value", "spec.parentRef.name: Required value"]);
        let bad = found(&address(json!({"resource": "services", "name": "a/b", "group": "A"})), None);
        assert!(
            bad.len() == 2 && bad[0].starts_with("spec.parentRef.group: Invalid") && bad[1].starts_with("spec.parentRef.name: Invalid"),
            "{bad:?}"
        );
        let moved = found(&address(json!({"resource": "services", "name": "t", "namespace": "ns"})), Some(&good));
        assert!(moved.len() == 1 && moved[0].ends_with("field is immutable"), "{moved:?}");
    }
}
