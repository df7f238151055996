//! `/metrics`: what requests came, how they ended and how long they took, under upstream's names.
//!
//! Counters are few and fixed per verb, resource and code; label values come from the request only after they matched a served resource,
//! so that no client can make them grow.

use crate::request::RequestInfo;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

/// Upper bounds of the duration histogram's buckets, in seconds (a subset of upstream's).
const BUCKETS: [f64; 12] = [0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 1.0, 2.0, 5.0, 15.0, 60.0];
/// How many different combinations of labels are counted: all verbs on all built-in resources and a few hundred custom ones. Further ones count as `other`.
const MAX_SERIES: usize = 10_000;

/// What a request is counted under.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Label {
    verb: String,
    group: String,
    version: String,
    resource: String,
    subresource: String,
}

#[derive(Default)]
struct Series {
    codes: BTreeMap<u16, u64>,
    buckets: [u64; BUCKETS.len()],
    count: u64,
    sum: f64,
}

/// All counters.
#[derive(Default)]
pub struct Metrics {
    inflight: [AtomicI64; 2],
    series: Mutex<BTreeMap<Label, Series>>,
}

fn mutating(verb: &str) -> bool {
    !matches!(verb, "get" | "list" | "watch" | "GET" | "LIST" | "WATCH" | "head" | "options")
}

/// The verb as upstream's metrics have it: the method, but for lists and watches.
fn reported(verb: &str) -> String {
    match verb {
        "create" => "POST".into(),
        "update" => "PUT".into(),
        "deletecollection" => "DELETE".into(),
        other => other.to_uppercase(),
    }
}

impl Metrics {
    /// Notes that a request came.
    pub fn begin(&self, info: &RequestInfo) -> Label {
        self.inflight[usize::from(mutating(&info.verb))].fetch_add(1, Ordering::Relaxed);
        Label {
            verb: reported(&info.verb),
            group: info.group.clone(),
            version: info.version.clone(),
            resource: info.resource.clone(),
            subresource: info.subresource.clone(),
        }
    }

    /// Notes that it was answered; a watch counts as answered when its stream begins.
    pub fn end(&self, label: Label, code: u16, took: Duration) {
        self.inflight[usize::from(mutating(&label.verb))].fetch_sub(1, Ordering::Relaxed);
        let mut all = self.series.lock();
        // What is not served must not fill the table: requests that found nothing are counted together.
        let unknown = code == 404 || code == 401 || (all.len() >= MAX_SERIES && !all.contains_key(&label));
        let label = if unknown {
            Label { group: "".into(), version: "".into(), resource: "".into(), subresource: "".into(), ..label }
        } else {
            label
        };
        let series = all.entry(label).or_default();
        *series.codes.entry(code).or_default() += 1;
        let seconds = took.as_secs_f64();
        series.count += 1;
        series.sum += seconds;
        for (bucket, bound) in series.buckets.iter_mut().zip(BUCKETS) {
            *bucket += u64::from(seconds <= bound);
        }
    }

    /// All of it in the text format of Prometheus.
    pub fn render(&self) -> String {
        let mut out = String::new();
        out += "# HELP apiserver_current_inflight_requests Requests being worked on\n# TYPE apiserver_current_inflight_requests gauge\n";
        for (kind, gauge) in ["readOnly", "mutating"].iter().zip(&self.inflight) {
            let _ = writeln!(out, "apiserver_current_inflight_requests{{request_kind=\"{kind}\"}} {}", gauge.load(Ordering::Relaxed));
        }
        let all = self.series.lock();
        out += "# HELP apiserver_request_total Requests by how they ended\n# TYPE apiserver_request_total counter\n";
        for (label, series) in all.iter() {
            for (code, count) in &series.codes {
                let _ = writeln!(out, "apiserver_request_total{{{},code=\"{code}\"}} {count}", labels(label));
            }
        }
        out += "# HELP apiserver_request_duration_seconds How long requests took\n# TYPE apiserver_request_duration_seconds histogram\n";
        for (label, series) in all.iter() {
            let labels = labels(label);
            for (bound, count) in BUCKETS.iter().zip(&series.buckets) {
                let _ = writeln!(out, "apiserver_request_duration_seconds_bucket{{{labels},le=\"{bound}\"}} {count}");
            }
            let _ = writeln!(out, "apiserver_request_duration_seconds_bucket{{{labels},le=\"+Inf\"}} {}", series.count);
            let _ = writeln!(out, "apiserver_request_duration_seconds_sum{{{labels}}} {}", series.sum);
            let _ = writeln!(out, "apiserver_request_duration_seconds_count{{{labels}}} {}", series.count);
        }
        out
    }
}

fn labels(label: &Label) -> String {
    let Label { verb, group, version, resource, subresource } = label;
    format!("verb={verb:?},group={group:?},version={version:?},resource={resource:?},subresource={subresource:?}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Query;

    #[test]
    fn requests_are_counted_once_they_end() {
        let metrics = Metrics::default();
        let info = RequestInfo::new(&http::Method::GET, "/api/v1/pods", &Query::default());
        let label = metrics.begin(&info);
        assert!(metrics.render().contains("request_kind=\"readOnly\"} 1"));
        metrics.end(label, 200, Duration::from_millis(30));
        let text = metrics.render();
        let series = "verb=\"LIST\",group=\"\",version=\"v1\",resource=\"pods\",subresource=\"\"";
        assert!(text.contains(&format!("apiserver_request_total{{{series},code=\"200\"}} 1")), "{text}");
        assert!(
            text.contains(&format!("_bucket{{{series},le=\"0.025\"}} 0")) && text.contains(&format!("_bucket{{{series},le=\"0.05\"}} 1"))
        );
        assert!(text.contains("request_kind=\"readOnly\"} 0"));
        for (method, path, verb) in [
            (http::Method::POST, "/api/v1/namespaces/a/pods", "POST"),
            (http::Method::PUT, "/api/v1/namespaces/a/pods/p", "PUT"),
            (http::Method::DELETE, "/api/v1/namespaces/a/pods", "DELETE"),
            (http::Method::PATCH, "/api/v1/namespaces/a/pods/p", "PATCH"),
            (http::Method::GET, "/metrics", "GET"),
        ] {
            assert_eq!(metrics.begin(&RequestInfo::new(&method, path, &Query::default())).verb, verb);
        }
    }
}
