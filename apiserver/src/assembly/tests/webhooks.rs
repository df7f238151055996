//! Admission webhooks, asked for real.

use super::servers::{Answer, Outside};
use super::{Cluster, MAPS, map};
use base64::Engine;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::Ordering;

const CONFIGURATIONS: &str = "/apis/admissionregistration.k8s.io/v1";

/// A configuration with these webhooks, each given as its name, path and what differs from the usual.
fn configuration(kind: &str, name: &str, outside: &Outside, hooks: &[(&str, &str, Value)]) -> Value {
    let hook = |(name, path, other): &(&str, &str, Value)| {
        let mut hook = json!({
            "name": name, "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"service": {"namespace": "default", "name": "hook", "port": outside.port, "path": path}, "caBundle": outside.ca_bundle},
            "rules": [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}],
        });
        hook.as_object_mut().unwrap().extend(other.as_object().unwrap().clone());
        hook
    };
    let hooks: Vec<Value> = hooks.iter().map(hook).collect();
    json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": name}, "webhooks": hooks})
}

/// An answer to a review.
fn review(request: &Value, response: Value) -> (u16, Value) {
    let mut response = response;
    response["uid"] = request["request"]["uid"].clone();
    (200, json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}))
}

fn patch(operations: Value) -> Value {
    let text = base64::engine::general_purpose::STANDARD.encode(operations.to_string());
    json!({"allowed": true, "patchType": "JSONPatch", "patch": text})
}

/// A server that does what its paths say.
fn hooks() -> Answer {
    Arc::new(|head, body| {
        let object = &body["request"]["object"];
        match head.uri.path() {
            // Counts in a key how often it has seen the object.
            "/count" => {
                let seen = object["data"]["seen"].as_str().unwrap_or("");
                review(&body, patch(json!([{"op": "add", "path": "/data/seen", "value": format!("{seen}x")}])))
            }
            "/once" if object["data"].get("once").is_none() => {
                let mut answer = patch(json!([{"op": "add", "path": "/data/once", "value": body["request"]["operation"]}]));
                answer["warnings"] = json!(["it was changed"]);
                review(&body, answer)
            }
            "/once" | "/allow" => review(&body, json!({"allowed": true})),
            "/deny" => {
                review(&body, json!({"allowed": false, "status": {"code": 403, "reason": "Forbidden", "message": "not on my watch"}}))
            }
            "/slow" => {
                std::thread::sleep(std::time::Duration::from_secs(3));
                review(&body, json!({"allowed": true}))
            }
            "/mad" => (200, json!({"kind": "Pod"})),
            _ => (500, json!("broken")),
        }
    })
}

async fn with_service(cluster: &Cluster) -> Outside {
    let outside = Outside::start(&["hook.default.svc"], hooks()).await;
    let service = json!({"metadata": {"name": "hook"}, "spec": {"type": "ExternalName", "externalName": "localhost"}});
    assert_eq!(cluster.json("POST", "/api/v1/namespaces/default/services", service).await.0, 201);
    outside
}

async fn configure(cluster: &Cluster, configuration: Value) {
    let plural = format!("{}s", configuration["kind"].as_str().unwrap().to_lowercase());
    let (code, answer) = cluster.json("POST", &format!("{CONFIGURATIONS}/{plural}"), configuration).await;
    assert_eq!(code, 201, "{answer}");
}

async fn create(cluster: &Cluster, name: &str) -> (u16, Value) {
    cluster.json("POST", MAPS, map(name, "1")).await
}

#[tokio::test]
async fn mutating_webhooks_change_objects_in_order_and_see_later_changes_if_they_want() {
    let cluster = Cluster::start().await;
    let outside = with_service(&cluster).await;
    let again = json!({"reinvocationPolicy": "IfNeeded"});
    let hooks = [("count.example.com", "/count", again), ("once.example.com", "/once", json!({}))];
    configure(&cluster, configuration("MutatingWebhookConfiguration", "m", &outside, &hooks)).await;
    let response = cluster.request("POST", MAPS).json(&map("a", "1")).send().await.unwrap();
    assert_eq!(response.headers()["warning"], "299 - \"it was changed\"");
    let made: Value = response.json().await.unwrap();
    assert_eq!(made["data"], json!({"k": "1", "seen": "xx", "once": "CREATE"}));
    assert_eq!(made["metadata"]["managedFields"][0]["fieldsV1"]["f:data"], json!({".": {}, "f:k": {}}), "what webhooks set, nobody owns");
    // A change through another path goes through them as well, on the same connections.
    let (_, patched) = cluster.typed("PATCH", &format!("{MAPS}/a"), "application/merge-patch+json", r#"{"data":{"k":"2"}}"#).await;
    assert_eq!(patched["data"]["seen"], "xxx");
    assert!(outside.connections.load(Ordering::Relaxed) <= 2, "connections are used again");
    cluster.stop().await;
}

#[tokio::test]
async fn validating_webhooks_refuse_in_their_own_words() {
    let cluster = Cluster::start().await;
    let outside = with_service(&cluster).await;
    let only = json!({"objectSelector": {"matchLabels": {"guarded": "yes"}}});
    configure(&cluster, configuration("ValidatingWebhookConfiguration", "v", &outside, &[("deny.example.com", "/deny", only)])).await;
    assert_eq!(create(&cluster, "free").await.0, 201);
    let mut guarded = map("b", "1");
    guarded["metadata"]["labels"] = json!({"guarded": "yes"});
    let (code, refused) = cluster.json("POST", MAPS, guarded).await;
    assert_eq!((code, &refused["message"]), (403, &json!("admission webhook \"deny.example.com\" denied the request: not on my watch")));
    // What configures admission is nobody's to refuse.
    assert_eq!(cluster.send(cluster.request("DELETE", &format!("{CONFIGURATIONS}/validatingwebhookconfigurations/v"))).await.0, 200);
    cluster.stop().await;
}

#[tokio::test]
async fn webhooks_that_fail_end_a_request_unless_they_say_otherwise() {
    let cluster = Cluster::start().await;
    let outside = with_service(&cluster).await;
    let ignore = |path: &'static str| ("w.example.com", path, json!({"failurePolicy": "Ignore", "timeoutSeconds": 1}));
    let fail = |path: &'static str| ("w.example.com", path, json!({"timeoutSeconds": 1}));
    let url = format!("https://hook.default.svc:{}", outside.port);
    for (index, (hook, code, text)) in [
        (ignore("/broken"), 201, String::new()),
        (fail("/broken"), 500, "an error on the server (\"broken\") has prevented the request from succeeding".into()),
        (ignore("/slow"), 201, String::new()),
        (fail("/slow"), 500, format!("failed to call webhook: Post \"{url}/slow?timeout=1s\": context deadline exceeded")),
        (fail("/mad"), 500, "received invalid webhook response: webhook response was absent".into()),
    ]
    .into_iter()
    .enumerate()
    {
        configure(&cluster, configuration("ValidatingWebhookConfiguration", "v", &outside, &[hook])).await;
        let (got, answer) = create(&cluster, &format!("m{index}")).await;
        assert_eq!(got, code, "{answer}");
        if !text.is_empty() {
            let message = answer["message"].as_str().unwrap();
            assert!(
                message.starts_with("Internal error occurred: failed calling webhook \"w.example.com\": ") && message.ends_with(&text),
                "{message}"
            );
        }
        cluster.send(cluster.request("DELETE", &format!("{CONFIGURATIONS}/validatingwebhookconfigurations/v"))).await;
    }
    cluster.stop().await;
}

#[tokio::test]
async fn a_webhook_with_side_effects_is_not_asked_about_what_will_not_happen() {
    let cluster = Cluster::start().await;
    let outside = with_service(&cluster).await;
    let mut some = configuration("ValidatingWebhookConfiguration", "v", &outside, &[("w.example.com", "/allow", json!({}))]);
    some["webhooks"][0]["sideEffects"] = "NoneOnDryRun".into();
    configure(&cluster, some).await;
    assert_eq!(cluster.json("POST", &format!("{MAPS}?dryRun=All"), map("a", "1")).await.0, 201);
    assert_eq!(cluster.send(cluster.request("GET", &format!("{MAPS}/a"))).await.0, 404);
    cluster.stop().await;
}

#[tokio::test]
async fn scales_connections_and_evictions_are_shown_as_what_they_are() {
    let cluster = Cluster::start().await;
    let seen = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let log = seen.clone();
    let answer: Answer = Arc::new(move |_, body| {
        let request = &body["request"];
        let kind = request["object"]["kind"].as_str().unwrap_or("-");
        log.lock().push(format!(
            "{} {}/{} {kind}",
            request["operation"].as_str().unwrap(),
            request["resource"]["resource"].as_str().unwrap(),
            request["subResource"].as_str().unwrap_or("")
        ));
        review(&body, json!({"allowed": request["operation"] != "CONNECT"}))
    });
    let outside = Outside::start(&["hook.default.svc"], answer).await;
    let service = json!({"metadata": {"name": "hook"}, "spec": {"type": "ExternalName", "externalName": "localhost"}});
    cluster.json("POST", "/api/v1/namespaces/default/services", service).await;
    let rules =
        json!({"rules": [{"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["deployments/scale", "pods/*"]}]});
    configure(&cluster, configuration("ValidatingWebhookConfiguration", "v", &outside, &[("w.example.com", "/", rules)])).await;
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template}});
    assert_eq!(cluster.json("POST", deployments, deployment).await.0, 201);
    let scale = json!({"metadata": {"name": "d"}, "spec": {"replicas": 3}});
    assert_eq!(cluster.json("PUT", &format!("{deployments}/d/scale"), scale).await.0, 200);
    let pods = "/api/v1/namespaces/default/pods";
    cluster.json("POST", "/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "default"}})).await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    assert_eq!(cluster.json("POST", pods, pod).await.0, 201);
    let (code, refused) = cluster.send(cluster.request("POST", &format!("{pods}/p/exec?command=ls&stdout=1"))).await;
    assert_eq!(code, 400, "{refused}");
    let eviction = json!({"metadata": {"name": "p"}});
    assert_eq!(cluster.json("POST", &format!("{pods}/p/eviction"), eviction).await.0, 201);
    let want = ["UPDATE deployments/scale Scale", "CREATE pods/ Pod", "CONNECT pods/exec PodExecOptions", "CREATE pods/eviction Eviction"];
    assert_eq!(*seen.lock(), want);
    cluster.stop().await;
}
