//! Reading manifests: files, directories, standard input and URLs; YAML and JSON; several documents in one; lists taken apart
//! (upstream: `cli-runtime/pkg/resource/visitor.go`).

use crate::cli::Args;
use crate::context::Context;
use crate::encoding::json;
use crate::error::{Error, Result, go_io_error, message};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Largest manifest read. The server takes bodies of 3 MiB; a file may hold many documents.
pub const MAX_BYTES: u64 = 512 << 20;
/// What directories are searched for.
const EXTENSIONS: [&str; 3] = ["json", "yaml", "yml"];
/// How many redirects and directory levels are followed.
const MAX_DEPTH: usize = 32;

/// A document and where it came from.
#[derive(Clone, Debug)]
pub struct Document {
    /// What messages call the source: the path, `STDIN`, the URL.
    pub source: String,
    /// The object.
    pub object: Value,
}

/// All documents that `--filename` and `--recursive` name. Lists are taken apart.
pub fn read(ctx: &mut Context, args: &Args) -> Result<Vec<Document>> {
    let mut documents = Vec::new();
    for name in args.list("filename") {
        if name == "-" {
            let bytes = ctx.read_stdin()?;
            documents.extend(parse(&bytes, "STDIN")?);
        } else if name.starts_with("http://") || name.starts_with("https://") {
            let bytes = fetch(ctx, name)?;
            documents.extend(parse(&bytes, name)?);
        } else {
            for path in expand(ctx, name, args.bool("recursive"))? {
                let shown = shown(&path, &ctx.cwd, name);
                let bytes = std::fs::read(&path).map_err(|e| message(format!("open {shown}: {}", go_io_error(&e))))?;
                documents.extend(parse(&bytes, &shown)?);
            }
        }
    }
    if let Some(dir) = args.text("kustomize") {
        return Err(message(format!("kustomize is not supported yet: {dir}")));
    }
    Ok(documents)
}

/// The path as upstream shows it: as typed, with what a directory adds.
fn shown(path: &Path, cwd: &Path, typed: &str) -> String {
    if typed.starts_with('/') {
        return path.display().to_string();
    }
    path.strip_prefix(cwd).map_or_else(|_| path.display().to_string(), |p| p.display().to_string())
}

fn expand(ctx: &Context, name: &str, recursive: bool) -> Result<Vec<PathBuf>> {
    let path = ctx.path(name);
    let Ok(metadata) = std::fs::metadata(&path) else {
        if name.contains(['*', '?', '[']) {
            let matches = glob(&path);
            if !matches.is_empty() {
                return Ok(matches);
            }
        }
        return Err(message(format!("the path {name:?} does not exist")));
    };
    if !metadata.is_dir() {
        return Ok(vec![path]);
    }
    let mut files = Vec::new();
    walk(&path, recursive, 0, &mut files)?;
    if files.is_empty() {
        return Err(message(format!("error reading [{name}]: recognized file extensions are [.json .yaml .yml]")));
    }
    Ok(files)
}

fn walk(dir: &Path, recursive: bool, depth: usize, files: &mut Vec<PathBuf>) -> Result<()> {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(dir)?.filter_map(|e| e.ok().map(|e| e.path())).collect();
    entries.sort();
    for entry in entries {
        if entry.is_dir() {
            if recursive && depth < MAX_DEPTH {
                walk(&entry, recursive, depth + 1, files)?;
            }
        } else if entry.extension().and_then(|e| e.to_str()).is_some_and(|e| EXTENSIONS.contains(&e)) {
            files.push(entry);
        }
    }
    Ok(())
}

/// `*` and `?` in the last part of a path.
fn glob(path: &Path) -> Vec<PathBuf> {
    let (Some(dir), Some(pattern)) = (path.parent(), path.file_name().and_then(|f| f.to_str())) else { return Vec::new() };
    let fits = |name: &str| wildcard(&pattern.chars().collect::<Vec<_>>(), &name.chars().collect::<Vec<_>>());
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path());
    let mut found: Vec<PathBuf> = entries.filter(|p| p.file_name().and_then(|f| f.to_str()).is_some_and(fits)).collect();
    found.sort();
    found
}

fn wildcard(pattern: &[char], name: &[char]) -> bool {
    match (pattern.split_first(), name.split_first()) {
        (None, None) => true,
        (Some(('*', rest)), _) => wildcard(rest, name) || name.split_first().is_some_and(|(_, n)| wildcard(pattern, n)),
        (Some(('?', p)), Some((_, n))) => wildcard(p, n),
        (Some((a, p)), Some((b, n))) if a == b => wildcard(p, n),
        _ => false,
    }
}

fn fetch(ctx: &Context, url: &str) -> Result<Vec<u8>> {
    ctx.block_on(async {
        let fail = |e: reqwest::Error| message(format!("unable to read URL {url:?}: {e}"));
        let response = reqwest::get(url).await.map_err(fail)?;
        if !response.status().is_success() {
            let status = response.status();
            return Err(message(format!("unable to read URL {url:?}, server reported {status}, status code={}", status.as_u16())));
        }
        Ok(response.bytes().await.map_err(fail)?.to_vec())
    })
}

/// All objects in a text.
pub fn parse(bytes: &[u8], source: &str) -> Result<Vec<Document>> {
    let text = String::from_utf8_lossy(bytes);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let mut documents = Vec::new();
    let mut add = |object: Value| -> Result<()> {
        if object.is_null() {
            return Ok(());
        }
        check_type(&object, source)?;
        if object["kind"].as_str().is_some_and(|k| k.ends_with("List"))
            && let Some(Value::Array(items)) = object.get("items")
        {
            for item in items {
                check_type(item, source)?;
                documents.push(Document { source: source.to_owned(), object: item.clone() });
            }
            return Ok(());
        }
        documents.push(Document { source: source.to_owned(), object });
        Ok(())
    };
    if text.trim_start().starts_with('{') && serde_json::Deserializer::from_str(text).into_iter::<Value>().all(|d| d.is_ok()) {
        for object in serde_json::Deserializer::from_str(text).into_iter::<Value>().flatten() {
            add(object)?;
        }
        return Ok(documents);
    }
    for part in split(text) {
        let object = parse_document(&part).map_err(|why| message(format!("error parsing {source}: {why}")))?;
        add(object)?;
    }
    Ok(documents)
}

fn check_type(object: &Value, source: &str) -> Result<()> {
    let Value::Object(map) = object else {
        return Err(message(format!(
            "unable to decode {source:?}: json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
            match object {
                Value::String(_) => "string",
                Value::Number(_) => "number",
                Value::Bool(_) => "bool",
                _ => "array",
            }
        )));
    };
    for (field, name) in [("kind", "Kind"), ("apiVersion", "apiVersion")] {
        if map.get(field).and_then(Value::as_str).is_none_or(str::is_empty) {
            return Err(Error::Message(format!(
                "unable to decode {source:?}: Object '{name}' is missing in '{}'",
                json::to_string(object)
            )));
        }
    }
    Ok(())
}

/// A text cut at lines that begin with `---`.
fn split(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    for line in text.split_inclusive('\n') {
        if line.starts_with("---") && line[3..].trim().is_empty() {
            parts.push(String::new());
        } else {
            parts.last_mut().expect("starts with one").push_str(line);
        }
    }
    parts.retain(|p| p.lines().any(|l| !l.trim().is_empty() && !l.trim_start().starts_with('#')));
    parts
}

/// One YAML or JSON document as JSON; the error is upstream's text.
pub fn parse_document(text: &str) -> Result<Value, String> {
    let yaml: serde_yaml::Value = serde_yaml::from_str(text).map_err(|e| format!("error converting YAML to JSON: {}", yaml_error(&e)))?;
    to_json(yaml).map_err(|e| format!("error converting YAML to JSON: {e}"))
}

/// go-yaml names the line and libyaml's complaint and nothing else.
fn yaml_error(error: &serde_yaml::Error) -> String {
    let text = error.to_string();
    if let Some(rest) = text.strip_prefix("duplicate entry with key ") {
        let key = rest.split(" at line").next().unwrap_or(rest).trim_matches('"');
        let line = error.location().map_or(0, |l| l.line());
        return format!("yaml: unmarshal errors:\n  line {line}: key {key:?} already set in map");
    }
    let problem = text.split(" at line ").next().unwrap_or(&text);
    let problem = problem.split(", while ").next().unwrap_or(problem);
    match error.location() {
        Some(location) if location.line() > 1 => {
            format!("yaml: line {}: {problem}", location.line() - usize::from(problem.starts_with("did not find expected")))
        }
        Some(_) if problem.starts_with("did not find") => format!("yaml: line 1: {problem}"),
        _ => format!("yaml: {problem}"),
    }
}

fn to_json(value: serde_yaml::Value) -> Result<Value, String> {
    use serde_yaml::Value as Yaml;
    Ok(match value {
        Yaml::Null => Value::Null,
        Yaml::Bool(b) => Value::Bool(b),
        Yaml::Number(n) => match (n.as_i64(), n.as_u64(), n.as_f64()) {
            (Some(i), _, _) => Value::from(i),
            (_, Some(u), _) => Value::from(u),
            (_, _, Some(f)) => Value::from(f),
            _ => Value::Null,
        },
        Yaml::String(s) => Value::String(s),
        Yaml::Sequence(items) => Value::Array(items.into_iter().map(to_json).collect::<Result<_, _>>()?),
        Yaml::Mapping(map) => {
            let mut out = serde_json::Map::new();
            for (k, v) in map {
                let key = match k {
                    Yaml::String(s) => s,
                    Yaml::Bool(b) => b.to_string(),
                    Yaml::Number(n) => n.to_string(),
                    Yaml::Null => "null".to_owned(),
                    _ => return Err("unsupported map key".to_owned()),
                };
                out.insert(key, to_json(v)?);
            }
            Value::Object(out)
        }
        Yaml::Tagged(t) => to_json(t.value)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_taken_apart() {
        let text = "# comment\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: a}\n---\n---\napiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Pod, metadata: {name: b}}\n- {apiVersion: v1, kind: Pod, metadata: {name: c}}\n";
        let names: Vec<_> =
            parse(text.as_bytes(), "f").unwrap().into_iter().map(|d| d.object["metadata"]["name"].as_str().unwrap().to_owned()).collect();
        assert_eq!(names, ["a", "b", "c"]);
        let json = br#"{"apiVersion":"v1","kind":"Pod"}{"apiVersion":"v1","kind":"Pod"}"#;
        assert_eq!(parse(json, "f").unwrap().len(), 2);
    }

    #[test]
    fn what_is_missing_is_named() {
        let text = |yaml: &str| parse(yaml.as_bytes(), "f.yml").unwrap_err().text();
        assert_eq!(text("apiVersion: v1\n"), "error: unable to decode \"f.yml\": Object 'Kind' is missing in '{\"apiVersion\":\"v1\"}'\n");
        assert!(text("a: b: c").starts_with("error: error parsing f.yml: error converting YAML to JSON: yaml: "));
    }

    #[test]
    fn patterns_match_names() {
        for (pattern, name, fits) in [("*.yml", "a.yml", true), ("a?c", "abc", true), ("*.yml", "a.json", false), ("*", "", true)] {
            assert_eq!(wildcard(&pattern.chars().collect::<Vec<_>>(), &name.chars().collect::<Vec<_>>()), fits);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "[a-z:{}\\[\\] \n-]{0,40}") {
            let _ = parse(text.as_bytes(), "f");
        }
    }
}
