//! Prefers nodes that have a pod's images already, by their size; spread over the share of nodes that have them, so that no node attracts
//! everything.

use crate::framework::{Context, CycleState, MAX_SCORE, Plugin, Point};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use std::sync::Arc;

const MEGABYTE: i64 = 1024 * 1024;
/// Images up to this size do not count.
const SMALLEST: i64 = 23 * MEGABYTE;
/// Per container, more than this does not count.
const LARGEST: i64 = 1000 * MEGABYTE;

/// See the module's description.
pub struct ImageLocality;

/// On what share of the nodes each of the pod's images is.
#[derive(Clone)]
struct Spread(Vec<(String, f64)>);

/// The name under which nodes report an image: with a tag.
fn normalized(image: &str) -> String {
    let after_path = image.rfind('/').map_or(0, |slash| slash + 1);
    if image[after_path..].contains([':', '@']) { image.to_owned() } else { format!("{image}:latest") }
}

fn images(pod: &PodInfo) -> impl Iterator<Item = String> {
    let spec = pod.spec();
    spec.init_containers.iter().flatten().chain(&spec.containers).filter_map(|container| container.image.as_deref()).map(normalized)
}

impl Plugin for ImageLocality {
    fn name(&self) -> &'static str {
        "ImageLocality"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreScore, Point::Score]
    }

    fn pre_score(&self, cycle: &mut CycleState, pod: &PodInfo, _: &[Arc<NodeInfo>], context: &Context<'_>) -> bool {
        let snapshot = context.snapshot;
        #[allow(clippy::cast_precision_loss)] // Counts of nodes.
        let share = |image: &str| snapshot.nodes_with_image(image) as f64 / snapshot.nodes().len().max(1) as f64;
        let spread: Vec<(String, f64)> = images(pod).map(|image| (share(&image), image)).map(|(share, image)| (image, share)).collect();
        let known = spread.iter().any(|(_, share)| *share > 0.0);
        cycle.put(Spread(spread));
        known
    }

    fn score(&self, cycle: &CycleState, _: &PodInfo, node: &NodeInfo) -> i64 {
        let Some(Spread(spread)) = cycle.get() else { return 0 };
        #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)] // Sizes of images, far below 2^52.
        let scaled = |(image, share): &(String, f64)| node.images.get(image).map_or(0, |size| (*size as f64 * share) as i64);
        let sum: i64 = spread.iter().map(scaled).sum();
        let most = LARGEST * i64::try_from(spread.len()).unwrap_or(i64::MAX / LARGEST);
        if most <= SMALLEST { 0 } else { MAX_SCORE * (sum.clamp(SMALLEST, most) - SMALLEST) / (most - SMALLEST) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{node_info, pod};
    use crate::listers::Nothing;
    use crate::snapshot::Snapshot;
    use serde_json::json;

    #[test]
    fn names() {
        for (image, expected) in
            [("nginx", "nginx:latest"), ("host:5000/nginx", "host:5000/nginx:latest"), ("nginx:1", "nginx:1"), ("a@sha256:b", "a@sha256:b")]
        {
            assert_eq!(normalized(image), expected);
        }
    }

    #[test]
    fn a_node_with_the_image_is_better() {
        let with = node_info("n1", json!({"status": {"images": [{"names": ["big:1"], "sizeBytes": 1000 * MEGABYTE}]}}), &[]);
        let without = node_info("n2", json!({}), &[]);
        let snapshot = Snapshot::new([with.clone(), without.clone()]);
        let pod = pod("a", json!({"containers": [{"image": "big:1"}]}));
        let mut cycle = CycleState::default();
        let context = Context { snapshot: &snapshot, listers: &Nothing };
        assert!(ImageLocality.pre_score(&mut cycle, &pod, &[], &context));
        assert_eq!(ImageLocality.score(&cycle, &pod, &with), 48);
        assert_eq!(ImageLocality.score(&cycle, &pod, &without), 0);
    }
}
