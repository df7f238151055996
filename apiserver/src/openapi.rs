//! `/openapi/v3`: the index of the groups and versions that are served, and a document for each, made from the rows when it is asked for.
//!
//! Left out: version 2 in one document, which current clients ask for only where a server has no version 3.

use crate::discovery;
use crate::handlers::{Api, Call};
use crate::negotiation::Offer;
use crate::respond::{self, Response};
use api::status::Result;
use serde_json::{Map, Value, json};

/// Answers a path below `/openapi`.
pub(crate) fn answer(api: &Api, call: &Call, rest: &[&str]) -> Result<Response> {
    match rest {
        ["v3"] => Ok(respond::value(200, &index(api), call.format(Offer::Plain)?)),
        ["v3", "api", version] => document(api, "", version),
        ["v3", "apis", group, version] => document(api, group, version),
        _ => Ok(respond::page_not_found()),
    }
}

/// In JSON whatever is asked for: clients that would rather have protobuf take it too.
fn document(api: &Api, group: &str, version: &str) -> Result<Response> {
    let rows = api.registry.rows();
    let served: Vec<_> = rows.iter().copied().filter(|r| r.group == group && r.version == version).collect();
    if served.is_empty() {
        return Ok(respond::page_not_found());
    }
    Ok(respond::raw(200, "application/json", ::api::openapi::document(&served).to_string()))
}

fn index(api: &Api) -> Value {
    let mut paths = Map::new();
    for (group, versions) in discovery::groups(&api.registry.rows()) {
        for version in versions {
            let path = if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") };
            let at = json!({"serverRelativeURL": format!("/openapi/v3/{path}")});
            paths.insert(path, at);
        }
    }
    json!({"paths": paths})
}
