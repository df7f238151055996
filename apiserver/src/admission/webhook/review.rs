//! `AdmissionReview`, there and back (upstream: `admission/plugin/webhook/request`). Pure.

use super::Wire;
use super::matching::operation_name;
use crate::admission::{Operation, Request};
use crate::registry::Endpoint;
use api::{Resource, StatusError, status::Result};
use base64::Engine;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Group, version and kind of what is sent to this path of the resource.
fn kind(row: &Resource, subresource: &str) -> Value {
    let (group, version, kind) = match row.subresource(subresource) {
        Some(s) if !s.group_version.1.is_empty() => (&s.group_version.0, &s.group_version.1, &s.kind),
        Some(s) => (&row.group, &row.version, &s.kind),
        None => (&row.group, &row.version, &row.kind),
    };
    json!({"group": group, "version": version, "kind": kind})
}

fn resource(row: &Resource) -> Value {
    json!({"group": row.group, "version": row.version, "resource": row.plural})
}

/// The user of a request, as `authentication.k8s.io/v1` has it.
pub(in crate::admission) fn user_info(user: &crate::authentication::UserInfo) -> Value {
    let mut out = json!({"username": user.name});
    if !user.uid.is_empty() {
        out["uid"] = user.uid.as_str().into();
    }
    if !user.groups.is_empty() {
        out["groups"] = json!(user.groups);
    }
    if !user.extra.is_empty() {
        out["extra"] = json!(user.extra);
    }
    out
}

/// The request part of a review, which expressions see as `request` as well. `endpoint` is the version that whoever is asked wants to see.
pub(in crate::admission) fn asked(uid: &str, request: &Request<'_>, endpoint: &Endpoint) -> Value {
    let mut out = json!({
        "uid": uid,
        "kind": kind(&endpoint.row, request.subresource),
        "resource": resource(&endpoint.row),
        "requestKind": kind(request.resource, request.subresource),
        "requestResource": resource(request.resource),
        "operation": operation_name(request.operation),
        "userInfo": user_info(request.user),
        "dryRun": request.dry_run,
    });
    for (key, text) in [
        ("subResource", request.subresource),
        ("requestSubResource", request.subresource),
        ("name", request.name),
        ("namespace", request.namespace),
    ] {
        if !text.is_empty() {
            out[key] = text.into();
        }
    }
    out["options"] = if request.operation == Operation::Connect { Value::Null } else { request.context.options.clone() };
    out
}

/// A review of this version.
pub(super) fn request(version: &str, uid: &str, request: &Request<'_>, wire: &Wire<'_>, endpoint: &Endpoint) -> Result<Vec<u8>> {
    let mut asked = asked(uid, request, endpoint);
    let [object, old] = wire.in_version(endpoint)?;
    asked["object"] = object;
    asked["oldObject"] = old;
    let review = json!({"kind": "AdmissionReview", "apiVersion": format!("admission.k8s.io/{version}"), "request": asked});
    serde_json::to_vec(&review).map_err(StatusError::internal)
}

/// What a webhook decided.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    /// Why not, if it said no.
    pub refusal: Option<Status>,
    /// A JSON patch, or empty.
    pub patch: Vec<u8>,
    /// For the audit log.
    pub annotations: BTreeMap<String, String>,
    /// For the client.
    pub warnings: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    response: Option<Response>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Response {
    uid: String,
    allowed: bool,
    status: Option<Status>,
    patch: Option<String>,
    patch_type: Option<String>,
    audit_annotations: Option<BTreeMap<String, String>>,
    warnings: Option<Vec<String>>,
}

/// Reads an answer; the error says what is wrong with it.
pub(super) fn verdict(answer: &[u8], version: &str, uid: &str, mutating: bool) -> Result<Verdict, String> {
    let review: Review = serde_json::from_slice(answer).map_err(|e| e.to_string())?;
    let Some(response) = review.response else { return Err("webhook response was absent".into()) };
    let strict = version == "v1";
    if strict {
        if response.uid != uid {
            return Err(format!("expected response.uid={uid:?}, got {:?}", response.uid));
        }
        let want = "admission.k8s.io/v1";
        if review.api_version != want || review.kind != "AdmissionReview" {
            let (got, kind) = (&review.api_version, &review.kind);
            return Err(format!("expected webhook response of {want}, Kind=AdmissionReview, got {got}, Kind={kind}"));
        }
    }
    let encoded = response.patch.unwrap_or_default();
    let patch = base64::engine::general_purpose::STANDARD.decode(&encoded).map_err(|e| format!("response.patch: {e}"))?;
    check_patch(&patch, response.patch_type.as_deref(), strict, mutating)?;
    Ok(Verdict {
        refusal: (!response.allowed).then(|| response.status.unwrap_or_default()),
        patch,
        annotations: response.audit_annotations.unwrap_or_default(),
        warnings: response.warnings.unwrap_or_default(),
    })
}

fn check_patch(patch: &[u8], kind: Option<&str>, strict: bool, mutating: bool) -> Result<(), String> {
    if !mutating {
        return match (patch.is_empty(), kind) {
            _ if !strict => Ok(()),
            (false, _) => Err("validating webhook may not return response.patch".into()),
            (true, Some(_)) => Err("validating webhook may not return response.patchType".into()),
            (true, None) => Ok(()),
        };
    }
    match (patch.is_empty(), kind) {
        (false, None) if strict => Err("webhook returned response.patch but not response.patchType".into()),
        (true, Some(_)) if strict => Err("webhook returned response.patchType but not response.patch".into()),
        (false, Some(kind)) if kind != "JSONPatch" => Err(format!("webhook returned invalid response.patchType of {kind:?}")),
        _ => Ok(()),
    }
}

/// The refusal that the client gets for what a webhook answered: never less than 400, and never a success.
pub(super) fn denied(name: &str, status: &Status) -> StatusError {
    let mut status = status.clone();
    let by = format!("admission webhook {name:?} denied the request");
    let given = |text: &Option<String>| text.clone().filter(|t| !t.is_empty());
    status.code = Some(status.code.filter(|code| *code >= 400).unwrap_or(400));
    status.status = given(&status.status).filter(|s| s != "Success").or_else(|| Some("Failure".into()));
    status.message = Some(match given(&status.message).or_else(|| given(&status.reason)) {
        Some(why) => format!("{by}: {why}"),
        None => format!("{by} without explanation"),
    });
    StatusError(Box::new(status))
}

/// What the audit log keeps of one call of a mutating webhook.
pub(super) fn mutation_annotation(configuration: &str, webhook: &str, mutated: bool) -> String {
    json!({"configuration": configuration, "webhook": webhook, "mutated": mutated}).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(version: &str, mutating: bool, answer: Value) -> Result<Verdict, String> {
        verdict(answer.to_string().as_bytes(), version, "u", mutating)
    }

    fn v1(response: Value) -> Value {
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
    }

    #[test]
    fn answers_that_make_no_sense_are_told_apart() {
        let patch = "W10="; // []
        for (mutating, answer, want) in [
            (true, json!({}), "webhook response was absent"),
            (true, v1(json!({"uid": "x", "allowed": true})), "expected response.uid=\"u\", got \"x\""),
            (
                true,
                json!({"response": {"uid": "u"}, "apiVersion": "v1", "kind": "Pod"}),
                "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got v1, Kind=Pod",
            ),
            (true, v1(json!({"uid": "u", "patch": patch})), "webhook returned response.patch but not response.patchType"),
            (true, v1(json!({"uid": "u", "patchType": "JSONPatch"})), "webhook returned response.patchType but not response.patch"),
            (
                true,
                v1(json!({"uid": "u", "patch": patch, "patchType": "Merge"})),
                "webhook returned invalid response.patchType of \"Merge\"",
            ),
            (false, v1(json!({"uid": "u", "patch": patch, "patchType": "JSONPatch"})), "validating webhook may not return response.patch"),
        ] {
            assert_eq!(read("v1", mutating, answer).unwrap_err(), want);
        }
        assert!(read("v1beta1", true, json!({"response": {"allowed": true}})).unwrap().refusal.is_none());
        assert_eq!(
            read("v1", true, v1(json!({"uid": "u", "allowed": true, "patch": patch, "patchType": "JSONPatch"}))).unwrap().patch,
            b"[]"
        );
    }

    #[test]
    fn a_refusal_says_who_refused() {
        let denied = |status: Value| crate::respond::status_value(&denied("w.example.com", &serde_json::from_value(status).unwrap()).0);
        let plain = denied(json!({}));
        assert_eq!(plain["message"], "admission webhook \"w.example.com\" denied the request without explanation");
        assert_eq!((&plain["code"], &plain["status"]), (&json!(400), &json!("Failure")));
        let said = denied(json!({"message": "no", "code": 200, "status": "Success"}));
        assert_eq!((&said["message"], &said["code"]), (&json!("admission webhook \"w.example.com\" denied the request: no"), &json!(400)));
        assert_eq!(denied(json!({"reason": "Forbidden", "code": 403}))["code"], 403);
    }
}
