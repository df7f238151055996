//! Makes the strategic merge patch that leads from one version of an object to another.

use super::order::position;
use super::strategic::{item_type, member, strategy};
use super::{DELETE_FROM, DIRECTIVE, PatchError, RETAIN_KEYS, SET_ORDER, no_merge_key};
use crate::schema::{Root, Schema, Strategy, Type};
use serde_json::{Map, Value, json};

/// Which differences go into the patch.
#[derive(Clone, Copy)]
pub(super) struct Wanted {
    /// What the second version has and the first has not, or has otherwise.
    pub additions: bool,
    /// What only the first version has.
    pub deletions: bool,
    /// The order of merged lists.
    pub order: bool,
}

/// The patch that makes `modified` of `original`.
pub fn create_two_way_merge_patch(root: Root<'_>, original: &Value, modified: &Value) -> Result<Value, PatchError> {
    objects(root, original, modified, Wanted { additions: true, deletions: true, order: false })
}

pub(super) fn objects(root: Root<'_>, original: &Value, modified: &Value, wanted: Wanted) -> Result<Value, PatchError> {
    let none = Map::new();
    let (original, modified) = (original.as_object().unwrap_or(&none), modified.as_object().unwrap_or(&none));
    Diff { schema: root.schema, wanted }.maps(&root.ty(), original, modified, false).map(Value::Object)
}

struct Diff<'s> {
    schema: &'s Schema,
    wanted: Wanted,
}

impl Diff<'_> {
    fn maps(
        &self,
        ty: &Type,
        original: &Map<String, Value>,
        modified: &Map<String, Value>,
        retain: bool,
    ) -> Result<Map<String, Value>, PatchError> {
        let mut patch = Map::new();
        for (name, new) in modified {
            let (ty, field) = member(self.schema, ty, name);
            let strategy = strategy(field);
            match (original.get(name), new) {
                (Some(Value::Object(old)), Value::Object(new)) if !strategy.replace => {
                    let inner = self.maps(ty, old, new, strategy.retain_keys)?;
                    if !inner.is_empty() {
                        patch.insert(name.clone(), Value::Object(inner));
                    }
                }
                (Some(Value::Array(old)), Value::Array(new)) if strategy.merge => {
                    self.lists(&mut patch, name, item_type(ty), old, new, &strategy)?
                }
                (Some(old), new) if old == new => {}
                _ if self.wanted.additions => drop(patch.insert(name.clone(), new.clone())),
                _ => {}
            }
        }
        if self.wanted.deletions {
            for name in original.keys().filter(|k| !modified.contains_key(*k)) {
                patch.insert(name.clone(), Value::Null);
            }
        }
        if retain && !patch.is_empty() {
            patch.insert(RETAIN_KEYS.into(), modified.keys().cloned().collect());
        }
        Ok(patch)
    }

    fn lists(
        &self,
        patch: &mut Map<String, Value>,
        name: &str,
        item: &Type,
        old: &[Value],
        new: &[Value],
        strategy: &Strategy,
    ) -> Result<(), PatchError> {
        if !old.iter().chain(new).any(Value::is_object) {
            self.scalars(patch, name, old, new);
            return Ok(());
        }
        let key = strategy.key.as_deref().ok_or_else(|| PatchError::Other(format!("cannot merge lists without merge key for {name}")))?;
        let (mut items, mut deleted) = (Vec::new(), Vec::new());
        for (at, value) in new.iter().enumerate() {
            let identity = value.get(key).ok_or_else(|| no_merge_key(value, key))?;
            match counterpart(old, new, at, key) {
                None if self.wanted.additions => items.push(value.clone()),
                None => {}
                Some(had) => {
                    let none = Map::new();
                    let mut inner =
                        self.maps(item, had.as_object().unwrap_or(&none), value.as_object().unwrap_or(&none), strategy.retain_keys)?;
                    if !inner.is_empty() {
                        inner.insert(key.to_owned(), identity.clone());
                        items.push(Value::Object(inner));
                    }
                }
            }
        }
        for (_, value) in old.iter().enumerate().filter(|(at, _)| self.wanted.deletions && counterpart(new, old, *at, key).is_none()) {
            let identity = value.get(key).ok_or_else(|| no_merge_key(value, key))?;
            deleted.push(json!({key: identity, DIRECTIVE: "delete"}));
        }
        let changed = !items.is_empty() || !deleted.is_empty() || !same_order(old, new, Some(key));
        items.extend(deleted);
        if self.wanted.order && changed && !new.is_empty() {
            let order = new.iter().map(|v| json!({key: v[key]})).collect();
            patch.insert(format!("{SET_ORDER}{name}"), order);
        }
        if !items.is_empty() {
            patch.insert(name.to_owned(), Value::Array(items));
        }
        Ok(())
    }

    fn scalars(&self, patch: &mut Map<String, Value>, name: &str, old: &[Value], new: &[Value]) {
        let only = |list: &[Value], other: &[Value]| -> Vec<Value> { list.iter().filter(|v| !other.contains(v)).cloned().collect() };
        let added = if self.wanted.additions { only(new, old) } else { Vec::new() };
        let deleted = if self.wanted.deletions { only(old, new) } else { Vec::new() };
        if self.wanted.order && !new.is_empty() && (!added.is_empty() || !deleted.is_empty() || !same_order(old, new, None)) {
            patch.insert(format!("{SET_ORDER}{name}"), new.into());
        }
        if !added.is_empty() {
            patch.insert(name.to_owned(), Value::Array(added));
        }
        if !deleted.is_empty() {
            patch.insert(format!("{DELETE_FROM}{name}"), Value::Array(deleted));
        }
    }
}

/// The item of `list` that the one at `at` of `other` is a version of. Where several have the same merge key, as a Service's ports of one number and two
/// protocols have, the first is a version of the first, and so on.
fn counterpart<'v>(list: &'v [Value], other: &[Value], at: usize, key: &str) -> Option<&'v Value> {
    let same = |item: &&Value| item.get(key) == other[at].get(key);
    list.iter().filter(same).nth(other[..at].iter().filter(same).count())
}

/// Whether what both lists have stands in the same order in both.
fn same_order(old: &[Value], new: &[Value], key: Option<&str>) -> bool {
    let common: Vec<usize> = new.iter().filter_map(|v| position(old, v, key)).collect();
    common.is_sorted()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::patch::strategic;
    use crate::schema;

    /// Applying the patch between two versions gives the second one.
    #[test]
    fn leads_from_one_to_the_other() {
        let root = schema::of_kind("apps/v1", "Deployment").expect("Deployment");
        let template = |spec: Value| json!({"metadata": {"name": "a"}, "spec": {"template": {"spec": spec}}});
        let versions = [
            template(
                json!({"containers": [{"name": "c", "image": "i", "env": [{"name": "A", "value": "1"}]}], "tolerations": [{"key": "a"}]}),
            ),
            template(
                json!({"containers": [{"name": "c", "image": "j", "args": ["x"]}, {"name": "d"}], "volumes": [{"name": "v", "emptyDir": {}}]}),
            ),
            template(
                json!({"containers": [{"name": "d"}], "volumes": [{"name": "v", "configMap": {"name": "m"}}], "nodeSelector": {"a": "b"}}),
            ),
            json!({"metadata": {"name": "a", "finalizers": ["a/b", "c/d"], "labels": {"x": "y"}}, "spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}),
            json!({"metadata": {"name": "a", "finalizers": ["c/d"]}, "spec": {"strategy": {"type": "Recreate"}}}),
        ];
        for old in &versions {
            for new in &versions {
                let patch = create_two_way_merge_patch(root, old, new).expect("patch");
                assert_eq!(&strategic(root, old.clone(), &patch).expect("applies"), new, "{old}\n{patch}");
                assert_eq!(patch == json!({}), old == new);
            }
        }
    }

    #[test]
    fn items_of_the_same_key_are_told_apart_by_their_turn() {
        let root = schema::of_kind("v1", "Service").expect("Service");
        let ports = |names: [&str; 2]| {
            let [udp, tcp] = names;
            json!({"spec": {"ports": [{"name": udp, "protocol": "UDP", "port": 53}, {"name": tcp, "protocol": "TCP", "port": 53}, {"name": "m", "port": 9153}]}})
        };
        let patch = create_two_way_merge_patch(root, &ports(["dns", "dns-tcp"]), &ports(["dns", "dns-tcp"])).expect("patch");
        assert_eq!(patch, json!({}));
        let patch = create_two_way_merge_patch(root, &ports(["dns", "dns-tcp"]), &ports(["dns", "other"])).expect("patch");
        assert_eq!(patch, json!({"spec": {"ports": [{"port": 53, "name": "other"}]}}));
    }

    #[test]
    fn directives() {
        let root = schema::of_kind("v1", "Pod").expect("Pod");
        let old = json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}], "volumes": [{"name": "v", "emptyDir": {}}]}});
        let new = json!({"spec": {"containers": [{"name": "b", "image": "i"}], "volumes": [{"name": "v", "configMap": {"name": "m"}}]}});
        let patch = create_two_way_merge_patch(root, &old, &new).expect("patch");
        let expected = json!({"spec": {
            "containers": [{"name": "b", "image": "i"}, {"name": "a", "$patch": "delete"}],
            "volumes": [{"name": "v", "configMap": {"name": "m"}, "emptyDir": null, "$retainKeys": ["configMap", "name"]}]}});
        assert_eq!(patch, expected);
    }
}
