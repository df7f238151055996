//! GET of an object and of a list (upstream: `endpoints/handlers/get.go`).

use super::parameters::ListParameters;
use super::{Api, Call};
use crate::encoding;
use crate::negotiation::{Encoding, Format, Offer, Shape};
use crate::registry::{Endpoint, read::Listing, scale};
use crate::respond::{self, Response};
use crate::table::{self, IncludeObject};
use api::status::Result;
use axum::body::Body;
use bytes::Bytes;
use futures::stream;
use serde_json::{Value, json};
use std::convert::Infallible;

/// A list larger than this goes out in pieces of this size, made as the client takes them.
const CHUNK: usize = 64 * 1024;

/// One object.
pub(super) async fn get(api: &Api, call: Call, endpoint: &Endpoint) -> Result<Response> {
    let format = call.format(Offer::Resource)?;
    let info = &call.info;
    let namespace = if endpoint.row.namespaced() { info.namespace.as_str() } else { "" };
    let version = call.query.get("resourceVersion").unwrap_or("");
    let entry = api.registry.get(endpoint, namespace, &info.name, version).await?;
    if info.subresource == "scale" {
        return Ok(respond::value(200, &scale::of(&endpoint.row, &endpoint.served_value(entry.text()).await?)?, format));
    }
    object(endpoint, 200, endpoint.served(entry.bytes()).await?, format, &call)
}

/// An object as served, in the shape that was asked for.
pub(super) fn object(endpoint: &Endpoint, code: u16, bytes: Bytes, format: Format, call: &Call) -> Result<Response> {
    if format.shape == Shape::Object {
        return Ok(respond::json(code, bytes, format));
    }
    let value: Value = serde_json::from_slice(&bytes).map_err(api::StatusError::internal)?;
    Ok(respond::value(code, &shaped(endpoint, value, format.shape, call)?, format))
}

/// An object that was made to be shown, in the shape that was asked for.
pub(super) fn shown(endpoint: &Endpoint, value: Value, format: Format, call: &Call) -> Result<Response> {
    let value = if format.shape == Shape::Object { value } else { shaped(endpoint, value, format.shape, call)? };
    Ok(respond::value(200, &value, format))
}

fn shaped(endpoint: &Endpoint, value: Value, shape: Shape, call: &Call) -> Result<Value> {
    if shape == Shape::Metadata || value["kind"] == "Status" {
        return Ok(if value["kind"] == "Status" { value } else { table::metadata_only(&endpoint.row, &value) });
    }
    let include = IncludeObject::parse(call.query.get("includeObject"))?;
    let metadata = json!({"resourceVersion": value["metadata"]["resourceVersion"]});
    table::table(&endpoint.row, metadata, vec![value], include, true)
}

/// A list, or a page of it.
pub(super) async fn list(api: &Api, call: Call, endpoint: &Endpoint) -> Result<Response> {
    let format = call.format(Offer::Resource)?;
    let parameters = ListParameters::parse(&call.query, false)?;
    let namespace = if endpoint.row.namespaced() { call.info.namespace.as_str() } else { "" };
    let listing = api.registry.list(endpoint, namespace, "", &parameters).await?;
    self::listing(endpoint, listing, format, call.query.get("includeObject")).await
}

/// A list as found, in the shape that was asked for.
pub(super) async fn listing(endpoint: &Endpoint, listing: Listing, format: Format, include: Option<&str>) -> Result<Response> {
    if format.shape == Shape::Object && format.encoding == Encoding::Json && !format.pretty && endpoint.stored_as_served() {
        return Ok(joined(endpoint, listing));
    }
    let objects = endpoint.served_values(listing.entries.iter().map(|e| e.text())).await?;
    listed(endpoint, listing.metadata(), objects, format, include)
}

/// Objects as a list under this metadata, in the shape that was asked for.
pub(super) fn listed(endpoint: &Endpoint, metadata: Value, objects: Vec<Value>, format: Format, include: Option<&str>) -> Result<Response> {
    let value = match format.shape {
        Shape::Table => table::table(&endpoint.row, metadata, objects, IncludeObject::parse(include)?, true)?,
        Shape::Metadata => table::metadata_list(&endpoint.row, metadata, &objects),
        _ => {
            let items: Vec<Value> = match endpoint.plain_items() {
                true => objects.into_iter().map(as_item).collect(),
                false => objects,
            };
            json!({"kind": endpoint.list_kind, "apiVersion": endpoint.api_version, "metadata": metadata, "items": items})
        }
    };
    Ok(respond::value(200, &value, format))
}

/// An item of a typed list says neither kind nor version.
fn as_item(mut object: Value) -> Value {
    if let Some(fields) = object.as_object_mut() {
        fields.remove("kind");
        fields.remove("apiVersion");
    }
    object
}

/// The cached texts, joined: nothing is parsed or printed.
fn joined(endpoint: &Endpoint, listing: Listing) -> Response {
    let head = listing.head(endpoint);
    let size: usize = listing.entries.iter().map(|e| e.text().len()).sum();
    if size <= CHUNK {
        let items: Vec<Bytes> = listing.entries.iter().map(|e| e.bytes()).collect();
        return respond::raw(200, "application/json", encoding::encode_list(&head, items.iter(), endpoint.plain_items()));
    }
    let chunks = encoding::list_chunks(&head, listing.entries.clone().into_iter().map(Text), endpoint.plain_items(), CHUNK);
    respond::raw(200, "application/json", Body::from_stream(stream::iter(chunks.map(Ok::<_, Infallible>))))
}

/// An entry as the text that it holds.
struct Text(std::sync::Arc<crate::cache::Entry>);

impl AsRef<[u8]> for Text {
    fn as_ref(&self) -> &[u8] {
        self.0.text()
    }
}
