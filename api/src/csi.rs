//! What volumes of drivers are called where components have to agree (the Container Storage Interface; upstream: `pkg/volume/csi`): kubelets say which they use,
//! the controller that attaches them says which are attached, and both look for the same VolumeAttachment.

use k8s_openapi::api::storage::v1::CSIDriver;
use sha2::{Digest, Sha256};

/// What the volumes of drivers are called in a node's status, before driver and handle.
const PREFIX: &str = "kubernetes.io/csi/";

/// The name of a volume in a node's status.
pub fn volume_name(driver: &str, handle: &str) -> String {
    format!("{PREFIX}{driver}^{handle}")
}

/// Driver and handle of the volume of that name.
pub fn volume_named(name: &str) -> Option<(&str, &str)> {
    name.strip_prefix(PREFIX)?.split_once('^')
}

/// The name of the attachment of a volume to a node.
pub fn attachment_name(driver: &str, handle: &str, node: &str) -> String {
    format!("csi-{}", sha256(&format!("{handle}{driver}{node}")))
}

/// A text's digest in hexadecimal digits, which names and paths have where the text itself would not do.
pub fn sha256(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether volumes of a driver have to be attached, by what the API says of it: unless it says otherwise.
pub fn is_attachable(driver: Option<&CSIDriver>) -> bool {
    driver.is_none_or(|driver| driver.spec.attach_required != Some(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_upstreams() {
        assert_eq!(volume_name("d", "h"), "kubernetes.io/csi/d^h");
        assert_eq!(volume_named("kubernetes.io/csi/d^h^2"), Some(("d", "h^2")));
        assert_eq!(volume_named("kubernetes.io/other/x"), None);
        // `printf '' | sha256sum`, and `printf handledrivernode | sha256sum`.
        assert_eq!(sha256(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(attachment_name("driver", "handle", "node"), "csi-fdef298eb16db6fa42906ef1ff09a93a7f3028f8290cc9d71628ff91c237bfa7");
    }

    #[test]
    fn drivers_attach_unless_they_say_otherwise() {
        let driver = |spec| serde_json::from_value(serde_json::json!({"metadata": {"name": "d"}, "spec": spec})).expect("a driver");
        assert!(is_attachable(None) && is_attachable(Some(&driver(serde_json::json!({})))));
        assert!(!is_attachable(Some(&driver(serde_json::json!({"attachRequired": false})))));
    }
}
