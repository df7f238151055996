//! The schema facts of every type of the API, from one table (`schema/v1.36.txt`, see the README beside it): field types, what is written when
//! empty, list types and their keys, strategic merge. Decoding, normalising, patching and server-side apply are all driven by it.
//!
//! A [`Schema`] is an arena of [`Definition`]s that refer to each other by [`Id`]: types are recursive. The built-in one is parsed once, on first use (about
//! a millisecond); a custom resource gets an arena of its own. Documentation and value constraints are not here: OpenAPI has the first,
//! validation the second.

pub mod descriptions;
mod parse;

use serde_json::Value;
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::LazyLock;

/// A text that is constant for built-in types and owned for custom ones.
pub type Text = Cow<'static, str>;

/// A definition's place in its [`Schema`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Id(u32);

/// The type of a value.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // The names say it.
pub enum Type {
    String,
    Bool,
    Int32,
    Int64,
    Float64,
    /// Base64 in JSON.
    Bytes,
    Quantity,
    /// RFC 3339 with whole seconds.
    Time,
    /// RFC 3339 with microseconds.
    MicroTime,
    IntOrString,
    /// An embedded object (`RawExtension`): kept as it is, owned as a whole.
    Raw,
    /// Any value: kept as it is, owned as a whole.
    Json,
    /// Nothing is known: maps are granular, lists atomic (custom resources without a schema).
    Untyped,
    List(Box<Type>),
    /// A map from strings.
    Map(Box<Type>),
    Struct(Id),
}

impl Type {
    /// Whether it is a struct in Go, so that `omitempty` does not leave it out.
    pub fn is_struct(&self) -> bool {
        matches!(self, Type::Struct(_) | Type::Time | Type::MicroTime | Type::Quantity | Type::IntOrString | Type::Raw)
    }
}

/// When Go's encoder writes a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// `omitempty`: not when it is false, 0, "", or an empty list or map. Structs that are no pointers are written all the same.
    OmitEmpty,
    /// `omitzero`: not when it is the zero value, structs included.
    OmitZero,
    /// Always.
    Always,
}

/// How the items of a list or the entries of a map relate to each other for server-side apply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Relation {
    /// As the type has it: lists are atomic, maps granular, structs as their definition says.
    #[default]
    Default,
    /// Owned and replaced as a whole.
    Atomic,
    /// A list whose items are their own keys.
    Set,
    /// A list whose items have these keys.
    Map(Vec<Text>),
}

/// How a strategic merge patch treats a field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Strategy {
    /// Lists are merged rather than replaced.
    pub merge: bool,
    /// The key of the items of a merged list of objects.
    pub key: Option<Text>,
    /// A map or struct is replaced rather than merged.
    pub replace: bool,
    /// The patch's `$retainKeys` is honoured.
    pub retain_keys: bool,
}

/// One field of a struct.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    /// Its name in JSON.
    pub name: Text,
    /// Its type.
    pub ty: Type,
    /// Whether it is a pointer in Go, so that zero differs from absent.
    pub pointer: bool,
    /// When it is written.
    pub presence: Presence,
    /// Whether OpenAPI lists it as required.
    pub required: bool,
    /// Its list or map type.
    pub relation: Relation,
    /// Its strategic merge.
    pub strategy: Strategy,
    /// What stands for it when it is an absent list map key.
    pub default: Option<Value>,
    /// The named Go type, where it is not the plain one: `v1.RestartPolicy`.
    pub go: Option<Text>,
}

impl Field {
    fn written_unset(&self) -> bool {
        match self.presence {
            Presence::Always => true,
            Presence::OmitEmpty => !self.pointer && self.ty.is_struct(),
            Presence::OmitZero => false,
        }
    }
}

/// One struct.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Definition {
    /// `io.k8s.api.core.v1`.
    pub package: Text,
    /// `PodSpec`.
    pub name: Text,
    /// Whether server-side apply owns it as a whole.
    pub atomic: bool,
    /// Whether fields that are not declared are kept (custom resources).
    pub open: bool,
    /// The fields in Go's order.
    pub fields: Vec<Field>,
    /// Indices of `fields`, sorted by name.
    sorted: Vec<u16>,
    /// Indices of the `fields` that are written though nothing set them.
    written_unset: Vec<u16>,
}

impl Definition {
    /// A definition with its look-up order made.
    pub fn new(package: Text, name: Text, atomic: bool, fields: Vec<Field>) -> Self {
        let mut sorted: Vec<u16> = (0..fields.len()).map(|i| u16::try_from(i).expect("no type has 65,536 fields")).collect();
        let written_unset = sorted.iter().copied().filter(|i| fields[usize::from(*i)].written_unset()).collect();
        sorted.sort_by(|a, b| fields[usize::from(*a)].name.cmp(&fields[usize::from(*b)].name));
        Definition { package, name, atomic, open: false, fields, sorted, written_unset }
    }

    /// The fields that Go's encoder writes though nothing set them.
    pub fn written_unset(&self) -> impl Iterator<Item = &Field> {
        self.written_unset.iter().map(|i| &self.fields[usize::from(*i)])
    }

    /// The field called `name` in JSON.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.sorted
            .binary_search_by(|i| self.fields[usize::from(*i)].name.as_ref().cmp(name))
            .ok()
            .map(|at| &self.fields[usize::from(self.sorted[at])])
    }

    /// `v1.PodSpec`, as Go's error texts name it.
    pub fn go_name(&self) -> String {
        format!("{}.{}", self.package.rsplit('.').next().unwrap_or_default(), self.name)
    }

    /// `io.k8s.api.core.v1.PodSpec`.
    pub fn full_name(&self) -> String {
        format!("{}.{}", self.package, self.name)
    }
}

/// An arena of definitions.
#[derive(Debug, Default)]
pub struct Schema {
    definitions: Vec<Definition>,
    names: HashMap<String, Id>,
}

impl Schema {
    /// Adds a definition, or replaces the one of the same full name.
    pub fn insert(&mut self, definition: Definition) -> Id {
        let id = self.reserve(definition.full_name());
        self.definitions[id.0 as usize] = definition;
        id
    }

    /// The place of a definition that may come later.
    fn reserve(&mut self, name: String) -> Id {
        let next = Id(u32::try_from(self.definitions.len()).expect("fewer definitions than u32 holds"));
        let id = *self.names.entry(name).or_insert(next);
        if id == next {
            self.definitions.push(Definition::default());
        }
        id
    }

    /// The definition at `id`, which came from this schema.
    pub fn get(&self, id: Id) -> &Definition {
        &self.definitions[id.0 as usize]
    }

    /// The id of `io.k8s.api.core.v1.Pod`.
    pub fn id(&self, name: &str) -> Option<Id> {
        self.names.get(name).copied()
    }

    /// A whole object's type, to start a walk from.
    pub fn root(&self, name: &str) -> Option<Root<'_>> {
        self.id(name).map(|id| Root { schema: self, id })
    }

    /// All definitions.
    pub fn definitions(&self) -> impl Iterator<Item = &Definition> {
        self.definitions.iter()
    }
}

/// A definition together with the schema it lives in: what the functions over whole objects take.
#[derive(Clone, Copy, Debug)]
pub struct Root<'a> {
    /// The arena.
    pub schema: &'a Schema,
    /// The object's type in it.
    pub id: Id,
}

impl<'a> Root<'a> {
    /// The object's definition.
    pub fn definition(self) -> &'a Definition {
        self.schema.get(self.id)
    }

    /// The object's type.
    pub fn ty(self) -> Type {
        Type::Struct(self.id)
    }
}

/// The types of Kubernetes v1.36.
pub fn builtin() -> &'static Schema {
    static BUILTIN: LazyLock<Schema> = LazyLock::new(|| parse::parse(include_str!("schema/v1.36.txt")));
    &BUILTIN
}

/// The built-in type of an object with this `apiVersion` and `kind`.
pub fn of_kind(api_version: &str, kind: &str) -> Option<Root<'static>> {
    static KINDS: LazyLock<HashMap<(String, &'static str), Id>> = LazyLock::new(|| {
        let kinds = builtin().definitions.iter().filter(|d| d.fields.first().is_some_and(|f| f.name == "kind"));
        kinds.map(|d| ((api_version_of(&d.package), d.name.as_ref()), builtin().names[&d.full_name()])).collect()
    });
    KINDS.get(&(api_version.to_owned(), kind)).map(|id| Root { schema: builtin(), id: *id })
}

/// `rbac.authorization.k8s.io/v1` for the package `io.k8s.api.rbac.v1`.
fn api_version_of(package: &str) -> String {
    let mut parts = package.rsplit('.');
    let (version, group) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    match group {
        "core" => version.to_owned(),
        "apps" | "autoscaling" | "batch" | "policy" => format!("{group}/{version}"),
        "rbac" => format!("rbac.authorization.k8s.io/{version}"),
        "flowcontrol" => format!("flowcontrol.apiserver.k8s.io/{version}"),
        "apiserverinternal" => format!("internal.apiserver.k8s.io/{version}"),
        _ => format!("{group}.k8s.io/{version}"),
    }
}

/// The built-in type of that name, e.g. a [`crate::Resource`]'s `schema`.
pub fn find(name: &str) -> Option<Root<'static>> {
    builtin().root(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(definition: &str, name: &str) -> Field {
        find(definition).expect(definition).definition().field(name).expect(name).clone()
    }

    #[test]
    fn facts() {
        let ports = field("io.k8s.api.core.v1.Container", "ports");
        assert_eq!(ports.relation, Relation::Map(vec!["containerPort".into(), "protocol".into()]));
        assert_eq!(ports.strategy.key.as_deref(), Some("containerPort"));
        let volumes = field("io.k8s.api.core.v1.PodSpec", "volumes");
        assert!(volumes.strategy.merge && volumes.strategy.retain_keys);
        assert_eq!(field("io.k8s.api.core.v1.PodSpec", "restartPolicy").go.as_deref(), Some("v1.RestartPolicy"));
        assert!(field("io.k8s.api.core.v1.PodSpec", "priority").pointer);
        assert_eq!(field("io.k8s.api.core.v1.PodSpec", "containers").presence, Presence::Always);
        assert_eq!(field("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta", "creationTimestamp").presence, Presence::OmitZero);
        assert_eq!(field("io.k8s.api.core.v1.ContainerPort", "protocol").default, Some("TCP".into()));
        assert!(find("io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector").expect("LabelSelector").definition().atomic);
    }

    /// Every reference leads to a definition with fields or to one that is meant to have none.
    #[test]
    fn nothing_dangles() {
        let empty: Vec<String> = builtin().definitions().filter(|d| d.name.is_empty()).map(Definition::full_name).collect();
        assert!(empty.is_empty(), "{empty:?}");
        assert!(builtin().definitions().count() > 650);
    }

    /// Every row of the table of kinds is found by its kind as well as by its schema's name.
    #[test]
    fn kinds_are_found() {
        for row in crate::resources::all() {
            let root = of_kind(&row.api_version(), &row.kind).unwrap_or_else(|| panic!("{} {}", row.api_version(), row.kind));
            assert_eq!(root.definition().full_name(), row.schema);
        }
    }

    /// Every list map key is a field of the items.
    #[test]
    fn keys_exist() {
        for definition in builtin().definitions() {
            for f in &definition.fields {
                let (Relation::Map(keys), Type::List(item)) = (&f.relation, &f.ty) else { continue };
                let Type::Struct(id) = item.as_ref() else { panic!("{}.{}", definition.full_name(), f.name) };
                for key in keys {
                    assert!(builtin().get(*id).field(key).is_some(), "{}.{} has no key {key}", definition.full_name(), f.name);
                }
            }
        }
    }
}
