//! The paths that are no resources: discovery, version, health, metrics, OpenAPI and what other parts publish.

use crate::aggregation::discovery as merged;
use crate::discovery;
use crate::handlers::{Api, Call};
use crate::negotiation::{Format, Offer, Shape};
use crate::respond::{self, Response};
use api::status::Result;
use bytes::Bytes;
use http::{HeaderValue, header};
use serde_json::{Value, json};

/// The version of the API that is served, in the form clients compare.
pub const GIT_VERSION: &str = "v1.36.2";

/// `/version`.
fn version() -> Value {
    json!({
        "major": "1", "minor": "36", "emulationMajor": "1", "emulationMinor": "36", "minCompatibilityMajor": "1", "minCompatibilityMinor": "35",
        "gitVersion": GIT_VERSION, "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "", "compiler": "rustc", "platform": format!("linux/{}", go_arch(std::env::consts::ARCH)),
    })
}

/// An architecture as Go names it.
fn go_arch(rust: &'static str) -> &'static str {
    match rust {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Answers a path that is no resource.
pub(crate) async fn answer(api: &Api, call: Call) -> Result<Response> {
    let path = call.info.path.trim_matches('/');
    if !matches!(call.request.method().as_str(), "GET" | "HEAD") {
        return Ok(respond::page_not_found());
    }
    if let Some((_, document)) = api.documents.iter().find(|(p, _)| p.trim_matches('/') == path) {
        let (code, content_type, body) = document();
        return Ok(respond::raw(code, content_type, body));
    }
    let parts: Vec<&str> = path.split('/').collect();
    match parts.as_slice() {
        ["healthz" | "livez" | "readyz", ..] => Ok(api.health.answer(path, &call.query).await),
        ["version"] => Ok(respond::value(200, &version(), call.format(Offer::Plain)?)),
        ["metrics"] => Ok(respond::raw(200, "text/plain; version=0.0.4; charset=utf-8", api.metrics.render())),
        ["api" | "apis"] => top(api, &call, parts[0] == "api"),
        ["api", version] => {
            document(&call, discovery::resource_list(&api.rows(&api.registry.rows()), "", version).ok_or_else(|| respond::generic(404))?)
        }
        ["apis", group] => {
            let own = discovery::group(&api.rows(&api.registry.rows()), group);
            found(&call, merged::group(own, group, &api.aggregator.served()))
        }
        ["apis", group, version] => match discovery::resource_list(&api.rows(&api.registry.rows()), group, version) {
            None if api.registry.has_group(group) => Err(respond::generic(404)),
            list => found(&call, list),
        },
        ["openapi", ..] => crate::openapi::answer(api, &call, &parts[1..]),
        [""] => Ok(respond::value(200, &json!({"paths": paths(api)}), call.format(Offer::Plain)?)),
        _ => Ok(respond::page_not_found()),
    }
}

fn found(call: &Call, value: Option<Value>) -> Result<Response> {
    value.map_or_else(|| Ok(respond::page_not_found()), |value| document(call, value))
}

fn document(call: &Call, value: Value) -> Result<Response> {
    Ok(respond::value(200, &value, call.format(Offer::Plain)?))
}

/// `/api` and `/apis`, plain or aggregated.
fn top(api: &Api, call: &Call, core: bool) -> Result<Response> {
    let served = api.registry.rows();
    let rows = api.rows(&served);
    let format = call.format(Offer::Discovery)?;
    if format.shape == Shape::AggregatedDiscovery {
        let own = discovery::aggregated(&rows, core);
        let whole = if core { own } else { merged::aggregated(own, &api.aggregator.served()) };
        return Ok(aggregated(call, &whole, format));
    }
    let value = if core {
        discovery::core_versions(&rows, &api.server_address)
    } else {
        merged::group_list(discovery::group_list(&rows), &api.aggregator.served())
    };
    Ok(respond::value(200, &value, format))
}

/// Aggregated discovery, unless the client has it already.
fn aggregated(call: &Call, whole: &Value, format: Format) -> Response {
    const CONTENT_TYPE: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let etag = format!("\"{}\"", respond::hash(whole.to_string().as_bytes()));
    let mut response = match respond::known(call.request.headers(), &etag) {
        true => respond::raw(304, CONTENT_TYPE, Bytes::new()),
        false => respond::value(200, whole, Format { shape: Shape::Object, ..format }),
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    headers.insert(header::VARY, HeaderValue::from_static("Accept"));
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        headers.insert(header::ETAG, etag);
    }
    response
}

/// The list at `/`.
fn paths(api: &Api) -> Vec<String> {
    let mut out = vec!["/api".to_owned(), "/api/v1".into(), "/apis".into(), "/apis/".into()];
    for (group, versions) in discovery::groups(&api.rows(&api.registry.rows())).into_iter().filter(|(g, _)| !g.is_empty()) {
        out.push(format!("/apis/{group}"));
        out.extend(versions.iter().map(|v| format!("/apis/{group}/{v}")));
    }
    out.extend(["/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/readyz", "/version"].map(str::to_owned));
    out.extend(api.documents.iter().map(|(path, _)| (*path).to_owned()));
    out.sort();
    out.dedup();
    out
}
