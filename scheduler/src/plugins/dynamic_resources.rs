//! Claims of devices (`spec.resourceClaims`).
//!
//! Left out so far: allocating devices. What is here is what users see of the plugin for every pod that fits nowhere.

use crate::cycle::{Filters, FitError};
use crate::framework::{Context, CycleState, Plugin, Point, PostFilter};
use crate::pod_info::PodInfo;

/// See the module's description.
pub struct DynamicResources;

impl Plugin for DynamicResources {
    fn name(&self) -> &'static str {
        "DynamicResources"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PostFilter]
    }

    fn post_filter(&self, _: &Filters<'_>, _: &CycleState, _: &PodInfo, _: &Context<'_>, _: &FitError) -> PostFilter {
        PostFilter::Nothing("no new claims to deallocate".to_owned())
    }
}
