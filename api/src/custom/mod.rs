//! Custom resources: what a CustomResourceDefinition makes of the API. A [`Family`] is one definition, a [`Version`] one of its versions as served; each
//! served version is a row like those of built-in kinds, and its objects are [`CustomObject`]s, which pass the same handlers
//! (upstream: `apiextensions-apiserver/pkg/apiserver/customresource_handler.go`, `pkg/registry/customresource`).
//!
//! Left out: converting by webhook is IO, so it is the server's; what is here takes an object to another version as if both were the same
//! ([`Family::relabel`]).

mod cells;
mod object;
pub mod openapi;
mod scale;

pub use object::CustomObject;
pub use scale::Scale;

use crate::resource::{NameRule, READ_AND_CHANGE, Resource, Scope, SelectableField, Subresource, Text, Verb};
use crate::resources::apiextensions::custom_resource_definition::conditions;
use crate::schema::{Id, Root, Schema};
use crate::structural::{self, Rules, Structural};
use cells::Columns;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceConversion, CustomResourceDefinition, CustomResourceDefinitionVersion,
};
use serde_json::Value;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// All verbs, in the order in which upstream lists them for custom resources.
const VERBS: &[Verb] = &[Verb::Delete, Verb::DeleteCollection, Verb::Get, Verb::List, Verb::Patch, Verb::Create, Verb::Update, Verb::Watch];

/// One definition.
#[derive(Debug)]
pub struct Family {
    /// API group.
    pub group: String,
    /// `Widget`.
    pub kind: String,
    /// `widgets`.
    pub plural: String,
    /// The version that is stored.
    pub storage: String,
    /// How objects get from version to version.
    pub conversion: CustomResourceConversion,
    /// Whether the definition is being deleted, so that nothing new is made.
    terminating: AtomicBool,
    /// Whether objects may be stored in a version that no longer is the one.
    mixed: AtomicBool,
    /// The schemas of all versions, the unserved ones too.
    schemas: BTreeMap<String, Option<Arc<Structural>>>,
    /// Whether fields that no schema declares are kept (definitions that date from before v1).
    keeps_unknown: bool,
}

/// One version of a definition.
#[derive(Debug)]
pub struct Version {
    /// Its definition.
    pub family: Arc<Family>,
    /// `v1`.
    pub name: String,
    /// What it looks like.
    pub schema: Option<Arc<Structural>>,
    /// The same as OpenAPI has it.
    pub published: Value,
    /// What clients are told that use it, if it is deprecated.
    pub deprecation: Option<String>,
    /// `/scale`.
    pub scale: Option<Scale>,
    rules: Option<Rules>,
    arena: Schema,
    root: Id,
    columns: Columns,
    has_status: bool,
}

impl Family {
    /// The definition's versions that are served, as rows.
    pub fn rows(definition: &CustomResourceDefinition) -> Vec<Arc<Resource>> {
        let spec = &definition.spec;
        let schema_of = |v: &CustomResourceDefinitionVersion| {
            let props = v.schema.as_ref()?.open_api_v3_schema.as_ref()?;
            Some(Arc::new(Structural::new(props)))
        };
        let storage = spec.versions.iter().find(|v| v.storage).map(|v| v.name.clone()).unwrap_or_default();
        let family = Arc::new(Family {
            group: spec.group.clone(),
            kind: spec.names.kind.clone(),
            plural: spec.names.plural.clone(),
            storage,
            conversion: spec.conversion.clone().unwrap_or_default(),
            schemas: spec.versions.iter().map(|v| (v.name.clone(), schema_of(v))).collect(),
            keeps_unknown: spec.preserve_unknown_fields == Some(true),
            terminating: AtomicBool::default(),
            mixed: AtomicBool::default(),
        });
        family.note(definition);
        let mut served: Vec<&CustomResourceDefinitionVersion> = spec.versions.iter().filter(|v| v.served).collect();
        served.sort_by(|a, b| crate::version_order::compare(&b.name, &a.name));
        served.into_iter().map(|v| Arc::new(row(definition, v, Version::new(family.clone(), v)))).collect()
    }

    /// Takes over what of a definition's status counts while its rows stay.
    pub fn note(&self, definition: &CustomResourceDefinition) {
        let stored = definition.status.as_ref().and_then(|s| s.stored_versions.as_ref());
        self.terminating.store(conditions::is(definition, conditions::TERMINATING), Relaxed);
        self.mixed.store(stored.is_some_and(|v| v.len() > 1), Relaxed);
    }

    /// Whether the definition is being deleted.
    pub fn is_terminating(&self) -> bool {
        self.terminating.load(Relaxed)
    }

    /// The schema of a version.
    pub fn schema(&self, version: &str) -> Option<&Structural> {
        self.schemas.get(version)?.as_deref()
    }

    /// Drops what the version's schema does not declare, and tells what that was.
    pub fn prune(&self, version: &str, object: &mut Value) -> Vec<String> {
        let mut unknown = Vec::new();
        if let Some(schema) = self.schema(version).filter(|_| !self.keeps_unknown) {
            structural::prune(schema, object, true, &mut unknown);
        }
        unknown
    }

    /// Fills in the version's defaults.
    pub fn default(&self, version: &str, object: &mut Value) {
        if let Some(schema) = self.schema(version) {
            structural::default(schema, object);
            structural::drop_nulls(schema, object);
        }
    }

    /// The object as one of another version that looks the same.
    pub fn relabel(&self, version: &str, object: &mut Value) {
        object["apiVersion"] = self.api_version(version).into();
    }

    /// What became of an object on its way to a version: pruned, with the version's defaults.
    pub fn settle(&self, version: &str, object: &mut Value) {
        self.prune(version, object);
        self.default(version, object);
    }

    /// `group/version`.
    pub fn api_version(&self, version: &str) -> String {
        format!("{}/{version}", self.group)
    }

    /// Whether a webhook has to be asked even for the stored version, since some objects may be stored in another.
    pub fn asks_for_old(&self) -> bool {
        self.asks_webhook() && self.mixed.load(Relaxed)
    }

    /// Whether objects are converted by asking a webhook.
    pub fn asks_webhook(&self) -> bool {
        self.conversion.strategy == "Webhook"
    }
}

impl Version {
    fn new(family: Arc<Family>, version: &CustomResourceDefinitionVersion) -> Self {
        let schema = family.schemas.get(&version.name).cloned().flatten();
        let (arena, root) = structural::arena(schema.as_deref());
        let subresources = version.subresources.as_ref();
        let deprecation = (version.deprecated == Some(true)).then(|| {
            let usual = || format!("{}/{} {} is deprecated", family.group, version.name, family.kind);
            version.deprecation_warning.clone().unwrap_or_else(usual)
        });
        Version {
            name: version.name.clone(),
            rules: schema.as_deref().and_then(|s| Rules::new(s, true)),
            published: openapi::published(version, family.keeps_unknown),
            deprecation,
            scale: subresources.and_then(|s| s.scale.as_ref()).map(Scale::new),
            has_status: subresources.is_some_and(|s| s.status.is_some()),
            columns: Columns::new(version.additional_printer_columns.as_deref().unwrap_or_default()),
            schema,
            arena,
            root,
            family,
        }
    }

    /// The type of its objects, for field ownership.
    pub fn root(&self) -> Root<'_> {
        Root { schema: &self.arena, id: self.root }
    }

    /// Whether it is the version that is stored.
    pub fn is_stored(&self) -> bool {
        self.name == self.family.storage
    }
}

fn texts(list: Option<&Vec<String>>) -> Cow<'static, [Text]> {
    list.into_iter().flatten().map(|t| Text::Owned(t.clone())).collect()
}

/// The row of one version.
fn row(definition: &CustomResourceDefinition, version: &CustomResourceDefinitionVersion, custom: Version) -> Resource {
    let spec = &definition.spec;
    let names = &spec.names;
    let kind: Text = names.kind.clone().into();
    let mut subresources = Vec::new();
    if custom.has_status {
        let own = Subresource::status("");
        subresources.push(Subresource { kind: kind.clone(), ..own });
    }
    if custom.scale.is_some() {
        subresources.push(Subresource { verbs: READ_AND_CHANGE.into(), ..Subresource::scale() });
    }
    let selectable = version.selectable_fields.iter().flatten().map(|f| {
        let path = f.json_path.trim_start_matches('.').to_owned();
        SelectableField { label: path.clone().into(), paths: vec![Text::Owned(path)].into(), absent: "".into() }
    });
    let singular = names.singular.clone().filter(|s| !s.is_empty()).unwrap_or_else(|| names.kind.to_lowercase());
    Resource {
        group: spec.group.clone().into(),
        version: version.name.clone().into(),
        kind,
        plural: names.plural.clone().into(),
        singular: singular.into(),
        short_names: texts(names.short_names.as_ref()),
        categories: texts(names.categories.as_ref()),
        scope: if spec.scope == "Cluster" { Scope::Cluster } else { Scope::Namespaced },
        verbs: VERBS.into(),
        subresources: subresources.into(),
        name_rule: NameRule::Subdomain,
        generation: true,
        selectable_fields: selectable.collect::<Vec<_>>().into(),
        columns: custom.columns.headers().into(),
        cells: |object, context| object.cells(context),
        // Made by [`Resource::typed`], which knows the version.
        decode: |_| Err(serde::de::Error::custom("a custom resource has no type of its own")),
        schema: openapi::name(&spec.group, &version.name, &names.kind).into(),
        storage: None,
        hashed_version: None,
        deprecation: custom.deprecation.clone().map(Text::Owned),
        derived_annotations: &[],
        list_kind: names.list_kind.clone().filter(|k| !k.is_empty()).map(Text::Owned),
        custom: Some(Arc::new(custom)),
    }
}
