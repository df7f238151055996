//! What a request asks for, read from its method, path and query alone (upstream: `apiserver/pkg/endpoints/request/requestinfo.go`).
//!
//! Authorisation, routing and error texts all work on this. Whether the resource exists is not decided here.

use api::selector::FieldSelector;
use http::Method;
use percent_encoding::percent_decode_str;
use std::borrow::Cow;

/// A request's query, decoded, in the order given.
#[derive(Clone, Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Parses the text behind the `?`.
    pub fn parse(text: &str) -> Self {
        Query(form_urlencoded::parse(text.as_bytes()).into_owned().collect())
    }

    /// The first value under `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str())
    }

    /// The first value under `name`, unless it is empty.
    pub fn non_empty(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|v| !v.is_empty())
    }

    /// All values under `name`.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| k == name).map(|(_, v)| v.as_str())
    }

    /// All of it.
    pub fn pairs(&self) -> &[(String, String)] {
        &self.0
    }

    /// A boolean as upstream reads it: absent, `false` and `0` are false, anything else is true.
    pub fn flag(&self, name: &str) -> bool {
        self.get(name).is_some_and(|v| v != "false" && v != "0")
    }

    /// Whether nothing was given.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What a request asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// The decoded URL path.
    pub path: String,
    /// Whether the path is under an API group and version; else only `path` and `verb` (the lower-case method) count.
    pub resource_request: bool,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, `proxy`.
    pub verb: Cow<'static, str>,
    /// API group; empty for core.
    pub group: String,
    /// API version.
    pub version: String,
    /// Namespace; empty for cluster scope or all namespaces.
    pub namespace: String,
    /// Plural name.
    pub resource: String,
    /// `status`, `log`, ... or empty.
    pub subresource: String,
    /// Object name; empty for collections.
    pub name: String,
    /// What follows the subresource, for proxies.
    pub rest: Vec<String>,
}

/// Below a namespace, these are the namespace's own subresources and not resources.
const NAMESPACE_SUBRESOURCES: [&str; 2] = ["status", "finalize"];

fn verb_of(method: &Method) -> &'static str {
    match method.as_str() {
        "POST" => "create",
        "GET" | "HEAD" => "get",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" => "delete",
        _ => "",
    }
}

fn lower(method: &Method) -> Cow<'static, str> {
    match method.as_str() {
        "GET" => "get".into(),
        "POST" => "post".into(),
        "PUT" => "put".into(),
        "PATCH" => "patch".into(),
        "DELETE" => "delete".into(),
        "HEAD" => "head".into(),
        "OPTIONS" => "options".into(),
        other => other.to_ascii_lowercase().into(),
    }
}

impl RequestInfo {
    /// Reads a request's method, raw path and query.
    pub fn new(method: &Method, raw_path: &str, query: &Query) -> Self {
        let path = percent_decode_str(raw_path).decode_utf8_lossy().into_owned();
        let mut info = RequestInfo { verb: lower(method), path, ..Default::default() };
        let path = std::mem::take(&mut info.path);
        info.read_resource(method, &path, query);
        info.path = path;
        info
    }

    fn read_resource(&mut self, method: &Method, path: &str, query: &Query) {
        let trimmed = path.trim_matches('/');
        let parts: Vec<&str> = trimmed.split('/').collect();
        let mut parts = match parts.as_slice() {
            ["api", rest @ ..] if rest.len() >= 2 => rest,
            ["apis", group, rest @ ..] if rest.len() >= 2 => {
                self.group = (*group).to_owned();
                rest
            }
            _ => return,
        };
        self.resource_request = true;
        self.version = parts[0].to_owned();
        parts = &parts[1..];
        self.verb = match parts[0] {
            "watch" if parts.len() >= 2 => {
                parts = &parts[1..];
                "watch".into()
            }
            "proxy" if parts.len() >= 2 => {
                parts = &parts[1..];
                "proxy".into()
            }
            _ => verb_of(method).into(),
        };
        if parts[0] == "namespaces" && parts.len() > 1 {
            self.namespace = parts[1].to_owned();
            if parts.len() > 2 && !NAMESPACE_SUBRESOURCES.contains(&parts[2]) {
                parts = &parts[2..];
            }
        }
        self.resource = parts[0].to_owned();
        self.name = parts.get(1).copied().unwrap_or("").to_owned();
        if self.verb != "watch" {
            self.subresource = parts.get(2).copied().unwrap_or("").to_owned();
            self.rest = parts.iter().skip(3).map(|s| (*s).to_owned()).collect();
        }
        self.read_collection(query);
    }

    /// Tells `list`, `watch` and `deletecollection` from their single-object verbs, and finds the name in a field selector, so that
    /// a rule for one named object also allows listing and watching just it.
    fn read_collection(&mut self, query: &Query) {
        if !self.name.is_empty() {
            return;
        }
        match self.verb.as_ref() {
            "get" if query.flag("watch") => self.verb = "watch".into(),
            "get" => self.verb = "list".into(),
            "delete" => self.verb = "deletecollection".into(),
            _ => {}
        }
        if matches!(self.verb.as_ref(), "list" | "watch" | "deletecollection")
            && let Some(text) = query.non_empty("fieldSelector")
            && let Ok(selector) = FieldSelector::parse(text)
            && let Some(name) = selector.exact("metadata.name")
            && !name.is_empty()
            && !matches!(name, "." | "..")
            && !name.contains(['/', '%'])
        {
            self.name = name.to_owned();
        }
    }

    /// `resource` or `resource/subresource`.
    pub fn resource_and_subresource(&self) -> Cow<'_, str> {
        if self.subresource.is_empty() { Cow::Borrowed(&self.resource) } else { format!("{}/{}", self.resource, self.subresource).into() }
    }

    /// Whether answering may take as long as the client likes (upstream: `--long-running-request-regexp` and verbs watch, proxy).
    pub fn long_running(&self) -> bool {
        matches!(self.verb.as_ref(), "watch" | "proxy")
            || matches!(self.subresource.as_str(), "attach" | "exec" | "proxy" | "log" | "portforward")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `method url` → `verb group/version namespace resource/subresource name rest`, `-` for an empty part.
    fn read(line: &str) -> String {
        let (method, url) = line.split_once(' ').unwrap();
        let (path, query) = url.split_once('?').unwrap_or((url, ""));
        let info = RequestInfo::new(&method.parse().unwrap(), path, &Query::parse(query));
        if !info.resource_request {
            return format!("{} {}", info.verb, info.path);
        }
        let dash = |s: &str| if s.is_empty() { "-".to_owned() } else { s.to_owned() };
        format!(
            "{} {}/{} {} {} {} {}",
            info.verb,
            info.group,
            info.version,
            dash(&info.namespace),
            info.resource_and_subresource(),
            dash(&info.name),
            dash(&info.rest.join("/"))
        )
    }

    #[test]
    fn paths_mean_what_upstream_says() {
        for (line, want) in [
            ("GET /", "get /"),
            ("POST /healthz", "post /healthz"),
            ("GET /api/v1", "get /api/v1"),
            ("GET /apis/apps/v1", "get /apis/apps/v1"),
            ("GET /api/v1/pods", "list /v1 - pods - -"),
            ("GET /api/v1/pods?watch=1", "watch /v1 - pods - -"),
            ("GET /api/v1/pods?watch=false", "list /v1 - pods - -"),
            ("GET /api/v1/pods?watch=nope", "watch /v1 - pods - -"),
            ("GET /api/v1/watch/namespaces/a/pods", "watch /v1 a pods - -"),
            ("GET /api/v1/watch/namespaces/a/pods/b", "watch /v1 a pods b -"),
            ("GET /api/v1/namespaces", "list /v1 - namespaces - -"),
            ("GET /api/v1/namespaces/a", "get /v1 a namespaces a -"),
            ("PUT /api/v1/namespaces/a/finalize", "update /v1 a namespaces/finalize a -"),
            ("PATCH /api/v1/namespaces/a/status", "patch /v1 a namespaces/status a -"),
            ("POST /api/v1/namespaces/a/pods", "create /v1 a pods - -"),
            ("DELETE /api/v1/namespaces/a/pods", "deletecollection /v1 a pods - -"),
            ("GET /api/v1/namespaces/a/pods/b/log", "get /v1 a pods/log b -"),
            ("GET /api/v1/namespaces/a/services/b:80/proxy/x/y", "get /v1 a services/proxy b:80 x/y"),
            ("GET /apis/apps/v1/namespaces/a/deployments/b", "get apps/v1 a deployments b -"),
            ("GET /api/v1/pods?fieldSelector=metadata.name%3Dx", "list /v1 - pods x -"),
            ("GET /api/v1/pods?fieldSelector=metadata.name!%3Dx", "list /v1 - pods - -"),
            (
                "GET /apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode",
                "get rbac.authorization.k8s.io/v1 - clusterroles system:node -",
            ),
        ] {
            assert_eq!(read(line), want, "{line}");
        }
    }
}
