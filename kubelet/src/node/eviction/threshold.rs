//! Thresholds: what has to stay free of a resource before pods are evicted, and how long less may be free (upstream: `ParseThresholdConfig`).

use super::signal::{self, Observation, Signal};
use crate::config::{GoDuration, KubeletConfiguration, Texts};
use std::time::Duration;

/// An amount, or a share of the whole.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Amount {
    /// Bytes or numbers.
    Fixed(i64),
    /// A fraction of what there is.
    Share(f64),
}

impl Amount {
    /// The amount, of `whole`.
    pub fn of(self, whole: i64) -> i64 {
        match self {
            Amount::Fixed(amount) => amount,
            // A share of a disk fits a float's 53 bits.
            Amount::Share(share) => (whole as f64 * share) as i64,
        }
    }
}

/// One threshold.
#[derive(Clone, Copy)]
pub struct Threshold {
    /// What it is about.
    pub signal: &'static Signal,
    /// What has to stay free.
    pub value: Amount,
    /// How long less may be free; none for a hard threshold.
    pub grace: Duration,
    /// How much more than the threshold is to be free before the shortage counts as over.
    pub reclaim: Option<Amount>,
}

impl Threshold {
    /// What distinguishes it from others: the signal, and whether it is hard.
    pub fn key(&self) -> (&'static str, Duration) {
        (self.signal.name, self.grace)
    }

    /// Whether pods go at once.
    pub fn is_hard(&self) -> bool {
        self.grace.is_zero()
    }

    /// Whether less is free than has to be; with `reclaim`, less than is to be reclaimed.
    pub fn is_met(&self, observed: Observation, reclaim: bool) -> bool {
        let more = self.reclaim.filter(|_| reclaim).map_or(0, |r| r.of(observed.capacity));
        self.value.of(observed.capacity).saturating_add(more) > observed.available
    }
}

/// Upstream's on Linux.
const DEFAULT_HARD: [(&str, &str); 5] = [
    ("memory.available", "100Mi"),
    ("nodefs.available", "10%"),
    ("nodefs.inodesFree", "5%"),
    ("imagefs.available", "15%"),
    ("imagefs.inodesFree", "5%"),
];

/// The hard thresholds in force: what the configuration has, else the defaults; both together where they are to be merged.
fn hard(config: &KubeletConfiguration) -> Texts {
    let defaults = || DEFAULT_HARD.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    match &config.eviction_hard {
        None => defaults().collect(),
        Some(own) if config.merge_default_eviction_settings => defaults().chain(own.clone()).collect(),
        Some(own) => own.clone(),
    }
}

/// All thresholds of a configuration.
pub fn parse(config: &KubeletConfiguration) -> Result<Vec<Threshold>, String> {
    let mut all = statements(&hard(config))?;
    let mut soft = statements(&config.eviction_soft)?;
    let grace = |name: &str| -> Result<Duration, String> {
        let text = config.eviction_soft_grace_period.get(name);
        let text = text.ok_or_else(|| format!("grace period must be specified for the soft eviction threshold {name}"))?;
        let parsed: GoDuration = text.parse()?;
        match parsed {
            negative if negative < GoDuration::default() => {
                Err(format!("invalid eviction grace period specified: {text} must be a positive value"))
            }
            other => Ok(other.get()),
        }
    };
    for name in config.eviction_soft_grace_period.keys() {
        known(name)?;
        grace(name)?;
    }
    for threshold in &mut soft {
        threshold.grace = grace(threshold.signal.name)?;
    }
    all.append(&mut soft);
    for (name, text) in &config.eviction_minimum_reclaim {
        let signal = known(name)?;
        let amount = amount(text).filter(|a| !matches!(a, Amount::Share(share) if *share > 1.0));
        let amount = amount.ok_or_else(|| format!("invalid percentage {text} for {name}: quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"))?;
        if amount.of(100) < 0 {
            return Err(format!("negative eviction minimum reclaim specified for {name}"));
        }
        all.iter_mut().filter(|t| t.signal.name == signal.name).for_each(|t| t.reclaim = Some(amount));
    }
    if config.enforce_node_allocatable.iter().any(|word| word == "pods") {
        let pods = signal::by_name("allocatableMemory.available");
        let of_pods = all.iter().filter(|t| t.is_hard() && t.signal.name == "memory.available");
        let more: Vec<_> = of_pods.zip(pods).map(|(threshold, signal)| Threshold { signal, ..*threshold }).collect();
        all.extend(more);
    }
    Ok(all)
}

/// The signal, if a configuration may name it. `None` for those that follow another.
fn known(name: &str) -> Result<&'static Signal, String> {
    signal::by_name(name).filter(|s| s.configurable).ok_or_else(|| format!("unsupported eviction signal {name}"))
}

fn statements(texts: &Texts) -> Result<Vec<Threshold>, String> {
    let mut out = Vec::new();
    for (name, text) in texts {
        if name.starts_with("containerfs.") {
            tracing::warn!(signal = %name, "this threshold follows that of the file system that containers are on");
            continue;
        }
        let signal = known(name)?;
        let value = amount(text).ok_or_else(|| {
            format!(
                "eviction threshold {name}: quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
            )
        })?;
        match value {
            // Upstream's way of switching a threshold off.
            Amount::Share(share) if share == 0.0 || share == 1.0 => continue,
            Amount::Share(share) if share < 0.0 => return Err(format!("eviction percentage threshold {name} must be >= 0%: {text}")),
            Amount::Share(share) if share > 1.0 => return Err(format!("eviction percentage threshold {name} must be <= 100%: {text}")),
            Amount::Fixed(amount) if amount < 0 => return Err(format!("eviction threshold {name} must be positive: {text}")),
            _ => {}
        }
        out.push(Threshold { signal, value, grace: Duration::ZERO, reclaim: None });
    }
    Ok(out)
}

fn amount(text: &str) -> Option<Amount> {
    match text.strip_suffix('%') {
        Some(percent) => percent.parse::<f64>().ok().filter(|p| p.is_finite()).map(|p| Amount::Share(p / 100.0)),
        None => text.parse::<api::quantity::Quantity>().ok().map(|q| Amount::Fixed(q.value())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn parsed(config: Value) -> Result<Vec<(&'static str, Amount, u64)>, String> {
        let config: KubeletConfiguration = serde_json::from_value(config).expect("it can be read");
        Ok(parse(&config)?.into_iter().map(|t| (t.signal.name, t.value, t.grace.as_secs())).collect())
    }

    #[test]
    fn thresholds_are_upstreams_until_somebody_sets_one() {
        let defaults = parsed(json!({})).expect("good ones");
        assert_eq!(defaults.len(), 6);
        assert!(defaults.contains(&("memory.available", Amount::Fixed(100 << 20), 0)));
        assert!(defaults.contains(&("allocatableMemory.available", Amount::Fixed(100 << 20), 0)));
        let own = json!({"evictionHard": {"pid.available": "5%", "imagefs.available": "0%"}});
        assert_eq!(parsed(own), Ok(vec![("pid.available", Amount::Share(0.05), 0)]));
        let merged = parsed(json!({"evictionHard": {"memory.available": "1Gi"}, "mergeDefaultEvictionSettings": true})).expect("good ones");
        assert!(merged.contains(&("memory.available", Amount::Fixed(1 << 30), 0)) && merged.len() == 6);
    }

    #[test]
    fn soft_thresholds_have_a_grace_period() {
        let soft =
            |grace: Value| json!({"evictionHard": {}, "evictionSoft": {"nodefs.available": "10%"}, "evictionSoftGracePeriod": grace});
        assert_eq!(parsed(soft(json!({"nodefs.available": "1m30s"}))), Ok(vec![("nodefs.available", Amount::Share(0.1), 90)]));
        for (config, want) in [
            (soft(json!({})), "grace period must be specified for the soft eviction threshold nodefs.available"),
            (json!({"evictionHard": {"memory": "1"}}), "unsupported eviction signal memory"),
            (json!({"evictionHard": {"nodefs.available": "101%"}}), "eviction percentage threshold nodefs.available must be <= 100%: 101%"),
        ] {
            assert_eq!(parsed(config), Err(want.to_owned()));
        }
    }

    #[test]
    fn a_shortage_is_over_once_enough_is_reclaimed() {
        let config = json!({"evictionHard": {"memory.available": "100"}, "evictionMinimumReclaim": {"memory.available": "20"}, "enforceNodeAllocatable": []});
        let config: KubeletConfiguration = serde_json::from_value(config).expect("it can be read");
        let threshold = parse(&config).expect("a good one")[0];
        let left = |available| Observation { available, capacity: 1000 };
        assert_eq!([99, 100].map(|n| threshold.is_met(left(n), false)), [true, false]);
        assert_eq!([119, 120].map(|n| threshold.is_met(left(n), true)), [true, false]);
    }
}
