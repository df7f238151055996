//! Which resources the server has, and which of them a word or an `apiVersion` and `kind` mean (upstream: `client-go/discovery`,
//! `restmapper`).
//!
//! Aggregated discovery takes two requests; against a server without it, one per group version. Answers live as long as the command:
//! they cost less than reading upstream's cache of a hundred files, and cannot be stale.

use crate::connection::{Connection, Url};
use crate::error::{Error, Result, message};
use serde_json::Value;
use std::cell::OnceCell;
use std::path::PathBuf;
use std::rc::Rc;

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";

/// One resource in one version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resource {
    /// API group, empty for the core.
    pub group: String,
    /// Version.
    pub version: String,
    /// Plural name, as in URLs.
    pub name: String,
    /// Singular name.
    pub singular: String,
    /// Kind.
    pub kind: String,
    /// Short names.
    pub short_names: Vec<String>,
    /// Categories such as `all`.
    pub categories: Vec<String>,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    /// What can be done with it.
    pub verbs: Vec<String>,
    /// Its subresources, by name.
    pub subresources: Vec<String>,
    /// The version its group prefers.
    pub preferred: bool,
}

impl Resource {
    /// `v1`, `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// `pods`, `deployments.apps`.
    pub fn group_resource(&self) -> String {
        if self.group.is_empty() { self.name.clone() } else { format!("{}.{}", self.name, self.group) }
    }

    /// Where its objects are; of one namespace, or of all when that is empty.
    pub fn path(&self, namespace: &str) -> String {
        let base = if self.group.is_empty() { format!("/api/{}", self.version) } else { format!("/apis/{}/{}", self.group, self.version) };
        if self.namespaced && !namespace.is_empty() {
            format!("{base}/namespaces/{namespace}/{}", self.name)
        } else {
            format!("{base}/{}", self.name)
        }
    }

    /// Where one object is.
    pub fn object_path(&self, namespace: &str, name: &str) -> String {
        let escaped = Url::new("").query("", name);
        format!("{}/{}", self.path(namespace), escaped.as_str().trim_start_matches("?="))
    }

    /// Whether the server offers the verb.
    pub fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }
}

/// A group and its versions, as `api-versions` lists them.
#[derive(Clone, Debug, Default)]
struct Found {
    resources: Vec<Resource>,
    versions: Vec<String>,
    failures: Vec<String>,
}

/// Finds resources by what users and manifests call them.
pub struct Mapper {
    connection: Rc<Connection>,
    found: OnceCell<Found>,
}

impl Mapper {
    /// Asks nothing yet.
    pub fn new(connection: Rc<Connection>, _cache_dir: PathBuf) -> Mapper {
        Mapper { connection, found: OnceCell::new() }
    }

    fn found(&self) -> Result<&Found> {
        if let Some(f) = self.found.get() {
            return Ok(f);
        }
        let found = discover(&self.connection)?;
        Ok(self.found.get_or_init(|| found))
    }

    /// All resources, in the server's order of groups, preferred versions first.
    pub fn resources(&self) -> Result<&[Resource]> {
        Ok(&self.found()?.resources)
    }

    /// All group versions.
    pub fn versions(&self) -> Result<&[String]> {
        Ok(&self.found()?.versions)
    }

    /// Group versions whose resources could not be listed.
    pub fn failures(&self) -> Result<&[String]> {
        Ok(&self.found()?.failures)
    }

    /// The resource that a word means: `po`, `pods`, `deployments.apps`, `deployments.v1.apps`.
    pub fn resource(&self, word: &str) -> Result<Resource> {
        find_resource(self.resources()?, word).cloned().ok_or_else(|| message(format!("the server doesn't have a resource type {word:?}")))
    }

    /// The resource of an object.
    pub fn kind(&self, api_version: &str, kind: &str) -> Result<Option<Resource>> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        Ok(self.resources()?.iter().find(|r| r.group == group && r.version == version && r.kind == kind).cloned())
    }

    /// The resources in a category, `all`.
    pub fn category(&self, word: &str) -> Result<Vec<Resource>> {
        let mut members: Vec<Resource> = Vec::new();
        for r in self.resources()?.iter().filter(|r| r.categories.iter().any(|c| c == word)) {
            if !members.iter().any(|m| m.group == r.group && m.name == r.name) {
                members.push(r.clone());
            }
        }
        Ok(members)
    }
}

/// Among resources, the one a word means. Exact names come before short ones, and a group may be cut short.
pub fn find_resource<'a>(resources: &'a [Resource], word: &str) -> Option<&'a Resource> {
    let word = word.to_lowercase();
    let named = |name: &str, r: &&Resource| r.name == name || r.singular == name || r.kind.to_lowercase() == name;
    let short = |name: &str, r: &&Resource| r.short_names.iter().any(|s| s == name);
    let (name, rest) = word.split_once('.').unwrap_or((&word, ""));
    let find = |test: &dyn Fn(&&Resource) -> bool| {
        let exact = resources.iter().find(|r| named(name, r) && test(r));
        exact.or_else(|| resources.iter().find(|r| short(name, r) && test(r)))
    };
    if rest.is_empty() {
        return find(&|_| true);
    }
    if let Some((version, group)) = rest.split_once('.')
        && let Some(r) = find(&|r| r.version == version && r.group == group)
    {
        return Some(r);
    }
    find(&|r| r.group == rest)
        .or_else(|| find(&|r| r.group.is_empty() && r.version == rest))
        .or_else(|| find(&|r| r.group.starts_with(rest)))
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or("").to_owned()
}

fn discover(connection: &Connection) -> Result<Found> {
    let mut found = Found::default();
    for root in ["/api", "/apis"] {
        let answer = match connection.get_as(&Url::new(root), AGGREGATED) {
            Ok(a) => a,
            // A server may have no core group, or nothing but it.
            Err(e) if e.is_not_found() => continue,
            Err(e @ Error::Unreachable { .. }) => return Err(e),
            // client-go reads no Status in discovery and says it in its own words.
            Err(e) if e.reason() == "Unauthorized" => {
                let text = "You must be logged in to the server (the server has asked for the client to provide credentials)";
                return Err(message(text));
            }
            Err(e) => return Err(e),
        };
        match answer["kind"].as_str() {
            Some("APIGroupDiscoveryList") => aggregated(&answer, &mut found),
            Some("APIVersions") => legacy(connection, "", &texts(&answer["versions"]), &mut found)?,
            _ => {
                for group in answer["groups"].as_array().into_iter().flatten() {
                    let preferred = text(&group["preferredVersion"]["version"]);
                    let mut versions: Vec<String> =
                        group["versions"].as_array().into_iter().flatten().map(|v| text(&v["version"])).collect();
                    versions.sort_by_key(|v| *v != preferred);
                    legacy(connection, group["name"].as_str().unwrap_or(""), &versions, &mut found)?;
                }
            }
        }
    }
    Ok(found)
}

/// Reads an `APIGroupDiscoveryList`.
fn aggregated(answer: &Value, found: &mut Found) {
    for group in answer["items"].as_array().into_iter().flatten() {
        let name = text(&group["metadata"]["name"]);
        for (i, version) in group["versions"].as_array().into_iter().flatten().enumerate() {
            let v = text(&version["version"]);
            let group_version = if name.is_empty() { v.clone() } else { format!("{name}/{v}") };
            if version["freshness"] == "Stale" {
                found.failures.push(group_version.clone());
            }
            found.versions.push(group_version);
            for r in version["resources"].as_array().into_iter().flatten() {
                let plural = text(&r["resource"]);
                // Resources without a kind of their own exist only for their subresources.
                let kind = text(&r["responseKind"]["kind"]);
                if kind.is_empty() {
                    continue;
                }
                found.resources.push(Resource {
                    group: name.clone(),
                    version: v.clone(),
                    singular: Some(text(&r["singularResource"])).filter(|s| !s.is_empty()).unwrap_or_else(|| kind.to_lowercase()),
                    kind,
                    short_names: texts(&r["shortNames"]),
                    categories: texts(&r["categories"]),
                    namespaced: r["scope"] == "Namespaced",
                    verbs: texts(&r["verbs"]),
                    subresources: r["subresources"].as_array().into_iter().flatten().map(|s| text(&s["subresource"])).collect(),
                    name: plural,
                    preferred: i == 0,
                });
            }
        }
    }
}

/// Reads one `APIResourceList` per version.
fn legacy(connection: &Connection, group: &str, versions: &[String], found: &mut Found) -> Result<()> {
    for (i, version) in versions.iter().enumerate() {
        let path = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
        found.versions.push(path.trim_start_matches("/apis/").trim_start_matches("/api/").to_owned());
        let list = match connection.get(&Url::new(path.clone())) {
            Ok(l) => l,
            Err(e @ Error::Unreachable { .. }) => return Err(e),
            Err(_) => {
                found.failures.push(path);
                continue;
            }
        };
        let items: Vec<&Value> = list["resources"].as_array().into_iter().flatten().collect();
        for r in items.iter().filter(|r| !text(&r["name"]).contains('/')) {
            let name = text(&r["name"]);
            let kind = text(&r["kind"]);
            let subresources = items.iter().filter_map(|s| s["name"].as_str()?.strip_prefix(&format!("{name}/")).map(str::to_owned));
            found.resources.push(Resource {
                group: group.to_owned(),
                version: version.clone(),
                singular: Some(text(&r["singularName"])).filter(|s| !s.is_empty()).unwrap_or_else(|| kind.to_lowercase()),
                kind,
                short_names: texts(&r["shortNames"]),
                categories: texts(&r["categories"]),
                namespaced: r["namespaced"] == true,
                verbs: texts(&r["verbs"]),
                subresources: subresources.collect(),
                name,
                preferred: i == 0,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(group: &str, version: &str, name: &str, kind: &str, short: &[&str]) -> Resource {
        Resource {
            group: group.into(),
            version: version.into(),
            name: name.into(),
            singular: kind.to_lowercase(),
            kind: kind.into(),
            short_names: short.iter().map(|s| (*s).into()).collect(),
            namespaced: true,
            ..Resource::default()
        }
    }

    #[test]
    fn words_find_resources() {
        let all = [
            resource("", "v1", "pods", "Pod", &["po"]),
            resource("", "v1", "events", "Event", &["ev"]),
            resource("apps", "v1", "deployments", "Deployment", &["deploy"]),
            resource("events.k8s.io", "v1", "events", "Event", &["ev"]),
            resource("metrics.k8s.io", "v1beta1", "pods", "PodMetrics", &[]),
        ];
        let cases = [
            ("po", 0),
            ("pod", 0),
            ("Pods", 0),
            ("pods.v1", 0),
            ("deploy", 2),
            ("deployments.apps", 2),
            ("deployments.v1.apps", 2),
            ("deploy.apps", 2),
            ("events", 1),
            ("ev", 1),
            ("events.events.k8s.io", 3),
            ("pods.metrics.k8s.io", 4),
            ("pods.v1beta1.metrics.k8s.io", 4),
        ];
        for (word, index) in cases {
            assert_eq!(find_resource(&all, word), Some(&all[index]), "{word}");
        }
        for word in ["foo", "pods.apps", "deployments.v2.apps"] {
            assert_eq!(find_resource(&all, word), None, "{word}");
        }
    }

    #[test]
    fn paths_are_the_servers() {
        assert_eq!(resource("", "v1", "pods", "Pod", &[]).object_path("a", "b"), "/api/v1/namespaces/a/pods/b");
        assert_eq!(resource("apps", "v1", "deployments", "Deployment", &[]).path(""), "/apis/apps/v1/deployments");
    }
}
