//! Who owns which fields of an object, and server-side apply (upstream: `apimachinery/pkg/util/managedfields` over `structured-merge-diff`).
//!
//! Both functions here are pure: they take the object as it is and as it is to become, and give the new `managedFields`. They look at objects as
//! [`crate::normalize`] shapes them, without `metadata.managedFields`, which come and go beside them.
//!
//! Owners of another API version are compared as if they wrote in this one: upstream converts, which matters only where versions of a kind name fields
//! differently. A schema that changes (a custom resource's list that becomes atomic) does not rewrite the sets of owners.

mod compare;
mod entries;
mod merge;
mod set;
mod shape;

pub use entries::{Entry, MAX_UPDATERS, Operation};
pub use set::Set;

use crate::schema::Root;
use crate::status::StatusError;
use compare::compare;
use entries::{cap, is_reset, read, write};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{StatusCause, StatusDetails};
use serde_json::Value;
use shape::Place;
use std::sync::LazyLock;

/// Who writes, how and when.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    /// The `fieldManager` parameter, or what [`manager_of_user_agent`] makes of the client's name.
    pub manager: &'a str,
    /// The subresource written through, or empty.
    pub subresource: &'a str,
    /// The version written in: `apps/v1`.
    pub api_version: &'a str,
    /// Now, as `2020-01-02T03:04:05Z`.
    pub time: &'a str,
    /// Fields this path cannot change, so that nobody comes to own them through it: see [`reset_fields`].
    pub reset: &'a Set,
}

impl Writer<'_> {
    fn entry(&self, operation: Operation, set: Set) -> Entry {
        Entry {
            manager: self.manager.to_owned(),
            operation,
            api_version: self.api_version.to_owned(),
            time: Some(self.time.to_owned()),
            subresource: self.subresource.to_owned(),
            set,
        }
    }
}

/// How long a manager's name may be.
pub const MANAGER_MAX: usize = 128;

/// The owner's name for a client that gives none: the first part of its User-Agent.
pub fn manager_of_user_agent(user_agent: &str) -> String {
    let name = user_agent.split('/').next().unwrap_or_default();
    let printable: String = name.chars().filter(|c| !c.is_control()).collect();
    let end = (0..=printable.len().min(MANAGER_MAX)).rev().find(|i| printable.is_char_boundary(*i)).unwrap_or(0);
    if end == 0 { "unknown".into() } else { printable[..end].to_owned() }
}

/// The fields that a path of a kind with a status subresource leaves alone, for kinds that say nothing else.
pub fn reset_fields(has_status: bool, subresource: &str) -> &'static Set {
    static NONE: LazyLock<Set> = LazyLock::new(Set::default);
    static STATUS: LazyLock<Set> = LazyLock::new(|| Set::of_fields(&["status"]));
    static ALL_BUT_STATUS: LazyLock<Set> =
        LazyLock::new(|| Set::of_fields(&["spec", "metadata.labels", "metadata.deletionTimestamp", "metadata.ownerReferences"]));
    match (has_status, subresource) {
        (true, "") => &STATUS,
        (true, "status") => &ALL_BUT_STATUS,
        _ => &NONE,
    }
}

/// What nobody owns: the server's own, and what identifies the object.
static UNOWNED: LazyLock<Set> = LazyLock::new(|| {
    Set::of_fields(&[
        "apiVersion",
        "kind",
        "metadata",
        "metadata.name",
        "metadata.namespace",
        "metadata.creationTimestamp",
        "metadata.selfLink",
        "metadata.uid",
        "metadata.clusterName",
        "metadata.generation",
        "metadata.managedFields",
        "metadata.resourceVersion",
    ])
});

/// The managed fields to start from: the ones the client sent, unless it sent none (it may not know them) or writes through a subresource; then the stored
/// ones. A client that sends one empty entry wants them forgotten.
pub fn starting_point<'a>(stored: &'a Value, sent: &'a Value, subresource: &str) -> &'a Value {
    if subresource.is_empty() && sent.as_array().is_some_and(|s| !s.is_empty()) && (is_reset(sent) || !read(sent).is_empty()) {
        sent
    } else {
        stored
    }
}

/// The managed fields after a create (`live` is [`crate::normalize::empty`]), an update or a patch other than apply. `new` is the object as the client
/// wants it, with defaults, before admission and before the kind prepares it: what those set, nobody owns.
pub fn update(root: Root<'_>, live: &Value, new: &Value, managed: &Value, writer: &Writer<'_>) -> Value {
    let mut owners = read(managed);
    let ty = root.ty();
    let mut changed = compare(root.schema, Place::of(&ty), live, new);
    for set in [&mut changed.added, &mut changed.removed, &mut changed.modified] {
        set.subtract_trees(writer.reset);
    }
    let mut taken = changed.modified;
    taken.union(&changed.added);
    for owner in &mut owners {
        owner.set.subtract(&taken);
        owner.set.subtract(&changed.removed);
    }
    taken.subtract(&UNOWNED);
    if !taken.is_empty() {
        let mut entry = writer.entry(Operation::Update, taken);
        if let Some(at) = owners.iter().position(|o| o.same_owner(&entry)) {
            entry.set.union(&owners.remove(at).set);
        }
        owners.push(entry);
    }
    owners.retain(|o| !o.set.is_empty());
    cap(&mut owners);
    write(owners)
}

/// What an apply makes of an object.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    /// The object, without managed fields; it still has to be decoded, for what was removed stands in it as null.
    pub object: Value,
    /// The new managed fields.
    pub managed: Value,
}

/// Applies a configuration: `config` is what the client sent, neither defaulted nor normalised; `live` the object, or [`crate::normalize::empty`] for a new one.
pub fn apply(
    root: Root<'_>,
    live: &Value,
    config: &Value,
    managed: &Value,
    writer: &Writer<'_>,
    force: bool,
) -> Result<Applied, StatusError> {
    if config.pointer("/metadata/managedFields").is_some_and(|m| !m.is_null()) {
        return Err(StatusError::bad_request("metadata.managedFields must be nil"));
    }
    let (schema, ty) = (root.schema, root.ty());
    let place = Place::of(&ty);
    check_config(root, config)?;
    let mut owners = read(managed);
    let mut set = shape::field_set(schema, place, config).children;
    set.subtract_trees(writer.reset);
    let mut entry = writer.entry(Operation::Apply, set);
    let last = owners.iter().position(|o| o.same_owner(&entry)).map(|at| owners.remove(at));

    let mut object = merge::merge(schema, place, live, config);
    if let Some(last) = last.as_ref().filter(|l| !l.set.is_empty()) {
        object = prune(root, &object, last, &owners, &entry);
    }
    let mut changed = compare(schema, place, live, &object);
    for set in [&mut changed.added, &mut changed.removed, &mut changed.modified] {
        set.subtract_trees(writer.reset);
    }
    let unchanged = changed.added.is_empty() && changed.removed.is_empty() && changed.modified.is_empty();
    let mut taken = changed.modified;
    taken.union(&changed.added);
    if !force {
        let conflicts: Vec<(String, String)> =
            owners.iter().flat_map(|o| o.set.intersection(&taken).paths().into_iter().map(|path| (o.describe(), path))).collect();
        if !conflicts.is_empty() {
            let allowed = if writer.manager == KUBECTL { last_applied_fields(root, live) } else { Set::default() };
            let mut left = taken.clone();
            left.subtract(&allowed);
            if owners.iter().any(|o| !o.set.intersection(&left).is_empty()) {
                return Err(conflict(&conflicts));
            }
        }
    }
    for owner in &mut owners {
        owner.set.subtract(&taken);
        owner.set.subtract(&changed.removed);
    }
    entry.set.subtract(&UNOWNED);
    if let Some(last) = last.filter(|l| unchanged && l.set == entry.set && l.api_version == entry.api_version) {
        entry.time = last.time;
    }
    owners.push(entry);
    owners.retain(|o| !o.set.is_empty());
    if writer.manager == KUBECTL {
        keep_last_applied(&mut object, config);
    }
    Ok(Applied { object, managed: write(owners) })
}

/// `failed to create typed patch object (ns/name; apps/v1, Kind=Deployment): ...`: 500 without a reason, as upstream answers.
fn check_config(root: Root<'_>, config: &Value) -> Result<(), StatusError> {
    let ty = root.ty();
    let mut wrong = Vec::new();
    shape::check(root.schema, Place::of(&ty), config, "", &mut wrong);
    let what = match wrong.as_slice() {
        [] => return Ok(()),
        [one] => one.clone(),
        many => format!("errors:\n{}", many.iter().map(|w| format!("  {w}")).collect::<Vec<_>>().join("\n")),
    };
    let text = |pointer: &str| config.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let api_version = text("/apiVersion");
    let gvk = format!("{}{api_version}, Kind={}", if api_version.contains('/') { "" } else { "/" }, text("/kind"));
    let object = format!("{}/{}; {gvk}", text("/metadata/namespace"), text("/metadata/name"));
    Err(StatusError::new(500, "", format!("failed to create typed patch object ({object}): {what}")))
}

/// Takes out what the applier set the last time and sets no more, unless somebody else owns it.
fn prune(root: Root<'_>, merged: &Value, last: &Entry, owners: &[Entry], now: &Entry) -> Value {
    let (schema, ty) = (root.schema, root.ty());
    let place = Place::of(&ty);
    let named = |set: &Set| shape::with_named_fields(schema, place, set);
    let fields = |value: &Value| named(&shape::field_set(schema, place, value).children);
    let last = named(&last.set);
    let pruned = merge::remove(schema, place, merged, &last);

    // What was removed along with it but belongs to somebody, this applier's new configuration included, comes back.
    let mut owned = now.set.clone();
    owners.iter().for_each(|o| owned.union(&o.set));
    let all = fields(merged);
    let mut gone = all.clone();
    gone.subtract(&fields(&pruned));
    gone.subtract(&named(&owned));
    let pruned = merge::remove(schema, place, merged, &gone);

    // And what was below it but never the applier's: only what it had set itself goes.
    let mut gone = all;
    gone.subtract(&fields(&pruned));
    merge::remove(schema, place, merged, &gone.intersection(&last))
}

/// 409 `Apply failed with 1 conflict: conflict with "x" using apps/v1: .spec.replicas`.
fn conflict(conflicts: &[(String, String)]) -> StatusError {
    let message = match conflicts {
        [(owner, path)] => format!("Apply failed with 1 conflict: conflict with {owner}: {path}"),
        many => {
            let mut owners: Vec<&String> = many.iter().map(|(o, _)| o).collect();
            owners.sort_unstable();
            owners.dedup();
            let mut lines = Vec::new();
            for owner in owners {
                lines.push(format!("conflicts with {owner}:"));
                lines.extend(many.iter().filter(|(o, _)| o == owner).map(|(_, path)| format!("- {path}")));
            }
            format!("Apply failed with {} conflicts: {}", many.len(), lines.join("\n"))
        }
    };
    let cause = |(owner, path): &(String, String)| StatusCause {
        field: Some(path.clone()),
        message: Some(format!("conflict with {owner}")),
        reason: Some("FieldManagerConflict".into()),
    };
    let mut error = StatusError::new(409, "Conflict", message);
    error.0.details = Some(StatusDetails { causes: Some(conflicts.iter().map(cause).collect()), ..Default::default() });
    error
}

/// The manager of `kubectl apply --server-side`, which takes over from client-side apply without conflicts.
const KUBECTL: &str = "kubectl";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The fields that client-side apply set last, with the values they still have.
fn last_applied_fields(root: Root<'_>, live: &Value) -> Set {
    let annotation = live.get("metadata").and_then(|m| m.get("annotations")).and_then(|a| a.get(LAST_APPLIED)).and_then(Value::as_str);
    let Some(applied) = annotation.and_then(|a| serde_json::from_str::<Value>(a).ok()) else { return Set::default() };
    let ty = root.ty();
    let place = Place::of(&ty);
    let mut set = shape::field_set(root.schema, place, &applied).children;
    let differing = compare(root.schema, place, &applied, live);
    set.subtract(&differing.modified);
    set.subtract(&differing.removed);
    set
}

/// An object that client-side apply left its annotation on gets a new one, so that client-side apply can go on.
fn keep_last_applied(object: &mut Value, config: &Value) {
    let Some(annotations) = object.get_mut("metadata").and_then(|m| m.get_mut("annotations")).and_then(Value::as_object_mut) else {
        return;
    };
    let Some(annotation) = annotations.get_mut(LAST_APPLIED) else { return };
    let mut config = config.clone();
    if let Some(own) = config.get_mut("metadata").and_then(|m| m.get_mut("annotations")).and_then(Value::as_object_mut) {
        own.remove(LAST_APPLIED);
    }
    *annotation = Value::String(format!("{config}\n"));
}

#[cfg(test)]
mod tests;
