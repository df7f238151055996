//! Conversion of custom resources by webhook (upstream: `apiextensions-apiserver/pkg/apiserver/conversion/webhook_converter.go`): one review for all
//! objects of an answer. What comes back may differ in everything but what identifies an object.

use crate::outbound::{Caller, Place, Server, ServiceTarget};
use api::custom::Family;
use api::{StatusError, status::Result};
use bytes::Bytes;
use serde_json::{Value, json};
use std::time::Duration;

/// How long a webhook may take (upstream's).
const TIMEOUT: Duration = Duration::from_secs(30);
/// The versions of the review that are spoken.
const REVIEWS: [&str; 2] = ["v1", "v1beta1"];

/// The objects in another version (`group/version`), in the same order.
pub async fn convert(caller: &Caller, family: &Family, target: &str, objects: Vec<Value>) -> Result<Vec<Value>> {
    let Some(first) = objects.first() else { return Ok(objects) };
    let named = format!("{}, Kind={}", first["apiVersion"].as_str().unwrap_or(""), first["kind"].as_str().unwrap_or(&family.kind));
    let failed = |why: String| StatusError::new(500, "", format!("conversion webhook for {named} {why}"));
    let (server, review) = asked(family).ok_or_else(|| failed("failed: no webhook is configured".into()))?;
    let uid = uuid::Uuid::new_v4().to_string();
    let request = json!({
        "kind": "ConversionReview", "apiVersion": format!("apiextensions.k8s.io/{review}"),
        "request": {"uid": uid, "desiredAPIVersion": target, "objects": objects},
    });
    let answer = caller.post(&server, "timeout=30s", Bytes::from(request.to_string()), TIMEOUT).await;
    let answer = answer.map_err(|e| failed(format!("failed: {e}")))?;
    let answer: Value = serde_json::from_slice(&answer).map_err(|e| failed(format!("failed: {e}")))?;
    let converted = judge(&answer, &uid, objects.len()).map_err(failed)?;
    objects.iter().zip(converted).enumerate().map(|(i, (old, new))| settle(old, new, target, i).map_err(failed)).collect()
}

/// Which server to ask, in which version of the review.
fn asked(family: &Family) -> Option<(Server, &str)> {
    let webhook = family.conversion.webhook.as_ref()?;
    let client = webhook.client_config.as_ref()?;
    let place = match (&client.url, &client.service) {
        (Some(url), _) => Place::Url(url.clone()),
        (None, Some(service)) => Place::Service(ServiceTarget {
            namespace: service.namespace.clone(),
            name: service.name.clone(),
            port: service.port.and_then(|p| u16::try_from(p).ok()).unwrap_or(443),
            path: service.path.clone().unwrap_or_default(),
        }),
        (None, None) => return None,
    };
    let authorities = client.ca_bundle.as_ref().map(|b| b.0.clone()).unwrap_or_default();
    let review = webhook.conversion_review_versions.iter().find(|v| REVIEWS.contains(&v.as_str()))?;
    Some((Server { place, authorities }, review))
}

/// The objects of an answer, if it is one to this question.
fn judge(answer: &Value, uid: &str, count: usize) -> Result<Vec<Value>, String> {
    let response = &answer["response"];
    if response.is_null() {
        return Err("failed: no response provided".into());
    }
    if response["uid"] != uid {
        return Err(format!("failed: expected response.uid={uid:?}, got {:?}", response["uid"].as_str().unwrap_or("")));
    }
    let result = &response["result"];
    if result["status"] != "Success" {
        let text = result["message"].as_str().filter(|m| !m.is_empty());
        let without = || match result["status"].as_str() {
            Some("Failure") => "failed: no message".to_owned(),
            other => format!("failed: response.result.status was {:?}, not 'Success'", other.unwrap_or("")),
        };
        return Err(text.map_or_else(without, |text| format!("failed: {text}")));
    }
    let converted = response["convertedObjects"].as_array().cloned().unwrap_or_default();
    if converted.len() != count {
        return Err(format!("returned {} objects, expected {count}", converted.len()));
    }
    Ok(converted)
}

/// The converted object with its own metadata: of that a webhook may change labels and annotations.
fn settle(old: &Value, mut new: Value, target: &str, at: usize) -> Result<Value, String> {
    let invalid = |why: String| Err(format!("returned invalid converted object at index {at}: {why}"));
    if new["apiVersion"] != target {
        return invalid(format!("invalid groupVersion (expected {target}, received {})", new["apiVersion"].as_str().unwrap_or("")));
    }
    if new["kind"] != old["kind"] {
        let (wanted, given) = (old["kind"].as_str().unwrap_or(""), new["kind"].as_str().unwrap_or(""));
        return invalid(format!("invalid kind (expected {wanted}, received {given})"));
    }
    if !new["metadata"].is_object() {
        return Err(format!("returned invalid metadata in object at index {at}: missing metadata in converted object"));
    }
    for field in ["name", "namespace", "uid"] {
        if new["metadata"][field] != old["metadata"][field] {
            let shown = |v: &Value| v["metadata"][field].as_str().unwrap_or("").to_owned();
            let what = if field == "uid" { "UID" } else { field };
            return Err(format!(
                "returned invalid metadata in object at index {at}: must have the same {what}: {} != {}",
                shown(old),
                shown(&new)
            ));
        }
    }
    let mut metadata = old["metadata"].clone();
    if let Some(fields) = metadata.as_object_mut() {
        for field in ["labels", "annotations"] {
            match new["metadata"].get(field).filter(|v| v.is_object()) {
                Some(value) => drop(fields.insert(field.to_owned(), value.clone())),
                None => drop(fields.remove(field)),
            }
        }
    }
    new["metadata"] = metadata;
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_taken_only_as_they_should_be() {
        let answer = |response: Value| judge(&json!({ "response": response }), "u", 1);
        assert_eq!(answer(json!({"uid": "u", "result": {"status": "Success"}, "convertedObjects": [{}]})), Ok(vec![json!({})]));
        for (response, why) in [
            (json!(null), "failed: no response provided"),
            (json!({"uid": "v"}), "failed: expected response.uid=\"u\", got \"v\""),
            (json!({"uid": "u", "result": {"status": "Failure", "message": "no"}}), "failed: no"),
            (json!({"uid": "u", "result": {"status": "Success"}}), "returned 0 objects, expected 1"),
        ] {
            assert_eq!(answer(response), Err(why.to_owned()));
        }
    }

    #[test]
    fn identity_stays_and_labels_may_change() {
        let old =
            json!({"apiVersion": "g/v1", "kind": "K", "metadata": {"name": "a", "uid": "u", "labels": {"a": "1"}, "managedFields": []}});
        let new = |metadata: Value| json!({"apiVersion": "g/v2", "kind": "K", "metadata": metadata, "x": 1});
        assert_eq!(
            settle(&old, new(json!({"name": "a", "uid": "u", "labels": {"b": "2"}})), "g/v2", 0),
            Ok(new(json!({"name": "a", "uid": "u", "labels": {"b": "2"}, "managedFields": []})))
        );
        assert_eq!(
            settle(&old, new(json!({"name": "b", "uid": "u"})), "g/v2", 0),
            Err("returned invalid metadata in object at index 0: must have the same name: a != b".into())
        );
    }
}
