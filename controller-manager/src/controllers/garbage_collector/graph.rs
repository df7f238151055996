//! Who owns whom: the objects of all kinds with their owner references, as the watches tell. No IO.
//!
//! An object is known by its UID. Every change answers with the UIDs that have to be looked at because of it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The finalizer of an object whose dependents go first.
pub const FOREGROUND: &str = "foregroundDeletion";
/// The finalizer of an object whose dependents stay.
pub const ORPHAN: &str = "orphan";

/// A kind, by `apiVersion` and `kind`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KindName {
    /// `apps/v1`.
    pub api_version: String,
    /// `Deployment`.
    pub kind: String,
}

impl KindName {
    /// `apps`; the version does not make another object.
    fn group(&self) -> &str {
        self.api_version.rsplit_once('/').map_or("", |(group, _)| group)
    }
}

/// One object.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// Its kind.
    pub kind: Arc<KindName>,
    /// Empty for objects of the cluster.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Whom it says it belongs to.
    pub owners: Vec<OwnerReference>,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Whether its dependents go first.
    pub foreground: bool,
    /// Whether its dependents stay.
    pub orphan: bool,
}

impl Object {
    /// From metadata.
    pub fn new(kind: Arc<KindName>, meta: &ObjectMeta) -> Self {
        let has = |finalizer: &str| meta.finalizers.iter().flatten().any(|f| f == finalizer);
        Self {
            kind,
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
            owners: meta.owner_references.clone().unwrap_or_default(),
            deleting: meta.deletion_timestamp.is_some(),
            foreground: has(FOREGROUND),
            orphan: has(ORPHAN),
        }
    }

    /// Whether it is waiting for its dependents to be gone.
    pub fn waits_for_dependents(&self) -> bool {
        self.deleting && self.foreground
    }

    /// Whether it waits for its dependents to be told that they have no owner any more.
    pub fn leaves_dependents(&self) -> bool {
        self.deleting && self.orphan
    }

    /// Whether its reference to an owner holds that owner's deletion up.
    fn blocks(&self, owner: &str) -> bool {
        self.owners.iter().any(|reference| reference.uid == owner && reference.block_owner_deletion == Some(true))
    }

    /// Whether it is what a reference from an object of `namespace` names.
    pub fn is_meant_by(&self, reference: &OwnerReference, namespace: &str) -> bool {
        let kind = KindName { api_version: reference.api_version.clone(), kind: reference.kind.clone() };
        let same_kind = kind.group() == self.kind.group() && kind.kind == self.kind.kind;
        let reachable = self.namespace.is_empty() || self.namespace == namespace;
        reference.uid == self.uid && reference.name == self.name && same_kind && reachable
    }
}

/// All objects, in an order that does not depend on chance. Of each only what is above is kept.
#[derive(Default)]
pub struct Graph {
    objects: BTreeMap<String, Object>,
    /// By the owner's UID, whether the owner is known or not.
    dependents: BTreeMap<String, BTreeSet<String>>,
}

impl Graph {
    /// The object with that UID.
    pub fn get(&self, uid: &str) -> Option<&Object> {
        self.objects.get(uid)
    }

    /// The objects that say they belong to it.
    pub fn dependents(&self, uid: &str) -> Vec<Object> {
        self.dependents.get(uid).into_iter().flatten().filter_map(|dependent| self.objects.get(dependent)).cloned().collect()
    }

    /// Those of them that hold its deletion up.
    pub fn blocking_dependents(&self, uid: &str) -> Vec<Object> {
        self.dependents(uid).into_iter().filter(|dependent| dependent.blocks(uid)).collect()
    }

    /// The UIDs of a kind's objects.
    pub fn of_kind(&self, kind: &KindName) -> Vec<String> {
        self.objects.values().filter(|object| *object.kind == *kind).map(|object| object.uid.clone()).collect()
    }

    /// The UIDs of what has to be looked at once all is known, for it may have come about while nobody watched: objects with an owner that is not known, and
    /// deletions that wait for dependents.
    pub fn unsettled(&self) -> Vec<String> {
        let unknown = self.dependents.iter().filter(|(owner, _)| !self.objects.contains_key(*owner));
        let waiting = self.objects.values().filter(|object| object.waits_for_dependents() || object.leaves_dependents());
        unknown.flat_map(|(_, dependents)| dependents.iter().cloned()).chain(waiting.map(|object| object.uid.clone())).collect()
    }

    /// An object is there or has changed.
    pub fn apply(&mut self, object: Object) -> Vec<String> {
        let mut look = Vec::new();
        let old = self.objects.insert(object.uid.clone(), object.clone());
        let before: BTreeSet<String> = old.iter().flat_map(|old| old.owners.iter().map(|owner| owner.uid.clone())).collect();
        let after: BTreeSet<String> = object.owners.iter().map(|owner| owner.uid.clone()).collect();
        for gone in before.difference(&after) {
            self.unlink(gone, &object.uid);
        }
        for owner in after.difference(&before) {
            self.dependents.entry(owner.clone()).or_default().insert(object.uid.clone());
        }
        // An owner that waits may have one less to wait for.
        look.extend(before.union(&after).filter(|owner| self.get(owner).is_some_and(Object::waits_for_dependents)).cloned());
        let new_owners = before != after || old.is_none();
        let owner_trouble = after.iter().any(|owner| self.get(owner).is_none_or(Object::waits_for_dependents));
        if new_owners && owner_trouble {
            look.push(object.uid.clone());
        }
        let started = |is: fn(&Object) -> bool| is(&object) && !old.as_ref().is_some_and(is);
        if started(Object::waits_for_dependents) {
            look.push(object.uid.clone());
            look.extend(self.dependents.get(&object.uid).into_iter().flatten().cloned());
        }
        if started(Object::leaves_dependents) {
            look.push(object.uid.clone());
        }
        look
    }

    /// An object is gone.
    pub fn remove(&mut self, uid: &str) -> Vec<String> {
        let Some(object) = self.objects.remove(uid) else { return Vec::new() };
        for owner in &object.owners {
            self.unlink(&owner.uid, uid);
        }
        let dependents = self.dependents.get(uid).into_iter().flatten().cloned();
        let waiting =
            object.owners.iter().map(|owner| owner.uid.clone()).filter(|owner| self.get(owner).is_some_and(Object::waits_for_dependents));
        dependents.chain(waiting).collect()
    }

    fn unlink(&mut self, owner: &str, dependent: &str) {
        if let Some(dependents) = self.dependents.get_mut(owner) {
            dependents.remove(dependent);
            if dependents.is_empty() {
                self.dependents.remove(owner);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(uid: &str, blocking: bool) -> OwnerReference {
        OwnerReference {
            api_version: "v1".into(),
            kind: "Thing".into(),
            name: uid.into(),
            uid: uid.into(),
            block_owner_deletion: Some(blocking),
            controller: None,
        }
    }

    fn object(uid: &str, owners: &[&str]) -> Object {
        Object {
            kind: Arc::new(KindName { api_version: "v1".into(), kind: "Thing".into() }),
            namespace: "ns".into(),
            name: uid.into(),
            uid: uid.into(),
            owners: owners.iter().map(|owner| reference(owner, true)).collect(),
            deleting: false,
            foreground: false,
            orphan: false,
        }
    }

    fn sorted(mut uids: Vec<String>) -> Vec<String> {
        uids.sort();
        uids.dedup();
        uids
    }

    #[test]
    fn whom_to_look_at() {
        let mut graph = Graph::default();
        assert_eq!(graph.apply(object("owner", &[])), [] as [&str; 0]);
        assert_eq!(graph.apply(object("a", &["owner"])), [] as [&str; 0]);
        assert_eq!(graph.apply(object("b", &["owner", "unknown"])), ["b"], "an owner that nobody knows");
        assert_eq!(graph.unsettled(), ["b"]);
        assert_eq!(sorted(graph.remove("owner")), ["a", "b"], "its dependents");

        let mut graph = Graph::default();
        graph.apply(object("owner", &[]));
        graph.apply(object("a", &["owner"]));
        let waiting = Object { deleting: true, foreground: true, ..object("owner", &[]) };
        assert_eq!(sorted(graph.apply(waiting.clone())), ["a", "owner"], "it starts to wait");
        assert_eq!(graph.unsettled(), ["owner"], "whoever comes later finds it waiting");
        assert_eq!(graph.apply(waiting), [] as [&str; 0], "once");
        assert_eq!(sorted(graph.apply(object("late", &["owner"]))), ["late", "owner"]);
        graph.remove("late");
        assert_eq!(graph.blocking_dependents("owner").len(), 1);
        assert_eq!(graph.remove("a"), ["owner"], "one less to wait for");
        assert!(graph.blocking_dependents("owner").is_empty());

        let mut graph = Graph::default();
        graph.apply(object("owner", &[]));
        assert_eq!(graph.apply(Object { deleting: true, orphan: true, ..object("owner", &[]) }), ["owner"]);
        assert_eq!(graph.unsettled(), ["owner"]);
    }

    #[test]
    fn a_reference_means_one_object() {
        let known = object("u", &[]);
        assert!(known.is_meant_by(&reference("u", false), "ns"));
        assert!(!known.is_meant_by(&reference("u", false), "elsewhere"), "owners are in the same namespace or in none");
        let other_kind = OwnerReference { kind: "Other".into(), ..reference("u", false) };
        assert!(!known.is_meant_by(&other_kind, "ns"));
    }
}
