//! Prefers nodes that have a pod's images already, by their size; spread over the share of nodes that have them, so that no node attracts
//! everything.

use crate::framework::{Context, CycleState, MAX_SCORE, Plugin, Point};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use std::collections::HashMap;
use std::sync::Arc;

const MEGABYTE: i64 = 1024 * 1024;
/// Images up to this size do not count.
const SMALLEST: i64 = 23 * MEGABYTE;
/// Per container, more than this does not count.
const LARGEST: i64 = 1000 * MEGABYTE;

/// See the module's description.
pub struct ImageLocality;

/// On what share of the nodes each of the pod's images is.
struct Spread(HashMap<String, f64>);

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
        let nodes = context.snapshot.nodes();
        #[allow(clippy::cast_precision_loss)] // Counts of nodes.
        let share = |image: &str| nodes.iter().filter(|node| node.images.contains_key(image)).count() as f64 / nodes.len().max(1) as f64;
        let spread: HashMap<String, f64> = images(pod).map(|image| (image.clone(), share(&image))).collect();
        let known = spread.values().any(|share| *share > 0.0);
        cycle.put(Spread(spread));
        known
    }

    fn score(&self, cycle: &CycleState, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let Some(Spread(spread)) = cycle.get() else { return 0 };
        #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)] // Sizes of images, far below 2^52.
        let scaled =
            |image: String| node.images.get(&image).map_or(0, |size| (*size as f64 * spread.get(&image).copied().unwrap_or(0.0)) as i64);
        let (mut sum, mut containers) = (0, 0);
        for image in images(pod) {
            containers += 1;
            sum += scaled(image);
        }
        let most = LARGEST * containers;
        if most <= SMALLEST { 0 } else { MAX_SCORE * (sum.clamp(SMALLEST, most) - SMALLEST) / (most - SMALLEST) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{node_info, pod};
    use crate::framework::NoNamespaces;
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
        let nominated = HashMap::new();
        let context = Context { snapshot: &snapshot, namespaces: &NoNamespaces, nominated: &nominated };
        assert!(ImageLocality.pre_score(&mut cycle, &pod, &[], &context));
        assert_eq!(ImageLocality.score(&cycle, &pod, &with), 48);
        assert_eq!(ImageLocality.score(&cycle, &pod, &without), 0);
    }
}
