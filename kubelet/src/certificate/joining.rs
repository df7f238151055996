//! Joining against a server that approves and signs whatever is asked of it, as a controller-manager with upstream's approvers does for nodes.

use super::{
    bootstrap,
    request::{Purpose, Wanted},
    rotation::{self, Rotation},
    store::Store,
};
use axum::{
    Json, Router,
    extract::{Query, State},
    routing::get,
};
use jiff::Timestamp;
use parking_lot::Mutex;
use rcgen::{CertificateParams, CertificateSigningRequestParams, Issuer, KeyPair};
use serde_json::{Value, json};
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

const PATH: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    requests: Mutex<Vec<Value>>,
}

/// Takes a request and signs it at once.
async fn create(State(authority): State<Arc<Authority>>, Json(mut request): Json<Value>) -> Json<Value> {
    use base64::Engine;
    let base64 = base64::engine::general_purpose::STANDARD;
    let pem = base64.decode(request["spec"]["request"].as_str().expect("a request")).expect("base64");
    let mut asked = CertificateSigningRequestParams::from_pem(std::str::from_utf8(&pem).expect("text")).expect("a signing request");
    asked.params.not_before = rcgen::date_time_ymd(2025, 1, 1);
    asked.params.not_after = rcgen::date_time_ymd(2100, 1, 1);
    let signed = asked.signed_by(&authority.issuer).expect("signed");
    let metadata = &mut request["metadata"];
    if metadata["name"].is_null() {
        metadata["name"] = format!("csr-{}", authority.requests.lock().len()).into();
    }
    metadata["resourceVersion"] = "1".into();
    request["status"] = json!({
        "conditions": [{"type": "Approved", "status": "True"}],
        "certificate": base64.encode(signed.pem()),
    });
    authority.requests.lock().push(request.clone());
    Json(request)
}

async fn list(State(authority): State<Arc<Authority>>, Query(query): Query<HashMap<String, String>>) -> Json<Value> {
    if query.contains_key("watch") {
        // Nothing changes any more.
        std::future::pending::<()>().await;
    }
    let named = query.get("fieldSelector").and_then(|s| s.strip_prefix("metadata.name=")).unwrap_or_default().to_owned();
    let items: Vec<Value> = authority.requests.lock().iter().filter(|r| r["metadata"]["name"] == named.as_str()).cloned().collect();
    Json(
        json!({"kind": "CertificateSigningRequestList", "apiVersion": "certificates.k8s.io/v1", "metadata": {"resourceVersion": "1"}, "items": items}),
    )
}

async fn authority() -> (Arc<Authority>, String) {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(vec![]).expect("parameters");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = Arc::new(Authority { issuer: Issuer::new(params, key), requests: Mutex::default() });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let router = Router::new().route(PATH, get(list).post(create)).with_state(authority.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (authority, format!("http://{address}"))
}

#[tokio::test]
async fn a_node_joins_with_a_token_and_gets_what_it_serves_with() {
    let (authority, server) = authority().await;
    let dir = tempfile::tempdir().expect("a directory");
    let (token, kubeconfig) = (dir.path().join("bootstrap.conf"), dir.path().join("kubelet.conf"));
    let text = format!(
        "apiVersion: v1\nkind: Config\nclusters: [{{name: c, cluster: {{server: '{server}'}}}}]\ncontexts: [{{name: k, context: {{cluster: c, user: u}}}}]\n\
         current-context: k\nusers: [{{name: u, user: {{token: abcdef.0123456789abcdef}}}}]\n"
    );
    std::fs::write(&token, text).expect("written");
    let store = Store::new(&dir.path().join("pki"), rotation::prefix(Purpose::Client));
    bootstrap::join(&token, &kubeconfig, &store, "n1").await.expect("joined");
    assert!(bootstrap::is_good(&kubeconfig, Timestamp::now()) && bootstrap::names(&kubeconfig, &store.current()));
    let first = authority.requests.lock()[0].clone();
    assert_eq!(first["spec"]["signerName"], "kubernetes.io/kube-apiserver-client-kubelet");
    assert_eq!(first["spec"]["usages"], json!(["digital signature", "client auth"]));
    assert!(first["metadata"]["name"].as_str().is_some_and(|name| name.starts_with("node-csr-")));
    assert!(!store.pending_key().exists(), "the key is with its certificate");
    bootstrap::join(&token, &kubeconfig, &store, "n1").await.expect("still joined");
    assert_eq!(authority.requests.lock().len(), 1, "who has joined does not ask again");

    // A serving certificate is asked for where there is none, and handed over.
    let (renewed, mut news) = tokio::sync::mpsc::unbounded_channel();
    let (client, _) = client::connection::Renewable::connect(&kubeconfig, "kubelet").await.expect("a client");
    let serving = Store::new(&dir.path().join("pki"), rotation::prefix(Purpose::Serving));
    let rotation = Rotation {
        store: serving.clone(),
        wanted: Wanted { purpose: Purpose::Serving, node: "n1".into(), names: vec!["n1".into(), "192.0.2.1".into()] },
        client,
        renewed: Arc::new(move |pem| renewed.send(pem.to_vec()).expect("it is waited for")),
    };
    let stop = CancellationToken::new();
    let kept = tokio::spawn(rotation::keep(rotation, stop.clone()));
    let pem = tokio::time::timeout(Duration::from_secs(30), news.recv()).await.expect("in time").expect("a certificate");
    assert_eq!(serving.load(), Some(pem));
    assert_eq!(authority.requests.lock()[1]["spec"]["signerName"], "kubernetes.io/kubelet-serving");
    stop.cancel();
    kept.await.expect("it ends when told to");
}
