//! The second round of mutating admission: plugins of the user's own may ask to see the object again when others have changed it after them
//! (upstream: `admission/reinvocation.go` and the reinvocation contexts of the webhook and policy plugins).
//!
//! There are two rounds at most. In the second every built-in plugin runs again; a webhook or policy runs only if it asked for it and the object has changed
//! since it last saw it.

use parking_lot::Mutex;
use serde_json::Value;
use std::collections::{HashMap, HashSet};

/// The state of both rounds, for all plugins of a write.
#[derive(Debug, Default)]
pub struct Rounds(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    wanted: bool,
    second: bool,
    plugins: HashMap<&'static str, Plugin>,
}

/// What is known of one plugin's hooks.
#[derive(Debug, Default)]
struct Plugin {
    /// The object as the plugin last left it.
    output: Option<Value>,
    /// Hooks that were called, and want to be called again after changes.
    willing: HashSet<String>,
    /// Hooks that are to be called in the second round.
    due: HashSet<String>,
}

impl Rounds {
    /// Begins the second round, if anybody wants one and it has not been.
    pub fn again(&self) -> bool {
        let mut state = self.0.lock();
        let again = state.wanted && !state.second;
        state.second |= again;
        again
    }

    /// Whether this is the second round.
    pub fn is_second(&self) -> bool {
        self.0.lock().second
    }

    /// A plugin begins, with the object as it is now.
    pub fn enter(&self, plugin: &'static str, object: &Value) {
        let mut state = self.0.lock();
        let second = state.second;
        let known = state.plugins.entry(plugin).or_default();
        if second && known.output.as_ref().is_some_and(|output| output != object) {
            known.due.extend(known.willing.drain());
        }
    }

    /// A plugin ends, leaving the object like this.
    pub fn leave(&self, plugin: &'static str, object: &Value) {
        self.0.lock().plugins.entry(plugin).or_default().output = Some(object.clone());
    }

    /// Whether the hook is to be called in this round.
    pub fn due(&self, plugin: &'static str, hook: &str) -> bool {
        let state = self.0.lock();
        !state.second || state.plugins.get(plugin).is_some_and(|p| p.due.contains(hook))
    }

    /// The hook was called: whether it changed the object, and whether it wants to see later changes.
    pub fn called(&self, plugin: &'static str, hook: &str, changed: bool, willing: bool) {
        let mut state = self.0.lock();
        let known = state.plugins.entry(plugin).or_default();
        if changed {
            known.due.extend(known.willing.drain());
        }
        if willing {
            known.willing.insert(hook.to_owned());
        }
        state.wanted |= changed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_hook_is_called_again_when_another_changed_the_object_after_it() {
        let rounds = Rounds::default();
        rounds.enter("webhook", &json!(1));
        assert!(rounds.due("webhook", "first"));
        rounds.called("webhook", "first", true, true);
        rounds.called("webhook", "second", true, true);
        rounds.leave("webhook", &json!(3));
        assert!(rounds.again());
        rounds.enter("webhook", &json!(3));
        assert!(rounds.due("webhook", "first") && !rounds.due("webhook", "second"), "nothing came after the second");
        assert!(!rounds.again(), "there are two rounds at most");
    }

    #[test]
    fn changes_by_built_in_plugins_count_in_the_second_round() {
        let rounds = Rounds::default();
        rounds.enter("webhook", &json!(1));
        rounds.called("webhook", "only", true, true);
        rounds.leave("webhook", &json!(2));
        assert!(rounds.again());
        rounds.enter("webhook", &json!(2.5));
        assert!(rounds.due("webhook", "only"));
    }

    #[test]
    fn without_changes_there_is_one_round() {
        let rounds = Rounds::default();
        rounds.called("webhook", "only", false, true);
        assert!(!rounds.again());
    }
}
