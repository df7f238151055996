//! Binds pods through their `binding` subresource.

use crate::framework::{Effect, Handle, Plugin, Point};
use crate::pod_info::PodInfo;

/// See the module's description.
pub struct DefaultBinder;

impl Plugin for DefaultBinder {
    fn name(&self) -> &'static str {
        "DefaultBinder"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::Bind]
    }

    fn bind<'a>(&'a self, handle: &'a dyn Handle, pod: &'a PodInfo, node: &'a str) -> Option<Effect<'a>> {
        Some(handle.bind(&pod.pod, node))
    }
}
