//! What happened to an object and to what it owns, in order: pure functions from objects and events to moments, phases and text.
//!
//! The sources are what every cluster has: metadata, managed fields, conditions, container states and events. Most of these know only the
//! second; an event also carries the nanosecond of its making in its name, and some carry a time of their own. Moments of which only the second
//! is known stand where they must have been by the order of a pod's life ([`Step`]). What nobody recorded (a restart before the last one, a
//! condition that changed and changed back) cannot be shown.

mod events;
mod objects;
mod order;
mod phases;
mod text;

pub use phases::{Phase, phases};
pub use text::{bar, render, writer};

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

/// What kind of step a moment is. The order is that in which they come in a pod's life: it decides between moments of the same second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// The object was made.
    Created,
    /// Its metadata or specification was changed.
    Changed,
    /// A controller made or removed objects for it.
    Scaled,
    /// It waits, or tried and failed: scheduling, volumes, back-off.
    Waiting,
    /// A node was chosen.
    Scheduled,
    /// An image pull began.
    Pulling,
    /// An image is there.
    Pulled,
    /// A container was made.
    ContainerCreated,
    /// A container runs.
    Started,
    /// A probe failed.
    Probe,
    /// A container ended.
    Exited,
    /// It became ready, available or complete.
    Ready,
    /// It is no longer ready or available.
    NotReady,
    /// Anything else that an event or a condition tells.
    Other,
    /// It is being deleted, evicted or killed.
    Ending,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Moment {
    /// When.
    pub at: Timestamp,
    /// Whether fractions of the second are known.
    pub exact: bool,
    /// To what: `pod/web`.
    pub object: String,
    /// What kind of step it is.
    pub step: Step,
    /// What happened, in words.
    pub what: String,
    /// Who did it, as far as anybody said: a component, a user's program, a controller.
    pub who: String,
    /// Whether it is a failure.
    pub warning: bool,
}

/// Everything that the objects and the events about them tell, in order.
pub fn moments(objects: &[Value], events: &[Value]) -> Vec<Moment> {
    let told: Vec<Moment> = events.iter().flat_map(events::moments).collect();
    let mut all: Vec<Moment> = objects.iter().flat_map(objects::moments).filter(|m| !objects::told_better(m, &told)).collect();
    all.extend(told);
    order::sort(&mut all);
    all
}

/// `pod/web` for an object.
fn reference(kind: &Value, name: &Value) -> String {
    format!("{}/{}", kind.as_str().unwrap_or("").to_lowercase(), name.as_str().unwrap_or(""))
}

/// A time of the API, if it is one.
fn time(value: &Value) -> Option<Timestamp> {
    value.as_str()?.parse().ok()
}
