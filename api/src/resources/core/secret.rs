//! Secret: small confidential data for pods.

use crate::field::{ErrorList, Path};
use crate::kind::Kind;
use crate::printer::{self, AGE, NAME, shown};
use crate::resource::{Cells, Column, PrintContext, Resource, SelectableField};
use crate::resources::core::config_map::SIZE_MAX;
use crate::resources::defaulting::text;
use crate::validation::{IMMUTABLE, invalid, names};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use serde_json::json;

const COLUMNS: &[Column] = &[NAME, shown("Type", "string"), shown("Data", "string"), AGE];

impl Kind for Secret {
    fn set_defaults(&mut self) {
        text(&mut self.type_, "Opaque");
        // What was given as text is stored as bytes, and wins over bytes under the same key.
        for (key, value) in self.string_data.take().into_iter().flatten() {
            self.data.get_or_insert_default().insert(key, ByteString(value.into_bytes()));
        }
    }

    fn validate(&self, errors: &mut ErrorList) {
        let path = Path::new("data");
        let data = self.data.clone().unwrap_or_default();
        for key in data.keys() {
            invalid(errors, &path.key(key), key, names::config_key(key));
        }
        if data.values().map(|v| v.0.len()).sum::<usize>() > SIZE_MAX {
            errors.too_long(&path, SIZE_MAX);
        }
        let type_ = self.type_.as_deref().unwrap_or("");
        match type_ {
            "kubernetes.io/service-account-token" => {
                let account = self.metadata.annotations.as_ref().and_then(|a| a.get(ACCOUNT));
                if account.is_none_or(|a| a.is_empty()) {
                    errors.required(&Path::new("metadata").child("annotations").key(ACCOUNT), "");
                }
            }
            "kubernetes.io/dockercfg" => registry_login(errors, &path.key(".dockercfg"), data.get(".dockercfg")),
            "kubernetes.io/dockerconfigjson" => {
                registry_login(errors, &path.key(".dockerconfigjson"), data.get(".dockerconfigjson"));
            }
            // Either may be missing, but not both.
            "kubernetes.io/basic-auth" if !data.contains_key("username") && !data.contains_key("password") => {
                ["username", "password"].iter().for_each(|key| errors.required(&path.key(key), ""));
            }
            "kubernetes.io/ssh-auth" if data.get("ssh-privatekey").is_none_or(|k| k.0.is_empty()) => {
                errors.required(&path.key("ssh-privatekey"), "");
            }
            "kubernetes.io/tls" => {
                for key in ["tls.crt", "tls.key"].iter().filter(|key| !data.contains_key(**key)) {
                    errors.required(&path.key(key), "");
                }
            }
            _ => {}
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut ErrorList) {
        if self.type_ != old.type_ {
            errors.invalid(&Path::new("type"), self.type_.as_deref().unwrap_or(""), IMMUTABLE);
        }
        if old.immutable == Some(true) {
            for (field, _) in [("immutable", self.immutable != Some(true)), ("data", self.data != old.data)].iter().filter(|(_, c)| *c) {
                errors.forbidden(&Path::new(field), "field is immutable when `immutable` is set");
            }
        }
        self.validate(errors);
    }

    fn warnings(&self, _old: Option<&Self>) -> Vec<String> {
        if self.type_.as_deref() != Some("kubernetes.io/tls") {
            return Vec::new();
        }
        let content = |key: &str| self.data.as_ref().and_then(|d| d.get(key)).map_or(&[][..], |v| v.0.as_slice());
        key_pair(&String::from_utf8_lossy(content("tls.crt")), &String::from_utf8_lossy(content("tls.key"))).err().into_iter().collect()
    }

    fn cells(&self, context: &PrintContext) -> Cells {
        let count = self.data.as_ref().map_or(0, |d| d.len());
        vec![printer::name(&self.metadata), json!(self.type_.as_deref().unwrap_or("")), json!(count), printer::age(&self.metadata, context)]
    }
}

/// The types of the blocks of PEM in a text.
fn blocks(text: &str) -> Vec<&str> {
    let begun = text.lines().filter_map(|line| line.trim_end().strip_prefix("-----BEGIN ")?.strip_suffix("-----"));
    begun.filter(|kind| text.contains(&format!("-----END {kind}-----"))).collect()
}

/// Whether certificate and key can be used together, as far as their outer form tells: the first thing that keeps them from it, in the words of Go's
/// `tls.X509KeyPair`. Whether the key is the certificate's is not looked at.
fn key_pair(certificate: &str, key: &str) -> Result<(), String> {
    let (certificates, keys) = (blocks(certificate), blocks(key));
    let is_key = |kind: &&str| *kind == "PRIVATE KEY" || kind.ends_with(" PRIVATE KEY");
    if !certificates.contains(&"CERTIFICATE") {
        return Err(match certificates.as_slice() {
            [] => "tls: failed to find any PEM data in certificate input".into(),
            [one] if is_key(one) => {
                "tls: failed to find certificate PEM data in certificate input, but did find a private key; PEM inputs may have been switched"
                    .into()
            }
            kinds => format!(
                "tls: failed to find \"CERTIFICATE\" PEM block in certificate input after skipping PEM blocks of the following types: [{}]",
                kinds.join(" ")
            ),
        });
    }
    if !keys.iter().any(is_key) {
        return Err(match keys.as_slice() {
            [] => "tls: failed to find any PEM data in key input".into(),
            ["CERTIFICATE"] => "tls: found a certificate rather than a key in the PEM for the private key".into(),
            kinds => format!(
                "tls: failed to find PEM block with type ending in \"PRIVATE KEY\" in key input after skipping PEM blocks of the following types: [{}]",
                kinds.join(" ")
            ),
        });
    }
    Ok(())
}

/// The annotation that names the account of a token.
const ACCOUNT: &str = "kubernetes.io/service-account.name";

/// Logins for registries are JSON. What is in them is never shown.
fn registry_login(errors: &mut ErrorList, path: &Path, content: Option<&ByteString>) {
    let Some(content) = content else { return errors.required(path, "") };
    if let Err(e) = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&content.0) {
        let why = crate::decode::any_json(&content.0).err().map_or_else(|| e.to_string(), |e| e.to_string());
        errors.invalid(path, "<secret contents redacted>", &why);
    }
}

/// The row.
pub fn row() -> Resource {
    Resource { selectable_fields: [SelectableField::at("type")].to_vec().into(), columns: COLUMNS.into(), ..Resource::of::<Secret>() }
}

#[cfg(test)]
mod tests {
    use super::key_pair;

    #[test]
    fn what_keeps_a_pair_from_being_used_is_told() {
        let block = |kind: &str| format!("-----BEGIN {kind}-----\nMA==\n-----END {kind}-----\n");
        let (certificate, key) = (block("CERTIFICATE"), block("EC PRIVATE KEY"));
        for (certificate, key, want) in [
            (certificate.as_str(), key.as_str(), ""),
            ("x", &key, "tls: failed to find any PEM data in certificate input"),
            (&key, &key, "PEM inputs may have been switched"),
            (&certificate, "", "tls: failed to find any PEM data in key input"),
            (&certificate, &certificate, "tls: found a certificate rather than a key in the PEM for the private key"),
            (&certificate, &block("RSA"), "skipping PEM blocks of the following types: [RSA]"),
        ] {
            let got = key_pair(certificate, key).err().unwrap_or_default();
            assert!(got.ends_with(want) && got.is_empty() == want.is_empty(), "{got}");
        }
    }
}
