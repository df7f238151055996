//! Watch: events as lines of JSON, until the deadline or the client ends it (upstream: `endpoints/handlers/watch.go`).

use super::parameters::ListParameters;
use super::{Api, Call};
use crate::cache::WatchEvent;
use crate::encoding::{self, EventType};
use crate::negotiation::{Offer, Shape};
use crate::registry::{Endpoint, Following};
use crate::respond::{self, Response};
use crate::table::{self, IncludeObject};
use api::{StatusError, status::Result};
use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures::stream;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// What an event's object is made into.
struct Encoder {
    endpoint: Arc<Endpoint>,
    shape: Shape,
    include: IncludeObject,
    /// Whether the table's columns have been sent.
    columns_sent: bool,
}

pub(super) async fn watch(api: &Api, call: Call, endpoint: Arc<Endpoint>) -> Result<Response> {
    let shape = call.format(Offer::Watch)?.shape;
    let parameters = ListParameters::parse(&call.query, true)?;
    let namespace = if endpoint.row.namespaced() { call.info.namespace.as_str() } else { "" };
    // The old form /watch/.../NAME names its object in the path.
    let name = if call.info.path.contains("/watch/") { call.info.name.as_str() } else { "" };
    let include = IncludeObject::parse(call.query.get("includeObject"))?;
    let encoder = Encoder { endpoint: endpoint.clone(), shape, include, columns_sent: false };
    match api.registry.watch(&endpoint, namespace, name, &parameters, api.min_watch_timeout).await {
        Ok(following) => Ok(respond::raw(200, "application/json", body(following, encoder, api.stop.clone()))),
        // Too old a version is told as an event, so that clients handle it as they do when it happens later on.
        Err(error) if error.code() == 410 => Ok(respond::raw(200, "application/json", error_frame(&error))),
        Err(error) => Err(error),
    }
}

fn error_frame(error: &StatusError) -> Bytes {
    let status = serde_json::to_vec(&respond::status_value(&error.0)).expect("a JSON value prints into memory");
    encoding::encode_frame(EventType::Error, &status)
}

fn body(following: Following, encoder: Encoder, stop: CancellationToken) -> Body {
    let frames = stream::unfold((following, encoder, stop), |(mut following, mut encoder, stop)| async move {
        let events = tokio::select! {
            events = following.next() => events?,
            () = stop.cancelled() => return None,
        };
        let chunk = match events {
            Ok(events) => encoder.encode(&events).await,
            Err(error) => error_frame(&error),
        };
        Some((Ok::<Bytes, Infallible>(chunk), (following, encoder, stop)))
    });
    Body::from_stream(frames)
}

impl Encoder {
    /// The events as one piece of the stream: a single event's frame is shared with other watchers, several are joined.
    async fn encode(&mut self, events: &[WatchEvent]) -> Bytes {
        if let [one] = events {
            return self.frame(one).await;
        }
        let mut out = BytesMut::new();
        for event in events {
            out.extend_from_slice(&self.frame(event).await);
        }
        out.freeze()
    }

    async fn frame(&mut self, event: &WatchEvent) -> Bytes {
        if self.shape == Shape::Object && self.endpoint.stored_as_served() {
            return event.frame(&self.endpoint.row.kind, &self.endpoint.api_version);
        }
        let made = match event {
            WatchEvent::Object { event_type, entry } => self.object(*event_type, entry.text()).await,
            WatchEvent::Bookmark { revision, initial_events_end } => {
                let bookmark =
                    encoding::encode_bookmark(&self.endpoint.row.kind, &self.endpoint.api_version, *revision, *initial_events_end);
                self.bookmark(&bookmark)
            }
        };
        made.unwrap_or_else(|error| error_frame(&error))
    }

    async fn object(&mut self, event: EventType, stored: &[u8]) -> Result<Bytes> {
        let object = self.endpoint.served_value(stored).await?;
        let made = match self.shape {
            Shape::Table => {
                let metadata = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
                let with_columns = !std::mem::replace(&mut self.columns_sent, true);
                table::table(&self.endpoint.row, metadata, vec![object], self.include, with_columns)?
            }
            Shape::Metadata => table::metadata_only(&self.endpoint.row, &object),
            _ => object,
        };
        Ok(encoding::encode_frame(event, &print(&made)))
    }

    /// A bookmark in the shape of the other events. A table carries it as a row without cells, as upstream does.
    fn bookmark(&mut self, bookmark: &[u8]) -> Result<Bytes> {
        let object: Value = serde_json::from_slice(bookmark).map_err(StatusError::internal)?;
        let made = match self.shape {
            Shape::Table => {
                let metadata = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
                let shown = match self.include {
                    IncludeObject::None => Value::Null,
                    IncludeObject::Metadata => table::metadata_only(&self.endpoint.row, &object),
                    IncludeObject::Object => object,
                };
                let rows = json!([{"cells": [], "object": shown}]);
                json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "columnDefinitions": null, "rows": rows})
            }
            Shape::Metadata => table::metadata_only(&self.endpoint.row, &object),
            _ => object,
        };
        Ok(encoding::encode_frame(EventType::Bookmark, &print(&made)))
    }
}

fn print(value: &Value) -> Vec<u8> {
    serde_json::to_vec(value).expect("a JSON value prints into memory")
}
