//! PATCH: JSON patch, merge patch, strategic merge patch and server-side apply (upstream: `endpoints/handlers/patch.go`).
//! What a patch does to an object is `api::patch`'s; here is which object it is done to, and what becomes of the result.

use super::subresource::View;
use super::update::{Current, Wanted};
use super::{Registry, Write, Written, metadata, scale};
use crate::respond;
use api::decode::body::{self, FieldValidation, Target};
use api::field::{ErrorList, Path};
use api::{StatusError, status::Result};
use bytes::Bytes;
use serde_json::Value;

/// How a patch is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchKind {
    /// RFC 6902.
    Json,
    /// RFC 7386.
    Merge,
    /// Kubernetes' own: lists are merged by their keys.
    Strategic,
    /// Server-side apply.
    Apply,
}

impl PatchKind {
    /// The kind by its media type.
    pub fn of(media_type: &str) -> Option<Self> {
        Some(match media_type {
            "application/json-patch+json" => PatchKind::Json,
            "application/merge-patch+json" => PatchKind::Merge,
            "application/strategic-merge-patch+json" => PatchKind::Strategic,
            "application/apply-patch+yaml" => PatchKind::Apply,
            _ => return None,
        })
    }
}

/// The most operations a JSON patch may have (upstream's).
const MAX_OPERATIONS: usize = 10_000;

/// A patch, parsed.
enum Patch {
    Json(json_patch::Patch),
    Merge(Value),
    Strategic(Value),
}

impl Patch {
    fn parse(kind: PatchKind, text: &[u8]) -> Result<Self> {
        let bad = |why: String| StatusError::bad_request(format!("error decoding patch: {why}"));
        let value = api::decode::any_json(text).map_err(|e| bad(e.to_string()))?;
        if kind == PatchKind::Json {
            let what = match &value {
                Value::Array(operations) if operations.len() > MAX_OPERATIONS => {
                    let (limit, count) = (MAX_OPERATIONS, operations.len());
                    let why = format!("The allowed maximum operations in a JSON patch is {limit}, got {count}");
                    return Err(StatusError::too_large(format!("Request entity too large: {why}")));
                }
                Value::Array(_) => return serde_json::from_value(value).map(Patch::Json).map_err(|_| respond::generic(422)),
                Value::Object(_) => "object",
                Value::String(_) => "string",
                Value::Bool(_) => "bool",
                _ => "number",
            };
            return Err(bad(format!("json: cannot unmarshal {what} into Go value of type []handlers.jsonPatchOp")));
        }
        if !value.is_object() {
            return Err(bad("json: cannot unmarshal array into Go value of type map[string]interface {}".into()));
        }
        Ok(if kind == PatchKind::Merge { Patch::Merge(value) } else { Patch::Strategic(value) })
    }

    /// The object, patched.
    fn apply(&self, target: &Target<'_>, mut object: Value) -> Result<Value> {
        match self {
            Patch::Json(patch) => json_patch::patch(&mut object, patch).map_err(|_| respond::generic(422))?,
            Patch::Merge(patch) => json_patch::merge(&mut object, patch),
            Patch::Strategic(patch) => return Ok(api::patch::strategic(target.root, object, patch)?),
        }
        Ok(object)
    }
}

/// What a patched object that does not decode is refused with: the whole of it is shown.
fn undecodable(target: &Target<'_>, patched: &Value, why: &StatusError) -> StatusError {
    let mut errors = ErrorList::new();
    let text = why.to_string();
    let reason = text.split_once(&format!("cannot be handled as a {}: ", target.kind)).map_or(text.as_str(), |(_, reason)| reason);
    errors.invalid(&Path::new("patch"), api::go_text::patched_text(target.root, patched), reason);
    StatusError::invalid("", "", "", errors)
}

/// What the patched object says it is, if that is a known kind but not the one that was patched.
fn other_kind<'a>(target: &Target<'_>, patched: &'a Value) -> Option<Target<'a>> {
    let (api_version, kind) = (patched["apiVersion"].as_str()?, patched["kind"].as_str()?);
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let other = kind != target.kind || group != target.group || version != target.version;
    let root = other.then(|| api::schema::of_kind(api_version, kind)).flatten()?;
    Some(Target { group, version, kind, root, custom: None })
}

impl Registry {
    /// Patches the object that `write` names; apply creates it if there is none.
    pub async fn patch(&self, write: &Write<'_>, kind: PatchKind, target: &Target<'_>, text: &Bytes, force: bool) -> Result<Written> {
        if kind == PatchKind::Apply {
            return self.apply(write, target, text, force).await;
        }
        if write.subresource == "scale" {
            let patch = Patch::parse(kind, text)?;
            let make = |current: &Current| {
                let patched = patch.apply(target, scale::of(&write.endpoint.row, &current.value)?)?;
                let value = scale::apply(&write.endpoint.row, &current.value, &patched)?;
                Ok(Wanted { value, managed: Value::Null, applied: false, uid: None })
            };
            return self.update(write, View::Main, &make).await;
        }
        let view = View::of(write.subresource).ok_or_else(|| respond::generic(405))?;
        let parsed = std::sync::OnceLock::new();
        let make = |current: &Current| {
            // A patch is read only once its object is found: that there is none comes first.
            let patch = parsed.get_or_init(|| Patch::parse(kind, text)).as_ref().map_err(Clone::clone)?;
            let mut whole = current.value.clone();
            metadata::put_managed_fields(&mut whole, current.managed.clone());
            let patched = patch.apply(target, whole)?;
            if let Some(other) = other_kind(target, &patched) {
                // A patch that makes it an object of another kind is first told what is wrong with it as such.
                body::decode_value(&other, &patched, write.field_validation).map_err(|e| undecodable(&other, &patched, &e))?;
            }
            let (mut value, warnings) = body::decode_value(target, &patched, write.field_validation).map_err(|e| match e.code() {
                400 if !e.to_string().contains("strict decoding error") => undecodable(target, &patched, &e),
                _ => e,
            })?;
            metadata::match_name(&mut value, write.name)?;
            metadata::drop_empty_maps(&mut value);
            write.notes.warn_all(warnings);
            let managed = metadata::take_managed_fields(&mut value);
            Ok(Wanted { value, managed, applied: false, uid: None })
        };
        self.update(write, view, &make).await
    }

    /// Server-side apply.
    async fn apply(&self, write: &Write<'_>, target: &Target<'_>, text: &Bytes, force: bool) -> Result<Written> {
        let bad = |e: String| StatusError::bad_request(format!("error decoding YAML: {e}"));
        let text = std::str::from_utf8(text).map_err(|e| bad(e.to_string()))?;
        let document = api::decode::yaml::parse(text).map_err(bad)?;
        let config = document.value;
        check_type(&config)?;
        if write.subresource == "scale" {
            // A scale is not stored, so nobody can own a field of it; applying one sets what it says.
            let make = |current: &Current| {
                let mut value = scale::of(&write.endpoint.row, &current.value)?;
                json_patch::merge(&mut value, &config);
                let value = scale::apply(&write.endpoint.row, &current.value, &value)?;
                Ok(Wanted { value, managed: Value::Null, applied: false, uid: None })
            };
            return self.update(write, View::Main, &make).await;
        }
        let view = View::of(write.subresource).ok_or_else(|| respond::generic(405))?;
        let applied = |current: Option<&Current>| -> Result<(Value, Value)> {
            let applied = write.applied(write.endpoint.schema().unwrap_or(target.root), current, &config, force)?;
            write.notes.warn_all(duplicate_keys(&document.duplicates, write.field_validation)?);
            let (mut value, warnings) = body::decode_value(target, &applied.object, write.field_validation)?;
            metadata::match_name(&mut value, write.name)?;
            write.notes.warn_all(warnings);
            Ok((value, applied.managed))
        };
        let make = |current: &Current| {
            let (value, managed) = applied(Some(current))?;
            Ok(Wanted { value, managed, applied: true, uid: None })
        };
        match self.update(write, view, &make).await {
            Err(error) if error.code() == 404 && view == View::Main => {
                if !metadata::text(&config, "uid").is_empty() {
                    let why = "uid mismatch: the provided object specified uid {}, and no existing object was found";
                    return Err(write.endpoint.conflict(write.name, &why.replace("{}", metadata::text(&config, "uid"))));
                }
                let (value, managed) = applied(None)?;
                self.create_owned(write, value, Some(managed)).await
            }
            other => other,
        }
    }
}

/// Keys that stand twice in an applied configuration, as a warning or a refusal: both come after what applying it comes to.
fn duplicate_keys(duplicates: &[String], validation: FieldValidation) -> Result<Option<String>> {
    if duplicates.is_empty() || validation == FieldValidation::Ignore {
        return Ok(None);
    }
    let why = format!("error converting YAML to JSON: yaml: unmarshal errors:\n  {}", duplicates.join("\n  "));
    match validation {
        FieldValidation::Strict => Err(StatusError::bad_request(format!("error strict decoding YAML: {why}"))),
        _ => Ok(Some(why)),
    }
}

/// An applied configuration says in full what it is.
fn check_type(config: &Value) -> Result<()> {
    let text = |field: &str| config.get(field).and_then(Value::as_str).unwrap_or("");
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    if !api_version.is_empty() && !kind.is_empty() {
        return Ok(());
    }
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    Err(StatusError::bad_request(format!("invalid object type: {group}/{version}, Kind={kind}")))
}
