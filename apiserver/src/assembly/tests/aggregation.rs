//! Groups that another server answers for, and flow control as clients see it.

use super::Cluster;
use super::servers::{Answer, Outside};
use serde_json::{Value, json};
use std::sync::Arc;

const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const GROUP: &str = "/apis/wardle.example.com/v1alpha1";

fn flunders() -> Answer {
    Arc::new(|head, _| {
        let header = |name: &str| head.headers.get(name).map(|v| v.to_str().unwrap().to_owned()).unwrap_or_default();
        match head.uri.path() {
            GROUP => {
                let resource =
                    json!({"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder", "verbs": ["get", "list"]});
                (
                    200,
                    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "wardle.example.com/v1alpha1", "resources": [resource]}),
                )
            }
            path => (
                200,
                json!({"path": path, "user": header("x-remote-user"), "group": header("x-remote-group"), "token": header("authorization")}),
            ),
        }
    })
}

#[tokio::test]
async fn a_group_of_another_server_appears_and_its_requests_are_passed_on() {
    let cluster = Cluster::start().await;
    let outside = Outside::start(&["api.default.svc"], flunders()).await;
    let spec = json!({"group": "wardle.example.com", "version": "v1alpha1", "groupPriorityMinimum": 2000, "versionPriority": 200,
        "caBundle": outside.ca_bundle, "service": {"namespace": "default", "name": "api", "port": outside.port}});
    let object = json!({"metadata": {"name": "v1alpha1.wardle.example.com"}, "spec": spec});
    assert_eq!(cluster.json("POST", SERVICES, object).await.0, 201);
    let one = format!("{SERVICES}/v1alpha1.wardle.example.com");
    let condition = |o: &Value| o["status"]["conditions"][0]["reason"].clone();
    let waiting = cluster.until(&one, |_, o| !condition(o).is_null()).await;
    assert_eq!(condition(&waiting), "ServiceNotFound");
    assert_eq!(cluster.send(cluster.request("GET", &format!("{GROUP}/flunders"))).await.0, 503);

    let service = json!({"metadata": {"name": "api"}, "spec": {"type": "ExternalName", "externalName": "localhost"}});
    cluster.json("POST", "/api/v1/namespaces/default/services", service).await;
    cluster.until(&one, |_, o| condition(o) == "Passed").await;
    let (_, groups) = cluster.send(cluster.request("GET", "/apis")).await;
    assert!(groups["groups"].as_array().unwrap().iter().any(|g| g["name"] == "wardle.example.com"));
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let (_, whole) = cluster.send(cluster.request("GET", "/apis").header("Accept", accept)).await;
    let item = whole["items"].as_array().unwrap().iter().find(|i| i["metadata"]["name"] == "wardle.example.com").unwrap().clone();
    assert_eq!(item["versions"][0]["resources"][0]["resource"], "flunders");
    assert_eq!(cluster.send(cluster.request("GET", "/apis/wardle.example.com")).await.1["preferredVersion"]["version"], "v1alpha1");

    let (code, passed) = cluster.send(cluster.request("GET", &format!("{GROUP}/namespaces/default/flunders?limit=1"))).await;
    assert_eq!((code, &passed["user"], &passed["group"], &passed["token"]), (200, &json!("admin"), &json!("system:masters"), &json!("")));
    // Who may not, is refused here.
    let refused = cluster.client.get(format!("{}{GROUP}/flunders", cluster.url)).bearer_auth("bob");
    assert_eq!(cluster.send(refused).await.0, 403);
    // The groups of this server itself have objects too.
    let (_, own) = cluster.send(cluster.request("GET", &format!("{SERVICES}/v1.apps"))).await;
    assert_eq!(own["status"]["conditions"][0]["reason"], "Local");
    cluster.stop().await;
}

#[tokio::test]
async fn answers_tell_the_flow_that_a_request_was_taken_for() {
    let cluster = Cluster::start().await;
    let flow = "/apis/flowcontrol.apiserver.k8s.io/v1";
    let schema = json!({"metadata": {"name": "mine"}, "spec": {"matchingPrecedence": 1, "priorityLevelConfiguration": {"name": "nowhere"},
        "rules": [{"subjects": [{"kind": "User", "user": {"name": "bob"}}], "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]}]}});
    assert_eq!(cluster.json("POST", &format!("{flow}/flowschemas"), schema).await.0, 201);
    let one = format!("{flow}/flowschemas/mine");
    let dangling = |o: &Value| o["status"]["conditions"][0]["status"].clone();
    let made = cluster.until(&one, |_, o| dangling(o) == "True").await;
    let level = json!({"metadata": {"name": "nowhere"}, "spec": {"type": "Limited", "limited": {"limitResponse": {"type": "Reject"}}}});
    let (code, level) = cluster.json("POST", &format!("{flow}/prioritylevelconfigurations"), level).await;
    assert_eq!(code, 201, "{level}");
    cluster.until(&one, |_, o| dangling(o) == "False").await;
    let response = cluster.client.get(format!("{}/version", cluster.url)).bearer_auth("bob").send().await.unwrap();
    let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(header("x-kubernetes-pf-flowschema-uid"), made["metadata"]["uid"].as_str().unwrap());
    assert_eq!(header("x-kubernetes-pf-prioritylevel-uid"), level["metadata"]["uid"].as_str().unwrap());
    cluster.stop().await;
}
