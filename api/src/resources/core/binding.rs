//! Binding: a decision of the scheduler: which node a pod runs on. It can only be created, and what is stored is the pod.

use crate::field::{ErrorList, Path};
use crate::kind::Kind;
use crate::resource::{CREATE_ONLY, Resource};
use k8s_openapi::api::core::v1::Binding;

impl Kind for Binding {
    fn validate(&self, errors: &mut ErrorList) {
        let path = Path::new("target");
        if let Some(kind) = self.target.kind.as_deref().filter(|k| !k.is_empty() && *k != "Node") {
            errors.not_supported(&path.child("kind"), kind, &["Node", "<empty>"]);
        }
        if self.target.name.as_deref().is_none_or(str::is_empty) {
            errors.required(&path.child("name"), "");
        }
    }
}

/// The row.
pub fn row() -> Resource {
    Resource { verbs: CREATE_ONLY.into(), ..Resource::of::<Binding>() }
}
