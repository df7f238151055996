//! The whole path of a request, over TLS, against a server in this process.

mod aggregation;
mod audit;
mod encryption;
mod issuers;
mod policies;
pub mod servers;
mod services;
mod webhooks;

use super::{Running, Server};
use crate::Options;
use crate::connect::{Connections, KubeletTls};
use crate::objects::Fixed;
use crate::pki::Authority;
use crate::store::Store;
use futures::StreamExt;
use reqwest::{Certificate, Client, Method};
use serde_json::{Value, json};
use std::sync::Arc;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

pub(super) struct Cluster {
    server: Option<Running>,
    client: Client,
    url: String,
    _keys: tempfile::TempDir,
}

impl Cluster {
    pub(super) async fn start() -> Cluster {
        Self::with(|_| {}).await
    }

    pub(super) async fn get(&self, path: &str) -> (u16, Value) {
        self.send(self.request("GET", path)).await
    }

    /// Reads until the condition holds of what comes; what never comes is an error.
    pub(super) async fn until(&self, path: &str, holds: impl Fn(u16, &Value) -> bool) -> Value {
        let since = std::time::Instant::now();
        loop {
            let (code, body) = self.get(path).await;
            if holds(code, &body) {
                return body;
            }
            assert!(since.elapsed().as_secs() < 20, "{path} stays {code} {body}");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    /// One whose options are changed first.
    async fn with(change: impl FnOnce(&mut Options)) -> Cluster {
        Self::over(crate::store::memory::open(Default::default()).unwrap(), change).await
    }

    async fn over(store: Arc<dyn Store>, change: impl FnOnce(&mut Options)) -> Cluster {
        // Another test may have been first; all install the same.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let keys = tempfile::tempdir().unwrap();
        let mut options = Options { cert_dir: Some(keys.path().to_owned()), check_policy_types: true, ..Options::default() };
        change(&mut options);
        let mut builder = Server::builder().options(options).in_memory().unwrap();
        builder.store = Some(store);
        let server = builder.token("admin", "admin", &["system:masters"]).token("bob", "bob", &[]).start().await.unwrap();
        let authority = Certificate::from_pem(server.authority().unwrap().as_bytes()).unwrap();
        let client = Client::builder().add_root_certificate(authority).build().unwrap();
        let url = format!("https://{}", server.address());
        let cluster = Cluster { server: Some(server), client, url, _keys: keys };
        cluster.ready().await;
        cluster
    }

    /// Waits until the objects that every cluster starts with are there.
    async fn ready(&self) {
        while self.client.get(format!("{}/readyz", self.url)).send().await.unwrap().status() != 200 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    pub(super) fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method.parse::<Method>().unwrap(), format!("{}{path}", self.url)).bearer_auth("admin")
    }

    pub(super) async fn send(&self, request: reqwest::RequestBuilder) -> (u16, Value) {
        let response = request.send().await.unwrap();
        let code = response.status().as_u16();
        let text = response.text().await.unwrap();
        (code, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    pub(super) async fn json(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        self.send(self.request(method, path).json(&body)).await
    }

    pub(super) async fn typed(&self, method: &str, path: &str, content_type: &str, body: impl Into<reqwest::Body>) -> (u16, Value) {
        self.send(self.request(method, path).header("Content-Type", content_type).body(body)).await
    }

    pub(super) async fn stop(mut self) {
        if let Some(server) = self.server.take() {
            server.stop().await.unwrap();
        }
    }
}

fn map(name: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": value}})
}

#[tokio::test]
async fn an_object_is_made_read_watched_changed_and_deleted() {
    let cluster = Cluster::start().await;
    let (code, made) = cluster.json("POST", MAPS, map("a", "1")).await;
    assert_eq!((code, &made["data"]["k"]), (201, &json!("1")));
    let version = made["metadata"]["resourceVersion"].as_str().unwrap();
    assert_eq!(cluster.send(cluster.request("GET", &format!("{MAPS}/a"))).await, (200, made.clone()));
    assert_eq!(cluster.json("POST", MAPS, map("a", "2")).await.0, 409);

    let watch = cluster.request("GET", &format!("{MAPS}?watch=1&resourceVersion={version}")).send().await.unwrap();
    let (code, patched) =
        cluster.typed("PATCH", &format!("{MAPS}/a"), "application/merge-patch+json", r#"{"data":{"k":"2","n":"3"}}"#).await;
    assert_eq!((code, &patched["data"]), (200, &json!({"k": "2", "n": "3"})));
    let mut stale = made.clone();
    stale["data"]["k"] = "9".into();
    assert_eq!(cluster.json("PUT", &format!("{MAPS}/a"), stale).await.1["reason"], "Conflict");
    let (code, unchanged) = cluster.json("PUT", &format!("{MAPS}/a"), patched.clone()).await;
    assert_eq!((code, &unchanged["metadata"]["resourceVersion"]), (200, &patched["metadata"]["resourceVersion"]));
    assert_eq!(cluster.send(cluster.request("DELETE", &format!("{MAPS}/a"))).await.1["status"], "Success");
    assert_eq!(cluster.send(cluster.request("GET", &format!("{MAPS}/a"))).await.0, 404);

    let mut seen = String::new();
    let mut stream = watch.bytes_stream();
    while seen.lines().count() < 2 || !seen.ends_with('\n') {
        seen += std::str::from_utf8(&stream.next().await.unwrap().unwrap()).unwrap();
    }
    let types: Vec<Value> = seen.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()["type"].clone()).collect();
    assert_eq!(types, ["MODIFIED", "DELETED"]);
    cluster.stop().await;
}

#[tokio::test]
async fn lists_come_in_pages_of_one_snapshot_and_as_tables() {
    let cluster = Cluster::start().await;
    for name in ["a", "b", "c"] {
        assert_eq!(cluster.json("POST", MAPS, map(name, "1")).await.0, 201);
    }
    let (_, first) = cluster.send(cluster.request("GET", &format!("{MAPS}?limit=2"))).await;
    assert_eq!((first["items"].as_array().unwrap().len(), &first["metadata"]["remainingItemCount"]), (2, &json!(1)));
    assert_eq!(cluster.send(cluster.request("DELETE", &format!("{MAPS}/c"))).await.0, 200);
    let token = first["metadata"]["continue"].as_str().unwrap();
    let (_, second) = cluster.send(cluster.request("GET", &format!("{MAPS}?limit=2&continue={token}"))).await;
    assert_eq!(second["items"][0]["metadata"]["name"], "c", "the snapshot is the first page's");
    let table = cluster.request("GET", MAPS).header("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io");
    let (_, table) = cluster.send(table).await;
    assert_eq!((&table["kind"], table["rows"].as_array().unwrap().len()), (&json!("Table"), 2));
    assert_eq!(table["rows"][0]["cells"].as_array().unwrap()[..2], [json!("a"), json!(1)]);
    cluster.stop().await;
}

#[tokio::test]
async fn bad_input_is_refused_in_upstreams_words_and_nothing_is_stored() {
    let cluster = Cluster::start().await;
    let big = "x".repeat(5 << 20);
    for (content_type, body, code, message) in [
        ("application/json", "{not json".to_owned(), 400, "couldn't get version/kind; json parse error"),
        ("application/yaml", "a: [b".to_owned(), 400, "did not find expected"),
        ("application/json", r#"{"kind":"Secret","apiVersion":"v1"}"#.to_owned(), 400, ""),
        ("application/json", r#"{"metadata":{"name":"A B"}}"#.to_owned(), 422, "a lowercase RFC 1123 subdomain"),
        ("text/html", "{}".to_owned(), 415, "accepted media types include"),
        ("application/json", format!("{{\"data\":{{\"k\":\"{big}\"}}}}"), 413, "Request entity too large: limit is 3145728"),
        ("application/vnd.kubernetes.protobuf", "{}".to_owned(), 400, "expected prefix"),
    ] {
        let (got, answer) = cluster.typed("POST", MAPS, content_type, body).await;
        assert_eq!((got, &answer["kind"]), (code, &json!("Status")), "{answer}");
        assert!(answer["message"].as_str().unwrap().contains(message), "{answer}");
    }
    let (_, list) = cluster.send(cluster.request("GET", MAPS)).await;
    assert_eq!(list["items"], json!([]));
    let question = cluster.request("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews").json(&json!({}));
    let (code, answer) = cluster.send(question.header("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io")).await;
    assert_eq!((code, &answer["reason"]), (406, &json!("NotAcceptable")), "an answer is no table");
    assert_eq!(cluster.send(cluster.request("GET", "/api/v1/namespaces/default/nosuchs")).await.1["code"], 404);
    assert_eq!(cluster.send(cluster.client.get(format!("{}{MAPS}", cluster.url)).bearer_auth("wrong")).await.0, 401);
    let (code, refused) = cluster.send(cluster.client.get(format!("{}{MAPS}", cluster.url)).bearer_auth("bob")).await;
    assert_eq!(code, 403);
    assert!(refused["message"].as_str().unwrap().starts_with("configmaps is forbidden: User \"bob\" cannot list resource \"configmaps\""));
    cluster.stop().await;
}

#[tokio::test]
async fn a_pod_is_bound_once_and_goes_when_its_node_lets_it() {
    let cluster = Cluster::start().await;
    let pods = "/api/v1/namespaces/default/pods";
    let account = json!({"metadata": {"name": "default"}});
    cluster.json("POST", "/api/v1/namespaces/default/serviceaccounts", account).await;
    let pod = json!({"metadata": {"generateName": "p-"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let (code, made) = cluster.json("POST", pods, pod).await;
    assert_eq!(code, 201, "{made}");
    let one = format!("{pods}/{}", made["metadata"]["name"].as_str().unwrap());
    let binding = |node: &str| json!({"target": {"kind": "Node", "name": node}});
    assert_eq!(cluster.json("POST", &format!("{one}/binding"), binding("n1")).await.0, 201);
    assert_eq!(cluster.json("POST", &format!("{one}/binding"), binding("n2")).await.1["reason"], "Conflict");
    let (_, bound) = cluster.send(cluster.request("GET", &format!("{pods}?fieldSelector=spec.nodeName%3Dn1"))).await;
    assert_eq!(bound["items"].as_array().unwrap().len(), 1);
    let (_, going) = cluster.send(cluster.request("DELETE", &one)).await;
    assert_eq!(going["metadata"]["deletionGracePeriodSeconds"], 30);
    assert_eq!(cluster.send(cluster.request("GET", &one)).await.0, 200);
    assert_eq!(cluster.send(cluster.request("DELETE", &format!("{one}?gracePeriodSeconds=0"))).await.0, 200);
    assert_eq!(cluster.send(cluster.request("GET", &one)).await.0, 404);
    cluster.stop().await;
}

#[tokio::test]
async fn a_pod_that_is_evicted_says_so_while_it_goes() {
    let cluster = Cluster::start().await;
    let pods = "/api/v1/namespaces/default/pods";
    cluster.json("POST", "/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "default"}})).await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]}});
    let (_, made) = cluster.json("POST", pods, pod).await;
    let evict = |preconditions: Value| {
        let eviction = json!({"metadata": {"name": "p"}, "deleteOptions": {"preconditions": preconditions}});
        cluster.json("POST", "/api/v1/namespaces/default/pods/p/eviction", eviction)
    };
    let (code, refused) = evict(json!({"uid": "other"})).await;
    assert_eq!((code, &refused["reason"]), (409, &json!("Conflict")), "{refused}");
    assert_eq!(cluster.get(&format!("{pods}/p")).await.1["status"].get("conditions"), made["status"].get("conditions"));
    let metadata = &made["metadata"];
    let (code, answer) = evict(json!({"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]})).await;
    assert_eq!(code, 201, "{answer}");
    let (_, going) = cluster.get(&format!("{pods}/p")).await;
    assert!(going["metadata"]["deletionTimestamp"].is_string(), "{going}");
    let mark = going["status"]["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "DisruptionTarget").unwrap();
    assert_eq!((&mark["status"], &mark["reason"]), (&json!("True"), &json!("EvictionByEvictionAPI")));
    cluster.stop().await;
}

#[tokio::test]
async fn components_are_asked_how_they_are() {
    let cluster = Cluster::start().await;
    let path = "/api/v1/componentstatuses";
    let (code, list) = cluster.get(path).await;
    assert_eq!((code, &list["kind"], &list["metadata"]), (200, &json!("ComponentStatusList"), &json!({})));
    let names: Vec<&Value> = list["items"].as_array().unwrap().iter().map(|item| &item["metadata"]["name"]).collect();
    assert_eq!(names, ["controller-manager", "scheduler", "etcd-0"]);
    let (_, store) = cluster.get(&format!("{path}/etcd-0")).await;
    assert_eq!(store["kind"], "ComponentStatus");
    assert_eq!(store["conditions"], json!([{"type": "Healthy", "status": "True", "message": "ok"}]));
    let (_, picked) = cluster.get(&format!("{path}?fieldSelector=metadata.name%3Detcd-0")).await;
    assert_eq!(picked["items"].as_array().unwrap().len(), 1);
    let (code, unknown) = cluster.get(&format!("{path}/etcd-1")).await;
    assert_eq!((code, &unknown["message"]), (500, &json!("Component not found: etcd-1")));
    let request = cluster.request("GET", &format!("{path}/etcd-0")).header("Accept", "application/json;as=Table;g=meta.k8s.io;v=v1");
    let (_, table) = cluster.send(request).await;
    assert_eq!(table["rows"][0]["cells"], json!(["etcd-0", "Healthy", "ok", ""]));

    // This server is as good as any other to ask.
    let keys = Authority::new("test", std::time::SystemTime::now()).unwrap();
    let tls = KubeletTls::new(keys.pem().certificate.as_bytes(), keys.pem().key.as_bytes(), None).unwrap();
    let connections = Connections::new(Arc::new(Fixed::default()), tls);
    let port = cluster.server.as_ref().unwrap().address().port();
    assert_eq!(connections.probe_local(port, "/healthz").await, Ok("ok".into()));
    assert_eq!(connections.probe_local(port, "/api").await, Err("HTTP probe failed with statuscode: 403".into()));
    // Nobody listens on a port that is held like this, and nobody else can take it.
    let held = tokio::net::TcpSocket::new_v4().unwrap();
    held.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = held.local_addr().unwrap().port();
    let refused = format!("Get \"https://127.0.0.1:{port}/healthz\": dial tcp 127.0.0.1:{port}: connect: connection refused");
    assert_eq!(connections.probe_local(port, "/healthz").await, Err(refused));
    cluster.stop().await;
}
