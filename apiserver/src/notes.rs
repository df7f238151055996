//! What a request leaves behind besides its answer: warnings for the client, and annotations for the audit log. They are kept from wherever something is
//! noticed, and count whatever the request comes to: a warning about a field is told also when the write then fails.

use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

/// How long all warnings of an answer may be together, in characters, and how long each may be once they are more (upstream: `filters/warning.go`).
const TOTAL: usize = 4 * 1024;
const EACH: usize = 256;
/// How many are kept: more than fit into the answer.
const WARNINGS: usize = 512;

/// The notes of one request.
#[derive(Debug, Default)]
pub struct Notes {
    warnings: Mutex<Vec<String>>,
    annotations: Mutex<BTreeMap<String, String>>,
    keeps_body: AtomicBool,
    body: Mutex<Option<Bytes>>,
}

impl Notes {
    /// Tells the client, once however often it is said.
    pub fn warn(&self, text: impl Into<String>) {
        let (text, mut warnings) = (text.into(), self.warnings.lock());
        if !text.is_empty() && warnings.len() < WARNINGS && !warnings.contains(&text) {
            warnings.push(text);
        }
    }

    /// Tells the client all of these.
    pub fn warn_all(&self, texts: impl IntoIterator<Item = String>) {
        texts.into_iter().for_each(|text| self.warn(text));
    }

    /// What the client is told, cut where it is too much.
    pub fn warnings(&self) -> Vec<String> {
        let all = self.warnings.lock();
        let length = |text: &String| text.chars().count();
        if all.iter().map(length).sum::<usize>() <= TOTAL {
            return all.clone();
        }
        let mut left = TOTAL;
        let cut = all.iter().map(|text| text.chars().take(EACH).collect::<String>());
        cut.take_while(|text| {
            let fits = length(text) <= left;
            left = left.saturating_sub(length(text));
            fits
        })
        .collect()
    }

    /// Keeps a fact for the audit log. The first value of a key stays, as upstream's.
    pub fn annotate(&self, key: impl Into<String>, value: impl Into<String>) {
        self.annotations.lock().entry(key.into()).or_insert_with(|| value.into());
    }

    /// From now on, whoever reads the request's body leaves it here as well.
    pub fn want_body(&self) {
        self.keeps_body.store(true, Ordering::Relaxed);
    }

    /// Leaves the request's body, if somebody wants it.
    pub fn keep_body(&self, body: &Bytes) {
        if self.keeps_body.load(Ordering::Relaxed) {
            *self.body.lock() = Some(body.clone());
        }
    }

    /// The request's body, if it was wanted and read.
    pub fn body(&self) -> Option<Bytes> {
        self.body.lock().take()
    }

    /// The facts for the audit log.
    pub fn annotations(&self) -> BTreeMap<String, String> {
        self.annotations.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_told_once_and_cut_when_they_are_too_many() {
        let notes = Notes::default();
        notes.warn_all(["a".to_owned(), "b".into(), "a".into(), String::new()]);
        assert_eq!(notes.warnings(), ["a", "b"]);
        notes.warn_all((0..20).map(|i| format!("{i:03}{}", "x".repeat(400))));
        let told = notes.warnings();
        assert!(told.iter().all(|t| t.len() <= EACH) && told.iter().map(String::len).sum::<usize>() <= TOTAL, "{told:?}");
        assert!(told.len() > 10);
    }

    #[test]
    fn the_first_annotation_stays() {
        let notes = Notes::default();
        notes.annotate("k", "1");
        notes.annotate("k", "2");
        assert_eq!(notes.annotations(), [("k".to_owned(), "1".to_owned())].into());
    }
}
