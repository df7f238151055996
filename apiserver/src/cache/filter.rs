//! Which objects of a resource a reader wants: a namespace, a name, and whatever else its selectors ask.

use super::entry::Entry;
use std::sync::Arc;

/// A selector's test; called for every object of a list and for every event of a watch, so it must be quick.
pub type Predicate = Arc<dyn Fn(&Entry) -> bool + Send + Sync>;

/// What a reader wants to see. The default is everything.
#[derive(Clone, Default)]
pub struct Filter {
    namespace: Option<Box<str>>,
    name: Option<Box<str>>,
    predicate: Option<Predicate>,
}

impl Filter {
    /// Everything.
    pub fn all() -> Filter {
        Filter::default()
    }

    /// Only this namespace; the empty one means all.
    pub fn in_namespace(mut self, namespace: &str) -> Filter {
        self.namespace = (!namespace.is_empty()).then(|| namespace.into());
        self
    }

    /// Only the object of this name (in every namespace, unless one is given).
    pub fn named(mut self, name: &str) -> Filter {
        self.name = Some(name.into());
        self
    }

    /// Only what the label and field selectors take.
    pub fn matching(mut self, predicate: impl Fn(&Entry) -> bool + Send + Sync + 'static) -> Filter {
        self.predicate = Some(Arc::new(predicate));
        self
    }

    /// Whether it wants this object.
    pub fn takes(&self, entry: &Entry) -> bool {
        self.namespace.as_deref().is_none_or(|n| n == entry.namespace())
            && self.name.as_deref().is_none_or(|n| n == entry.name())
            && self.predicate.as_ref().is_none_or(|p| p(entry))
    }

    /// Whether it selects by more than the namespace: then a list does not say how many items remain, as upstream's.
    pub fn selects(&self) -> bool {
        self.name.is_some() || self.predicate.is_some()
    }

    /// The part of the keys, below the resource's prefix, that all it wants start with: `namespace/`, or nothing.
    pub fn key_prefix(&self) -> String {
        self.namespace.as_deref().map(|n| format!("{n}/")).unwrap_or_default()
    }
}
