//! The most urgent pod first, and of equals the one that came first. The queue is built for this order; the plugin stands for it in
//! configurations.

use crate::framework::{Plugin, Point};

/// See the module's description.
pub struct PrioritySort;

impl Plugin for PrioritySort {
    fn name(&self) -> &'static str {
        "PrioritySort"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::QueueSort]
    }
}
