//! An EncryptionConfiguration: which resources' values are sealed, how, and what else opens them (upstream: `apiserver/pkg/apis/apiserver/v1`,
//! `apiserver/pkg/server/options/encryptionconfig`).
//!
//! Left out: keys that a service outside holds (`kms`), and reading the file again when it changes.

use super::ciphers::{Cipher, Transformer};
use crate::registry::keys;
use anyhow::{Context, Result, bail, ensure};
use api::Resource;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use std::sync::Arc;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct EncryptionConfiguration {
    api_version: String,
    kind: String,
    resources: Vec<ResourceConfiguration>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ResourceConfiguration {
    resources: Vec<String>,
    providers: Vec<Provider>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct Provider {
    aesgcm: Option<Keys>,
    aescbc: Option<Keys>,
    secretbox: Option<Keys>,
    identity: Option<Nothing>,
}

#[derive(Deserialize)]
struct Nothing {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    keys: Vec<Key>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Key {
    name: String,
    secret: String,
}

/// What becomes of the values of some resources.
#[derive(Clone, Debug)]
pub struct Rule {
    /// What their keys begin with.
    pub prefixes: Vec<String>,
    /// The first seals; all open what they have sealed.
    pub transformers: Vec<Transformer>,
}

/// The rules of a configuration in YAML or JSON, for a store whose keys begin with `root`.
pub fn parse(text: &str, root: &str, rows: &[Arc<Resource>]) -> Result<Vec<Rule>> {
    let configuration: EncryptionConfiguration = serde_yaml::from_str(text)?;
    let known =
        (configuration.api_version.as_str(), configuration.kind.as_str()) == ("apiserver.config.k8s.io/v1", "EncryptionConfiguration");
    ensure!(known, "no kind {:?} is known for version {:?}", configuration.kind, configuration.api_version);
    let rule = |(index, given): (usize, ResourceConfiguration)| -> Result<Rule> {
        let path = format!("resources[{index}]");
        ensure!(!given.resources.is_empty(), "{path}.resources: Required value: must have at least one resource");
        ensure!(!given.providers.is_empty(), "{path}.providers: Required value: at least one provider is required");
        let mut transformers = Vec::new();
        for (index, provider) in given.providers.into_iter().enumerate() {
            transformers.extend(provider.transformers().with_context(|| format!("{path}.providers[{index}]"))?);
        }
        let mut prefixes = Vec::new();
        for resource in &given.resources {
            prefixes.extend(prefixes_of(resource, root, rows).with_context(|| format!("{path}.resources"))?);
        }
        Ok(Rule { prefixes, transformers })
    };
    configuration.resources.into_iter().enumerate().map(rule).collect()
}

/// What the keys of `secrets`, `widgets.example.com`, `*.apps`, `*.` (core) or `*.*` begin with.
fn prefixes_of(resource: &str, root: &str, rows: &[Arc<Resource>]) -> Result<Vec<String>> {
    let (plural, group) = resource.split_once('.').unwrap_or((resource, ""));
    ensure!(!plural.is_empty() && !resource.contains('/'), "Invalid value: {resource:?}");
    if resource == "*.*" {
        return Ok(vec![format!("{root}/")]);
    }
    ensure!(
        resource != "*",
        "Invalid value: \"*\": use '*.' to encrypt all the resources from core API group or *.* to encrypt all resources"
    );
    let own = rows.iter().filter(|row| row.group == group && (plural == "*" || row.plural == plural));
    let mut prefixes: Vec<String> = own.map(|row| keys::prefix(root, row)).collect();
    prefixes.sort();
    prefixes.dedup();
    match (plural, group) {
        (_, "") => ensure!(!prefixes.is_empty(), "Invalid value: {resource:?}: there is no such resource"),
        // What a definition may bring one day.
        ("*", _) => prefixes.push(format!("{root}/{group}/")),
        _ if prefixes.is_empty() => prefixes.push(format!("{root}/{group}/{plural}/")),
        _ => {}
    }
    Ok(prefixes)
}

impl Provider {
    fn transformers(self) -> Result<Vec<Transformer>> {
        type Make = fn(Vec<u8>) -> Cipher;
        let several: &[usize] = &[16, 24, 32];
        let kinds: [(Option<Keys>, Make, &[usize]); 3] =
            [(self.aesgcm, Cipher::AesGcm, several), (self.aescbc, Cipher::AesCbc, several), (self.secretbox, Cipher::Secretbox, &[32])];
        let mut given: Vec<Vec<Transformer>> = Vec::new();
        for (keys, make, lengths) in kinds {
            let Some(Keys { keys }) = keys else { continue };
            ensure!(!keys.is_empty(), "keys: Required value: at least one key is required");
            given.push(keys.into_iter().map(|key| key.transformer(make, lengths)).collect::<Result<_>>()?);
        }
        given.extend(self.identity.map(|Nothing {}| vec![Transformer::new("", Cipher::Identity)]));
        match given.pop() {
            Some(transformers) if given.is_empty() => Ok(transformers),
            _ => bail!("a provider must contain exactly one of aesgcm, aescbc, secretbox and identity"),
        }
    }
}

impl Key {
    fn transformer(self, make: fn(Vec<u8>) -> Cipher, lengths: &[usize]) -> Result<Transformer> {
        ensure!(!self.name.is_empty() && !self.name.contains(':'), "keys: Invalid value: {:?}: it is no key's name", self.name);
        // Never say what the secret is.
        let Ok(secret) = BASE64_STANDARD.decode(self.secret.trim()) else { bail!("key {:?}: secrets must be base64 encoded", self.name) };
        let length = secret.len();
        ensure!(
            lengths.contains(&length),
            "key {:?}: the secret is not of the expected length, got {length}, expected one of {lengths:?}",
            self.name
        );
        Ok(Transformer::new(&self.name, make(secret)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(resources: &str, providers: &str) -> Result<Vec<Rule>> {
        let text = format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: {resources}\n  providers: {providers}\n"
        );
        parse(&text, "/registry", api::resources::all())
    }

    #[test]
    fn resources_are_found_where_they_stand() {
        let prefixes = |resources: &str| parsed(resources, "[{identity: {}}]").map(|rules| rules[0].prefixes.clone());
        for (resources, want) in [
            ("[secrets, nodes]", vec!["/registry/secrets/", "/registry/minions/"]),
            ("[widgets.example.com]", vec!["/registry/example.com/widgets/"]),
            ("['*.*']", vec!["/registry/"]),
            ("[deployments.apps]", vec!["/registry/deployments/"]),
        ] {
            assert_eq!(prefixes(resources).unwrap(), want, "{resources}");
        }
        let apps = prefixes("['*.apps']").unwrap();
        assert!(apps.contains(&"/registry/statefulsets/".to_owned()) && apps.contains(&"/registry/apps/".to_owned()), "{apps:?}");
        assert!(prefixes("['*.']").unwrap().contains(&"/registry/configmaps/".to_owned()));
        for bad in ["[nosuch]", "['*']", "[]"] {
            assert!(prefixes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn providers_are_read_strictly_and_secrets_are_not_told() {
        let sixteen = "AAECAwQFBgcICQoLDA0ODw==";
        let key = |kind: &str, secret: &str| format!("[{{{kind}: {{keys: [{{name: k, secret: {secret}}}]}}}}]");
        assert_eq!(parsed("[secrets]", &key("aescbc", sixteen)).unwrap()[0].transformers.len(), 1);
        for (providers, why) in [
            (key("secretbox", sixteen), "not of the expected length, got 16"),
            (key("aesgcm", "c2hvcnQ="), "not of the expected length, got 5"),
            (key("aesgcm", "'!!'"), "must be base64"),
            (key("kms", sixteen), "kms"),
            ("[{}]".into(), "exactly one"),
            ("[]".into(), "at least one provider"),
        ] {
            let error = format!("{:#}", parsed("[secrets]", &providers).unwrap_err());
            assert!(error.contains(why) && !error.contains("c2hvcnQ") && !error.contains("short"), "{error}");
        }
    }
}
