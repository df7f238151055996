//! The form in which objects are stored and sent: JSON text whose top level starts `{"kind":K,"apiVersion":V,"metadata":{`, so that
//! what changes without the object changing, its `resourceVersion`, can be put in by one copy, and so that lists and watch frames are
//! made by joining texts. An object is serialised once, when it is written; nothing that reads it parses or prints it again.
//!
//! The stored form has no `resourceVersion`: the store assigns it with the write. The sent form has it as the first field of `metadata`.
//! Other representations (tables, YAML, other versions of a kind) are no business of this module: they decode the text.

use crate::store::Revision;
use bytes::{BufMut, Bytes, BytesMut};
use serde_json::Value;
use std::io::Write;

const METADATA: &[u8] = br#","metadata":{"#;
const RESOURCE_VERSION: &[u8] = br#""resourceVersion":""#;

/// What happened to an object, as a watcher sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventType {
    /// It is new, or came under the watcher's selector.
    Added,
    /// It changed.
    Modified,
    /// It is gone, or left the watcher's selector.
    Deleted,
    /// Nothing: the object carries only the revision up to which the watcher has seen everything.
    Bookmark,
    /// The watch is over; the object is a `Status`.
    Error,
}

impl EventType {
    /// `ADDED`, ...
    pub fn as_str(self) -> &'static str {
        match self {
            EventType::Added => "ADDED",
            EventType::Modified => "MODIFIED",
            EventType::Deleted => "DELETED",
            EventType::Bookmark => "BOOKMARK",
            EventType::Error => "ERROR",
        }
    }

    /// What stands before the object in a watch frame; [`FRAME_TAIL`] stands after it.
    pub fn frame_head(self) -> &'static str {
        match self {
            EventType::Added => r#"{"type":"ADDED","object":"#,
            EventType::Modified => r#"{"type":"MODIFIED","object":"#,
            EventType::Deleted => r#"{"type":"DELETED","object":"#,
            EventType::Bookmark => r#"{"type":"BOOKMARK","object":"#,
            EventType::Error => r#"{"type":"ERROR","object":"#,
        }
    }
}

/// What ends a watch frame.
pub const FRAME_TAIL: &str = "}\n";

/// A [`Value`] as text; printing into memory cannot fail, and JSON values have string keys.
fn print(out: &mut Vec<u8>, value: &Value) {
    serde_json::to_writer(out, value).expect("a JSON value prints into memory");
}

fn print_str(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("a string prints into memory");
}

/// The stored form of an object. `kind`, `apiVersion` and `metadata` come first, `metadata.resourceVersion` is left out, the rest keeps its order.
///
/// The registry calls it with objects that it decoded as a kind, so the three are there; for any other value they are made empty.
pub fn encode(object: &Value) -> Bytes {
    let text = |field: &str| object.get(field).and_then(Value::as_str).unwrap_or_default();
    let mut out = Vec::with_capacity(1024);
    out.extend_from_slice(br#"{"kind":"#);
    print_str(&mut out, text("kind"));
    out.extend_from_slice(br#","apiVersion":"#);
    print_str(&mut out, text("apiVersion"));
    out.extend_from_slice(METADATA);
    let mut first = true;
    for (key, value) in object.get("metadata").and_then(Value::as_object).into_iter().flatten().filter(|(k, _)| *k != "resourceVersion") {
        if !std::mem::take(&mut first) {
            out.push(b',');
        }
        print_str(&mut out, key);
        out.push(b':');
        print(&mut out, value);
    }
    out.push(b'}');
    for (key, value) in object.as_object().into_iter().flatten() {
        if !matches!(key.as_str(), "kind" | "apiVersion" | "metadata") {
            out.push(b',');
            print_str(&mut out, key);
            out.push(b':');
            print(&mut out, value);
        }
    }
    out.push(b'}');
    Bytes::from(out)
}

/// Where the fields of `metadata` begin (just after its `{`), or `None` if the text is not one that [`encode`] made.
/// It reads only the head: neither a kind nor an apiVersion can contain what it looks for.
pub fn metadata_offset(object: &[u8]) -> Option<usize> {
    // A kind has up to 63 characters, an apiVersion up to 253 + 1 + 63.
    let head = &object[..object.len().min(512)];
    head.windows(METADATA.len()).position(|w| w == METADATA).map(|at| at + METADATA.len())
}

/// Appends `stored` with `revision` as its `metadata.resourceVersion`. `offset` is [`metadata_offset`] of it.
pub fn put_with_resource_version(out: &mut impl BufMut, stored: &[u8], offset: usize, revision: Revision) {
    let rest = &stored[offset..];
    out.put_slice(&stored[..offset]);
    out.put_slice(RESOURCE_VERSION);
    let mut digits = [0u8; 20];
    out.put_slice(decimal(revision, &mut digits));
    out.put_slice(if rest.first() == Some(&b'}') { b"\"" } else { b"\"," });
    out.put_slice(rest);
}

/// The sent form: the stored form with `revision` as its `metadata.resourceVersion`, in one copy. A text that is not of the stored form
/// comes back as it is.
pub fn with_resource_version(stored: &Bytes, revision: Revision) -> Bytes {
    let Some(offset) = metadata_offset(stored) else { return stored.clone() };
    let mut out = BytesMut::with_capacity(stored.len() + 48);
    put_with_resource_version(&mut out, stored, offset, revision);
    out.freeze()
}

/// The two parts of a sent form around its resource version: `(before the number, after it)`; what [`with_resource_version`] joined.
pub fn split_resource_version(sent: &[u8]) -> Option<(&[u8], &[u8])> {
    let start = metadata_offset(sent)?;
    let number = sent[start..].strip_prefix(RESOURCE_VERSION)?;
    let digits = number.iter().position(|b| !b.is_ascii_digit())?;
    let at = start + RESOURCE_VERSION.len();
    Some((&sent[..at], &sent[at + digits..]))
}

/// A number in decimal without an allocation.
fn decimal(mut number: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &digits[at..];
        }
    }
}

/// The head of a list: everything before its items.
#[derive(Clone, Copy, Debug, Default)]
pub struct ListHead<'a> {
    /// `PodList`.
    pub kind: &'a str,
    /// `v1`.
    pub api_version: &'a str,
    /// The revision that the list is the state of.
    pub revision: Revision,
    /// The token for the next page, where there is one.
    pub continue_token: Option<&'a str>,
    /// How many items follow on later pages, where it is known.
    pub remaining: Option<usize>,
}

impl ListHead<'_> {
    /// `{"kind":...,"apiVersion":...,"metadata":{...},"items":[`; items with commas between them and [`LIST_TAIL`] follow.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        out.extend_from_slice(br#"{"kind":"#);
        print_str(&mut out, self.kind);
        out.extend_from_slice(br#","apiVersion":"#);
        print_str(&mut out, self.api_version);
        out.extend_from_slice(METADATA);
        write!(out, r#""resourceVersion":"{}""#, self.revision).expect("memory can be written to");
        if let Some(token) = self.continue_token {
            out.extend_from_slice(br#","continue":"#);
            print_str(&mut out, token);
        }
        if let Some(remaining) = self.remaining {
            write!(out, r#","remainingItemCount":{remaining}"#).expect("memory can be written to");
        }
        out.extend_from_slice(br#"},"items":["#);
        out
    }
}

/// What ends a list.
pub const LIST_TAIL: &str = "]}";

/// An object as the item of a typed list: upstream leaves `kind` and `apiVersion` out there (custom resources keep them: use the whole text).
/// Give it the `{` that this does not contain.
pub fn item_body(sent: &[u8]) -> &[u8] {
    match metadata_offset(sent) {
        Some(offset) => &sent[offset + 1 - METADATA.len()..],
        None => sent.strip_prefix(b"{").unwrap_or(sent),
    }
}

/// A whole list in one buffer. `typed` leaves `kind` and `apiVersion` out of the items, as upstream does for built-in kinds.
pub fn encode_list<'a>(head: &ListHead<'_>, items: impl Iterator<Item = &'a Bytes> + Clone, typed: bool) -> Bytes {
    let size = 512 + items.clone().map(|i| i.len() + 1).sum::<usize>();
    let mut out = Vec::with_capacity(size);
    out.extend_from_slice(&head.encode());
    for (index, item) in items.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        push_item(&mut out, item, typed);
    }
    out.extend_from_slice(LIST_TAIL.as_bytes());
    Bytes::from(out)
}

fn push_item(out: &mut Vec<u8>, item: &[u8], typed: bool) {
    if typed {
        out.push(b'{');
        out.extend_from_slice(item_body(item));
    } else {
        out.extend_from_slice(item);
    }
}

/// A list as chunks of about `chunk` bytes, made as they are asked for, so that a long list is never in memory a second time.
pub fn list_chunks<T: AsRef<[u8]>, I: Iterator<Item = T>>(
    head: &ListHead<'_>,
    items: I,
    typed: bool,
    chunk: usize,
) -> impl Iterator<Item = Bytes> + use<T, I> {
    let mut items = items.fuse();
    let mut out = head.encode();
    let mut first = true;
    let mut done = false;
    std::iter::from_fn(move || {
        if done {
            return None;
        }
        while out.len() < chunk {
            let Some(item) = items.next() else {
                out.extend_from_slice(LIST_TAIL.as_bytes());
                done = true;
                break;
            };
            if !std::mem::take(&mut first) {
                out.push(b',');
            }
            push_item(&mut out, item.as_ref(), typed);
        }
        Some(Bytes::from(std::mem::replace(&mut out, if done { Vec::new() } else { Vec::with_capacity(chunk + chunk / 4) })))
    })
}

/// A watch frame around an object's text: `{"type":"ADDED","object":...}` and a newline.
pub fn encode_frame(event: EventType, object: &[u8]) -> Bytes {
    let head = event.frame_head();
    let mut out = BytesMut::with_capacity(head.len() + object.len() + FRAME_TAIL.len());
    out.put_slice(head.as_bytes());
    out.put_slice(object);
    out.put_slice(FRAME_TAIL.as_bytes());
    out.freeze()
}

/// The object of a bookmark. `initial_events_end` marks the one that ends the initial events of a streamed list.
pub fn encode_bookmark(kind: &str, api_version: &str, revision: Revision, initial_events_end: bool) -> Bytes {
    let mut out = Vec::with_capacity(192);
    out.extend_from_slice(br#"{"kind":"#);
    print_str(&mut out, kind);
    out.extend_from_slice(br#","apiVersion":"#);
    print_str(&mut out, api_version);
    out.extend_from_slice(METADATA);
    write!(out, r#""resourceVersion":"{revision}""#).expect("memory can be written to");
    if initial_events_end {
        out.extend_from_slice(br#","annotations":{"k8s.io/initial-events-end":"true"}"#);
    }
    out.extend_from_slice(b"}}");
    Bytes::from(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod() -> Value {
        json!({"spec": {"nodeName": "n"}, "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "resourceVersion": "7", "uid": "u"}})
    }

    fn parse(bytes: &[u8]) -> Value {
        serde_json::from_slice(bytes).unwrap()
    }

    #[test]
    fn the_stored_form_has_its_head_in_order_and_no_resource_version() {
        let stored = encode(&pod());
        assert!(stored.starts_with(br#"{"kind":"Pod","apiVersion":"v1","metadata":{"#));
        let mut expected = pod();
        expected["metadata"].as_object_mut().unwrap().remove("resourceVersion");
        assert_eq!(parse(&stored), expected);
    }

    #[test]
    fn a_resource_version_goes_in_and_comes_apart_again() {
        for object in [pod(), json!({"kind": "X", "apiVersion": "g/v1", "metadata": {}}), json!({"metadata": {"a": "}{"}})] {
            for revision in [0, 7, 1234567890, u64::MAX] {
                let stored = encode(&object);
                let sent = with_resource_version(&stored, revision);
                assert_eq!(parse(&sent)["metadata"]["resourceVersion"], json!(revision.to_string()));
                let (before, after) = split_resource_version(&sent).unwrap();
                assert_eq!([before, revision.to_string().as_bytes(), after].concat(), sent);
                assert_eq!(split_resource_version(&stored), None);
            }
        }
    }

    #[test]
    fn lists_join_their_items() {
        let items: Vec<Bytes> = (0..5).map(|i| with_resource_version(&encode(&pod()), i)).collect();
        let head = ListHead { kind: "PodList", api_version: "v1", revision: 9, continue_token: Some("c\""), remaining: Some(3) };
        for (typed, chunk) in [(true, 1), (true, 100), (false, 1 << 20)] {
            let whole = encode_list(&head, items.iter(), typed);
            let chunks: Vec<u8> = list_chunks(&head, items.iter(), typed, chunk).flatten().collect();
            assert_eq!(whole, chunks);
            let list = parse(&whole);
            assert_eq!(list["metadata"], json!({"resourceVersion": "9", "continue": "c\"", "remainingItemCount": 3}));
            assert_eq!(list["items"].as_array().unwrap().len(), 5);
            assert_eq!(list["items"][2]["metadata"]["resourceVersion"], "2");
            assert_eq!(list["items"][0].get("kind").is_some(), !typed);
        }
        assert_eq!(parse(&encode_list(&ListHead::default(), [].iter(), true))["items"], json!([]));
    }

    #[test]
    fn frames_and_bookmarks_are_single_lines_of_json() {
        let bookmark = encode_bookmark("Pod", "v1", 5, true);
        let frame = encode_frame(EventType::Bookmark, &bookmark);
        assert_eq!(frame.iter().filter(|b| **b == b'\n').count(), 1);
        let expected = json!({"type": "BOOKMARK", "object": {"kind": "Pod", "apiVersion": "v1", "metadata":
            {"resourceVersion": "5", "annotations": {"k8s.io/initial-events-end": "true"}}}});
        assert_eq!(parse(&frame), expected);
        assert_eq!(parse(&encode_bookmark("Pod", "v1", 5, false))["metadata"], json!({"resourceVersion": "5"}));
    }
}
