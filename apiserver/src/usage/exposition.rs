//! A kubelet's `/metrics/resource`, read: the counters and gauges of the node and its containers, and the use between two readings.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

/// A counter of CPU time and a gauge of memory, and when they were taken.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Point {
    /// CPU time since the start, in seconds.
    pub cpu_seconds: f64,
    /// The working set, in bytes.
    pub memory: u64,
    /// Milliseconds since the epoch.
    pub at: i64,
}

/// Which container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContainerName {
    /// Its pod's namespace.
    pub namespace: String,
    /// Its pod.
    pub pod: String,
    /// Its name.
    pub container: String,
}

/// All that a kubelet told at once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    /// The node.
    pub node: Option<Point>,
    /// Its containers.
    pub containers: HashMap<ContainerName, Point>,
}

impl Reading {
    /// Whether everything in it is in an earlier one too.
    pub fn adds_nothing_to(&self, before: &Reading) -> bool {
        (self.node.is_none() || before.node.is_some()) && self.containers.keys().all(|name| before.containers.contains_key(name))
    }

    /// Takes over what is not in it from a later one.
    pub fn fill(&mut self, later: Reading) {
        self.node = self.node.or(later.node);
        for (name, point) in later.containers {
            self.containers.entry(name).or_insert(point);
        }
    }
}

/// What was used between two readings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Use {
    /// CPU in billionths of a core.
    pub cpu_nanocores: u64,
    /// Memory at the end, in bytes.
    pub memory: u64,
    /// The end, in milliseconds since the epoch.
    pub at: i64,
    /// The time between.
    pub window: Duration,
}

impl Use {
    /// `None` if no time has passed, or the counter began anew.
    fn between(before: Point, after: Point) -> Option<Self> {
        let milliseconds = u64::try_from(after.at - before.at).ok().filter(|passed| *passed > 0)?;
        let cpu = after.cpu_seconds - before.cpu_seconds;
        (cpu >= 0.0).then(|| Use {
            // A cast saturates; nothing near the limit is sensible.
            cpu_nanocores: (cpu * 1e12 / milliseconds as f64).round() as u64,
            memory: after.memory,
            at: after.at,
            window: Duration::from_millis(milliseconds),
        })
    }
}

/// What a node and its containers used.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeUse {
    /// The node.
    pub node: Option<Use>,
    /// Its containers.
    pub containers: BTreeMap<ContainerName, Use>,
}

impl NodeUse {
    /// What was used between two readings, by those that are in both.
    pub fn between(before: &Reading, after: &Reading) -> Self {
        let node = before.node.zip(after.node).and_then(|(before, after)| Use::between(before, after));
        let of = |(name, after): (&ContainerName, &Point)| Some((name.clone(), Use::between(*before.containers.get(name)?, *after)?));
        NodeUse { node, containers: after.containers.iter().filter_map(of).collect() }
    }

    /// What was said before still holds of those whose sample is the same as then: a kubelet may take its own less often than it is asked.
    pub fn keep_unchanged(&mut self, before: &NodeUse, now: &Reading) {
        let same = |point: Option<&Point>, used: &Use| point.is_some_and(|point| point.at == used.at);
        self.node = self.node.or(before.node.filter(|used| same(now.node.as_ref(), used)));
        for (name, used) in before.containers.iter().filter(|(name, used)| same(now.containers.get(name), used)) {
            self.containers.entry(name.clone()).or_insert(*used);
        }
    }
}

/// The labels of a sample, `a="b",c="d"`.
fn labels(text: &str) -> HashMap<&str, String> {
    let mut out = HashMap::new();
    let mut rest = text;
    while let Some((name, after)) = rest.split_once("=\"") {
        let mut value = String::new();
        let mut characters = after.char_indices();
        let mut end = after.len();
        while let Some((index, character)) = characters.next() {
            match character {
                '\\' => match characters.next() {
                    Some((_, 'n')) => value.push('\n'),
                    Some((_, escaped)) => value.push(escaped),
                    None => {}
                },
                '"' => {
                    end = index + 1;
                    break;
                }
                other => value.push(other),
            }
        }
        out.insert(name.trim_start_matches(',').trim(), value);
        rest = &after[end..];
    }
    out
}

/// Reads the text. A sample without a time was taken at `now` (milliseconds since the epoch); samples that are not known are skipped.
pub fn parse(text: &str, now: i64) -> Reading {
    let mut reading = Reading::default();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, of, rest) = match line.split_once('{') {
            Some((name, rest)) => match rest.rsplit_once('}') {
                Some((inside, rest)) => (name, labels(inside), rest),
                None => continue,
            },
            None => match line.split_once(' ') {
                Some((name, rest)) => (name, HashMap::new(), rest),
                None => continue,
            },
        };
        let mut words = rest.split_whitespace();
        let Some(value) = words.next().and_then(|word| word.parse::<f64>().ok()) else { continue };
        let at = words.next().and_then(|word| word.parse().ok()).unwrap_or(now);
        let label = |name: &str| of.get(name).cloned().unwrap_or_default();
        let (point, cpu) = match name {
            "node_cpu_usage_seconds_total" => (reading.node.get_or_insert_default(), true),
            "node_memory_working_set_bytes" => (reading.node.get_or_insert_default(), false),
            "container_cpu_usage_seconds_total" | "container_memory_working_set_bytes" => {
                let key = ContainerName { namespace: label("namespace"), pod: label("pod"), container: label("container") };
                (reading.containers.entry(key).or_default(), name.starts_with("container_cpu"))
            }
            _ => continue,
        };
        if cpu {
            (point.cpu_seconds, point.at) = (value, at);
        } else {
            // A cast saturates, and a negative amount of memory is none.
            point.memory = value as u64;
            point.at = point.at.max(at);
        }
    }
    reading
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = r#"# HELP container_cpu_usage_seconds_total [STABLE] Cumulative cpu time consumed by the container in core-seconds
# TYPE container_cpu_usage_seconds_total counter
container_cpu_usage_seconds_total{container="c",namespace="ns",pod="p"} 1.5 10000
container_cpu_usage_seconds_total{container="new \"x\"",namespace="ns",pod="q"} 9 10000
container_memory_working_set_bytes{container="c",namespace="ns",pod="p"} 1.048576e+06 10000
container_start_time_seconds{container="c",namespace="ns",pod="p"} 1.6e+09
node_cpu_usage_seconds_total 100
node_memory_working_set_bytes 2048
"#;

    #[test]
    fn what_kubelets_write_is_understood() {
        let reading = parse(BEFORE, 7);
        let name = |pod: &str, container: &str| ContainerName { namespace: "ns".into(), pod: pod.into(), container: container.into() };
        assert_eq!(reading.containers[&name("p", "c")], Point { cpu_seconds: 1.5, memory: 1 << 20, at: 10_000 });
        assert!(reading.containers.contains_key(&name("q", "new \"x\"")));
        assert_eq!(reading.node, Some(Point { cpu_seconds: 100.0, memory: 2048, at: 7 }));
        for broken in ["x{", "x{a=\"b", "x", "container_cpu_usage_seconds_total{} NaN x", "node_cpu_usage_seconds_total y"] {
            parse(broken, 0);
        }
    }

    #[test]
    fn use_is_what_lies_between() {
        let before = parse(BEFORE, 0);
        let mut after = before.clone();
        for point in after.containers.values_mut() {
            (point.cpu_seconds, point.at) = (2.0, 12_000);
        }
        after.node = Some(Point { cpu_seconds: 103.0, memory: 4096, at: 2000 });
        let used = NodeUse::between(&before, &after);
        let shown: Vec<_> = used.containers.iter().map(|(name, used)| (name.pod.as_str(), used.cpu_nanocores, used.window)).collect();
        assert_eq!(shown, [("p", 250_000_000, Duration::from_secs(2))], "a counter that began anew says nothing");
        assert_eq!(used.node.map(|used| (used.cpu_nanocores, used.memory)), Some((1_500_000_000, 4096)));
        let mut again = NodeUse::between(&after, &after);
        assert_eq!(again, NodeUse::default(), "no time has passed");
        again.keep_unchanged(&used, &after);
        assert_eq!(again, used, "so what was said still holds");
        again.keep_unchanged(&NodeUse::default(), &after);
        assert_eq!(again, used);
    }
}
