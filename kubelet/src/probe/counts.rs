//! How often each probe was asked, and what came of it, for `/metrics/probes` (upstream: `prober_probe_total`). What is counted goes with its probe.

use super::{check::Finding, results::ProbeKind};
use parking_lot::Mutex;
use std::{collections::BTreeMap, sync::Arc};

/// Whose probe.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // The names are the labels'.
pub struct Whose {
    pub container: String,
    pub namespace: String,
    pub pod: String,
    pub uid: String,
    pub kind: &'static str,
}

/// What can come of asking.
const RESULTS: [&str; 3] = ["successful", "failed", "unknown"];

/// The counts of all probes.
#[derive(Default)]
pub struct Counts(Mutex<BTreeMap<Whose, [u64; RESULTS.len()]>>);

impl Counts {
    /// One line for each probe and result that there was, with its count.
    pub fn told(&self) -> Vec<(Whose, &'static str, u64)> {
        let counts = self.0.lock();
        let of_one = |(whose, counts): (&Whose, &[u64; RESULTS.len()])| {
            RESULTS
                .iter()
                .zip(counts)
                .filter(|(_, count)| **count > 0)
                .map(|(result, count)| (whose.clone(), *result, *count))
                .collect::<Vec<_>>()
        };
        counts.iter().flat_map(of_one).collect()
    }
}

/// One probe's share of them.
pub struct Counted {
    counts: Arc<Counts>,
    whose: Whose,
}

impl Counted {
    /// Nothing counted yet.
    pub fn new(counts: Arc<Counts>, whose: Whose) -> Self {
        Counted { counts, whose }
    }

    /// The probe was asked.
    pub fn count(&self, finding: &Finding) {
        let result = match finding {
            Finding::Success | Finding::Warning(_) => 0,
            Finding::Failure(_) => 1,
            Finding::Unknown(_) => 2,
        };
        self.counts.0.lock().entry(self.whose.clone()).or_default()[result] += 1;
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.counts.0.lock().remove(&self.whose);
    }
}

impl Whose {
    /// The probe of a container of a pod.
    pub fn new(pod: &k8s_openapi::api::core::v1::Pod, container: &str, kind: ProbeKind) -> Self {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let meta = &pod.metadata;
        Whose {
            container: container.to_owned(),
            namespace: text(&meta.namespace),
            pod: text(&meta.name),
            uid: text(&meta.uid),
            kind: kind.as_str(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_goes_with_its_probe() {
        let counts = Arc::<Counts>::default();
        let whose = Whose { container: "c".into(), kind: "Liveness", ..Default::default() };
        let counted = Counted::new(counts.clone(), whose.clone());
        for finding in [Finding::Success, Finding::Warning("slow".into()), Finding::Failure("closed".into())] {
            counted.count(&finding);
        }
        assert_eq!(counts.told(), [(whose.clone(), "successful", 2), (whose, "failed", 1)]);
        drop(counted);
        assert!(counts.told().is_empty());
    }
}
