//! Claims of devices (`spec.resourceClaims`).
//!
//! Left out: allocating devices. A pod that claims some is told so, rather than placed without them; and every pod that fits nowhere is told what
//! upstream's plugin says to it.

use crate::cycle::{Filters, FitError};
use crate::framework::{Context, CycleState, Plugin, Point, PostFilter, PreFilter, Rejection};
use crate::pod_info::PodInfo;

/// See the module's description.
pub struct DynamicResources;

impl Plugin for DynamicResources {
    fn name(&self) -> &'static str {
        "DynamicResources"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreFilter, Point::PostFilter]
    }

    fn pre_filter(&self, _: &mut CycleState, pod: &PodInfo, _: &Context<'_>) -> Result<PreFilter, Rejection> {
        if pod.spec().resource_claims.as_ref().is_some_and(|claims| !claims.is_empty()) {
            return Err(Rejection::unresolvable("claims of devices cannot be allocated"));
        }
        Ok(PreFilter::Skip)
    }

    fn post_filter(&self, _: &Filters<'_>, _: &CycleState, _: &PodInfo, _: &Context<'_>, _: &FitError) -> PostFilter {
        PostFilter::Nothing("no new claims to deallocate".to_owned())
    }
}
