//! Joining a cluster: with a kubeconfig whose token may ask for nothing but a certificate, the node gets one, and writes the kubeconfig it is a node with
//! (upstream: `bootstrap.LoadClientConfig`).

use super::{
    request::{self, Naming, Purpose, Wanted},
    store::{Store, validity, write_secret},
};
use anyhow::Context;
use jiff::Timestamp;
use kube::config::Kubeconfig;
use rcgen::KeyPair;
use serde_json::json;
use std::{fs, path::Path, time::Duration};

/// How soon a request that failed is made again, and how late.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Whether a kubeconfig is there and good for a while: its certificate, if it has one, has not ended.
pub fn is_good(kubeconfig: &Path, now: Timestamp) -> bool {
    let Ok(config) = Kubeconfig::read_from(kubeconfig) else { return false };
    let Some(user) = config.auth_infos.first().and_then(|named| named.auth_info.as_ref()) else { return false };
    let pem = match (&user.client_certificate, &user.client_certificate_data) {
        (Some(file), _) => fs::read(file).ok(),
        (None, Some(data)) => {
            use base64::Engine;
            base64::engine::general_purpose::STANDARD.decode(data).ok()
        }
        // A token or the like: somebody else sees to it.
        (None, None) => return true,
    };
    pem.and_then(|pem| validity(&pem).ok()).is_some_and(|v| v.not_before <= now && now < v.not_after)
}

/// Whether a kubeconfig's user has this certificate.
pub fn names(kubeconfig: &Path, certificate: &Path) -> bool {
    let config = Kubeconfig::read_from(kubeconfig).unwrap_or_default();
    let user = config.auth_infos.first().and_then(|named| named.auth_info.as_ref());
    user.and_then(|user| user.client_certificate.as_deref()).is_some_and(|path| Path::new(path) == certificate)
}

/// The node's kubeconfig: the cluster of the bootstrap's, the certificate in force.
fn node_kubeconfig(bootstrap: &Kubeconfig, certificate: &Path) -> anyhow::Result<String> {
    let current = bootstrap.current_context.as_deref().unwrap_or_default();
    let context = bootstrap.contexts.iter().find(|c| c.name == current).and_then(|c| c.context.as_ref());
    let cluster = context.map_or("", |c| c.cluster.as_str());
    let cluster = bootstrap.clusters.iter().find(|c| c.name == cluster).or(bootstrap.clusters.first());
    let cluster = cluster.and_then(|c| c.cluster.as_ref()).context("the bootstrap kubeconfig names no cluster")?;
    let namespace = context.and_then(|c| c.namespace.clone()).unwrap_or_else(|| "default".into());
    let document = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "default-cluster", "cluster": cluster}],
        "contexts": [{"name": "default-context", "context": {"cluster": "default-cluster", "namespace": namespace, "user": "default-auth"}}],
        "current-context": "default-context",
        "preferences": {},
        "users": [{"name": "default-auth", "user": {"client-certificate": certificate, "client-key": certificate}}],
    });
    Ok(serde_yaml::to_string(&document)?)
}

/// The key of the request, from before a restart or new.
fn pending_key(store: &Store) -> anyhow::Result<KeyPair> {
    let path = store.pending_key();
    if let Some(key) = fs::read_to_string(&path).ok().and_then(|pem| KeyPair::from_pem(&pem).ok()) {
        return Ok(key);
    }
    let key = request::new_key()?;
    write_secret(&path, key.serialize_pem().as_bytes())?;
    Ok(key)
}

/// Joins unless `kubeconfig` is good already. Tries until it works.
pub async fn join(bootstrap: &Path, kubeconfig: &Path, store: &Store, node: &str) -> anyhow::Result<()> {
    if is_good(kubeconfig, Timestamp::now()) {
        tracing::info!(kubeconfig = %kubeconfig.display(), "the node has a kubeconfig that is good; not joining again");
        return Ok(());
    }
    tracing::info!(bootstrap = %bootstrap.display(), "using the bootstrap kubeconfig to get a certificate");
    let client = client::connect(bootstrap, "kubelet").await?;
    let wanted = Wanted { purpose: Purpose::Client, node: node.to_owned(), names: Vec::new() };
    let mut wait = RETRY.0;
    let (certificate, key) = loop {
        let key = pending_key(store)?;
        match request::certificate(client.clone(), &wanted, &key, Naming::ByKey).await {
            Ok(certificate) => break (certificate, key),
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "no certificate yet; trying again");
                // A refused request is not asked for again under the same name.
                drop(fs::remove_file(store.pending_key()));
            }
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(RETRY.1);
    };
    store.keep(&certificate, &key.serialize_pem(), Timestamp::now())?;
    let text = node_kubeconfig(&Kubeconfig::read_from(bootstrap)?, &store.current())?;
    write_secret(kubeconfig, text.as_bytes())?;
    drop(fs::remove_file(store.pending_key()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nodes_kubeconfig_has_the_cluster_and_the_certificate() {
        let bootstrap: Kubeconfig = serde_yaml::from_str(
            "clusters: [{name: other, cluster: {server: 'https://x'}}, {name: c, cluster: {server: 'https://a:6443', certificate-authority-data: Zm9v}}]\n\
             contexts: [{name: k, context: {cluster: c, user: u}}]\ncurrent-context: k\nusers: [{name: u, user: {token: abcdef.0123456789abcdef}}]\n",
        )
        .expect("a kubeconfig");
        let text = node_kubeconfig(&bootstrap, Path::new("/pki/kubelet-client-current.pem")).expect("a kubeconfig");
        let made: Kubeconfig = serde_yaml::from_str(&text).expect("one that can be read");
        assert_eq!(made.clusters[0].cluster.as_ref().and_then(|c| c.server.as_deref()), Some("https://a:6443"));
        let user = made.auth_infos[0].auth_info.as_ref().expect("a user");
        assert_eq!(user.client_certificate.as_deref(), Some("/pki/kubelet-client-current.pem"));
        assert_eq!(user.client_key, user.client_certificate);
        assert!(!text.contains("abcdef"), "the token stays where it was");
    }

    #[test]
    fn a_kubeconfig_is_good_until_its_certificate_ends() {
        let dir = tempfile::tempdir().expect("a directory");
        let (path, now) = (dir.path().join("kubeconfig"), "2026-06-01T00:00:00Z".parse().expect("a time"));
        assert!(!is_good(&path, now));
        let key = request::new_key().expect("a key");
        for (year, good) in [(2026, false), (2027, true)] {
            let mut params = rcgen::CertificateParams::new(vec![]).expect("parameters");
            (params.not_before, params.not_after) = (rcgen::date_time_ymd(2025, 1, 1), rcgen::date_time_ymd(year, 1, 1));
            let store = Store::new(dir.path(), "kubelet-client");
            store.keep(&params.self_signed(&key).expect("signed").pem(), &key.serialize_pem(), now).expect("kept");
            let certificate = store.current();
            fs::write(&path, format!("users: [{{name: u, user: {{client-certificate: {}}}}}]\n", certificate.display())).expect("written");
            assert_eq!(is_good(&path, now), good, "until {year}");
        }
    }
}
