//! POST, PUT, PATCH and DELETE: reads the body as what the path says it is, and hands it to the registry
//! (upstream: `endpoints/handlers/{create,update,patch,delete}.go`).

use super::parameters::{DeleteParameters, ListParameters, Write as Verb, WriteParameters};
use super::{Api, Call, read};
use crate::negotiation::{self, BodyEncoding, Offer};
use crate::registry::patch::PatchKind;
use crate::registry::subresource::View;
use crate::registry::update::Wanted;
use crate::registry::{Endpoint, Write, Written, delete, metadata, scale};
use crate::respond::{self, Response};
use crate::reviews::Asked;
use api::decode::body::{self, FieldValidation, Media, Target};
use api::protobuf;
use api::schema::{self, Root};
use api::{StatusError, status::Result};
use serde_json::{Value, json};

/// What the body of a request to this path is: the resource's kind, or its subresource's.
pub(crate) fn target<'a>(endpoint: &'a Endpoint, subresource: &'a str) -> Result<Target<'a>> {
    let row = &*endpoint.row;
    let (group, version, kind) = match row.subresource(subresource) {
        Some(s) if !s.group_version.1.is_empty() => (s.group_version.0.as_ref(), s.group_version.1.as_ref(), s.kind.as_ref()),
        Some(s) => (row.group.as_ref(), row.version.as_ref(), s.kind.as_ref()),
        None => (row.group.as_ref(), row.version.as_ref(), row.kind.as_ref()),
    };
    let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let own = subresource.is_empty() || row.subresource(subresource).is_some_and(|s| s.group_version.1.is_empty());
    if let Some(custom) = row.custom.as_deref().filter(|_| own) {
        return Ok(Target { group, version, kind, root: api::structural::decoding_root(), custom: Some(custom) });
    }
    let root: Root<'static> =
        schema::of_kind(&api_version, kind).ok_or_else(|| StatusError::internal(format!("no schema is known for {api_version} {kind}")))?;
    Ok(Target { group, version, kind, root, custom: None })
}

/// The body as what it must be, with the warnings to send along.
fn decode(target: &Target<'_>, bytes: &[u8], encoding: BodyEncoding, validation: FieldValidation) -> Result<(Value, Vec<String>)> {
    match encoding {
        BodyEncoding::Json => body::decode(target, bytes, Media::Json, validation),
        BodyEncoding::Yaml => body::decode(target, bytes, Media::Yaml, validation),
        BodyEncoding::Protobuf => {
            let unrecognized =
                |e| StatusError::bad_request(format!("the object provided is unrecognized (must be of type {}): {e}", target.kind));
            body::decode_value(target, &protobuf::decode(bytes).map_err(unrecognized)?, validation)
        }
    }
}

/// 415 for a body in none of these media types.
fn unknown_format(accepted: &str) -> StatusError {
    let why = format!("the body of the request was in an unknown format - accepted media types include: {accepted}");
    StatusError::new(415, "UnsupportedMediaType", why)
}

/// The layout of the body. Custom resources have no protobuf form.
fn encoding(call: &Call, endpoint: &Endpoint) -> Result<BodyEncoding> {
    match negotiation::body_encoding(call.request.headers())? {
        BodyEncoding::Protobuf if endpoint.row.custom.is_some() && call.info.subresource != "scale" => {
            Err(unknown_format("application/json, application/yaml"))
        }
        encoding => Ok(encoding),
    }
}

/// Who owns what is written.
fn manager(call: &Call, parameters: &WriteParameters) -> String {
    if parameters.field_manager.is_empty() { call.program() } else { parameters.field_manager.clone() }
}

/// The options of a request as an object of `meta.k8s.io/v1`, for those who are asked about the write.
fn options(kind: &str, parameters: &WriteParameters) -> Value {
    let mut out = json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
    if parameters.dry_run {
        out["dryRun"] = json!(["All"]);
    }
    if !parameters.field_manager.is_empty() {
        out["fieldManager"] = parameters.field_manager.as_str().into();
    }
    if parameters.force {
        out["force"] = true.into();
    }
    if let Some(given) = &parameters.given_validation {
        out["fieldValidation"] = given.as_str().into();
    }
    out
}

fn write<'a>(call: &'a Call, endpoint: &'a Endpoint, parameters: &WriteParameters, options: &'a Value, manager: &'a str) -> Write<'a> {
    Write {
        endpoint,
        subresource: &call.info.subresource,
        namespace: if endpoint.row.namespaced() { &call.info.namespace } else { "" },
        name: &call.info.name,
        user: &call.user,
        manager,
        dry_run: parameters.dry_run,
        field_validation: parameters.field_validation,
        admit: true,
        options,
        asked: &Value::Null,
        notes: &call.notes,
    }
}

/// The query of a connection as the options object that upstream makes of it.
pub(super) fn connect_options(call: &Call) -> Value {
    let kind = match (call.info.resource.as_str(), call.info.subresource.as_str()) {
        (_, "exec") => "PodExecOptions",
        (_, "attach") => "PodAttachOptions",
        (_, "portforward") => "PodPortForwardOptions",
        ("nodes", _) => "NodeProxyOptions",
        ("services", _) => "ServiceProxyOptions",
        _ => "PodProxyOptions",
    };
    let mut out = json!({"kind": kind, "apiVersion": "v1"});
    for flag in ["stdin", "stdout", "stderr", "tty"].iter().filter(|f| call.query.flag(f)) {
        out[*flag] = true.into();
    }
    if let Some(container) = call.query.non_empty("container") {
        out["container"] = container.into();
    }
    let command: Vec<&str> = call.query.all("command").collect();
    if !command.is_empty() {
        out["command"] = json!(command);
    }
    let ports: Vec<i64> = call.query.all("ports").flat_map(|p| p.split(',')).filter_map(|p| p.parse().ok()).collect();
    if !ports.is_empty() {
        out["ports"] = json!(ports);
    }
    if call.info.subresource == "proxy" && !call.info.rest.is_empty() {
        out["path"] = call.info.rest.join("/").into();
    }
    out
}

/// A connection as a write, for admission.
pub(super) fn connection<'a>(call: &'a Call, endpoint: &'a Endpoint, asked: &'a Value) -> Write<'a> {
    Write { asked, ..write(call, endpoint, &WriteParameters::default(), &Value::Null, "") }
}

fn finish(endpoint: &Endpoint, call: &Call, written: Written) -> Result<Response> {
    let format = call.format(Offer::Resource)?;
    let code = if written.created { 201 } else { 200 };
    match call.info.subresource.as_str() {
        "scale" => {
            let object: Value = serde_json::from_slice(&written.object).map_err(StatusError::internal)?;
            Ok(respond::value(code, &scale::of(&endpoint.row, &object)?, format))
        }
        _ => read::object(endpoint, code, written.object, format, call),
    }
}

/// POST.
pub(super) async fn create(api: &Api, mut call: Call, endpoint: &Endpoint) -> Result<Response> {
    let review = api.reviews.find(&endpoint.row.group, &endpoint.row.plural, &call.info.subresource);
    // What is answered rather than stored has no columns and no metadata to be shown by.
    let format = call.format(if review.is_some() { Offer::Plain } else { Offer::Resource })?;
    let encoding = encoding(&call, endpoint)?;
    if endpoint.row.custom.as_ref().is_some_and(|c| c.family.is_terminating()) {
        return Err(StatusError::new(405, "MethodNotAllowed", "create not allowed while custom resource definition is terminating"));
    }
    let parameters = WriteParameters::parse(&call.query, Verb::Create)?;
    let bytes = call.body().await?;
    let (object, warnings) = decode(&target(endpoint, &call.info.subresource)?, &bytes, encoding, parameters.field_validation)?;
    call.notes.warn_all(warnings);
    let row = endpoint.row.clone();
    let (manager, options) = (manager(&call, &parameters), options("CreateOptions", &parameters));
    let write = write(&call, endpoint, &parameters, &options, &manager);
    if let Some(review) = review {
        let mut object = object;
        if call.info.subresource.is_empty() {
            // The fields of a question have owners too, and upstream answers with them.
            let managed = write.managed_fields(None, &object, &object);
            metadata::put_managed_fields(&mut object, managed);
        }
        let asked = Asked { user: &call.user, namespace: &call.info.namespace, name: &call.info.name, object, dry_run: parameters.dry_run };
        return Ok(respond::value(201, &review.answer(asked).await?, format));
    }
    let done = match (row.plural.as_ref(), write.subresource) {
        ("pods", "binding") | ("bindings", "") => api.registry.bind(&write, object).await?,
        ("pods", "eviction") => api.registry.evict(&write, object).await?,
        (_, "") => {
            let written = api.registry.create(&write, object).await?;
            return finish(endpoint, &call, written);
        }
        _ => return Err(respond::generic(405)),
    };
    Ok(respond::value(201, &done, format))
}

/// PUT.
pub(super) async fn update(api: &Api, mut call: Call, endpoint: &Endpoint) -> Result<Response> {
    call.format(Offer::Resource)?;
    let encoding = encoding(&call, endpoint)?;
    let parameters = WriteParameters::parse(&call.query, Verb::Update)?;
    let bytes = call.body().await?;
    let (mut object, warnings) = decode(&target(endpoint, &call.info.subresource)?, &bytes, encoding, parameters.field_validation)?;
    call.notes.warn_all(warnings);
    if metadata::text(&object, "name").is_empty() {
        let why = format!("the name of the object ({} based on URL) was undeterminable: name must be provided", call.info.name);
        return Err(StatusError::bad_request(why));
    }
    metadata::match_name(&mut object, &call.info.name)?;
    let (manager, options) = (manager(&call, &parameters), options("UpdateOptions", &parameters));
    let write = write(&call, endpoint, &parameters, &options, &manager);
    metadata::match_namespace(&mut object, write.namespace)?;
    if write.subresource == "scale" {
        let make = |current: &crate::registry::update::Current| {
            let value = scale::apply(&endpoint.row, &current.value, &object)?;
            Ok(Wanted { value, managed: Value::Null, applied: false, uid: None })
        };
        let written = api.registry.update(&write, View::Main, &make).await?;
        return finish(endpoint, &call, written);
    }
    let view = View::of(write.subresource).ok_or_else(|| respond::generic(405))?;
    let sent = metadata::take_managed_fields(&mut object);
    let uid = Some(metadata::text(&object, "uid").to_owned());
    let make = |_: &crate::registry::update::Current| {
        Ok(Wanted { value: object.clone(), managed: sent.clone(), applied: false, uid: uid.clone() })
    };
    let written = match api.registry.update(&write, view, &make).await {
        Err(error) if error.code() == 404 && view == View::Main && endpoint.creates_on_update() => {
            api.registry.create(&write, object.clone()).await?
        }
        other => other?,
    };
    finish(endpoint, &call, written)
}

/// PATCH.
pub(super) async fn patch(api: &Api, mut call: Call, endpoint: &Endpoint) -> Result<Response> {
    call.format(Offer::Resource)?;
    let kind = PatchKind::of(negotiation::content_type(call.request.headers())).ok_or_else(|| respond::generic(415))?;
    if kind == PatchKind::Strategic && endpoint.row.custom.is_some() {
        return Err(unknown_format("application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml"));
    }
    let verb = if kind == PatchKind::Apply { Verb::Apply } else { Verb::Patch };
    let parameters = WriteParameters::parse(&call.query, verb)?;
    let bytes = call.body().await?;
    let (manager, options) = (manager(&call, &parameters), options("PatchOptions", &parameters));
    let write = write(&call, endpoint, &parameters, &options, &manager);
    let target = target(endpoint, write.subresource)?;
    let written = api.registry.patch(&write, kind, &target, &bytes, parameters.force).await?;
    finish(endpoint, &call, written)
}

/// The options of a deletion, from the body if there is one.
async fn delete_parameters(call: &mut Call) -> Result<DeleteParameters> {
    let bytes = call.body().await?;
    if bytes.is_empty() {
        return DeleteParameters::parse(&call.query, None);
    }
    let bad = |e: String| StatusError::bad_request(e);
    let options = match negotiation::body_encoding(call.request.headers())? {
        BodyEncoding::Json => api::decode::any_json(&bytes).map_err(|e| bad(e.to_string()))?,
        BodyEncoding::Yaml => serde_yaml::from_slice(&bytes).map_err(|e| bad(e.to_string()))?,
        BodyEncoding::Protobuf => protobuf::decode(&bytes).map_err(|e| bad(e.to_string()))?,
    };
    DeleteParameters::parse(&call.query, Some(options))
}

/// DELETE of an object.
pub(super) async fn delete(api: &Api, mut call: Call, endpoint: &Endpoint) -> Result<Response> {
    let format = call.format(Offer::Resource)?;
    let options = delete_parameters(&mut call).await?;
    let parameters = WriteParameters { dry_run: options.dry_run, ..Default::default() };
    let shown = options.shown();
    let write = write(&call, endpoint, &parameters, &shown, "");
    let deleted = api.registry.delete(&write, &options).await?;
    let pending = matches!(deleted, delete::Deleted::Pending(_));
    // Who asked the old way for dependents to be deleted is told when that is still to come.
    let code = if pending && options.orphan_dependents == Some(false) { 202 } else { 200 };
    match delete::answer(endpoint, deleted) {
        Err(object) => read::object(endpoint, code, object, format, &call),
        Ok(status) => Ok(respond::value(code, &status, format)),
    }
}

/// DELETE of a collection.
pub(super) async fn delete_collection(api: &Api, mut call: Call, endpoint: &Endpoint) -> Result<Response> {
    let format = call.format(Offer::Resource)?;
    let list = ListParameters::parse(&call.query, false)?;
    let options = delete_parameters(&mut call).await?;
    let parameters = WriteParameters { dry_run: options.dry_run, ..Default::default() };
    let shown = options.shown();
    let write = Write { name: "", ..write(&call, endpoint, &parameters, &shown, "") };
    let listing = api.registry.delete_collection(&write, &list, &options).await?;
    read::listing(endpoint, listing, format, call.query.get("includeObject")).await
}
