//! Pods with `spec.schedulingGates` stay out of the queue until somebody has removed the last gate.

use crate::framework::{Plugin, Point, Rejection, Verdict};
use crate::pod_info::PodInfo;

/// See the module's description. What cures a gated pod is its own update, which the queue always looks at.
pub struct SchedulingGates;

impl Plugin for SchedulingGates {
    fn name(&self) -> &'static str {
        "SchedulingGates"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreEnqueue]
    }

    fn pre_enqueue(&self, pod: &PodInfo) -> Verdict {
        let gates: Vec<&str> = pod.spec().scheduling_gates.iter().flatten().map(|gate| gate.name.as_str()).collect();
        if gates.is_empty() {
            return Ok(());
        }
        Err(Rejection::unresolvable(format!("waiting for scheduling gates: [{}]", gates.join(" "))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::pod;
    use serde_json::json;

    #[test]
    fn gates_hold_back() {
        assert_eq!(SchedulingGates.pre_enqueue(&pod("a", json!({}))), Ok(()));
        let gated = pod("a", json!({"schedulingGates": [{"name": "x"}, {"name": "y"}]}));
        assert_eq!(SchedulingGates.pre_enqueue(&gated).unwrap_err().reasons.as_slice(), ["waiting for scheduling gates: [x y]"]);
    }
}
