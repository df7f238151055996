//! Roles and bindings: an index by subject, kept up to date from the caches whenever it is asked
//! (upstream: `plugin/pkg/auth/authorizer/rbac`, `component-helpers/auth/rbac/validation/rule.go`).

use super::{Attributes, Authorizer, Decision, rule};
use crate::{
    authentication::{SERVICE_ACCOUNT_PREFIX, UserInfo},
    objects::{Change, Collection, Feed, Objects, decode},
};
use bytes::Bytes;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject};
use parking_lot::Mutex;
use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

/// The group of the kinds.
pub const GROUP: &str = "rbac.authorization.k8s.io";

/// A binding, of a namespace or (with none) of the cluster.
struct Binding {
    role: RoleRef,
    subjects: Vec<Subject>,
}

/// Namespace (empty for cluster scope) and name.
type Key = (String, String);

/// The bindings of each user and group in one namespace, or in the cluster.
#[derive(Default)]
struct Subjects {
    users: HashMap<String, BTreeSet<String>>,
    groups: HashMap<String, BTreeSet<String>>,
}

/// All roles and bindings. Changes by `put` and `remove` only, without IO.
#[derive(Default)]
struct Index {
    roles: HashMap<Key, Arc<[PolicyRule]>>,
    bindings: HashMap<Key, Binding>,
    by_subject: HashMap<String, Subjects>,
}

/// A rule that somebody holds, and by what.
struct Held<'a> {
    rules: &'a Arc<[PolicyRule]>,
    binding: (&'a str, &'a str),
    role: &'a RoleRef,
    subject: &'a Subject,
}

impl Held<'_> {
    /// `RBAC: allowed by RoleBinding "r/ns" of Role "r" to User "bob"`.
    fn reason(&self) -> String {
        let (namespace, name) = self.binding;
        let (kind, shown) =
            if namespace.is_empty() { ("ClusterRoleBinding", name.to_owned()) } else { ("RoleBinding", format!("{name}/{namespace}")) };
        let subject = match &self.subject.namespace {
            Some(namespace) if self.subject.kind == "ServiceAccount" => format!("{}/{namespace}", self.subject.name),
            _ => self.subject.name.clone(),
        };
        format!("RBAC: allowed by {kind} {shown:?} of {} {:?} to {} {subject:?}", self.role.kind, self.role.name, self.subject.kind)
    }
}

/// The user name that a subject stands for, or its group name.
enum Bound {
    User(String),
    Group(String),
    Nobody,
}

fn bound(subject: &Subject, namespace: &str) -> Bound {
    match subject.kind.as_str() {
        "User" => Bound::User(subject.name.clone()),
        "Group" => Bound::Group(subject.name.clone()),
        "ServiceAccount" => {
            let namespace = subject.namespace.as_deref().filter(|n| !n.is_empty()).unwrap_or(namespace);
            if namespace.is_empty() { Bound::Nobody } else { Bound::User(format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{}", subject.name)) }
        }
        _ => Bound::Nobody,
    }
}

impl Index {
    fn put_binding(&mut self, key: Key, binding: Binding) {
        self.remove_binding(&key);
        let subjects = self.by_subject.entry(key.0.clone()).or_default();
        for subject in &binding.subjects {
            let set = match bound(subject, &key.0) {
                Bound::User(user) => subjects.users.entry(user).or_default(),
                Bound::Group(group) => subjects.groups.entry(group).or_default(),
                Bound::Nobody => continue,
            };
            set.insert(key.1.clone());
        }
        self.bindings.insert(key, binding);
    }

    fn remove_binding(&mut self, key: &Key) {
        let Some(binding) = self.bindings.remove(key) else { return };
        let Some(subjects) = self.by_subject.get_mut(&key.0) else { return };
        for subject in &binding.subjects {
            let (sets, name) = match bound(subject, &key.0) {
                Bound::User(user) => (&mut subjects.users, user),
                Bound::Group(group) => (&mut subjects.groups, group),
                Bound::Nobody => continue,
            };
            if let Some(set) = sets.get_mut(&name) {
                set.remove(&key.1);
                if set.is_empty() {
                    sets.remove(&name);
                }
            }
        }
        if subjects.users.is_empty() && subjects.groups.is_empty() {
            self.by_subject.remove(&key.0);
        }
    }

    /// The names of a namespace's bindings for the user, in order.
    fn names<'a>(&'a self, user: &UserInfo, namespace: &str) -> BTreeSet<&'a String> {
        let Some(subjects) = self.by_subject.get(namespace) else { return BTreeSet::new() };
        let groups = user.groups.iter().filter_map(|g| subjects.groups.get(g));
        subjects.users.get(&user.name).into_iter().chain(groups).flatten().collect()
    }

    /// The rules behind a role reference; the name of what is missing otherwise.
    fn role(&self, reference: &RoleRef, namespace: &str) -> Result<&Arc<[PolicyRule]>, String> {
        let (kind, scope) = if reference.kind == "Role" { ("role", namespace) } else { ("clusterrole", "") };
        let found = self.roles.get(&(scope.to_owned(), reference.name.clone()));
        found.ok_or_else(|| format!("{kind}.{GROUP} {:?} not found", reference.name))
    }

    /// Visits what the user holds, cluster-wide and then in `namespace` unless that is empty, until `visit` is content. Answers what could not be resolved.
    fn visit<'a>(&'a self, user: &UserInfo, namespace: &'a str, mut visit: impl FnMut(Held<'a>) -> bool) -> Vec<String> {
        let mut errors = Vec::new();
        let scopes: &[&'a str] = if namespace.is_empty() { &[""] } else { &["", namespace] };
        for &scope in scopes {
            for name in self.names(user, scope) {
                let Some((key, binding)) = self.bindings.get_key_value(&(scope.to_owned(), name.clone())) else { continue };
                let mine = |s: &&Subject| match bound(s, scope) {
                    Bound::User(name) => name == user.name,
                    Bound::Group(group) => user.in_group(&group),
                    Bound::Nobody => false,
                };
                let Some(subject) = binding.subjects.iter().find(mine) else { continue };
                match self.role(&binding.role, scope) {
                    Ok(rules) if visit(Held { rules, binding: (scope, &key.1), role: &binding.role, subject }) => return errors,
                    Ok(_) => {}
                    Err(error) => errors.push(error),
                }
            }
        }
        errors
    }
}

/// How a kind's objects get into the index and out of it.
struct Source {
    collection: Collection,
    put: fn(&mut Index, Key, &Bytes),
    remove: fn(&mut Index, &Key),
    cluster: bool,
}

const SOURCES: [Source; 4] = [
    Source {
        collection: Collection::of(GROUP, "clusterroles"),
        put: |index, key, bytes| {
            let rules = decode::<ClusterRole>(bytes).and_then(|r| r.rules).unwrap_or_default();
            index.roles.insert(key, rules.into());
        },
        remove: |index, key| drop(index.roles.remove(key)),
        cluster: true,
    },
    Source {
        collection: Collection::of(GROUP, "roles"),
        put: |index, key, bytes| {
            let rules = decode::<Role>(bytes).and_then(|r| r.rules).unwrap_or_default();
            index.roles.insert(key, rules.into());
        },
        remove: |index, key| drop(index.roles.remove(key)),
        cluster: false,
    },
    Source {
        collection: Collection::of(GROUP, "clusterrolebindings"),
        put: |index, key, bytes| match decode::<ClusterRoleBinding>(bytes) {
            Some(b) => index.put_binding(key, Binding { role: b.role_ref, subjects: b.subjects.unwrap_or_default() }),
            None => index.remove_binding(&key),
        },
        remove: Index::remove_binding,
        cluster: true,
    },
    Source {
        collection: Collection::of(GROUP, "rolebindings"),
        put: |index, key, bytes| match decode::<RoleBinding>(bytes) {
            Some(b) => index.put_binding(key, Binding { role: b.role_ref, subjects: b.subjects.unwrap_or_default() }),
            None => index.remove_binding(&key),
        },
        remove: Index::remove_binding,
        cluster: false,
    },
];

impl Source {
    /// Forgets all of this kind.
    fn reset(&self, index: &mut Index) {
        let of_kind = |key: &&Key| key.0.is_empty() == self.cluster;
        let roles = index.roles.keys().filter(of_kind);
        let bindings = index.bindings.keys().filter(of_kind);
        let keys: Vec<Key> =
            if self.collection.plural.ends_with("bindings") { bindings.cloned().collect() } else { roles.cloned().collect() };
        keys.iter().for_each(|key| (self.remove)(index, key));
    }

    fn apply(&self, index: &mut Index, change: Change) {
        match change {
            Change::Reset => self.reset(index),
            Change::Put { namespace, name, object } => (self.put)(index, (namespace, name), &object),
            Change::Gone { namespace, name } => (self.remove)(index, &(namespace, name)),
        }
    }
}

/// The index and what keeps it up to date.
struct State {
    index: Index,
    feeds: Vec<(&'static Source, Box<dyn Feed>)>,
}

/// The RBAC authorizer.
pub struct Rbac(Mutex<State>);

impl Rbac {
    /// Reads roles and bindings from these objects.
    pub fn new(objects: &dyn Objects) -> Self {
        let feeds = SOURCES.iter().map(|source| (source, objects.feed(source.collection))).collect();
        Rbac(Mutex::new(State { index: Index::default(), feeds }))
    }

    /// Asks the index, after bringing it up to date. The lock is held for the few microseconds that takes.
    fn with<T>(&self, ask: impl FnOnce(&Index) -> T) -> T {
        let State { index, feeds } = &mut *self.0.lock();
        for (source, feed) in feeds {
            feed.drain(&mut |change| source.apply(index, change));
        }
        ask(index)
    }

    /// All rules that the user holds in a namespace (cluster-wide ones only, when it is empty), and what could not be resolved.
    pub fn rules_for(&self, user: &UserInfo, namespace: &str) -> (Vec<PolicyRule>, Vec<String>) {
        self.with(|index| {
            let mut rules = Vec::new();
            let errors = index.visit(user, namespace, |held| {
                rules.extend(held.rules.iter().cloned());
                false
            });
            (rules, errors)
        })
    }

    /// The rules of a role that a binding in `namespace` refers to.
    pub fn role_rules(&self, reference: &RoleRef, namespace: &str) -> Option<Vec<PolicyRule>> {
        self.with(|index| index.role(reference, namespace).map(|rules| rules.to_vec()).ok())
    }
}

impl Authorizer for Rbac {
    fn authorize(&self, attributes: &Attributes) -> Decision {
        self.with(|index| {
            let mut reason = None;
            let mut errors = index.visit(&attributes.user, &attributes.namespace, |held| {
                if held.rules.iter().any(|rule| rule::allows(rule, attributes)) {
                    reason = Some(held.reason());
                }
                reason.is_some()
            });
            if let Some(reason) = reason {
                return Decision::Allow(reason);
            }
            errors.dedup();
            Decision::NoOpinion(match errors.as_slice() {
                [] => String::new(),
                [one] => format!("RBAC: {one}"),
                many => format!("RBAC: [{}]", many.join(", ")),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::user, *};
    use crate::objects::Fixed;
    use serde_json::{Value, json};

    const ROLES: Collection = Collection::of(GROUP, "roles");
    const ROLE_BINDINGS: Collection = Collection::of(GROUP, "rolebindings");
    const CLUSTER_ROLE_BINDINGS: Collection = Collection::of(GROUP, "clusterrolebindings");

    fn role(verbs: &[&str]) -> Value {
        json!({"metadata": {"namespace": "ns", "name": "r"}, "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": verbs}]})
    }

    fn binding(kind: &str, role: &str, subject: Value) -> Value {
        json!({"metadata": {"namespace": "ns", "name": "b"}, "roleRef": {"apiGroup": GROUP, "kind": kind, "name": role}, "subjects": [subject]})
    }

    fn ask(rbac: &Rbac, user: UserInfo, verb: &str, namespace: &str) -> Decision {
        rbac.authorize(&Attributes {
            user,
            verb: verb.into(),
            resource_request: true,
            resource: "configmaps".into(),
            namespace: namespace.into(),
            ..Attributes::default()
        })
    }

    #[test]
    fn changes_count_from_the_next_question_on() {
        let objects = Fixed::default();
        let rbac = Rbac::new(&objects);
        let bob = || user("bob", &[]);
        let no = Decision::NoOpinion(String::new());
        assert_eq!(ask(&rbac, bob(), "list", "ns"), no);
        objects.put(ROLES, role(&["list"]));
        objects.put(ROLE_BINDINGS, binding("Role", "r", json!({"kind": "User", "name": "bob"})));
        let yes = Decision::Allow(r#"RBAC: allowed by RoleBinding "b/ns" of Role "r" to User "bob""#.into());
        assert_eq!(ask(&rbac, bob(), "list", "ns"), yes);
        assert_eq!(ask(&rbac, bob(), "list", "other"), no);
        assert_eq!(ask(&rbac, bob(), "list", ""), no);
        assert_eq!(ask(&rbac, bob(), "delete", "ns"), no);
        assert_eq!(ask(&rbac, user("eve", &[]), "list", "ns"), no);
        objects.put(ROLES, role(&["delete"]));
        assert_eq!(ask(&rbac, bob(), "list", "ns"), no);
        objects.put(ROLES, role(&["list"]));
        objects.put(ROLE_BINDINGS, binding("Role", "r", json!({"kind": "User", "name": "eve"})));
        assert_eq!(ask(&rbac, bob(), "list", "ns"), no);
        assert!(matches!(ask(&rbac, user("eve", &[]), "list", "ns"), Decision::Allow(_)));
        objects.remove(ROLE_BINDINGS, "ns", "b");
        assert_eq!(ask(&rbac, user("eve", &[]), "list", "ns"), no);
        assert!(rbac.0.lock().index.by_subject.is_empty(), "nothing is left behind");
    }

    #[test]
    fn a_missing_role_is_told_to_whom_it_was_meant_for() {
        let objects = Fixed::default();
        objects.put(ROLE_BINDINGS, binding("ClusterRole", "x", json!({"kind": "Group", "name": "devs"})));
        let rbac = Rbac::new(&objects);
        let reason = r#"RBAC: clusterrole.rbac.authorization.k8s.io "x" not found"#.to_owned();
        assert_eq!(ask(&rbac, user("bob", &["devs"]), "list", "ns"), Decision::NoOpinion(reason));
        assert_eq!(ask(&rbac, user("bob", &[]), "list", "ns"), Decision::NoOpinion(String::new()));
    }

    #[test]
    fn subjects_of_every_kind() {
        for (subject, who) in [
            (json!({"kind": "User", "name": "bob"}), user("bob", &[])),
            (json!({"kind": "Group", "name": "devs"}), user("x", &["devs"])),
            (json!({"kind": "ServiceAccount", "name": "a", "namespace": "other"}), user("system:serviceaccount:other:a", &[])),
            (json!({"kind": "ServiceAccount", "name": "a"}), user("system:serviceaccount:ns:a", &[])),
        ] {
            let objects = Fixed::default();
            objects.put(ROLES, role(&["*"]));
            objects.put(ROLE_BINDINGS, binding("Role", "r", subject.clone()));
            assert!(matches!(ask(&Rbac::new(&objects), who, "get", "ns"), Decision::Allow(_)), "{subject}");
        }
    }

    #[test]
    fn cluster_bindings_count_everywhere() {
        let objects = Fixed::default();
        objects.put(
            Collection::of(GROUP, "clusterroles"),
            json!({"metadata": {"name": "c"}, "rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]}),
        );
        objects.put(
            CLUSTER_ROLE_BINDINGS,
            json!({"metadata": {"name": "cb"}, "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": "c"}, "subjects": [{"kind": "Group", "name": "ops"}]}),
        );
        let rbac = Rbac::new(&objects);
        let yes = Decision::Allow(r#"RBAC: allowed by ClusterRoleBinding "cb" of ClusterRole "c" to Group "ops""#.into());
        for namespace in ["", "ns"] {
            assert_eq!(ask(&rbac, user("x", &["ops"]), "get", namespace), yes);
        }
        assert_eq!(rbac.rules_for(&user("x", &["ops"]), "ns").0.len(), 1);
    }
}
