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
        let has_pem = |key: &str| {
            let content = self.data.as_ref().and_then(|d| d.get(key)).map_or(&[][..], |v| v.0.as_slice());
            content.windows(PEM.len()).any(|w| w == PEM)
        };
        // The first thing that keeps the pair from being used is told.
        let missing = [("tls.crt", "certificate"), ("tls.key", "key")].into_iter().find(|(key, _)| !has_pem(key));
        missing.map(|(_, what)| format!("tls: failed to find any PEM data in {what} input")).into_iter().collect()
    }

    fn cells(&self, context: &PrintContext) -> Cells {
        let count = self.data.as_ref().map_or(0, |d| d.len());
        vec![printer::name(&self.metadata), json!(self.type_.as_deref().unwrap_or("")), json!(count), printer::age(&self.metadata, context)]
    }
}

/// How each block of PEM begins.
const PEM: &[u8] = b"-----BEGIN";

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
