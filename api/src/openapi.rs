//! OpenAPI v3 of one group and version, made from the table of kinds and the table of schema facts
//! (upstream: `kube-openapi/pkg/builder3`). Clients learn from it which parameters a verb takes, how to merge a patch, and what fields a kind has.
//!
//! [`v2`] makes the one document of version 2 from these, and [`binary`] its protobuf form.

pub mod binary;
pub mod v2;

use crate::resource::{Resource, Subresource, Verb};
use crate::schema::descriptions::Descriptions;
use crate::schema::{Definition, Field, Relation, Schema, Type, builtin};
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::collections::BTreeSet;

/// The metadata of every object.
pub const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
const TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Time";
const MICRO_TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";
const RAW: &str = "io.k8s.apimachinery.pkg.runtime.RawExtension";
const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";
const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";

const PATCH_TYPES: [&str; 4] = [
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];

/// The document for `rows`, which are all of one group and version. Custom resources bring their schemas along.
pub fn document(rows: &[&Resource]) -> Value {
    document_with(rows, &Descriptions::builtin())
}

/// The same with the descriptions at hand, for those who make many.
pub fn document_with(rows: &[&Resource], descriptions: &Descriptions) -> Value {
    let mut paths = Map::new();
    let mut wanted: BTreeSet<String> = [DELETE_OPTIONS, STATUS, LIST_META].into_iter().map(str::to_owned).collect();
    let mut schemas = Map::new();
    for row in rows {
        resource_paths(row, &mut paths);
        wanted.insert(row.schema.to_string());
        schemas.insert(format!("{}List", row.schema), list_schema(row));
        wanted.extend(row.subresources.iter().filter_map(|s| subresource_schema(row, s)));
    }
    for row in rows {
        if let Some(custom) = &row.custom {
            wanted.insert(OBJECT_META.to_owned());
            schemas.insert(row.schema.to_string(), custom.published.clone());
        }
    }
    collect(builtin(), descriptions, wanted, &mut schemas);
    for row in rows {
        let schema = schemas
            .entry(row.schema.to_string())
            .or_insert_with(|| json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}));
        schema["x-kubernetes-group-version-kind"] = json!([gvk(row)]);
    }
    schemas.insert(PATCH.into(), json!({"type": "object", "description": "A patch, in the form that the content type names."}));
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "v1.36.2"},
        "paths": paths,
        "components": {"schemas": schemas}
    })
}

fn gvk(row: &Resource) -> Value {
    json!({"group": row.group, "kind": row.kind, "version": row.version})
}

fn list_schema(row: &Resource) -> Value {
    json!({
        "type": "object", "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string"}, "kind": {"type": "string"},
            "items": {"type": "array", "items": {"allOf": [reference(&row.schema)], "default": {}}},
            "metadata": {"allOf": [reference(LIST_META)], "default": {}}
        },
        "x-kubernetes-group-version-kind": [{"group": row.group, "kind": row.list_kind(), "version": row.version}]
    })
}

/// Puts the definitions of these names, and all that they refer to, among the schemas.
fn collect(schema: &Schema, descriptions: &Descriptions, mut wanted: BTreeSet<String>, out: &mut Map<String, Value>) {
    while let Some(name) = wanted.pop_first() {
        if out.contains_key(&name) {
            continue;
        }
        let mut value = match (plain(&name), schema.root(&name)) {
            (Some(value), _) => value,
            (None, Some(root)) => definition(schema, descriptions, root.definition(), &mut wanted),
            // A custom resource's: the caller has it.
            (None, None) => continue,
        };
        describe(&mut value, descriptions.of_type(&name));
        out.insert(name, value);
    }
}

/// The types that are written as one JSON value.
fn plain(name: &str) -> Option<Value> {
    Some(match name {
        QUANTITY => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
        TIME | MICRO_TIME => json!({"type": "string", "format": "date-time"}),
        INT_OR_STRING => json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]}),
        RAW => json!({"type": "object"}),
        _ => return None,
    })
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn describe(value: &mut Value, text: Option<Cow<'static, str>>) {
    if let Some(text) = text {
        value["description"] = text.into();
    }
}

fn definition(schema: &Schema, descriptions: &Descriptions, definition: &Definition, wanted: &mut BTreeSet<String>) -> Value {
    let name = definition.full_name();
    let described = |f: &Field, wanted: &mut BTreeSet<String>| {
        let mut value = property(schema, f, wanted);
        describe(&mut value, descriptions.of_field(&name, &f.name).or_else(|| of_every_object(&f.name).map(Cow::Borrowed)));
        (f.name.to_string(), value)
    };
    let properties: Map<String, Value> = definition.fields.iter().map(|f| described(f, wanted)).collect();
    // An object's metadata may always be left out, whatever the Rust types say.
    let needed = definition.fields.iter().filter(|f| f.required && f.name != "metadata");
    let mut required: Vec<&str> = needed.map(|f| f.name.as_ref()).collect();
    required.sort_unstable();
    let mut out = json!({"type": "object"});
    if !properties.is_empty() {
        out["properties"] = properties.into();
    }
    if !required.is_empty() {
        out["required"] = json!(required);
    }
    if definition.atomic {
        out["x-kubernetes-map-type"] = json!("atomic");
    }
    out
}

/// What is said about the two fields that every object has. `kubectl explain` shows it of each kind, and its users look for the first words.
pub fn of_every_object(field: &str) -> Option<&'static str> {
    const CONVENTIONS: [(&str, &str); 2] = [
        (
            "apiVersion",
            "APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources",
        ),
        (
            "kind",
            "Kind is a string value representing the REST resource this object represents. Servers may infer this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds",
        ),
    ];
    CONVENTIONS.iter().find(|(name, _)| *name == field).map(|(_, text)| *text)
}

fn property(schema: &Schema, field: &Field, wanted: &mut BTreeSet<String>) -> Value {
    let mut out = typed(schema, &field.ty, field.pointer, wanted);
    if let Some(default) = &field.default {
        out["default"] = default.clone();
    }
    match (&field.relation, &field.ty) {
        (Relation::Default, _) => {}
        (Relation::Atomic, Type::List(_)) => out["x-kubernetes-list-type"] = json!("atomic"),
        (Relation::Atomic, _) => out["x-kubernetes-map-type"] = json!("atomic"),
        (Relation::Set, _) => out["x-kubernetes-list-type"] = json!("set"),
        (Relation::Map(keys), _) => {
            out["x-kubernetes-list-type"] = json!("map");
            out["x-kubernetes-list-map-keys"] = json!(keys);
        }
    }
    let strategy = &field.strategy;
    let mut words = Vec::new();
    words.extend(strategy.merge.then_some("merge"));
    words.extend(strategy.replace.then_some("replace"));
    words.extend(strategy.retain_keys.then_some("retainKeys"));
    if !words.is_empty() {
        out["x-kubernetes-patch-strategy"] = json!(words.join(","));
    }
    if let Some(key) = &strategy.key {
        out["x-kubernetes-patch-merge-key"] = json!(key);
    }
    out
}

fn typed(schema: &Schema, ty: &Type, pointer: bool, wanted: &mut BTreeSet<String>) -> Value {
    let mut named = |name: &str, default: Option<Value>| {
        wanted.insert(name.to_owned());
        let mut out = json!({"allOf": [reference(name)]});
        if let Some(default) = default.filter(|_| !pointer) {
            out["default"] = default;
        }
        out
    };
    match ty {
        Type::String => json!({"type": "string"}),
        Type::Bool => json!({"type": "boolean"}),
        Type::Int32 => json!({"type": "integer", "format": "int32"}),
        Type::Int64 => json!({"type": "integer", "format": "int64"}),
        Type::Float64 => json!({"type": "number", "format": "double"}),
        Type::Bytes => json!({"type": "string", "format": "byte"}),
        Type::Quantity => named(QUANTITY, None),
        Type::Time => named(TIME, None),
        Type::MicroTime => named(MICRO_TIME, None),
        Type::IntOrString => named(INT_OR_STRING, None),
        Type::Raw => named(RAW, None),
        Type::Json | Type::Untyped => json!({"x-kubernetes-preserve-unknown-fields": true}),
        Type::List(item) => json!({"type": "array", "items": typed(schema, item, false, wanted)}),
        Type::Map(value) => json!({"type": "object", "additionalProperties": typed(schema, value, false, wanted)}),
        Type::Struct(id) => named(&schema.get(*id).full_name(), Some(json!({}))),
    }
}

/// The type that a subresource takes and gives, where it is one of the built-in table.
fn subresource_schema(row: &Resource, subresource: &Subresource) -> Option<String> {
    let (group, version) = &subresource.group_version;
    let api_version = match (group.as_ref(), version.as_ref()) {
        (_, "") => row.api_version(),
        ("", version) => version.to_owned(),
        (group, version) => format!("{group}/{version}"),
    };
    crate::schema::of_kind(&api_version, &subresource.kind).map(|root| root.definition().full_name())
}

fn query(name: &str, kind: &str) -> Value {
    json!({"name": name, "in": "query", "schema": {"type": kind, "uniqueItems": true}})
}

fn in_path(name: &str) -> Value {
    json!({"name": name, "in": "path", "required": true, "schema": {"type": "string", "uniqueItems": true}})
}

/// What can be asked for on one path.
struct Operations<'a> {
    row: &'a Resource,
    schema: &'a str,
    verbs: &'a [Verb],
    collection: bool,
    /// What the operations' names end with: `NamespacedPodStatus`.
    what: String,
}

/// `CoreV1`, `RbacAuthorizationV1`: how code generators name a group and version.
fn camel(row: &Resource) -> String {
    let group = if row.group.is_empty() { "core" } else { row.group.trim_end_matches(".k8s.io") };
    group.split(['.', '-']).chain([row.version.as_ref()]).map(capital).collect()
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

impl Operations<'_> {
    fn has(&self, verb: Verb) -> bool {
        self.verbs.contains(&verb)
    }

    fn content(name: &str) -> Value {
        let media = json!({"schema": reference(name)});
        json!({"application/json": media, "application/yaml": media, "application/vnd.kubernetes.protobuf": media})
    }

    fn operation(&self, action: &str, code: &str, answer: &str, parameters: Vec<Value>) -> Value {
        let verb = match action {
            "get" => "read",
            "post" => "create",
            "put" => "replace",
            "deletecollection" => "delete",
            same => same,
        };
        let collection = if action == "deletecollection" { "Collection" } else { "" };
        let group = camel(self.row);
        let tag = group.chars().take(1).flat_map(char::to_lowercase).chain(group.chars().skip(1));
        json!({
            "operationId": format!("{verb}{group}{collection}{}", self.what),
            "tags": [tag.collect::<String>()],
            "parameters": parameters,
            "responses": {code: {"description": "OK", "content": Self::content(answer)}, "401": {"description": "Unauthorized"}},
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": gvk(self.row)
        })
    }

    fn write(&self, action: &str, code: &str, patch: bool) -> Value {
        let mut parameters = vec![query("dryRun", "string"), query("fieldManager", "string"), query("fieldValidation", "string")];
        let body = if patch {
            parameters.push(query("force", "boolean"));
            let types = PATCH_TYPES.iter().filter(|t| self.row.custom.is_none() || !t.contains("strategic"));
            let content: Map<String, Value> = types.map(|t| ((*t).to_owned(), json!({"schema": reference(PATCH)}))).collect();
            Value::from(content)
        } else {
            json!({"application/json": {"schema": reference(self.schema)}, "application/yaml": {"schema": reference(self.schema)}})
        };
        let mut out = self.operation(action, code, self.schema, parameters);
        out["requestBody"] = json!({"required": true, "content": body});
        out
    }

    fn path_item(&self, names: &[&str]) -> Value {
        let mut item = Map::new();
        let mut common: Vec<Value> = names.iter().map(|n| in_path(n)).collect();
        common.push(query("pretty", "string"));
        item.insert("parameters".into(), common.into());
        let list = || {
            let texts = ["labelSelector", "fieldSelector", "resourceVersion", "resourceVersionMatch", "continue"];
            let numbers = ["limit", "timeoutSeconds"];
            let flags = ["watch", "allowWatchBookmarks", "sendInitialEvents"];
            let all = texts.map(|n| query(n, "string")).into_iter().chain(numbers.map(|n| query(n, "integer")));
            all.chain(flags.map(|n| query(n, "boolean"))).collect::<Vec<_>>()
        };
        let deletion = || ["gracePeriodSeconds", "orphanDependents", "propagationPolicy", "dryRun"].map(|n| query(n, "string")).to_vec();
        let mut add = |method: &str, present: bool, make: &dyn Fn() -> Value| {
            if present {
                item.insert(method.to_owned(), make());
            }
        };
        if self.collection {
            let listed = format!("{}List", self.schema);
            add("get", self.has(Verb::List), &|| self.operation("list", "200", &listed, list()));
            add("post", self.has(Verb::Create), &|| self.write("post", "201", false));
            add("delete", self.has(Verb::DeleteCollection), &|| self.operation("deletecollection", "200", STATUS, list()));
        } else {
            add("get", self.has(Verb::Get), &|| self.operation("get", "200", self.schema, Vec::new()));
            add("post", self.has(Verb::Create), &|| self.write("post", "201", false));
            add("put", self.has(Verb::Update), &|| self.write("put", "200", false));
            add("patch", self.has(Verb::Patch), &|| self.write("patch", "200", true));
            add("delete", self.has(Verb::Delete), &|| self.operation("delete", "200", STATUS, deletion()));
        }
        item.into()
    }
}

fn resource_paths(row: &Resource, paths: &mut Map<String, Value>) {
    let base = if row.group.is_empty() { format!("/api/{}", row.version) } else { format!("/apis/{}/{}", row.group, row.version) };
    let scoped: &[&str] = if row.namespaced() { &["namespace"] } else { &[] };
    let collection =
        if row.namespaced() { format!("{base}/namespaces/{{namespace}}/{}", row.plural) } else { format!("{base}/{}", row.plural) };
    let item = format!("{collection}/{{name}}");
    let named: Vec<&str> = scoped.iter().copied().chain(["name"]).collect();
    let what = format!("{}{}", if row.namespaced() { "Namespaced" } else { "" }, row.kind);
    let operations = |verbs, collection, schema, what| Operations { row, schema, verbs, collection, what };
    let verbs = row.verbs.as_ref();
    if row.namespaced() && verbs.contains(&Verb::List) {
        paths.insert(
            format!("{base}/{}", row.plural),
            operations(&[Verb::List], true, &row.schema, format!("{}ForAllNamespaces", row.kind)).path_item(&[]),
        );
    }
    paths.insert(collection, operations(verbs, true, &row.schema, what.clone()).path_item(scoped));
    // What is only ever created has no path of its own.
    let single: Vec<Verb> = verbs.iter().copied().filter(|v| *v != Verb::Create).collect();
    if single.contains(&Verb::Get) {
        paths.insert(item.clone(), operations(&single, false, &row.schema, what.clone()).path_item(&named));
    }
    for subresource in row.subresources.iter() {
        let Some(schema) = subresource_schema(row, subresource) else { continue };
        let what = format!("{what}{}", capital(&subresource.name));
        let operations = Operations { row, schema: &schema, verbs: &subresource.verbs, collection: false, what };
        paths.insert(format!("{item}/{}", subresource.name), operations.path_item(&named));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apps() -> Value {
        let rows: Vec<&Resource> =
            crate::resources::all().iter().filter(|r| r.group == "apps" && r.version == "v1").map(|r| &**r).collect();
        document(&rows)
    }

    #[test]
    fn every_reference_leads_somewhere() {
        for group in ["", "apps", "batch", "rbac.authorization.k8s.io", "apiextensions.k8s.io"] {
            let rows: Vec<&Resource> =
                crate::resources::all().iter().filter(|r| r.group == group && r.version == "v1").map(|r| &**r).collect();
            let document = document(&rows);
            let text = document.to_string();
            let mut count = 0;
            for part in text.split("\"#/components/schemas/").skip(1) {
                let name = part.split('"').next().unwrap_or_default();
                assert!(document["components"]["schemas"].get(name).is_some(), "{group}: {name}");
                count += 1;
            }
            assert!(count > 10, "{group} refers to its types");
        }
    }

    #[test]
    fn a_patch_says_what_it_takes() {
        let patch = &apps()["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
        let names: Vec<&str> = patch["parameters"].as_array().expect("a list").iter().filter_map(|p| p["name"].as_str()).collect();
        assert!(names.contains(&"fieldValidation") && names.contains(&"force"), "{names:?}");
        assert_eq!(patch["x-kubernetes-group-version-kind"], json!({"group": "apps", "kind": "Deployment", "version": "v1"}));
        assert!(patch["requestBody"]["content"].get("application/strategic-merge-patch+json").is_some());
    }

    #[test]
    fn merge_keys_are_told() {
        let containers = &apps()["components"]["schemas"]["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
        assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
        assert_eq!(containers["x-kubernetes-patch-strategy"], "merge");
        assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
    }
}
