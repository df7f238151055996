//! One resource as served: its row, where its objects are, and how they get from the form that is stored to the one that is served and back.

use crate::cache::Cache;
use crate::custom::conversion;
use crate::encoding;
use crate::outbound::Caller;
use api::custom::Version;
use api::{Object, Resource, StatusError, schema, status::Result};
use bytes::Bytes;
use serde_json::Value;
use std::sync::Arc;

/// One resource as served.
pub struct Endpoint {
    /// The row.
    pub row: Arc<Resource>,
    /// The cache of its stored objects; `None` if it is answered rather than stored.
    pub cache: Option<Arc<Cache>>,
    /// `v1`, `apps/v1`.
    pub api_version: String,
    /// `PodList`.
    pub list_kind: String,
    /// What is known of the fields of a built-in kind's objects.
    builtin: Option<schema::Root<'static>>,
    /// Who asks the webhook that converts a custom resource's objects.
    caller: Option<Arc<Caller>>,
}

impl Endpoint {
    pub(super) fn new(row: Arc<Resource>, cache: Option<Arc<Cache>>, caller: Option<Arc<Caller>>) -> Self {
        let builtin = schema::find(&row.schema).filter(|_| row.custom.is_none());
        Endpoint { api_version: row.api_version(), list_kind: row.list_kind(), builtin, cache, caller, row }
    }

    /// The cache, or 405: a resource that is only answered has nothing to read.
    pub fn cache(&self) -> Result<&Cache> {
        self.cache.as_deref().ok_or_else(|| crate::respond::generic(405))
    }

    /// The type of its objects, for whoever looks at their fields.
    pub fn schema(&self) -> Option<schema::Root<'_>> {
        self.row.custom.as_ref().map(|c| c.root()).or(self.builtin)
    }

    /// Whether objects are stored as they are served.
    pub fn stored_as_served(&self) -> bool {
        match &self.row.custom {
            Some(version) => version.is_stored() && !version.family.asks_for_old(),
            None => self.row.storage.is_none(),
        }
    }

    /// Whether a webhook may have to be asked for an object as it is served.
    pub fn asks_webhook(&self) -> bool {
        !self.stored_as_served() && self.row.custom.as_ref().is_some_and(|version| version.family.asks_webhook())
    }

    /// Whether its version is the one that is stored.
    pub fn holds_stored(&self) -> bool {
        self.row.custom.as_ref().map_or(self.row.storage.is_none(), |version| version.is_stored())
    }

    /// Whether items of its lists say no kind and version, as those of built-in kinds.
    pub fn plain_items(&self) -> bool {
        self.row.custom.is_none()
    }

    /// A stored text (with resource version) as it is served.
    pub async fn served(&self, stored: Bytes) -> Result<Bytes> {
        match self.stored_as_served() {
            true => Ok(stored),
            false => Ok(super::print(&self.served_value(&stored).await?)),
        }
    }

    /// The same, decoded.
    pub async fn served_value(&self, stored: &[u8]) -> Result<Value> {
        let value: Value = serde_json::from_slice(stored).map_err(StatusError::internal)?;
        match (&self.row.custom, &self.row.storage) {
            (Some(version), _) => {
                let mut made = self.as_version(version, &version.name, vec![value]).await?;
                made.pop().ok_or_else(|| StatusError::internal("the converted object is missing"))
            }
            (None, Some(conversion)) => Ok((conversion.from_storage)(value)),
            (None, None) => Ok(value),
        }
    }

    /// Many at once: a webhook is asked once for all of them.
    pub async fn served_values(&self, stored: impl Iterator<Item = &[u8]>) -> Result<Vec<Value>> {
        let mut values = Vec::new();
        for text in stored {
            let value: Value = serde_json::from_slice(text).map_err(StatusError::internal)?;
            values.push(match &self.row.storage {
                Some(conversion) => (conversion.from_storage)(value),
                None => value,
            });
        }
        match &self.row.custom {
            Some(version) => self.as_version(version, &version.name, values).await,
            None => Ok(values),
        }
    }

    /// A served object in the form that is stored, without its resource version.
    pub async fn stored(&self, served: Value) -> Result<Bytes> {
        let stored = match (&self.row.custom, &self.row.storage) {
            (Some(version), _) if !version.is_stored() => {
                let mut made = self.as_version(version, &version.family.storage, vec![served]).await?;
                made.pop().ok_or_else(|| StatusError::internal("the converted object is missing"))?
            }
            (None, Some(conversion)) => (conversion.to_storage)(served),
            _ => served,
        };
        Ok(encoding::encode(&stored))
    }

    /// Custom resources in the version `wanted`, with its defaults.
    async fn as_version(&self, version: &Version, wanted: &str, mut objects: Vec<Value>) -> Result<Vec<Value>> {
        let family = &version.family;
        let target = family.api_version(wanted);
        let mut foreign = Vec::new();
        for (i, object) in objects.iter_mut().enumerate() {
            let own = object["apiVersion"].as_str().and_then(|v| v.split_once('/')).map(|(_, v)| v.to_owned()).unwrap_or_default();
            family.default(&own, object);
            if own != wanted {
                foreign.push(i);
            }
        }
        if foreign.is_empty() {
            return Ok(objects);
        }
        match &self.caller {
            Some(caller) if family.asks_webhook() => {
                let taken: Vec<Value> = foreign.iter().map(|i| objects[*i].take()).collect();
                let converted = conversion::convert(caller, family, &target, taken).await?;
                foreign.iter().zip(converted).for_each(|(i, object)| objects[*i] = object);
            }
            _ => foreign.iter().for_each(|i| family.relabel(wanted, &mut objects[*i])),
        }
        foreign.iter().for_each(|i| family.settle(wanted, &mut objects[*i]));
        Ok(objects)
    }

    /// A served value as the kind's type.
    pub fn typed(&self, served: &Value) -> Result<Box<dyn Object>> {
        self.row.typed(served).map_err(StatusError::internal)
    }

    /// 404 for one of its objects.
    pub fn not_found(&self, name: &str) -> StatusError {
        StatusError::not_found(&self.row.group, &self.row.plural, name)
    }

    /// 409 for one of its objects.
    pub fn conflict(&self, name: &str, why: &str) -> StatusError {
        StatusError::conflict(&self.row.group, &self.row.plural, name, why)
    }
}
