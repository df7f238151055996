//! Reads: one object, a list or page, a watch; all from the cache (upstream: `storage/cacher`).

use super::selection::{Following, Selection, narrow};
use super::{Endpoint, Registry, store_error, unavailable};
use crate::cache::{Entry, Paging, Start, WatchOptions};
use crate::encoding::ListHead;
use crate::handlers::parameters::ListParameters;
use crate::store::{Revision, StoreError};
use api::{StatusError, status::Result};
use base64::Engine;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, NO_PAD};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// A list as found.
pub struct Listing {
    /// The objects, in key order.
    pub entries: Vec<Arc<Entry>>,
    /// The revision that this is the state of.
    pub revision: Revision,
    /// The token for the next page.
    pub continue_token: Option<String>,
    /// How many objects follow, where it is known.
    pub remaining: Option<usize>,
}

impl Listing {
    /// The list's head.
    pub fn head<'a>(&'a self, endpoint: &'a Endpoint) -> ListHead<'a> {
        ListHead {
            kind: &endpoint.list_kind,
            api_version: &endpoint.api_version,
            revision: self.revision,
            continue_token: self.continue_token.as_deref(),
            remaining: self.remaining,
        }
    }

    /// The list's metadata, for tables and the like.
    pub fn metadata(&self) -> Value {
        let mut out = serde_json::json!({"resourceVersion": self.revision.to_string()});
        if let Some(token) = &self.continue_token {
            out["continue"] = token.as_str().into();
        }
        if let Some(remaining) = self.remaining {
            out["remainingItemCount"] = remaining.into();
        }
        out
    }
}

/// A resource version as a client gives it, or Go's words for what is wrong with it.
fn parse_revision(text: &str) -> Result<Revision, String> {
    use std::num::IntErrorKind::PosOverflow;
    text.parse::<Revision>().map_err(|e| {
        let why = if *e.kind() == PosOverflow { "value out of range" } else { "invalid syntax" };
        format!("resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: {why}")
    })
}

/// Where the next page begins, as clients carry it between requests (upstream: `storage/continue.go`).
#[derive(Debug, Serialize, Deserialize)]
struct Token {
    v: String,
    #[serde(default)]
    rv: i64,
    #[serde(default)]
    start: String,
}

/// Base64 as Go's `RawURLEncoding` reads it: left-over bits may be anything.
const URL_SAFE_NO_PAD: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);
const LENIENT: GeneralPurposeConfig = NO_PAD.with_decode_allow_trailing_bits(true);

const TOKEN_VERSION: &str = "meta.k8s.io/v1";

/// The token for what follows `last`, a key below the list's own prefix.
fn encode_token(revision: i64, last: &str) -> String {
    // The next possible key, as upstream's tokens have it.
    let token = Token { v: TOKEN_VERSION.into(), rv: revision, start: format!("/{last}\0") };
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).expect("a token prints into memory"))
}

/// A token's revision (-1: as of now) and the last key of the page before.
fn decode_token(text: &str) -> Result<(i64, String)> {
    let bad = |why: String| StatusError::bad_request(format!("invalid continue token: continue key is not valid: {why}"));
    let bytes = match URL_SAFE_NO_PAD.decode(text) {
        Ok(bytes) => bytes,
        Err(base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _)) => {
            return Err(bad(format!("illegal base64 data at input byte {at}")));
        }
        Err(_) => return Err(bad(format!("illegal base64 data at input byte {}", text.len()))),
    };
    let token: Token = match serde_json::from_slice(&bytes) {
        Ok(token) => token,
        Err(_) => {
            let first = bytes.first().copied().unwrap_or_default();
            let shown = match char::from(first) {
                c if c.is_ascii_graphic() || c == ' ' => c.to_string(),
                c => format!("\\u{:04x}", u32::from(c)),
            };
            return Err(bad(match bytes.is_empty() {
                true => "unexpected end of JSON input".into(),
                false => format!("invalid character '{shown}' looking for beginning of value"),
            }));
        }
    };
    if token.v != TOKEN_VERSION {
        return Err(bad(format!("server does not recognize this encoded version {:?}", token.v)));
    }
    if token.rv == 0 {
        return Err(bad(format!("incorrect encoded start resourceVersion (version {TOKEN_VERSION})")));
    }
    if token.start.is_empty() {
        return Err(bad(format!("encoded start key empty (version {TOKEN_VERSION})")));
    }
    let key = token.start.trim_start_matches('/');
    if key.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(bad(token.start.clone()));
    }
    // Our pages begin after a key: the one whose successor the token names.
    Ok((token.rv, key.strip_suffix('\0').unwrap_or(key).to_owned()))
}

/// 410 for a page whose snapshot is gone, with a token that goes on from the present state instead.
fn page_expired(last: &str) -> StatusError {
    let mut error = StatusError::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue \
         parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided \
         token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was \
         returned and now may show up in the list.",
    );
    error.0.metadata.continue_ = Some(encode_token(-1, last));
    error
}

impl Registry {
    /// One object. Without a resource version it is as of now; with one, at least as new as that.
    pub async fn get(&self, endpoint: &Endpoint, namespace: &str, name: &str, resource_version: &str) -> Result<Arc<Entry>> {
        let cache = endpoint.cache()?;
        match resource_version {
            "" => {
                cache.catch_up().await.map_err(unavailable)?;
            }
            "0" => {}
            text => {
                let revision = parse_revision(text).map_err(|e| StatusError::bad_request(format!("invalid resource version: {e}")))?;
                cache.wait_until(revision).await.map_err(unavailable)?;
            }
        }
        cache.find(namespace, name).ok_or_else(|| endpoint.not_found(name))
    }

    /// A list, or a page of it.
    pub async fn list(&self, endpoint: &Endpoint, namespace: &str, name: &str, parameters: &ListParameters) -> Result<Listing> {
        let cache = endpoint.cache()?;
        let Selection { filter, served } = Selection::of(endpoint, namespace, name, parameters)?;
        let in_namespace = |key: &str| if namespace.is_empty() { key.to_owned() } else { format!("{namespace}/{key}") };
        let mut limit = parameters.limit;
        if parameters.resource_version == "0" && parameters.continue_token.is_empty() {
            limit = 0;
        }
        let mut paging = Paging { after: None, limit: if served.is_some() { 0 } else { limit } };
        let page = if !parameters.continue_token.is_empty() {
            if !matches!(parameters.resource_version.as_str(), "" | "0") {
                return Err(StatusError::bad_request("specifying resource version is not allowed when using continue"));
            }
            let (revision, last) = decode_token(&parameters.continue_token)?;
            paging.after = Some(in_namespace(&last));
            match Revision::try_from(revision) {
                Ok(revision) => match cache.list_at(revision, &filter, &paging).await {
                    Err(crate::cache::CacheError::Store(StoreError::Compacted(_))) => return Err(page_expired(&last)),
                    other => other.map_err(unavailable)?,
                },
                Err(_) => {
                    cache.catch_up().await.map_err(unavailable)?;
                    cache.list(&filter, &paging)
                }
            }
        } else {
            match parameters.resource_version.as_str() {
                "" => {
                    cache.catch_up().await.map_err(unavailable)?;
                    cache.list(&filter, &paging)
                }
                "0" => cache.list(&filter, &paging),
                text => {
                    let bad = |e| StatusError::bad_request(format!("invalid resource version: {e}"));
                    let revision = parse_revision(text).map_err(bad)?;
                    let exact = match parameters.resource_version_match.as_str() {
                        "Exact" => true,
                        "NotOlderThan" => false,
                        // Before the match could be said, a limit meant an exact snapshot.
                        _ => parameters.limit > 0,
                    };
                    if exact {
                        cache.list_at(revision, &filter, &paging).await.map_err(unavailable)?
                    } else {
                        cache.wait_until(revision).await.map_err(unavailable)?;
                        cache.list(&filter, &paging)
                    }
                }
            }
        };
        let page = match &served {
            Some(fields) => narrow(endpoint, fields, page, limit).await?,
            None => page,
        };
        let revision = i64::try_from(page.revision).unwrap_or(-1);
        let own_part = |key: &str| key.strip_prefix(&format!("{namespace}/")).unwrap_or(key).to_owned();
        let continue_token = page.next.as_deref().map(|last| encode_token(revision, &own_part(last)));
        Ok(Listing { entries: page.entries, revision: page.revision, continue_token, remaining: page.remaining })
    }

    /// A watch. `min_timeout` is how long one lasts at least that names no timeout; the rest of up to twice that is random, so that
    /// clients which started together do not come back together.
    pub async fn watch(
        &self,
        endpoint: &Arc<Endpoint>,
        namespace: &str,
        name: &str,
        parameters: &ListParameters,
        min_timeout: Duration,
    ) -> Result<Following> {
        let cache = endpoint.cache()?;
        let Selection { filter, served } = Selection::of(endpoint, namespace, name, parameters)?;
        let revision = match parameters.resource_version.as_str() {
            "" | "0" => None,
            text => Some(parse_revision(text).map_err(|e| StatusError::new(500, "", e))?),
        };
        let end_bookmark = parameters.allow_bookmarks;
        let start = match (parameters.send_initial_events, revision) {
            (Some(true), None) if parameters.resource_version.is_empty() => {
                cache.catch_up().await.map_err(unavailable)?;
                Start::Initial { end_bookmark }
            }
            (Some(true), revision) => {
                cache.wait_until(revision.unwrap_or(0)).await.map_err(unavailable)?;
                Start::Initial { end_bookmark }
            }
            (_, Some(revision)) => Start::After(revision),
            (Some(false), None) => Start::After(cache.catch_up().await.map_err(unavailable)?),
            (None, None) => {
                if parameters.resource_version.is_empty() {
                    cache.catch_up().await.map_err(unavailable)?;
                }
                Start::Initial { end_bookmark: false }
            }
        };
        let timeout = match parameters.timeout_seconds {
            Some(seconds) if seconds > 0 => Duration::from_secs(seconds),
            _ => min_timeout.mul_f64(1.0 + rand::random::<f64>()),
        };
        let options = WatchOptions { start, bookmarks: parameters.allow_bookmarks, deadline: Instant::now().checked_add(timeout) };
        let Some(fields) = served else { return Ok(Following::all(cache.watch(filter, options).map_err(unavailable)?)) };
        let before = match start {
            Start::After(revision) => cache.list_at(revision, &filter, &Paging::default()).await.map_err(unavailable)?.entries,
            Start::Initial { .. } => Vec::new(),
        };
        Following::chosen(cache.watch(filter, options).map_err(unavailable)?, endpoint, fields, before).await
    }

    /// The entry under a key as the store has it now, for writes that found the cache behind.
    pub(super) async fn read_through(&self, endpoint: &Endpoint, key: &str) -> Result<Option<crate::store::KeyValue>> {
        let key = format!("{}{key}", endpoint.cache()?.prefix());
        Ok(self.store.get(&key).await.map_err(store_error)?.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_upstreams() {
        let token = encode_token(1140, "b");
        assert_eq!(token, "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MTE0MCwic3RhcnQiOiIvYlx1MDAwMCJ9");
        assert_eq!(decode_token(&token).unwrap(), (1140, "b".to_owned()));
        let bad = decode_token("garbage").unwrap_err().to_string();
        assert_eq!(bad, "invalid continue token: continue key is not valid: invalid character '\\u0081' looking for beginning of value");
        let escape = URL_SAFE_NO_PAD.encode(r#"{"v":"meta.k8s.io/v1","rv":1,"start":"/../x"}"#);
        assert_eq!(decode_token(&escape).unwrap_err().to_string(), "invalid continue token: continue key is not valid: /../x");
    }

    #[test]
    fn revisions_are_numbers() {
        assert_eq!(parse_revision("7"), Ok(7));
        assert_eq!(
            parse_revision("x").unwrap_err(),
            "resourceVersion: Invalid value: \"x\": strconv.ParseUint: parsing \"x\": invalid syntax"
        );
    }
}
