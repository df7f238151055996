//! Who may use an image that was pulled with credentials: pods that have them, too (upstream: `pkg/kubelet/images/pullmanager`, KEP-2535).
//!
//! What every image was pulled with is kept in `ROOT/image_manager/pulled`, one file an image, in upstream's format; of credentials only a hash. An image
//! without a file was there before the kubelet; whose it is the policy says. Left out: credentials of service accounts and of the node.

use k8s_openapi::api::core::v1::Secret;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, fs, io, path::PathBuf};

/// How many secrets are remembered for an image (upstream: 100).
const MAX_SECRETS: usize = 100;

/// `imagePullCredentialsVerificationPolicy`: for which images pods have to have credentials.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Verification {
    /// For none.
    Never,
    /// For those that this node's kubelets pulled.
    #[default]
    Pulled,
    /// For those, and for what was there before unless it is listed.
    Unlisted(Vec<String>),
    /// For all.
    Always,
}

impl Verification {
    /// By upstream's names.
    pub fn of(policy: &str, allowed: &[String]) -> Option<Self> {
        Some(match policy {
            "NeverVerify" => Verification::Never,
            "NeverVerifyPreloadedImages" => Verification::Pulled,
            "NeverVerifyAllowlistedImages" => Verification::Unlisted(allowed.to_vec()),
            "AlwaysVerify" => Verification::Always,
            _ => return None,
        })
    }

    /// Whether a pod needs credentials for an image. `preloaded`: nobody pulled it.
    pub fn verifies(&self, image: &str, preloaded: bool) -> bool {
        let listed = |pattern: &String| match pattern.strip_suffix('*') {
            Some(prefix) => repository(image).starts_with(prefix),
            None => repository(image) == pattern,
        };
        match self {
            Verification::Never => false,
            Verification::Pulled => !preloaded,
            Verification::Unlisted(patterns) => !preloaded || !patterns.iter().any(listed),
            Verification::Always => true,
        }
    }
}

/// A secret that an image was pulled with, or would be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretUse {
    uid: String,
    namespace: String,
    name: String,
    credential_hash: String,
}

impl SecretUse {
    /// The use of one entry of a secret.
    pub fn new(secret: &Secret, credentials: &k8s_cri::v1::AuthConfig) -> Self {
        let meta = &secret.metadata;
        let parts = [&credentials.username, &credentials.password, &credentials.identity_token, &credentials.registry_token];
        let joined: Vec<String> = parts.iter().map(|part| format!("{}:{part}", part.len())).collect();
        SecretUse {
            uid: meta.uid.clone().unwrap_or_default(),
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            credential_hash: hex(joined.join(",").as_bytes()),
        }
    }

    fn same_object(&self, other: &Self) -> bool {
        (&self.uid, &self.namespace, &self.name) == (&other.uid, &other.namespace, &other.name)
    }
}

/// What an image was pulled with under one of its names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Access {
    /// Without any: it is everybody's.
    node_pods_accessible: bool,
    kubernetes_secrets: Vec<SecretUse>,
}

/// What an image was pulled with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Record {
    kind: String,
    api_version: String,
    last_updated_time: String,
    image_ref: String,
    /// By the image's name without its tag.
    credential_mapping: BTreeMap<String, Access>,
}

impl Record {
    /// Whether a pod with these secrets may use the image under that name without pulling it anew.
    pub fn allows(&self, image: &str, secrets: &[SecretUse]) -> bool {
        let Some(access) = self.credential_mapping.get(repository(image)) else { return false };
        let known =
            |own: &SecretUse| access.kubernetes_secrets.iter().any(|k| k.same_object(own) || k.credential_hash == own.credential_hash);
        access.node_pods_accessible || secrets.iter().any(known)
    }

    /// Notes a pull with a secret, or with none. The same object counts once, with its newest content.
    fn note(&mut self, image: &str, secret: Option<&SecretUse>) {
        let access = self.credential_mapping.entry(repository(image).to_owned()).or_default();
        match secret {
            None => *access = Access { node_pods_accessible: true, ..Default::default() },
            Some(_) if access.node_pods_accessible => {}
            Some(secret) => {
                access.kubernetes_secrets.retain(|known| !known.same_object(secret));
                access.kubernetes_secrets.push(secret.clone());
                let surplus = access.kubernetes_secrets.len().saturating_sub(MAX_SECRETS);
                access.kubernetes_secrets.drain(..surplus);
            }
        }
    }
}

/// An image's name without tag and digest.
pub fn repository(image: &str) -> &str {
    let name = image.split_once('@').map_or(image, |(name, _)| name);
    let slash = name.rfind('/').map_or(0, |at| at + 1);
    name[slash..].find(':').map_or(name, |at| &name[..slash + at])
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// The records of a node; a simulated one keeps none.
#[derive(Debug, Default)]
pub struct Records(Option<PathBuf>);

impl Records {
    /// Below the kubelet's root directory.
    pub fn new(root: &std::path::Path) -> Self {
        Records(Some(root.join("image_manager/pulled")))
    }

    fn path(&self, image_ref: &str) -> Option<PathBuf> {
        self.0.as_ref().map(|dir| dir.join(format!("sha256-{}", hex(image_ref.as_bytes()))))
    }

    /// What the image was pulled with, if that is known. A record that cannot be read lets nobody in.
    pub fn of(&self, image_ref: &str) -> Option<Record> {
        let text = match fs::read(self.path(image_ref)?) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(_) => return Some(Record::default()),
        };
        Some(serde_json::from_slice(&text).unwrap_or_default())
    }

    /// Notes that the image was pulled under that name, with a secret or with none.
    pub fn pulled(&self, image_ref: &str, image: &str, secret: Option<&SecretUse>) -> io::Result<()> {
        let Some(path) = self.path(image_ref) else { return Ok(()) };
        let mut record = self.of(image_ref).unwrap_or_default();
        record.note(image, secret);
        record.kind = "ImagePulledRecord".into();
        record.api_version = "kubelet.config.k8s.io/v1alpha1".into();
        record.last_updated_time = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        record.image_ref = image_ref.to_owned();
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        // Written aside, so that a reader sees all of it or nothing.
        let aside = path.with_extension("new");
        fs::write(&aside, serde_json::to_vec(&record)?)?;
        fs::rename(aside, path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(uid: &str, hash: &str) -> SecretUse {
        SecretUse { uid: uid.into(), namespace: "ns".into(), name: "s".into(), credential_hash: hash.into() }
    }

    #[test]
    fn the_policy_says_whose_an_image_is_that_nobody_pulled() {
        let allowed = ["registry.io/team/*".to_owned(), "registry.io/one".to_owned()];
        for (policy, image, preloaded, want) in [
            ("NeverVerify", "a:1", false, false),
            ("NeverVerifyPreloadedImages", "a:1", true, false),
            ("NeverVerifyPreloadedImages", "a:1", false, true),
            ("NeverVerifyAllowlistedImages", "registry.io/team/a:1", true, false),
            ("NeverVerifyAllowlistedImages", "registry.io/one@sha256:0", true, false),
            ("NeverVerifyAllowlistedImages", "registry.io/one/a", true, true),
            ("NeverVerifyAllowlistedImages", "registry.io/team/a:1", false, true),
            ("AlwaysVerify", "a:1", true, true),
        ] {
            let verification = Verification::of(policy, &allowed).expect("a known policy");
            assert_eq!(verification.verifies(image, preloaded), want, "{policy} {image} {preloaded}");
        }
        assert_eq!(Verification::of("Sometimes", &[]), None);
    }

    #[test]
    fn an_image_is_for_those_who_could_pull_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let records = Records::new(dir.path());
        assert_eq!(records.of("r"), None, "what was there before is everybody's");
        records.pulled("r", "host:5000/a:1", Some(&secret("u", "h"))).expect("written");
        let allows = |image: &str, secrets: &[SecretUse]| records.of("r").expect("it is known").allows(image, secrets);
        for (image, secrets, want) in [
            ("host:5000/a:1", vec![], false),
            ("host:5000/a:2", vec![secret("u", "changed")], true),
            ("host:5000/a@sha256:0", vec![secret("another", "h")], true),
            ("host:5000/a:1", vec![secret("another", "x")], false),
            ("host:5000/b:1", vec![secret("u", "h")], false),
        ] {
            assert_eq!(allows(image, &secrets), want, "{image} {secrets:?}");
        }
        records.pulled("r", "host:5000/a:1", None).expect("written");
        assert!(allows("host:5000/a:1", &[]));
        fs::write(records.path("r").expect("kept"), "{").expect("written");
        assert!(!allows("host:5000/a:1", &[secret("u", "h")]), "a broken record lets nobody in");
    }
}
