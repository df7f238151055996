//! What claims ask for, as the search works on it: requests with their alternatives, each with its class.

use api::device_claims::tolerates;
use k8s_openapi::api::resource::v1::{
    CapacityRequirements, DeviceClass, DeviceRequest, DeviceSelector, DeviceTaint, DeviceToleration, ResourceClaim,
};
use std::sync::Arc;

/// What a request, or one of its alternatives, wants.
#[derive(Clone, Debug)]
pub struct Want {
    /// `request` or `request/alternative`.
    pub name: String,
    /// The class of its devices.
    pub class: Arc<DeviceClass>,
    /// How many; `None` is all that suit.
    pub count: Option<usize>,
    /// It may have devices that others have, to administer them.
    pub admin: bool,
    /// What its devices have to be like, besides what the class says.
    pub selectors: Vec<DeviceSelector>,
    /// The taints that do not matter to it.
    pub tolerations: Vec<DeviceToleration>,
    /// How much of a device it needs.
    pub capacity: Option<CapacityRequirements>,
}

/// The parts that a request and an alternative have in common.
struct Parts<'a> {
    class: &'a str,
    mode: &'a Option<String>,
    count: Option<i64>,
}

impl Want {
    fn of(name: String, parts: &Parts<'_>, class_of: &dyn Fn(&str) -> Option<Arc<DeviceClass>>, claim: &str) -> Result<Self, String> {
        let at = || format!("claim {claim}, request {}", name.rsplit('/').next().unwrap_or_default());
        if parts.class.is_empty() {
            return Err(format!("{}: missing device class name (unsupported request type?)", at()));
        }
        let class = class_of(parts.class);
        let class = class.ok_or_else(|| {
            let missing = parts.class;
            format!("{}: could not retrieve device class {missing}: deviceclass.resource.k8s.io {missing:?} not found", at())
        })?;
        let count = match parts.mode.as_deref() {
            Some("All") => None,
            Some("ExactCount") | None => Some(usize::try_from(parts.count.unwrap_or(1)).unwrap_or(usize::MAX)),
            Some(other) => return Err(format!("{}: unsupported count mode {other}", at())),
        };
        Ok(Want { name, class, count, admin: false, selectors: Vec::new(), tolerations: Vec::new(), capacity: None })
    }

    /// Whether a device's taints keep it from this request.
    pub fn is_kept_off(&self, taints: &[DeviceTaint]) -> bool {
        let effective = taints.iter().filter(|taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute"));
        effective.into_iter().any(|taint| !self.tolerations.iter().any(|toleration| tolerates(toleration, taint)))
    }
}

/// What a request wants: one alternative after the other, the first that can be had.
pub fn wants(request: &DeviceRequest, class_of: &dyn Fn(&str) -> Option<Arc<DeviceClass>>, claim: &str) -> Result<Vec<Want>, String> {
    if let Some(exactly) = &request.exactly {
        let parts = Parts { class: &exactly.device_class_name, mode: &exactly.allocation_mode, count: exactly.count };
        let want = Want {
            admin: exactly.admin_access == Some(true),
            selectors: exactly.selectors.clone().unwrap_or_default(),
            tolerations: exactly.tolerations.clone().unwrap_or_default(),
            capacity: exactly.capacity.clone(),
            ..Want::of(request.name.clone(), &parts, class_of, claim)?
        };
        return Ok(vec![want]);
    }
    let alternatives = request.first_available.iter().flatten().map(|alternative| {
        let parts = Parts { class: &alternative.device_class_name, mode: &alternative.allocation_mode, count: alternative.count };
        Ok(Want {
            selectors: alternative.selectors.clone().unwrap_or_default(),
            tolerations: alternative.tolerations.clone().unwrap_or_default(),
            capacity: alternative.capacity.clone(),
            ..Want::of(format!("{}/{}", request.name, alternative.name), &parts, class_of, claim)?
        })
    });
    alternatives.collect()
}

/// `namespace/name`.
pub fn described(claim: &ResourceClaim) -> String {
    let meta = &claim.metadata;
    format!("{}/{}", meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn taints_keep_devices_from_requests_that_do_not_tolerate_them() {
        for (tolerations, taint, kept_off) in [
            (json!([]), json!({"key": "k", "effect": "NoSchedule"}), true),
            (json!([]), json!({"key": "k", "effect": "None"}), false),
            (json!([{"operator": "Exists"}]), json!({"key": "k", "effect": "NoExecute"}), false),
            (json!([{"key": "k", "operator": "Equal", "value": "v"}]), json!({"key": "k", "value": "v", "effect": "NoSchedule"}), false),
            (json!([{"key": "k", "operator": "Equal", "value": "w"}]), json!({"key": "k", "value": "v", "effect": "NoSchedule"}), true),
            (json!([{"key": "k", "operator": "Exists", "effect": "NoExecute"}]), json!({"key": "k", "effect": "NoSchedule"}), true),
        ] {
            let request: DeviceRequest =
                serde_json::from_value(json!({"name": "r", "exactly": {"deviceClassName": "c", "tolerations": tolerations}})).unwrap();
            let class = |_: &str| Some(Arc::default());
            let wanted = wants(&request, &class, "ns/c").unwrap();
            assert_eq!(wanted[0].is_kept_off(&[serde_json::from_value(taint.clone()).unwrap()]), kept_off, "{tolerations} {taint}");
        }
    }

    #[test]
    fn requests_name_their_classes() {
        let wanted = |request: Value, known: bool| {
            let request: DeviceRequest = serde_json::from_value(request).unwrap();
            let class = |_: &str| known.then(Arc::default);
            wants(&request, &class, "ns/c").map(|wants| wants.into_iter().map(|w| (w.name, w.count)).collect::<Vec<_>>())
        };
        let exactly = json!({"name": "r", "exactly": {"deviceClassName": "k", "allocationMode": "All"}});
        assert_eq!(wanted(exactly.clone(), true), Ok(vec![("r".to_owned(), None)]));
        let why = "claim ns/c, request r: could not retrieve device class k: deviceclass.resource.k8s.io \"k\" not found";
        assert_eq!(wanted(exactly, false), Err(why.to_owned()));
        let first = json!([{"name": "a", "deviceClassName": "k", "count": 2}, {"name": "b", "deviceClassName": "k"}]);
        let expected = vec![("r/a".to_owned(), Some(2)), ("r/b".to_owned(), Some(1))];
        assert_eq!(wanted(json!({"name": "r", "firstAvailable": first}), true), Ok(expected));
    }
}
