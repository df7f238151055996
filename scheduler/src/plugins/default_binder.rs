//! Binds pods through their `binding` subresource.

use crate::framework::{Binder, Plugin, Point};
use crate::pod_info::PodInfo;
use futures::future::BoxFuture;

/// See the module's description.
pub struct DefaultBinder;

impl Plugin for DefaultBinder {
    fn name(&self) -> &'static str {
        "DefaultBinder"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::Bind]
    }

    fn bind<'a>(&'a self, binder: &'a dyn Binder, pod: &'a PodInfo, node: &'a str) -> Option<BoxFuture<'a, anyhow::Result<()>>> {
        Some(binder.bind(&pod.pod, node))
    }
}
