//! Encryption at rest, seen from both sides.

use super::Cluster;
use crate::store::{Store, memory};
use bytes::Bytes;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

const SECRETS: &str = "/api/v1/namespaces/default/secrets";

#[tokio::test]
async fn secrets_are_encrypted_in_the_store_and_nowhere_else() {
    let store: Arc<dyn Store> = memory::open(Default::default()).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("encryption.yaml");
    let key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    let text = format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  \
         providers: [{{secretbox: {{keys: [{{name: one, secret: {key}}}]}}}}, {{identity: {{}}}}]\n"
    );
    std::fs::write(&file, text).unwrap();
    // One was there before anything was encrypted.
    let old = json!({"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "old", "namespace": "default", "uid": "u"}, "data": {"k": "dg=="}});
    let expect = crate::store::Expect::Absent;
    store.put("/registry/secrets/default/old".into(), Bytes::from(old.to_string()), expect, 0).await.unwrap();
    let cluster = Cluster::over(store.clone(), |options| options.encryption_provider_config = Some(file)).await;
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}, "data": {"k": "dg=="}});
    assert_eq!(cluster.json("POST", SECRETS, secret).await.0, 201);
    let (_, list) = cluster.get(SECRETS).await;
    let names: Vec<&str> = list["items"].as_array().unwrap().iter().map(|s| s["metadata"]["name"].as_str().unwrap()).collect();
    assert_eq!((names, &list["items"][0]["data"]), (vec!["a", "old"], &json!({"k": "dg=="})));
    let stored = async |name: &str| store.get(&format!("/registry/{name}")).await.unwrap().0.unwrap().value;
    assert!(stored("secrets/default/a").await.starts_with(b"k8s:enc:secretbox:v1:one:"));
    assert!(stored("namespaces/default").await.starts_with(b"{"));
    let renewed = async {
        while !stored("secrets/default/old").await.starts_with(b"k8s:enc:") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), renewed).await.expect("what was there is encrypted, too");
    assert_eq!(cluster.get(&format!("{SECRETS}/old")).await.1["data"], json!({"k": "dg=="}));
    cluster.stop().await;
}
