//! Who owns which fields, kept in `metadata.managedFields` by every write (upstream: `managedfields.FieldManager`).
//! The rules are `api::managed_fields`'s; here is what they are asked with.

use super::Write;
use super::update::Current;
use api::managed_fields::{self, Applied, Writer};
use api::schema::Root;
use api::{normalize, status::Result};
use serde_json::Value;

/// Who owns what stood in an object before anybody's ownership was kept.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

impl Write<'_> {
    fn writer<'a>(&'a self, time: &'a str) -> Writer<'a> {
        Writer {
            manager: self.manager,
            subresource: self.subresource,
            api_version: &self.endpoint.api_version,
            time,
            reset: managed_fields::reset_fields(self.endpoint.row.has_status(), self.subresource),
        }
    }

    /// The managed fields after this write makes `new`, of a new object or of `current`; `sent` are those that the client sent along.
    /// `new` is as the client wants it, with defaults: what admission and the kind add, nobody owns.
    pub(crate) fn managed_fields(&self, current: Option<&Current>, sent: &Value, new: &Value) -> Value {
        let Some(root) = self.endpoint.schema() else { return Value::Null };
        let time = super::create::now_text();
        let writer = self.writer(&time);
        match current {
            None => managed_fields::update(root, &normalize::empty(root), new, sent, &writer),
            Some(current) => {
                let start = managed_fields::starting_point(&current.managed, sent, self.subresource);
                // An object that nobody owns a field of stays so until somebody applies to it.
                if start.as_array().is_none_or(Vec::is_empty) {
                    return Value::Null;
                }
                managed_fields::update(root, &current.value, new, start, &writer)
            }
        }
    }

    /// What applying `config` makes of the object, or of none.
    pub(super) fn applied(&self, root: Root<'_>, current: Option<&Current>, config: &Value, force: bool) -> Result<Applied> {
        let time = super::create::now_text();
        let writer = self.writer(&time);
        match current {
            None => managed_fields::apply(root, &normalize::empty(root), config, &Value::Null, &writer, force),
            Some(current) if current.managed.as_array().is_none_or(Vec::is_empty) => {
                // The first apply to it: what is there is somebody's, so that an apply cannot take it over unnoticed.
                let before = Writer { manager: BEFORE_FIRST_APPLY, subresource: "", ..writer };
                let managed = managed_fields::update(root, &normalize::empty(root), &current.value, &Value::Null, &before);
                managed_fields::apply(root, &current.value, config, &managed, &writer, force)
            }
            Some(current) => managed_fields::apply(root, &current.value, config, &current.managed, &writer, force),
        }
    }
}
