//! ConfigMaps, Secrets, and what else holds nothing but data: Namespace, ServiceAccount.

use super::{Generator, metadata, name};
use crate::cli::{Args, Flag};
use crate::context::Context;
use crate::encoding::{base64, json as go_json};
use crate::error::{Result, go_io_error, message};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

pub(super) fn generators() -> Vec<Generator> {
    vec![
        Generator {
            words: "configmap",
            aliases: &["cm"],
            about: "Create a config map from a local file, directory or literal value",
            usage: "NAME [--from-file=[key=]source] [--from-literal=key1=value1]",
            noun: "configmap",
            flags: source_flags,
            build: configmap,
        },
        Generator {
            words: "namespace",
            aliases: &["ns"],
            about: "Create a namespace with the specified name",
            usage: "NAME",
            noun: "",
            flags: Vec::new,
            build: namespace,
        },
        Generator {
            words: "serviceaccount",
            aliases: &["sa"],
            about: "Create a service account with the specified name",
            usage: "NAME",
            noun: "serviceaccount",
            flags: Vec::new,
            build: |_, args| Ok(json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata(&name(args)?)})),
        },
        Generator {
            words: "secret generic",
            aliases: &[],
            about: "Create a secret from a local file, directory, or literal value",
            usage: "NAME [--type=string] [--from-file=[key=]source] [--from-literal=key1=value1]",
            noun: "secret",
            flags: || source_flags().into_iter().chain([Flag::string("type", "", "The type of secret.")]).collect(),
            build: secret_generic,
        },
        Generator {
            words: "secret docker-registry",
            aliases: &[],
            about: "Create a secret for use with a Docker registry",
            usage: "NAME --docker-username=user --docker-password=password --docker-email=email",
            noun: "secret",
            flags: || {
                vec![
                    Flag::switch("append-hash", "Append a hash of the contents to the name."),
                    Flag::string("docker-email", "", "Email for the registry."),
                    Flag::string("docker-password", "", "Password for the registry."),
                    Flag::string("docker-server", "https://index.docker.io/v1/", "Address of the registry."),
                    Flag::string("docker-username", "", "User name for the registry."),
                    Flag::strings("from-file", "A docker configuration file, as [key=]path."),
                ]
            },
            build: secret_docker_registry,
        },
        Generator {
            words: "secret tls",
            aliases: &[],
            about: "Create a TLS secret",
            usage: "NAME --cert=path/to/cert/file --key=path/to/key/file",
            noun: "secret",
            flags: || {
                vec![
                    Flag::switch("append-hash", "Append a hash of the contents to the name."),
                    Flag::string("cert", "", "File with the PEM certificate."),
                    Flag::string("key", "", "File with the PEM private key."),
                ]
            },
            build: secret_tls,
        },
    ]
}

fn source_flags() -> Vec<Flag> {
    vec![
        Flag::switch("append-hash", "Append a hash of the contents to the name."),
        Flag::strings("from-env-file", "A file of KEY=value lines."),
        Flag::strings("from-file", "A file, as [key=]path, or a directory of files."),
        Flag::array("from-literal", "A key=value."),
    ]
}

fn namespace(_: &mut Context, args: &Args) -> Result<Value> {
    Ok(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata(&name(args)?), "spec": {}, "status": {}}))
}

/// Keys and bytes in the order given, from files, literals and env files.
fn sources(ctx: &Context, args: &Args, kind: &str, object: &str) -> Result<Vec<(String, Vec<u8>)>> {
    let given = |flag: &str| !args.list(flag).is_empty();
    if given("from-env-file") && (given("from-file") || given("from-literal")) {
        return Err(message("from-env-file cannot be combined with from-file or from-literal"));
    }
    let mut data: Vec<(String, Vec<u8>)> = Vec::new();
    let add = |data: &mut Vec<(String, Vec<u8>)>, key: &str, value: Vec<u8>| {
        check_key(key)?;
        if data.iter().any(|(k, _)| k == key) {
            return Err(message(match kind {
                "ConfigMap" => format!("cannot add key {key:?}, another key by that name already exists in Data for ConfigMap {object:?}"),
                _ => format!("cannot add key {key}, another key by that name already exists"),
            }));
        }
        data.push((key.to_owned(), value));
        Ok(())
    };
    for source in args.list("from-file") {
        let (key, path) = match source.matches('=').count() {
            0 => (None, source.as_str()),
            1 if source.starts_with('=') => {
                return Err(message(format!("key name for file path {} missing", source.trim_start_matches('='))));
            }
            1 if source.ends_with('=') => return Err(message(format!("file path for key name {} missing", source.trim_end_matches('=')))),
            1 => source.split_once('=').map_or((None, source.as_str()), |(k, p)| (Some(k), p)),
            _ => return Err(message("key names or file paths cannot contain '='")),
        };
        let full = ctx.path(path);
        let failed = |e: std::io::Error| message(format!("error reading {path}: {}", go_io_error(&e)));
        if std::fs::metadata(&full).map_err(failed)?.is_dir() {
            if key.is_some() {
                return Err(message("cannot give a key name for a directory path"));
            }
            let mut files: Vec<_> = std::fs::read_dir(&full).map_err(failed)?.flatten().map(|e| e.path()).filter(|p| p.is_file()).collect();
            files.sort();
            for file in files {
                let name = file.file_name().and_then(|n| n.to_str()).unwrap_or("").to_owned();
                add(&mut data, &name, std::fs::read(&file).map_err(failed)?)?;
            }
        } else {
            let base = full.file_name().and_then(|n| n.to_str()).unwrap_or("").to_owned();
            add(&mut data, key.unwrap_or(&base), std::fs::read(&full).map_err(failed)?)?;
        }
    }
    for literal in args.list("from-literal") {
        let Some((key, value)) = literal.split_once('=').filter(|(k, _)| !k.is_empty()) else {
            return Err(message(format!("invalid literal source {literal}, expected key=value")));
        };
        // One pair of quotes around a value is the shell's left-over.
        let value = [('"', '"'), ('\'', '\'')].iter().find_map(|(a, b)| value.strip_prefix(*a)?.strip_suffix(*b)).unwrap_or(value);
        add(&mut data, key, value.as_bytes().to_vec())?;
    }
    for path in args.list("from-env-file") {
        let text = ctx.path(path);
        let text = std::fs::read(&text).map_err(|e| message(format!("error reading {path}: {}", go_io_error(&e))))?;
        let text = String::from_utf8(text).map_err(|_| message(format!("env file {path} contains invalid utf8 bytes at line 1")))?;
        for line in text.trim_start_matches('\u{feff}').lines() {
            let line = line.trim_start();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (key, value) = match line.split_once('=') {
                Some((k, v)) => (k, v.to_owned()),
                // A bare name takes its value from the environment.
                None => (line, ctx.env.get(line).cloned().unwrap_or_default()),
            };
            if !is_env_name(key) {
                return Err(message(format!("{key:?} is not a valid key name: {ENV_NAME_RULE}")));
            }
            add(&mut data, key, value.into_bytes())?;
        }
    }
    Ok(data)
}

const ENV_NAME_RULE: &str = "a valid environment variable name must consist of alphabetic characters, digits, '_', '-', or '.', and must not start with a digit (e.g. 'my.env-name',  or 'MY_ENV.NAME',  or 'MyEnvName1', regex used for validation is '[-._a-zA-Z][-._a-zA-Z0-9]*')";

fn is_env_name(key: &str) -> bool {
    !key.starts_with(|c: char| c.is_ascii_digit())
        && !key.is_empty()
        && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
}

fn check_key(key: &str) -> Result<()> {
    let legal = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'));
    if !legal {
        return Err(message(format!(
            "{key:?} is not a valid key name for a ConfigMap: a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
        )));
    }
    match key {
        "." | ".." => Err(message(format!("{key:?} is not a valid key name for a ConfigMap: must not be '{key}'"))),
        _ => Ok(()),
    }
}

/// Ten characters that change with the content (upstream: `kubectl/pkg/util/hash`).
fn hash(content: &Value) -> String {
    let digest = Sha256::digest(go_json::to_string(content).as_bytes());
    let hex: String = digest.iter().map(|b| format!("{b:02x}")).collect();
    // Letters that could spell words are replaced.
    let safe = |c: char| match c {
        '0' => 'g',
        '1' => 'h',
        '3' => 'k',
        'a' => 'm',
        'e' => 't',
        c => c,
    };
    hex.chars().take(10).map(safe).collect()
}

fn configmap(ctx: &mut Context, args: &Args) -> Result<Value> {
    let name = name(args)?;
    let (mut data, mut binary) = (Map::new(), Map::new());
    for (key, bytes) in sources(ctx, args, "ConfigMap", &name)? {
        match String::from_utf8(bytes) {
            Ok(text) => drop(data.insert(key, json!(text))),
            Err(e) => drop(binary.insert(key, json!(base64(e.as_bytes())))),
        }
    }
    let mut object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata(&name)});
    if args.bool("append-hash") {
        let mut content = json!({"kind": "ConfigMap", "name": name, "data": data});
        if !binary.is_empty() {
            content["binaryData"] = json!(binary);
        }
        object["metadata"]["name"] = json!(format!("{name}-{}", hash(&content)));
    }
    for (field, map) in [("data", data), ("binaryData", binary)] {
        if !map.is_empty() {
            object[field] = Value::Object(map);
        }
    }
    Ok(object)
}

fn secret(args: &Args, name: &str, kind: &str, data: Vec<(String, Vec<u8>)>) -> Value {
    let data: Map<String, Value> = data.into_iter().map(|(k, v)| (k, json!(base64(&v)))).collect();
    let mut object = json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata(name)});
    if args.bool("append-hash") {
        let content = json!({"kind": "Secret", "type": kind, "name": name, "data": data});
        object["metadata"]["name"] = json!(format!("{name}-{}", hash(&content)));
    }
    if !data.is_empty() {
        object["data"] = Value::Object(data);
    }
    if !kind.is_empty() {
        object["type"] = json!(kind);
    }
    object
}

fn secret_generic(ctx: &mut Context, args: &Args) -> Result<Value> {
    let name = name(args)?;
    let data = sources(ctx, args, "Secret", &name)?;
    Ok(secret(args, &name, args.str("type"), data))
}

fn secret_docker_registry(ctx: &mut Context, args: &Args) -> Result<Value> {
    let name = name(args)?;
    let kind = "kubernetes.io/dockerconfigjson";
    if !args.list("from-file").is_empty() {
        let mut data = sources(ctx, args, "Secret", &name)?;
        if let [(key, _)] = data.as_mut_slice() {
            ".dockerconfigjson".clone_into(key);
        }
        return Ok(secret(args, &name, kind, data));
    }
    let (user, password) = (args.str("docker-username"), args.str("docker-password"));
    let (email, server) = (args.str("docker-email"), args.str("docker-server"));
    if user.is_empty() || password.is_empty() || server.is_empty() {
        return Err(message(
            "either --from-file or the combination of --docker-username, --docker-password and --docker-server is required",
        ));
    }
    // Go's struct order, which a map would not keep.
    let quoted = |v: &str| go_json::to_string(&json!(v));
    let mut entry = format!("{{\"username\":{},\"password\":{}", quoted(user), quoted(password));
    if !email.is_empty() {
        entry += &format!(",\"email\":{}", quoted(email));
    }
    let auth = base64(format!("{user}:{password}").as_bytes());
    let text = format!("{{\"auths\":{{{}:{entry},\"auth\":{}}}}}}}", quoted(server), quoted(&auth));
    Ok(secret(args, &name, kind, vec![(".dockerconfigjson".to_owned(), text.into_bytes())]))
}

fn secret_tls(ctx: &mut Context, args: &Args) -> Result<Value> {
    let name = name(args)?;
    let (cert, key) = (args.str("cert"), args.str("key"));
    if cert.is_empty() || key.is_empty() {
        return Err(message("key and cert must be specified"));
    }
    let read = |path: &str| ctx.read_file(path).map_err(|e| message(format!("Cannot read file {path}, {e}")));
    let (cert, key) = (read(cert)?, read(key)?);
    for (what, bytes, word) in [("certificate", &cert, "CERTIFICATE"), ("key", &key, "PRIVATE KEY")] {
        let text = String::from_utf8_lossy(bytes);
        if !text.contains("-----BEGIN ") {
            return Err(message(format!("tls: failed to find any PEM data in {what} input")));
        }
        if !text.contains(word) {
            return Err(message(format!(
                "tls: failed to find \"{word}\" PEM block in {what} input after skipping PEM blocks of the following types: []"
            )));
        }
    }
    Ok(secret(args, &name, "kubernetes.io/tls", vec![("tls.crt".to_owned(), cert), ("tls.key".to_owned(), key)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_upstreams() {
        assert_eq!(hash(&json!({"kind": "ConfigMap", "name": "x", "data": {}})), "62ctbmbfd2");
        assert_eq!(hash(&json!({"kind": "Secret", "type": "", "name": "x", "data": {"a": "Yg=="}})), "k694gm4m9h");
    }
}
