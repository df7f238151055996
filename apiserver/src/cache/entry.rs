//! One object in the cache: its text, ready to send in every form, and the few facts about it that selectors ask for.
//!
//! The text is kept inside the watch frame that announced it, so one allocation serves GET, LIST and all watchers. Nothing else of the
//! object is kept: whoever needs more of it decodes the text.

use crate::encoding::{self, EventType, FRAME_TAIL};
use crate::store::{KeyValue, Revision};
use api::resource::Text;
use bytes::{BufMut, Bytes, BytesMut};

/// What selectors can ask of an object: made once when it is written, by the resource's [`Describe`](super::Describe).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// `metadata.labels`.
    pub labels: Box<[(Box<str>, Box<str>)]>,
    /// The resource's selectable fields beyond name and namespace; one that the object lacks is the empty string.
    pub fields: Box<[(Text, Box<str>)]>,
}

/// An object as of one revision. Never changed: a write makes a new entry.
pub struct Entry {
    key: Box<str>,
    /// Where in the key the part after the resource's prefix begins, and the name.
    scope_at: u32,
    name_at: u32,
    /// The revision of this state: the object's `resourceVersion`.
    pub revision: Revision,
    /// The revision that made the object.
    pub create_revision: Revision,
    attributes: Attributes,
    announced: EventType,
    frame: Bytes,
    /// Where in the object's text the fields of metadata begin; 0 if the text is not of the stored form.
    metadata_at: u32,
}

impl Entry {
    /// The entry for what the store holds under a key that starts with a resource's prefix of `prefix` bytes.
    /// `announced` is the event that most watchers will see it in.
    pub fn new(prefix: usize, stored: &KeyValue, attributes: Attributes, announced: EventType) -> Entry {
        let (frame, metadata_at) = frame(announced, &stored.value, stored.mod_revision);
        let name_at = stored.key.rfind('/').map_or(prefix, |slash| (slash + 1).max(prefix));
        Entry {
            key: stored.key.as_str().into(),
            scope_at: prefix as u32,
            name_at: name_at as u32,
            revision: stored.mod_revision,
            create_revision: stored.create_revision,
            attributes,
            announced,
            frame,
            metadata_at,
        }
    }

    /// The same object as it ended at `revision`: what a DELETED event carries.
    pub fn departed(&self, revision: Revision) -> Entry {
        let text = self.text();
        let (frame, metadata_at) = match encoding::split_resource_version(text) {
            Some((before, after)) => {
                let number = revision.to_string();
                let parts = [EventType::Deleted.frame_head().as_bytes(), before, number.as_bytes(), after, FRAME_TAIL.as_bytes()];
                (Bytes::from(parts.concat()), self.metadata_at)
            }
            None => (encoding::encode_frame(EventType::Deleted, text), 0),
        };
        Entry {
            key: self.key.clone(),
            scope_at: self.scope_at,
            name_at: self.name_at,
            revision,
            create_revision: self.create_revision,
            attributes: self.attributes.clone(),
            announced: EventType::Deleted,
            frame,
            metadata_at,
        }
    }

    /// The store's key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The key without the resource's prefix: `namespace/name`, or `name` of a cluster-scoped object.
    pub fn relative_key(&self) -> &str {
        &self.key[self.scope_at as usize..]
    }

    /// The namespace; empty for a cluster-scoped object.
    pub fn namespace(&self) -> &str {
        self.key[self.scope_at as usize..self.name_at as usize].trim_end_matches('/')
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.key[self.name_at as usize..]
    }

    /// The value of a label.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.attributes.labels.iter().find(|(k, _)| **k == *key).map(|(_, v)| &**v)
    }

    /// All labels.
    pub fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        self.attributes.labels.iter().map(|(k, v)| (&**k, &**v))
    }

    /// The value of a selectable field, `metadata.name` and `metadata.namespace` among them; `None` if the resource has no such field.
    pub fn field(&self, path: &str) -> Option<&str> {
        match path {
            "metadata.name" => Some(self.name()),
            "metadata.namespace" => Some(self.namespace()),
            _ => self.attributes.fields.iter().find(|(k, _)| k == path).map(|(_, v)| &**v),
        }
    }

    /// The object's text with its `resourceVersion`, shared, not copied.
    pub fn bytes(&self) -> Bytes {
        self.frame.slice(self.announced.frame_head().len()..self.frame.len() - FRAME_TAIL.len())
    }

    /// [`Entry::bytes`], borrowed.
    pub fn text(&self) -> &[u8] {
        &self.frame[self.announced.frame_head().len()..self.frame.len() - FRAME_TAIL.len()]
    }

    /// The object as an item of a typed list without its `{`: see [`encoding::item_body`].
    pub fn item_body(&self) -> &[u8] {
        encoding::item_body(self.text())
    }

    /// The watch frame that tells of this entry as an `event`: shared with all watchers that see it as most do, else made for this one.
    pub fn frame(&self, event: EventType) -> Bytes {
        if event == self.announced { self.frame.clone() } else { encoding::encode_frame(event, self.text()) }
    }

    /// What it weighs, about, in bytes.
    pub fn weight(&self) -> usize {
        self.frame.len() + self.key.len() + size_of::<Entry>()
    }
}

impl AsRef<[u8]> for Entry {
    fn as_ref(&self) -> &[u8] {
        self.text()
    }
}

/// The frame around a stored text with its resource version put in, allocated at its exact size, and where its metadata begins.
fn frame(event: EventType, stored: &Bytes, revision: Revision) -> (Bytes, u32) {
    let Some(offset) = encoding::metadata_offset(stored) else { return (encoding::encode_frame(event, stored), 0) };
    let head = event.frame_head();
    let digits = revision.checked_ilog10().unwrap_or(0) as usize + 1;
    let comma = usize::from(stored.get(offset) != Some(&b'}'));
    let mut out = BytesMut::with_capacity(head.len() + stored.len() + r#""resourceVersion":"""#.len() + digits + comma + FRAME_TAIL.len());
    out.put_slice(head.as_bytes());
    encoding::put_with_resource_version(&mut out, stored, offset, revision);
    out.put_slice(FRAME_TAIL.as_bytes());
    (out.freeze(), offset as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn stored(key: &str) -> KeyValue {
        let value = encoding::encode(&json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "a"}}));
        KeyValue { key: key.into(), value, create_revision: 3, mod_revision: 10, lease: 0 }
    }

    #[test]
    fn names_come_from_the_key() {
        for (key, namespace, name) in
            [("/registry/pods/ns/a", "ns", "a"), ("/registry/pods/a", "", "a"), ("/registry/pods/ns/a.b", "ns", "a.b")]
        {
            let entry = Entry::new("/registry/pods/".len(), &stored(key), Attributes::default(), EventType::Added);
            assert_eq!((entry.namespace(), entry.name()), (namespace, name), "{key}");
            assert_eq!(entry.field("metadata.name"), Some(name));
            assert_eq!(entry.field("spec.nodeName"), None);
        }
    }

    #[test]
    fn one_allocation_serves_the_object_and_its_frame() {
        let entry = Entry::new("/registry/pods/".len(), &stored("/registry/pods/ns/a"), Attributes::default(), EventType::Modified);
        let bytes = entry.bytes();
        assert_eq!(serde_json::from_slice::<Value>(&bytes).unwrap()["metadata"], json!({"resourceVersion": "10", "name": "a"}));
        let shared = entry.frame(EventType::Modified);
        assert_eq!(shared.as_ptr().wrapping_add(EventType::Modified.frame_head().len()), bytes.as_ptr());
        let added: Value = serde_json::from_slice(&entry.frame(EventType::Added)).unwrap();
        assert_eq!((&added["type"], &added["object"]["kind"]), (&json!("ADDED"), &json!("Pod")));
    }

    #[test]
    fn a_departed_object_carries_the_revision_it_left_at() {
        let entry = Entry::new("/registry/pods/".len(), &stored("/registry/pods/ns/a"), Attributes::default(), EventType::Added);
        let gone = entry.departed(12345);
        let frame: Value = serde_json::from_slice(&gone.frame(EventType::Deleted)).unwrap();
        let expected = json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"resourceVersion": "12345", "name": "a"}});
        assert_eq!(frame, json!({"type": "DELETED", "object": expected}));
        assert_eq!(serde_json::from_slice::<Value>(gone.text()).unwrap(), expected);
    }
}
