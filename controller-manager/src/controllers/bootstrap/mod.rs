//! Bootstrap tokens, with which new nodes find and join the cluster (upstream: `pkg/controller/bootstrap`): one controller signs the public description of the
//! cluster with each of them, another removes those that have expired. Upstream starts neither unless named; kubeadm names both.

pub mod signer;
pub mod token_cleaner;

use client::{Cache, SharedCaches};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use std::sync::Arc;

/// The secrets that are tokens: no others are watched.
fn tokens(caches: &SharedCaches) -> Arc<Cache<Secret>> {
    let fields = "type=bootstrap.kubernetes.io/token,metadata.namespace=kube-system";
    caches.selected(kube::runtime::watcher::Config::default().any_semantic().fields(fields))
}

/// A field of a token, as text; empty if it has none.
fn field<'a>(secret: &'a Secret, name: &str) -> &'a str {
    let bytes = secret.data.as_ref().and_then(|data| data.get(name));
    bytes.and_then(|bytes| std::str::from_utf8(&bytes.0).ok()).unwrap_or_default()
}

/// How a token stands with time.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Expiry {
    Never,
    At(Timestamp),
    /// It has passed, or cannot be read.
    Past,
}

fn expiry(secret: &Secret, now: Timestamp) -> Expiry {
    match field(secret, "expiration") {
        "" => Expiry::Never,
        text => match text.parse::<Timestamp>() {
            Ok(at) if at > now => Expiry::At(at),
            _ => Expiry::Past,
        },
    }
}
