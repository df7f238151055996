//! `/scale` of a custom resource: where in it the replicas and the selector stand (upstream: `pkg/registry/customresource/etcd.go`, `ScaleREST`).

use crate::field::{ErrorList, Path};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceSubresourceScale;
use serde_json::{Map, Value};

/// The paths, as names of fields one below the other.
#[derive(Clone, Debug)]
pub struct Scale {
    spec_replicas: Vec<String>,
    status_replicas: Vec<String>,
    selector: Option<Vec<String>>,
    spec_text: String,
    status_text: String,
}

fn steps(path: &str) -> Vec<String> {
    path.trim_start_matches('.').split('.').map(str::to_owned).collect()
}

fn find<'a>(object: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(object, |v, key| v.get(key))
}

impl Scale {
    pub(super) fn new(scale: &CustomResourceSubresourceScale) -> Self {
        Scale {
            spec_replicas: steps(&scale.spec_replicas_path),
            status_replicas: steps(&scale.status_replicas_path),
            selector: scale.label_selector_path.as_deref().filter(|p| !p.is_empty()).map(steps),
            spec_text: scale.spec_replicas_path.clone(),
            status_text: scale.status_replicas_path.clone(),
        }
    }

    /// The replicas wanted; an error where the object says nothing of them.
    pub fn wanted(&self, object: &Value) -> Result<i64, String> {
        let found = find(object, &self.spec_replicas).and_then(Value::as_i64);
        found.ok_or_else(|| format!("the spec replicas field {:?} does not exist", self.spec_text))
    }

    /// The replicas there are.
    pub fn present(&self, object: &Value) -> i64 {
        find(object, &self.status_replicas).and_then(Value::as_i64).unwrap_or(0)
    }

    /// The selector, as text.
    pub fn selector(&self, object: &Value) -> String {
        self.selector.as_ref().and_then(|p| find(object, p)).and_then(Value::as_str).unwrap_or_default().to_owned()
    }

    /// Writes the replicas wanted.
    pub fn set(&self, object: &mut Value, replicas: i64) {
        let Some((last, parents)) = self.spec_replicas.split_last() else { return };
        let mut at = object;
        for key in parents {
            if !at.get(key).is_some_and(Value::is_object) {
                at[key.as_str()] = Value::Object(Map::new());
            }
            at = &mut at[key.as_str()];
        }
        at[last.as_str()] = replicas.into();
    }

    /// Replicas are whole numbers that are not negative and fit.
    pub(super) fn validate(&self, object: &Value, errors: &mut ErrorList) {
        for (path, text) in [(&self.spec_replicas, &self.spec_text), (&self.status_replicas, &self.status_text)] {
            let Some(replicas) = find(object, path).and_then(Value::as_i64) else { continue };
            let at = Path::new(text);
            if replicas < 0 {
                errors.invalid(&at, replicas, "should be a non-negative integer");
            } else if replicas > i64::from(i32::MAX) {
                errors.invalid(&at, replicas, "should be less than or equal to 2147483647");
            }
        }
    }
}
