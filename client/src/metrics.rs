//! Metrics in Prometheus's text format, as components keep and show them under upstream's names: counts and histograms by their labels, and the lines of text
//! that say them (upstream: `k8s.io/component-base/metrics`).
//!
//! Left out: a registry. A component knows its metrics and writes them when asked.

use parking_lot::Mutex;
use std::fmt::Write;

/// Upper bounds of a histogram's buckets, from the lowest.
#[derive(Clone, Copy, Debug)]
pub enum Buckets {
    /// `first`, and each `factor` times the one before.
    Exponential {
        /// The lowest bound.
        first: f64,
        /// What each bound is of the one before.
        factor: f64,
        /// How many.
        count: usize,
    },
    /// These.
    Listed(&'static [f64]),
}

impl Buckets {
    fn bounds(self) -> impl Iterator<Item = f64> {
        let mut last = 0.0;
        (0..self.count()).map(move |at| {
            last = match self {
                Buckets::Exponential { first, .. } if at == 0 => first,
                // Multiplied step by step, as upstream does: the last digits are part of what a bucket is called.
                Buckets::Exponential { factor, .. } => last * factor,
                Buckets::Listed(bounds) => bounds[at],
            };
            last
        })
    }

    fn count(self) -> usize {
        match self {
            Buckets::Exponential { count, .. } => count,
            Buckets::Listed(bounds) => bounds.len(),
        }
    }
}

/// What was counted of one histogram.
#[derive(Clone, Debug)]
pub struct Observed {
    buckets: Buckets,
    /// By bucket; the last is what is above all bounds.
    counts: Vec<u64>,
    sum: f64,
}

impl Observed {
    /// Nothing yet.
    pub fn new(buckets: Buckets) -> Self {
        Self { buckets, counts: vec![0; buckets.count() + 1], sum: 0.0 }
    }

    /// Counts one value.
    pub fn observe(&mut self, value: f64) {
        let bucket = self.buckets.bounds().position(|bound| value <= bound).unwrap_or(self.buckets.count());
        self.counts[bucket] += 1;
        self.sum += value;
    }

    /// How many values.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The lines of a histogram of that name, with these labels.
    pub fn write(&self, text: &mut String, name: &str, own: &[(&str, &str)]) {
        let mut below = 0;
        for (bound, count) in self.buckets.bounds().map(|bound| bound.to_string()).chain(["+Inf".to_owned()]).zip(&self.counts) {
            below += count;
            let with_bound: Vec<(&str, &str)> = own.iter().copied().chain([("le", bound.as_str())]).collect();
            sample(text, &format!("{name}_bucket"), &with_bound, below);
        }
        sample(text, &format!("{name}_sum"), own, self.sum);
        sample(text, &format!("{name}_count"), own, below);
    }
}

/// What a metric is called and says.
pub struct Described {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub help: &'static str,
    /// `STABLE`, `BETA` or `ALPHA`, as upstream writes it in front of the help.
    pub stability: &'static str,
    /// The names of its labels.
    pub labels: &'static [&'static str],
}

/// Something for every combination of labels that was seen, in the labels' order.
struct Labelled<T>(Mutex<Vec<(Vec<String>, T)>>);

impl<T: Clone> Labelled<T> {
    const fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    /// Changes what there is for these labels, which is `new` if it is the first time.
    fn change(&self, labels: &[&str], new: impl FnOnce() -> T, change: impl FnOnce(&mut T)) {
        let mut all = self.0.lock();
        let at = all.binary_search_by(|(known, _)| known.iter().map(String::as_str).cmp(labels.iter().copied())).unwrap_or_else(|at| {
            all.insert(at, (labels.iter().map(|label| (*label).to_owned()).collect(), new()));
            at
        });
        change(&mut all[at].1);
    }

    fn all(&self) -> Vec<(Vec<String>, T)> {
        self.0.lock().clone()
    }
}

/// The labels' values with their names.
fn named<'a>(names: &'a [&'a str], values: &'a [String]) -> Vec<(&'a str, &'a str)> {
    names.iter().copied().zip(values.iter().map(String::as_str)).collect()
}

/// A histogram for every combination of labels that was seen. Labels are names of profiles, results and points: few.
pub struct Histograms {
    described: Described,
    buckets: Buckets,
    observed: Labelled<Observed>,
}

impl Histograms {
    /// With `count` buckets, the lowest up to `first`, each up to `factor` times what the one before is.
    pub const fn new(described: Described, first: f64, factor: f64, count: usize) -> Self {
        Self::with(described, Buckets::Exponential { first, factor, count })
    }

    /// With these buckets.
    pub const fn with(described: Described, buckets: Buckets) -> Self {
        Self { described, buckets, observed: Labelled::new() }
    }

    /// Counts one value.
    pub fn observe(&self, labels: &[&str], value: f64) {
        self.observed.change(labels, || Observed::new(self.buckets), |observed| observed.observe(value));
    }

    /// How many values, by labels.
    pub fn counts(&self) -> Vec<(Vec<String>, u64)> {
        self.observed.all().into_iter().map(|(labels, observed)| (labels, observed.count())).collect()
    }

    /// The lines of all of them.
    pub fn write(&self, text: &mut String) {
        head(text, &self.described, "histogram");
        for (values, observed) in self.observed.all() {
            observed.write(text, self.described.name, &named(self.described.labels, &values));
        }
    }
}

/// A count for every combination of labels that was seen.
pub struct Counters {
    described: Described,
    counts: Labelled<u64>,
}

impl Counters {
    /// None yet.
    pub const fn new(described: Described) -> Self {
        Self { described, counts: Labelled::new() }
    }

    /// Counts one.
    pub fn add(&self, labels: &[&str]) {
        self.counts.change(labels, || 0, |count| *count += 1);
    }

    /// The lines of all of them.
    pub fn write(&self, text: &mut String) {
        head(text, &self.described, "counter");
        for (values, count) in self.counts.all() {
            sample(text, self.described.name, &named(self.described.labels, &values), count);
        }
    }
}

/// The two lines in front of a metric's values.
pub fn head(text: &mut String, described: &Described, kind: &str) {
    let Described { name, help, stability, .. } = described;
    writeln!(text, "# HELP {name} [{stability}] {help}\n# TYPE {name} {kind}").expect("a String takes everything");
}

/// One value.
pub fn sample(text: &mut String, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
    text.push_str(name);
    if !labels.is_empty() {
        let labels: Vec<String> = labels.iter().map(|(label, value)| format!("{label}={value:?}")).collect();
        write!(text, "{{{}}}", labels.join(",")).expect("a String takes everything");
    }
    writeln!(text, " {value}").expect("a String takes everything");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_in_text() {
        const DESCRIBED: Described = Described { name: "waits", help: "How long.", stability: "ALPHA", labels: &["queue"] };
        let histograms = Histograms::new(DESCRIBED, 1.0, 10.0, 2);
        for value in [0.5, 1.0, 7.0, 100.0] {
            histograms.observe(&["a"], value);
        }
        let mut text = String::new();
        histograms.write(&mut text);
        let lines = [
            "# HELP waits [ALPHA] How long.",
            "# TYPE waits histogram",
            "waits_bucket{queue=\"a\",le=\"1\"} 2",
            "waits_bucket{queue=\"a\",le=\"10\"} 3",
            "waits_bucket{queue=\"a\",le=\"+Inf\"} 4",
            "waits_sum{queue=\"a\"} 108.5",
            "waits_count{queue=\"a\"} 4",
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), lines);
        assert_eq!(histograms.counts(), [(vec!["a".to_owned()], 4)]);
    }

    #[test]
    fn buckets_by_list() {
        let mut observed = Observed::new(Buckets::Listed(&[0.5, 3600.0]));
        [0.1, 0.5, 1.0, 4000.0].into_iter().for_each(|value| observed.observe(value));
        let mut text = String::new();
        observed.write(&mut text, "starts", &[]);
        let lines = [
            "starts_bucket{le=\"0.5\"} 2",
            "starts_bucket{le=\"3600\"} 3",
            "starts_bucket{le=\"+Inf\"} 4",
            "starts_sum 4001.6",
            "starts_count 4",
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), lines);
    }
}
