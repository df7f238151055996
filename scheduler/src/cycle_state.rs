//! What plugins remember between the points of one cycle.

use std::any::{Any, TypeId};

/// What can be remembered: preemption and promised room try things out on copies.
pub trait Remembered: Any + Send + Sync {
    /// A copy.
    fn copy(&self) -> Box<dyn Remembered>;
    /// Itself, to be looked at.
    fn as_any(&self) -> &dyn Any;
    /// Itself, to be changed.
    fn as_any_mut(&mut self) -> &mut dyn Any;
}

impl<T: Any + Clone + Send + Sync> Remembered for T {
    fn copy(&self) -> Box<dyn Remembered> {
        Box::new(self.clone())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

struct Entry {
    of: TypeId,
    lasts: bool,
    value: Box<dyn Remembered>,
}

/// At most one value per type.
#[derive(Default)]
pub struct CycleState {
    entries: Vec<Entry>,
}

impl Clone for CycleState {
    fn clone(&self) -> Self {
        let copy = |entry: &Entry| Entry { of: entry.of, lasts: entry.lasts, value: (*entry.value).copy() };
        Self { entries: self.entries.iter().map(copy).collect() }
    }
}

impl CycleState {
    /// Remembers until the decision is made.
    pub fn put<T: Any + Clone + Send + Sync>(&mut self, value: T) {
        self.insert(value, false);
    }

    /// Remembers until the pod is bound.
    pub fn put_lasting<T: Any + Clone + Send + Sync>(&mut self, value: T) {
        self.insert(value, true);
    }

    /// What was remembered.
    pub fn get<T: Any>(&self) -> Option<&T> {
        self.entries.iter().find(|entry| entry.of == TypeId::of::<T>()).and_then(|entry| (*entry.value).as_any().downcast_ref())
    }

    /// The same, to be changed.
    pub fn get_mut<T: Any>(&mut self) -> Option<&mut T> {
        self.entries.iter_mut().find(|entry| entry.of == TypeId::of::<T>()).and_then(|entry| (*entry.value).as_any_mut().downcast_mut())
    }

    /// Forgets what was only for the decision, so that the counts it holds can be changed in place.
    pub fn end_decision(&mut self) {
        self.entries.retain(|entry| entry.lasts);
    }

    fn insert<T: Any + Clone + Send + Sync>(&mut self, value: T, lasts: bool) {
        self.entries.retain(|entry| entry.of != TypeId::of::<T>());
        self.entries.push(Entry { of: TypeId::of::<T>(), lasts, value: Box::new(value) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_value_per_type_and_copies_are_apart() {
        let mut state = CycleState::default();
        state.put(1_i32);
        state.put(2_i32);
        state.put_lasting("x");
        let mut copy = state.clone();
        *copy.get_mut::<i32>().unwrap() = 3;
        assert_eq!((state.get::<i32>(), copy.get::<i32>()), (Some(&2), Some(&3)));
        state.end_decision();
        assert_eq!((state.get::<i32>(), state.get::<&str>()), (None, Some(&"x")));
    }
}
