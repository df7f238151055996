//! `/openapi`: version 3 as an index and a document for each group and version, version 2 as one document in JSON or protobuf
//! (upstream: `kube-openapi/pkg/{handler,handler3}`).
//!
//! Documents are made when they are first asked for, and again when what they describe has changed. They are kept gzipped, a tenth of their size, and sent
//! so to whoever takes that.

use crate::discovery;
use crate::handlers::{Api, Call};
use crate::negotiation::{self, Offer};
use crate::respond::{self, Response};
use ::api::Resource;
use ::api::openapi::{self, binary, v2};
use api::status::Result;
use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use http::{HeaderValue, StatusCode, header};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::sync::Arc;

const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
const PROTOBUF_DEPRECATED: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// A document as it is kept.
struct Document {
    gzipped: Bytes,
    /// The hash of its text, in upper-case hexadecimal: its `ETag`, and what makes the address of a version 3 document a new one.
    hash: String,
}

impl Document {
    fn new(text: &[u8]) -> Self {
        let hash = respond::hash(text);
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        let gzipped = encoder.write_all(text).and_then(|()| encoder.finish()).expect("writing into memory does not fail");
        Document { gzipped: gzipped.into(), hash }
    }

    fn plain(&self) -> Vec<u8> {
        let mut out = Vec::new();
        GzDecoder::new(self.gzipped.as_ref()).read_to_end(&mut out).expect("it was compressed here");
        out
    }

    /// The answer to a request for it: not modified, gzipped or plain.
    fn answer(&self, call: &Call, content_type: &'static str) -> Response {
        let headers = call.request.headers();
        let asked = |name: header::HeaderName| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or("");
        let etag = format!("\"{}\"", self.hash);
        let known = respond::known(headers, &etag);
        let gzip = asked(header::ACCEPT_ENCODING).split(',').any(|e| e.trim().split(';').next() == Some("gzip"));
        let mut response = match (known, gzip) {
            (true, _) => respond::raw(304, content_type, Bytes::new()),
            (false, true) => respond::raw(200, content_type, self.gzipped.clone()),
            (false, false) => respond::raw(200, content_type, self.plain()),
        };
        let out = response.headers_mut();
        if gzip && !known {
            out.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        if let Ok(etag) = HeaderValue::from_str(&etag) {
            out.insert(header::ETAG, etag);
        }
        out.insert(header::VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
        response
    }
}

fn plain(rows: &[Arc<Resource>]) -> Vec<&Resource> {
    rows.iter().map(|r| &**r).collect()
}

/// What was made of these rows.
struct Made<T> {
    rows: Vec<Arc<Resource>>,
    made: Arc<T>,
}

impl<T> Made<T> {
    fn of(&self, rows: &[Arc<Resource>]) -> Option<Arc<T>> {
        let same = self.rows.len() == rows.len() && self.rows.iter().zip(rows).all(|(a, b)| Arc::ptr_eq(a, b));
        same.then(|| self.made.clone())
    }
}

/// The document of version 2 in both forms.
struct Whole {
    json: Document,
    protobuf: Document,
}

/// The documents that have been asked for: one for each group and version that is served, and one for all of them.
#[derive(Default)]
pub struct Documents {
    versions: Mutex<HashMap<(String, String), Made<Document>>>,
    whole: Mutex<Option<Made<Whole>>>,
}

impl Documents {
    fn version(&self, all: &[Arc<Resource>], group: &str, version: &str) -> Option<Arc<Document>> {
        let rows: Vec<_> = all.iter().filter(|r| r.group == group && r.version == version).cloned().collect();
        let key = (group.to_owned(), version.to_owned());
        if rows.is_empty() {
            self.versions.lock().remove(&key);
            return None;
        }
        if let Some(made) = self.versions.lock().get(&key).and_then(|made| made.of(&rows)) {
            return Some(made);
        }
        let made = Arc::new(Document::new(openapi::document(&plain(&rows)).to_string().as_bytes()));
        self.versions.lock().insert(key, Made { rows, made: made.clone() });
        Some(made)
    }

    fn whole(&self, rows: &[Arc<Resource>]) -> Arc<Whole> {
        // Held while it is made, so that many clients at once cost one.
        let mut kept = self.whole.lock();
        if let Some(made) = kept.as_ref().and_then(|made| made.of(rows)) {
            return made;
        }
        let document = v2::document(&plain(rows));
        let whole = Whole { json: Document::new(document.to_string().as_bytes()), protobuf: Document::new(&binary::encode(&document)) };
        let made = Arc::new(whole);
        *kept = Some(Made { rows: rows.to_vec(), made: made.clone() });
        made
    }

    fn index(&self, rows: &[Arc<Resource>]) -> Value {
        let mut paths = Map::new();
        for (group, versions) in discovery::groups(rows) {
            for version in versions {
                let Some(document) = self.version(rows, group, version) else { continue };
                let path = if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") };
                let at = json!({"serverRelativeURL": format!("/openapi/v3/{path}?hash={}", document.hash)});
                paths.insert(path, at);
            }
        }
        json!({"paths": paths})
    }
}

/// Answers a path below `/openapi`.
pub(crate) fn answer(api: &Api, call: &Call, rest: &[&str]) -> Result<Response> {
    let rows = api.registry.rows();
    let version = |group: &str, version: &str| match api.openapi.version(&rows, group, version) {
        // In JSON whatever is asked for: clients that would rather have protobuf take it too.
        Some(document) => document.answer(call, "application/json"),
        None => respond::raw(404, "text/plain; charset=utf-8", Bytes::new()),
    };
    Ok(match rest {
        ["v2"] => return whole(api, call),
        ["v3"] => {
            let mut index = api.openapi.index(&rows);
            for other in api.aggregator.backends().iter().filter(|b| b.available) {
                let path = format!("apis/{}/{}", other.group, other.version);
                index["paths"][&path] = json!({"serverRelativeURL": format!("/openapi/v3/{path}")});
            }
            respond::value(200, &index, call.format(Offer::Plain)?)
        }
        ["v3", "api", name] => version("", name),
        ["v3", "apis", group, name] => version(group, name),
        ["v3", ..] => respond::raw(404, "text/plain; charset=utf-8", Bytes::new()),
        _ => respond::page_not_found(),
    })
}

fn whole(api: &Api, call: &Call) -> Result<Response> {
    let wanted = negotiation::first_of(call.request.headers(), &["application/json", PROTOBUF, PROTOBUF_DEPRECATED]);
    let rows = api.registry.rows();
    Ok(match wanted {
        Some("application/json") => api.openapi.whole(&rows).json.answer(call, "application/json"),
        Some(_) => api.openapi.whole(&rows).protobuf.answer(call, PROTOBUF),
        None => {
            let mut response = Response::default();
            *response.status_mut() = StatusCode::NOT_ACCEPTABLE;
            response
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_made_once_and_come_back_whole() {
        let rows: Vec<Arc<Resource>> = ::api::resources::all().iter().filter(|r| r.group == "apps").cloned().collect();
        let documents = Documents::default();
        let first = documents.version(&rows, "apps", "v1").unwrap();
        let again = documents.version(&rows, "apps", "v1").unwrap();
        assert!(Arc::ptr_eq(&first, &again));
        assert!(documents.version(&rows, "apps", "v9").is_none());
        let parsed: Value = serde_json::from_slice(&first.plain()).unwrap();
        assert_eq!(parsed["openapi"], "3.0.0");
        let index = documents.index(&rows);
        assert_eq!(index["paths"]["apis/apps/v1"]["serverRelativeURL"], format!("/openapi/v3/apis/apps/v1?hash={}", first.hash));
        let fewer = documents.version(&rows[1..], "apps", "v1").unwrap();
        assert_ne!(fewer.hash, first.hash);
    }
}
