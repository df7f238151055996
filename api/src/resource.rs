//! One row per kind: everything about it that is data. Routes, discovery, OpenAPI, tables, RBAC verbs and quota names derive from it.
//!
//! Built-in rows stand in `resources/<group>/<kind>.rs` and are listed in [`crate::resources`]; a custom resource's row is made from its
//! definition at run time, which is why the texts are `Cow`. [`Resource::of`] fills a row with what most kinds have in common, so that a
//! row says only what is its own.

use crate::custom::{CustomObject, Version};
use crate::kind::{Kind, Object};
use crate::printer;
use base64::Engine as _;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::any::TypeId;
use std::borrow::Cow;
use std::sync::Arc;

/// A text that is constant for built-in kinds and owned for custom ones.
pub type Text = Cow<'static, str>;

/// Whether objects live in a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Objects live in namespaces.
    Namespaced,
    /// Objects belong to the cluster.
    Cluster,
}

/// What names are allowed (upstream: `apimachinery/pkg/api/validation`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameRule {
    /// RFC 1123 subdomain, up to 253 characters: most kinds.
    Subdomain,
    /// RFC 1123 label, up to 63 characters: namespaces, services from v1.34 on.
    Label,
    /// RFC 1035 label: starts with a letter.
    Rfc1035Label,
    /// Anything that can stand in a URL path segment: RBAC kinds.
    PathSegment,
    /// An IP address in its canonical form: IPAddresses.
    Address,
}

/// A verb of the API, as RBAC and discovery name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // The names say it.
pub enum Verb {
    Create,
    Delete,
    DeleteCollection,
    Get,
    List,
    Patch,
    Update,
    Watch,
}

/// All verbs, in discovery's (alphabetical) order: what most kinds have.
pub const ALL_VERBS: &[Verb] =
    &[Verb::Create, Verb::Delete, Verb::DeleteCollection, Verb::Get, Verb::List, Verb::Patch, Verb::Update, Verb::Watch];
/// What reviews and the like have: nothing is stored.
pub const CREATE_ONLY: &[Verb] = &[Verb::Create];

/// What can be done to a singleton that is never removed as part of a set (namespaces).
pub const NO_DELETE_COLLECTION: &[Verb] = &[Verb::Create, Verb::Delete, Verb::Get, Verb::List, Verb::Patch, Verb::Update, Verb::Watch];
/// What a subresource has that shows a part of the object and lets it be changed.
pub const READ_AND_CHANGE: &[Verb] = &[Verb::Get, Verb::Patch, Verb::Update];
/// What a subresource has that opens a stream.
pub const CONNECT: &[Verb] = &[Verb::Create, Verb::Get];
/// What a subresource has that passes requests of every method on.
pub const PROXY: &[Verb] = &[Verb::Create, Verb::Delete, Verb::Get, Verb::Patch, Verb::Update];

/// A part of a resource with a path of its own.
#[derive(Clone, Debug)]
pub struct Subresource {
    /// The last path segment: `status`, `scale`, `binding`, `log`, ...
    pub name: Text,
    /// The kind it takes or gives, with its group and version where they differ from the resource's (`autoscaling/v1 Scale`).
    pub kind: Text,
    /// As [`Subresource::kind`] says; `("", "")` where they are the resource's own.
    pub group_version: (Text, Text),
    /// Its verbs.
    pub verbs: Cow<'static, [Verb]>,
}

impl Subresource {
    /// A subresource that takes or gives `kind`, of the resource's own group and version.
    pub const fn new(name: &'static str, kind: &'static str, verbs: &'static [Verb]) -> Self {
        Subresource {
            name: Cow::Borrowed(name),
            kind: Cow::Borrowed(kind),
            group_version: (Cow::Borrowed(""), Cow::Borrowed("")),
            verbs: Cow::Borrowed(verbs),
        }
    }

    /// `/status`, which shows and takes the whole object of `kind`.
    pub const fn status(kind: &'static str) -> Self {
        Self::new("status", kind, READ_AND_CHANGE)
    }

    /// One whose kind is of another group and version.
    pub const fn foreign(
        name: &'static str,
        group: &'static str,
        version: &'static str,
        kind: &'static str,
        verbs: &'static [Verb],
    ) -> Self {
        Subresource {
            name: Cow::Borrowed(name),
            kind: Cow::Borrowed(kind),
            group_version: (Cow::Borrowed(group), Cow::Borrowed(version)),
            verbs: Cow::Borrowed(verbs),
        }
    }

    /// `/scale`.
    pub const fn scale() -> Self {
        Self::foreign("scale", "autoscaling", "v1", "Scale", READ_AND_CHANGE)
    }
}

/// A field that a field selector may name, besides `metadata.name` and `metadata.namespace`.
#[derive(Clone, Debug)]
pub struct SelectableField {
    /// What the selector says: `spec.nodeName`.
    pub label: Text,
    /// Where the value stands in the served JSON; the first of these that is there and not empty counts.
    pub paths: Cow<'static, [Text]>,
    /// What an absent value counts as: the empty string, `false`, `0`.
    pub absent: Text,
}

impl SelectableField {
    /// A field whose label is its path and which counts as the empty string where it is absent.
    pub fn at(path: &'static str) -> Self {
        Self::with(path, &[path], "")
    }

    /// A field found under other paths than its label.
    pub fn with(label: &'static str, paths: &[&'static str], absent: &'static str) -> Self {
        SelectableField { label: label.into(), paths: paths.iter().map(|p| (*p).into()).collect(), absent: absent.into() }
    }

    /// The field's value in an object as served. Numbers and booleans count as their text.
    pub fn value<'a>(&'a self, object: &'a Value) -> Cow<'a, str> {
        for path in self.paths.iter() {
            let found = path.split('.').try_fold(object, |v, key| match v {
                Value::Array(items) => key.parse::<usize>().ok().and_then(|i| items.get(i)),
                v => v.get(key),
            });
            match found {
                None | Some(Value::Null) => {}
                Some(Value::String(s)) if s.is_empty() => {}
                Some(Value::String(s)) => return Cow::Borrowed(s),
                Some(other) => return Cow::Owned(other.to_string()),
            }
        }
        Cow::Borrowed(&self.absent)
    }
}

/// How the objects of a version get to the version in which they are stored and back, where those are two. Both ways keep everything, so that
/// what was written through one version and read through it is the same.
#[derive(Clone, Copy)]
pub struct StorageVersion {
    /// The group that is stored.
    pub group: &'static str,
    /// The version that is stored.
    pub version: &'static str,
    /// The served JSON as it is stored.
    pub to_storage: fn(Value) -> Value,
    /// The stored JSON as it is served.
    pub from_storage: fn(Value) -> Value,
}

/// One printer column of the server-side table.
#[derive(Clone, Debug)]
pub struct Column {
    /// Header, e.g. `Ready`.
    pub name: Text,
    /// `string`, `integer`, `date`, ...
    pub kind: Text,
    /// `name` for the name column, else mostly empty.
    pub format: Text,
    /// Shown by explain-like clients.
    pub description: Text,
    /// 0 is always shown, 1 only with `-o wide`.
    pub priority: i32,
}

/// What a table row is made with besides the object.
pub struct PrintContext {
    /// The time ages are relative to.
    pub now: Timestamp,
}

/// The cells of one object's row; as many as the resource has columns.
pub type Cells = Vec<Value>;

/// One kind.
pub struct Resource {
    /// API group; empty for core.
    pub group: Text,
    /// API version, `v1`.
    pub version: Text,
    /// `Pod`.
    pub kind: Text,
    /// `pods`.
    pub plural: Text,
    /// `pod`.
    pub singular: Text,
    /// `po`.
    pub short_names: Cow<'static, [Text]>,
    /// `all`.
    pub categories: Cow<'static, [Text]>,
    /// Namespaced or not.
    pub scope: Scope,
    /// What can be done with it.
    pub verbs: Cow<'static, [Verb]>,
    /// Its subresources, in discovery's (alphabetical) order.
    pub subresources: Cow<'static, [Subresource]>,
    /// What names are allowed.
    pub name_rule: NameRule,
    /// Whether `metadata.generation` is kept: 1 at creation, raised by changes of the spec.
    pub generation: bool,
    /// Field selectors beyond `metadata.name` and `metadata.namespace`.
    pub selectable_fields: Cow<'static, [SelectableField]>,
    /// Printer columns, the name column first.
    pub columns: Cow<'static, [Column]>,
    /// The cells for the columns.
    pub cells: fn(&dyn Object, &PrintContext) -> Cells,
    /// JSON that passed the schema to a typed object.
    pub decode: fn(&Value) -> Result<Box<dyn Object>, serde_json::Error>,
    /// The definition's name in the schema table: `io.k8s.api.core.v1.Pod`.
    pub schema: Text,
    /// What is stored instead, where a kind is served in several groups or versions (`events`, `horizontalpodautoscalers`).
    pub storage: Option<StorageVersion>,
    /// The version that [`Resource::storage_version_hash`] names where that is not the one stored: upstream announces some kinds under a
    /// version that it no longer serves.
    pub hashed_version: Option<Text>,
    /// The kind of its lists, where that is not `KIND` and `List`.
    pub list_kind: Option<Text>,
    /// What the definition of a custom resource says of this version.
    pub custom: Option<Arc<Version>>,
    /// What every answer warns of, where the kind is deprecated (upstream: `APILifecycleDeprecated`).
    pub deprecation: Option<Text>,
    /// Annotations that stand for fields of upstream's internal type: a table or a view of the metadata alone does not have them.
    pub derived_annotations: &'static [&'static str],
}

/// A list of constant texts, for rows.
pub fn texts(list: &[&'static str]) -> Cow<'static, [Text]> {
    list.iter().map(|t| Cow::Borrowed(*t)).collect()
}

impl Resource {
    /// The row of a k8s-openapi type that has nothing special about it: all verbs, no subresources, a name and an age to print.
    pub fn of<K: Kind>() -> Self
    where
        K::Scope: 'static,
    {
        let cluster = TypeId::of::<K::Scope>() == TypeId::of::<k8s_openapi::ClusterResourceScope>();
        Resource {
            group: K::GROUP.into(),
            version: K::VERSION.into(),
            kind: K::KIND.into(),
            plural: K::URL_PATH_SEGMENT.into(),
            singular: K::KIND.to_lowercase().into(),
            short_names: texts(&[]),
            categories: texts(&[]),
            scope: if cluster { Scope::Cluster } else { Scope::Namespaced },
            verbs: ALL_VERBS.into(),
            subresources: Cow::Borrowed(&[]),
            name_rule: NameRule::Subdomain,
            generation: false,
            selectable_fields: Cow::Borrowed(&[]),
            columns: printer::CREATED_AT.into(),
            cells: |object, context| object.cells(context),
            decode: decode::<K>,
            schema: schema_name(K::GROUP, K::VERSION, K::KIND).into(),
            storage: None,
            hashed_version: None,
            list_kind: None,
            custom: None,
            deprecation: None,
            derived_annotations: &[],
        }
    }

    /// The hash that discovery gives for the stored form, so that clients notice when it changes: the first eight bytes of a SHA-256 over
    /// `group/version/kind`, in base64. Kinds that are not stored have none.
    pub fn storage_version_hash(&self) -> Option<String> {
        self.verbs.contains(&Verb::Watch).then(|| {
            let (group, version) = match (&self.custom, self.storage) {
                (Some(custom), _) => (&*self.group, &*custom.family.storage),
                (None, Some(storage)) => (storage.group, storage.version),
                (None, None) => (&*self.group, &*self.version),
            };
            let version = self.hashed_version.as_deref().unwrap_or(version);
            let digest = Sha256::digest(format!("{group}/{version}/{}", self.kind));
            base64::engine::general_purpose::STANDARD.encode(&digest[..8])
        })
    }

    /// JSON that was decoded, as an object of this kind.
    pub fn typed(&self, value: &Value) -> Result<Box<dyn Object>, serde_json::Error> {
        match &self.custom {
            Some(version) => CustomObject::new(value.clone(), version.clone()).map(|o| Box::new(o) as Box<dyn Object>),
            None => (self.decode)(value),
        }
    }

    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_string() } else { format!("{}/{}", self.group, self.version) }
    }

    /// `pods` or `deployments.apps`: how error messages name it.
    pub fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.to_string() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// `PodList`.
    pub fn list_kind(&self) -> String {
        self.list_kind.as_deref().map_or_else(|| format!("{}List", self.kind), str::to_owned)
    }

    /// The subresource of that name.
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    /// Whether it has `/status`, so that the main path keeps status as it is.
    pub fn has_status(&self) -> bool {
        self.subresource("status").is_some()
    }

    /// Whether objects live in namespaces.
    pub fn namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }
}

/// The definition's name in OpenAPI: `io.k8s.api.core.v1.Pod`. Two groups have their types in repositories of their own.
fn schema_name(group: &str, version: &str, kind: &str) -> String {
    match group {
        "" => format!("io.k8s.api.core.{version}.{kind}"),
        "apiextensions.k8s.io" => format!("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.{version}.{kind}"),
        "apiregistration.k8s.io" => format!("io.k8s.kube-aggregator.pkg.apis.apiregistration.{version}.{kind}"),
        _ => format!("io.k8s.api.{}.{version}.{kind}", group.split('.').next().unwrap_or(group)),
    }
}

/// `Resource::decode` for a k8s-openapi type.
pub fn decode<K: Kind>(value: &Value) -> Result<Box<dyn Object>, serde_json::Error> {
    K::deserialize(value).map(|k| Box::new(k) as Box<dyn Object>)
}
