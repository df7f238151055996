//! Makes room for a pod that fits nowhere by deleting less important ones. How is in [`crate::preemption`]; this is its place among the plugins.

use crate::config::args::DefaultPreemptionArgs;
use crate::framework::{Plugin, Point, PostFilter, Unplaced};
use crate::preemption::{self, Failure};

/// See the module's description.
pub struct DefaultPreemption {
    args: DefaultPreemptionArgs,
}

impl DefaultPreemption {
    /// With the arguments of a profile.
    pub fn new(args: DefaultPreemptionArgs) -> Self {
        Self { args }
    }
}

impl Plugin for DefaultPreemption {
    fn name(&self) -> &'static str {
        "DefaultPreemption"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PostFilter]
    }

    fn post_filter(&self, unplaced: &mut Unplaced<'_>) -> PostFilter {
        match preemption::find(&self.args, unplaced) {
            Ok(candidate) => PostFilter::Nominate(candidate),
            Err(Failure::NotEligible(message)) => PostFilter::Nothing(format!("preemption: {message}")),
            Err(Failure::NoneLeft) => PostFilter::Nothing("preemption: no candidate node for preemption".to_owned()),
            Err(Failure::Failed(message)) => PostFilter::Failed(format!("preemption: {message}")),
            Err(Failure::NoCandidate(message)) => PostFilter::Hopeless(format!("preemption: {message}")),
        }
    }
}
