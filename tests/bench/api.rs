//! The API under load: HTTP/2 over TLS, 4 connections, 64 requests in flight, JSON, pods of about 3.4 KB as stored.

use crate::process::usage;
use futures::{StreamExt, stream};
use reqwest::Client;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};

const CONNECTIONS: usize = 4;
const IN_FLIGHT: usize = 64;
const NAMESPACE: &str = "bench";

/// A client with one HTTP/2 connection of its own, that trusts any certificate: what is measured is not the trust.
pub fn client() -> Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder().danger_accept_invalid_certs(true).http2_adaptive_window(true).build().expect("the options are valid")
}

struct Load {
    clients: Vec<Client>,
    server: String,
    token: String,
    pid: Option<u32>,
}

/// A pod as a Deployment's would be: 3.4 KB once the server has filled in its part.
fn pod(name: &str) -> Value {
    let container = |name: &str| {
        json!({
            "name": name, "image": "registry.example/team/service:v1.2.3", "args": ["--listen=:8080", "--log-level=info"],
            "env": (0..6).map(|i| json!({"name": format!("SETTING_{i}"), "value": format!("value-{i}-of-some-length")})).collect::<Vec<_>>(),
            "ports": [{"name": "http", "containerPort": 8080}],
            "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
            "readinessProbe": {"httpGet": {"path": "/healthz", "port": "http"}}
        })
    };
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "bench", "tier": "web", "pod-template-hash": "5d59d67564"}, "annotations": {"example.com/checksum": "9f86d081884c7d659a2feaa0c55ad015"}},
        "spec": {"containers": [container("main")], "nodeName": "n1", "automountServiceAccountToken": false}
    })
}

impl Load {
    fn url(&self, path: &str) -> String {
        format!("{}/api/v1/namespaces/{NAMESPACE}/{path}", self.server)
    }

    /// Sends `count` requests made by `make`, `in_flight` at a time; every one must succeed. Prints a row.
    async fn run(&self, what: &str, count: usize, in_flight: usize, make: impl Fn(&Client, usize) -> reqwest::RequestBuilder) {
        let before = usage(self.pid);
        let begun = Instant::now();
        let mut times: Vec<Duration> = stream::iter(0..count)
            .map(|i| {
                let request = make(&self.clients[i % self.clients.len()], i).bearer_auth(&self.token);
                async move {
                    let start = Instant::now();
                    let response = request.send().await.expect("the server answers");
                    let status = response.status();
                    let body = response.bytes().await.expect("the whole answer");
                    assert!(status.is_success(), "{what}: {status}: {}", String::from_utf8_lossy(&body));
                    start.elapsed()
                }
            })
            .buffer_unordered(in_flight)
            .collect()
            .await;
        let took = begun.elapsed().as_secs_f64();
        let after = usage(self.pid);
        times.sort_unstable();
        let at = |q: f64| times[((times.len() - 1) as f64 * q) as usize].as_secs_f64() * 1e3;
        println!(
            "| {what} | {:.0}/s, p50 {:.1} ms, p99 {:.1} ms; {:.2} CPU-s per 1,000; {:.1} KB written each |",
            count as f64 / took,
            at(0.5),
            at(0.99),
            (after.cpu - before.cpu) * 1000.0 / count as f64,
            (after.written - before.written) as f64 / 1024.0 / count as f64,
        );
    }
}

/// All rows, on a server that is up. The namespace it works in is made and deleted.
pub async fn measure(server: &str, token: &str, pid: Option<u32>, pods: usize) {
    let load = Load { clients: (0..CONNECTIONS).map(|_| client()).collect(), server: server.to_owned(), token: token.to_owned(), pid };
    let namespaces = format!("{server}/api/v1/namespaces");
    let c = &load.clients[0];
    let made =
        c.post(&namespaces).bearer_auth(token).json(&json!({"metadata": {"name": NAMESPACE}})).send().await.expect("the server answers");
    assert!(made.status().is_success() || made.status() == 409, "{}", made.status());
    let account = load.url("serviceaccounts");
    let made = c.post(account).bearer_auth(token).json(&json!({"metadata": {"name": "default"}})).send().await.expect("the server answers");
    assert!(made.status().is_success() || made.status() == 409, "{}", made.status());

    let name = |i: usize| format!("pod-{i:05}");
    load.run(&format!("create {pods} pods"), pods, IN_FLIGHT, |c, i| c.post(load.url("pods")).json(&pod(&name(i)))).await;
    load.run("get by name", pods * 4, IN_FLIGHT, |c, i| c.get(load.url(&format!("pods/{}", name(i % pods))))).await;
    load.run(&format!("list {pods} pods, 4 at a time"), 40, 4, |c, _| c.get(load.url("pods"))).await;
    load.run("merge-patch", pods, IN_FLIGHT, |c, i| {
        let patch = json!({"metadata": {"labels": {"round": i.to_string()}}});
        c.patch(load.url(&format!("pods/{}", name(i)))).header("content-type", "application/merge-patch+json").body(patch.to_string())
    })
    .await;
    watch(&load, &name(0)).await;
    load.run(&format!("delete {pods} pods"), pods, IN_FLIGHT, |c, i| c.delete(load.url(&format!("pods/{}?gracePeriodSeconds=0", name(i)))))
        .await;
}

/// 100 watchers see 200 changes of one pod; the time of an event is from the moment the change was sent.
async fn watch(load: &Load, name: &str) {
    const WATCHERS: usize = 100;
    const CHANGES: usize = 200;
    let sent: Arc<Vec<std::sync::OnceLock<Instant>>> = Arc::new((0..CHANGES).map(|_| std::sync::OnceLock::new()).collect());
    let list: Value =
        load.clients[0].get(load.url("pods?limit=1")).bearer_auth(&load.token).send().await.expect("a list").json().await.expect("JSON");
    let version = list["metadata"]["resourceVersion"].as_str().expect("a list has a version").to_owned();
    let mut watchers = tokio::task::JoinSet::new();
    let before = usage(load.pid);
    for i in 0..WATCHERS {
        let url = load.url(&format!("pods?watch=1&resourceVersion={version}&fieldSelector=metadata.name%3D{name}"));
        let request = load.clients[i % CONNECTIONS].get(url).bearer_auth(&load.token);
        let sent = Arc::clone(&sent);
        // Answered headers mean that the watch stands.
        let response = request.send().await.expect("a watch");
        watchers.spawn(async move {
            let mut body = response.bytes_stream();
            let (mut buffer, mut times) = (Vec::new(), Vec::new());
            while times.len() < CHANGES {
                buffer.extend_from_slice(&body.next().await.expect("the watch goes on").expect("bytes"));
                while let Some(end) = buffer.iter().position(|b| *b == b'\n') {
                    let line: Vec<u8> = buffer.drain(..=end).collect();
                    let event: Value = serde_json::from_slice(&line).expect("an event is JSON");
                    let number: usize =
                        event["object"]["metadata"]["labels"]["watched"].as_str().and_then(|n| n.parse().ok()).expect("our label");
                    times.push(sent[number].get().expect("sent before it was seen").elapsed());
                }
            }
            times
        });
    }
    let begun = Instant::now();
    stream::iter(0..CHANGES)
        .for_each_concurrent(8, |i| {
            let patch = json!({"metadata": {"labels": {"watched": i.to_string()}}}).to_string();
            let request = load.clients[i % CONNECTIONS].patch(load.url(&format!("pods/{name}"))).bearer_auth(&load.token);
            let sent = &sent;
            async move {
                sent[i].set(Instant::now()).expect("each is sent once");
                let answer = request.header("content-type", "application/merge-patch+json").body(patch).send().await.expect("an answer");
                assert!(answer.status().is_success(), "{}", answer.status());
            }
        })
        .await;
    let mut times: Vec<Duration> = Vec::new();
    while let Some(seen) = watchers.join_next().await {
        times.extend(seen.expect("the watcher saw all"));
    }
    let took = begun.elapsed().as_secs_f64();
    times.sort_unstable();
    let at = |q: f64| times[((times.len() - 1) as f64 * q) as usize].as_secs_f64() * 1e3;
    println!(
        "| watch: {WATCHERS} watchers, {CHANGES} changes | {:.0} events/s, p50 {:.1} ms, p99 {:.1} ms; {:.2} CPU-s |",
        times.len() as f64 / took,
        at(0.5),
        at(0.99),
        usage(load.pid).cpu - before.cpu
    );
}
