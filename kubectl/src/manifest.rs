//! Reading manifests: files, directories, standard input and URLs; YAML and JSON; several documents in one; lists taken apart
//! (upstream: `cli-runtime/pkg/resource/visitor.go`).

use crate::cli::Args;
use crate::connection::unreachable;
use crate::context::Context;
use crate::encoding::json;
use crate::error::{Error, Result, go_io_error, message};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Largest manifest read. The server takes bodies of 3 MiB; a file may hold many documents.
pub const MAX_BYTES: u64 = 512 << 20;
/// What directories are searched for.
const EXTENSIONS: [&str; 3] = ["json", "yaml", "yml"];
/// How many directory levels are followed.
const MAX_DEPTH: usize = 32;
/// How often a URL is tried and how long between, as upstream does.
const FETCH_TRIES: usize = 3;
const FETCH_PAUSE: std::time::Duration = std::time::Duration::from_secs(1);

/// A document and where it came from.
#[derive(Clone, Debug)]
pub struct Document {
    /// What messages call the source: the path, `STDIN`, the URL.
    pub source: String,
    /// The object.
    pub object: Value,
}

/// All documents that `--filename` and `--recursive` name, in order, with what could not be read between them. Lists are taken apart.
///
/// A source that is no YAML, or not even the outline of an object, ends at that place; the sources behind it are still read.
pub fn read(ctx: &mut Context, args: &Args) -> Result<Vec<Result<Document>>> {
    let check = args.knows("validate") && crate::commands::field_validation(args)? != "Ignore";
    let mut documents = Vec::new();
    for name in args.list("filename") {
        if name == "-" {
            let bytes = ctx.read_stdin()?;
            documents.extend(parse(&bytes, "STDIN", check));
        } else if name.starts_with("http://") || name.starts_with("https://") {
            let bytes = ctx.block_on(fetch(name))?;
            documents.extend(parse(&bytes, name, check));
        } else {
            for path in expand(ctx, name, args.bool("recursive"))? {
                let shown = shown(&path, &ctx.cwd, name);
                let bytes = std::fs::read(&path).map_err(|e| message(format!("open {shown}: {}", go_io_error(&e))))?;
                documents.extend(parse(&bytes, &shown, check));
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
    let fits = |name: &str| matches(pattern, name);
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path());
    let mut found: Vec<PathBuf> = entries.filter(|p| p.file_name().and_then(|f| f.to_str()).is_some_and(fits)).collect();
    found.sort();
    found
}

/// Whether a name fits a pattern with `*` and `?`.
pub fn matches(pattern: &str, name: &str) -> bool {
    wildcard(&pattern.chars().collect::<Vec<_>>(), &name.chars().collect::<Vec<_>>())
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

/// The text behind a URL. A server's own failure (5xx) is tried again, as upstream does.
async fn fetch(url: &str) -> Result<Vec<u8>> {
    // Somebody else in this process may have installed it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let address: reqwest::Url = match url.parse() {
        Ok(address) => address,
        Err(_) => return Err(Error::Unreachable { text: "Unable to connect to the server: http: no Host in request URL".to_owned() }),
    };
    let host =
        address.host_str().map_or_else(String::new, |host| address.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")));
    for attempt in 1.. {
        let response = reqwest::get(address.clone()).await.map_err(|e| unreachable(&e, &host))?;
        let status = response.status();
        if status.is_success() {
            let unread = |e: reqwest::Error| message(format!("error reading {url}: {e}"));
            if response.content_length().is_some_and(|length| length > MAX_BYTES) {
                return Err(message(format!("{url} is larger than {MAX_BYTES} bytes")));
            }
            return Ok(response.bytes().await.map_err(unread)?.to_vec());
        }
        if !status.is_server_error() || attempt == FETCH_TRIES {
            let reported =
                status.canonical_reason().map_or_else(|| status.as_str().to_owned(), |reason| format!("{} {reason}", status.as_u16()));
            return Err(message(format!("unable to read URL {url:?}, server reported {reported}, status code={}", status.as_u16())));
        }
        tokio::time::sleep(FETCH_PAUSE).await;
    }
    std::unreachable!("the last attempt returns")
}

/// All objects in a text. With `check`, what lacks a version and a kind is refused in the words of client-side validation, and reading ends there.
pub fn parse(bytes: &[u8], source: &str, check: bool) -> Vec<Result<Document>> {
    let text = String::from_utf8_lossy(bytes);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let mut documents = Vec::new();
    for value in values(text) {
        let value = match value {
            Ok(Value::Null) => continue,
            Ok(value) => value,
            Err(why) => {
                documents.push(Err(message(format!("error parsing {source}: {why}"))));
                break;
            }
        };
        if let Some(why) = check.then(|| outline(&value)).flatten() {
            documents.push(Err(message(format!(
                "error validating {source:?}: error validating data: {why}; if you choose to ignore these errors, turn validation off with --validate=false"
            ))));
            break;
        }
        match objects(value) {
            Ok(objects) => documents.extend(objects.into_iter().map(|object| Ok(Document { source: source.to_owned(), object }))),
            Err(why) => documents.push(Err(message(format!("unable to decode {source:?}: {why}")))),
        }
    }
    documents
}

/// The values of a stream: JSON when it begins like it, else YAML. An error is the last one.
fn values(text: &str) -> Vec<Result<Value, String>> {
    if !text.trim_start().starts_with('{') {
        return split(text).iter().map(|part| parse_document(part)).collect();
    }
    // The iterator ends at its first error.
    serde_json::Deserializer::from_str(text).into_iter::<Value>().map(|value| value.map_err(|e| json_error(text, &e))).collect()
}

/// Go's words for a stream that is no JSON, and where that shows.
fn json_error(text: &str, error: &serde_json::Error) -> String {
    if error.is_eof() {
        return "unexpected EOF".to_owned();
    }
    let before: usize = text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
    let offset = before + error.column();
    let why = api::decode::any_json(text.as_bytes()).map_or_else(|e| e.to_string(), |_| error.to_string());
    format!("json: offset {offset}: {why}")
}

/// Why a value cannot be the outline of an object: upstream's validation looks at nothing more when the server validates the rest.
fn outline(value: &Value) -> Option<String> {
    let Value::Object(map) = value else { return Some("invalid object to validate".to_owned()) };
    let problem = |field: &str| match map.get(field) {
        None | Some(Value::Null) => Some(format!("{field} not set")),
        Some(Value::String(_)) => None,
        Some(_) => Some(format!("{field} isn't string type")),
    };
    match (problem("apiVersion"), problem("kind")) {
        (Some(a), Some(b)) => Some(format!("[{a}, {b}]")),
        (Some(one), None) | (None, Some(one)) => Some(one),
        (None, None) => {
            let version = map.get("apiVersion").and_then(Value::as_str).unwrap_or("");
            (version.matches('/').count() > 1).then(|| format!("unexpected GroupVersion string: {version}"))
        }
    }
}

/// A value as objects: itself, or the items of a list, which may leave their kind to the list.
fn objects(value: Value) -> Result<Vec<Value>, String> {
    check_type(&value)?;
    let text = |field: &str| value[field].as_str().unwrap_or("").to_owned();
    let (version, kind) = (text("apiVersion"), text("kind"));
    let (Some(item_kind), Some(Value::Array(items))) = (kind.strip_suffix("List"), value.get("items")) else {
        check_metadata(&value)?;
        return Ok(vec![value]);
    };
    let item = |item: &Value| {
        let mut item = item.clone();
        if let (Value::Object(map), false) = (&mut item, item_kind.is_empty())
            && map.get("kind").and_then(Value::as_str).is_none_or(str::is_empty)
        {
            map.insert("kind".to_owned(), item_kind.into());
            map.insert("apiVersion".to_owned(), version.as_str().into());
        }
        check_type(&item)?;
        Ok(item)
    };
    items.iter().map(item).collect()
}

fn check_type(object: &Value) -> Result<(), String> {
    let Value::Object(map) = object else {
        let kind = match object {
            Value::String(_) => "string",
            Value::Number(_) => "number",
            Value::Bool(_) => "bool",
            _ => "array",
        };
        return Err(format!("json: cannot unmarshal {kind} into Go value of type map[string]interface {{}}"));
    };
    for (field, name) in [("kind", "Kind"), ("apiVersion", "apiVersion")] {
        if map.get(field).and_then(Value::as_str).is_none_or(str::is_empty) {
            return Err(format!("Object '{name}' is missing in '{}'", json::to_string(object)));
        }
    }
    Ok(())
}

/// Whatever the kind, its metadata has to be one.
fn check_metadata(object: &Value) -> Result<(), String> {
    let (Some(metadata), Some(root)) = (object.get("metadata"), api::schema::of_kind("v1", "ConfigMap")) else { return Ok(()) };
    match api::decode::value(root, &serde_json::json!({"metadata": metadata})) {
        Ok(_) => Ok(()),
        Err(e) => Err(e.to_string().replace("field ConfigMap.", "field metadataOnlyObject.")),
    }
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

/// One YAML or JSON document as JSON; the error is upstream's text. Of a key that stands twice the last one counts.
pub fn parse_document(text: &str) -> Result<Value, String> {
    api::decode::yaml::parse(text).map(|document| document.value).map_err(|e| format!("error converting YAML to JSON: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_taken_apart() {
        let text = "# comment\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: a}\n---\n---\napiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Pod, metadata: {name: b}}\n- {apiVersion: v1, kind: Pod, metadata: {name: c}}\n";
        let names: Vec<_> = parse(text.as_bytes(), "f", true)
            .into_iter()
            .map(|d| d.unwrap().object["metadata"]["name"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(names, ["a", "b", "c"]);
        let json = br#"{"apiVersion":"v1","kind":"Pod"}{"apiVersion":"v1","kind":"Pod"}"#;
        assert_eq!(parse(json, "f", true).len(), 2);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let refused = |text: &str, check| parse(text.as_bytes(), "f.yml", check).into_iter().find_map(Result::err).map(|e| e.text());
        let advice = "; if you choose to ignore these errors, turn validation off with --validate=false\n";
        for (text, why) in [
            ("apiVersion: v1\n", "kind not set"),
            ("kind: Pod\n", "apiVersion not set"),
            ("metadata: {}\n", "[apiVersion not set, kind not set]"),
            ("kind: 3\n", "[apiVersion not set, kind isn't string type]"),
            ("kind: A\napiVersion: a/b/c\n", "unexpected GroupVersion string: a/b/c"),
            ("- a\n", "invalid object to validate"),
        ] {
            assert_eq!(refused(text, true), Some(format!("error: error validating \"f.yml\": error validating data: {why}{advice}")));
        }
        for (text, error) in [
            ("apiVersion: v1\n", "unable to decode \"f.yml\": Object 'Kind' is missing in '{\"apiVersion\":\"v1\"}'"),
            ("{\"kind\": 1,}", "error parsing f.yml: json: offset 12: invalid character '}' looking for beginning of object key string"),
            ("{\"kind\": ", "error parsing f.yml: unexpected EOF"),
            (
                "apiVersion: v1\nkind: Pod\nmetadata: {name: 3}",
                "unable to decode \"f.yml\": json: cannot unmarshal number into Go struct field ObjectMeta.metadata.name of type string",
            ),
            (
                "apiVersion: v1\nkind: Pod\nmetadata: a",
                "unable to decode \"f.yml\": json: cannot unmarshal string into Go struct field metadataOnlyObject.metadata of type v1.ObjectMeta",
            ),
        ] {
            assert_eq!(refused(text, false), Some(format!("error: {error}\n")));
        }
        assert!(
            refused("a: b: c", true).is_some_and(|e| e.starts_with("error: error parsing f.yml: error converting YAML to JSON: yaml: "))
        );
    }

    #[test]
    fn what_stands_before_an_error_is_kept() {
        let text = "apiVersion: v1\nkind: Pod\n---\nfoo: 1\n---\napiVersion: v1\nkind: Pod\n";
        let good = |check| parse(text.as_bytes(), "f", check).iter().filter(|d| d.is_ok()).count();
        // Validation ends the source, a document that cannot be decoded only itself.
        assert_eq!((good(true), good(false)), (1, 2));
    }

    /// A server that answers each connection with the next of `answers`.
    async fn serve(answers: Vec<&'static str>) -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await.unwrap();
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        format!("http://{address}/pod.yaml")
    }

    #[tokio::test(start_paused = true)]
    async fn a_manifest_may_come_from_a_url() {
        const BROKEN: &str = "HTTP/1.1 500 Internal Server Error\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        const GOOD: &str = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 9\r\n\r\nkind: Pod";
        const MISSING: &str = "HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(fetch(&serve(vec![BROKEN, GOOD]).await).await.unwrap(), b"kind: Pod");
        let url = serve(vec![MISSING]).await;
        let refused = format!("error: unable to read URL {url:?}, server reported 404 Not Found, status code=404\n");
        assert_eq!(fetch(&url).await.unwrap_err().text(), refused);
        let text = fetch(&serve(vec![BROKEN, BROKEN, BROKEN]).await).await.unwrap_err().text();
        assert!(text.contains("server reported 500 Internal Server Error, status code=500"), "{text}");
        assert_eq!(
            fetch("http://127.0.0.1:1/x").await.unwrap_err().text(),
            "The connection to the server 127.0.0.1:1 was refused - did you specify the right host or port?\n"
        );
    }

    #[test]
    fn patterns_match_names() {
        for (pattern, name, fits) in [("*.yml", "a.yml", true), ("a?c", "abc", true), ("*.yml", "a.json", false), ("*", "", true)] {
            assert_eq!(matches(pattern, name), fits);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "[a-z:{}\\[\\] \n-]{0,40}") {
            let _ = parse(text.as_bytes(), "f", true);
        }
    }
}
