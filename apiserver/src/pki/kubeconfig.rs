//! Kubeconfig files with embedded certificates, one cluster, one user, one context, as kubeadm writes them.

use super::authority::Issued;
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

/// The cluster's name in every kubeconfig.
const CLUSTER: &str = "kubernetes";

/// The file's text for `user`, who proves themselves with `client`.
pub fn render(server: &str, authority: &str, user: &str, client: &Issued) -> String {
    let context = format!("{user}@{CLUSTER}");
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": CLUSTER, "cluster": {"certificate-authority-data": BASE64_STANDARD.encode(authority), "server": server}}],
        "contexts": [{"name": context, "context": {"cluster": CLUSTER, "user": user}}],
        "current-context": context,
        "preferences": {},
        "users": [{"name": user, "user": {
            "client-certificate-data": BASE64_STANDARD.encode(&client.certificate),
            "client-key-data": BASE64_STANDARD.encode(&client.key),
        }}],
    });
    serde_yaml::to_string(&config).expect("JSON values serialise to YAML")
}

/// Whether the file's text still leads `user` to this server and trusts this authority. Anything unreadable does not.
pub fn leads_to(text: &str, server: &str, authority: &str, user: &str) -> bool {
    let Ok(config) = serde_yaml::from_str::<Value>(text) else { return false };
    let cluster = &config["clusters"][0]["cluster"];
    cluster["server"] == server
        && cluster["certificate-authority-data"] == BASE64_STANDARD.encode(authority)
        && config["users"][0]["name"] == user
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubeconfig_leads_to_its_own_cluster_only() {
        let client = Issued { certificate: "cert".into(), key: "key".into() };
        let text = render("https://127.0.0.1:6443", "ca", "kubernetes-admin", &client);
        assert!(leads_to(&text, "https://127.0.0.1:6443", "ca", "kubernetes-admin"));
        assert!(!leads_to(&text, "https://127.0.0.1:7443", "ca", "kubernetes-admin"));
        assert!(!leads_to(&text, "https://127.0.0.1:6443", "another", "kubernetes-admin"));
        assert!(!leads_to("no yaml: [", "https://127.0.0.1:6443", "ca", "kubernetes-admin"));
    }
}
