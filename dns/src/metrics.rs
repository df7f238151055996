//! What the server counts, under CoreDNS's names.

use crate::message::Transport;
use hickory_proto::op::ResponseCode;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Response codes told apart; others are counted together.
const CODES: [(ResponseCode, &str); 6] = [
    (ResponseCode::NoError, "NOERROR"),
    (ResponseCode::FormErr, "FORMERR"),
    (ResponseCode::ServFail, "SERVFAIL"),
    (ResponseCode::NXDomain, "NXDOMAIN"),
    (ResponseCode::NotImp, "NOTIMP"),
    (ResponseCode::Refused, "REFUSED"),
];
const OTHER: usize = CODES.len();

/// Upper bounds of the buckets: 0.25 ms, and each twice the one before (CoreDNS's).
const FIRST_BUCKET: f64 = 0.00025;
const BUCKETS: usize = 16;

/// How often something took how long.
#[derive(Debug, Default)]
struct Times {
    buckets: [AtomicU64; BUCKETS],
    microseconds: AtomicU64,
    beyond: AtomicU64,
}

impl Times {
    fn add(&self, took: Duration) {
        let mut bound = FIRST_BUCKET;
        let bucket = self.buckets.iter().find(|_| {
            let fits = took.as_secs_f64() <= bound;
            bound *= 2.0;
            fits
        });
        bucket.unwrap_or(&self.beyond).fetch_add(1, Ordering::Relaxed);
        self.microseconds.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn write(&self, name: &str, labels: &str, text: &mut String) {
        let (mut count, mut bound) = (0, FIRST_BUCKET);
        for bucket in &self.buckets {
            count += bucket.load(Ordering::Relaxed);
            line(text, format_args!("{name}_bucket{{{labels}le=\"{bound}\"}} {count}"));
            bound *= 2.0;
        }
        count += self.beyond.load(Ordering::Relaxed);
        let labels_only = labels.trim_end_matches(',');
        line(text, format_args!("{name}_bucket{{{labels}le=\"+Inf\"}} {count}"));
        line(text, format_args!("{name}_sum{{{labels_only}}} {}", self.microseconds.load(Ordering::Relaxed) as f64 / 1e6));
        line(text, format_args!("{name}_count{{{labels_only}}} {count}"));
    }
}

/// What is counted.
#[derive(Debug, Default)]
pub struct Metrics {
    /// By transport.
    requests: [AtomicU64; 2],
    /// By whether the answer is the cluster's own, and by code.
    responses: [[AtomicU64; OTHER + 1]; 2],
    durations: Times,
    forwards: [AtomicU64; OTHER + 1],
    forward_durations: Times,
    cache_hits: AtomicU64,
    cache_misses: AtomicU64,
}

impl Metrics {
    /// A query was answered.
    pub fn answered(&self, took: Duration, transport: Transport, code: ResponseCode, ours: bool) {
        self.requests[usize::from(transport == Transport::Tcp)].fetch_add(1, Ordering::Relaxed);
        self.responses[usize::from(ours)][position(code)].fetch_add(1, Ordering::Relaxed);
        self.durations.add(took);
    }

    /// Somebody else was asked.
    pub fn forwarded(&self, took: Duration, code: ResponseCode) {
        self.forwards[position(code)].fetch_add(1, Ordering::Relaxed);
        self.forward_durations.add(took);
    }

    /// The cache was looked at.
    pub fn cache(&self, hit: bool) {
        if hit { &self.cache_hits } else { &self.cache_misses }.fetch_add(1, Ordering::Relaxed);
    }

    /// In Prometheus's text format.
    pub fn text(&self, zone: &str) -> String {
        let mut text = String::new();
        let into = &mut text;
        head(into, "coredns_dns_requests_total", "counter", "Counter of DNS requests made per zone, protocol and family.");
        for (transport, count) in ["udp", "tcp"].iter().zip(&self.requests) {
            line(into, format_args!("coredns_dns_requests_total{{proto=\"{transport}\"}} {}", count.load(Ordering::Relaxed)));
        }
        head(into, "coredns_dns_responses_total", "counter", "Counter of response status codes.");
        for (zone, codes) in [".", zone].iter().zip(&self.responses) {
            for (code, count) in names().zip(codes) {
                line(
                    into,
                    format_args!("coredns_dns_responses_total{{zone=\"{zone}\",rcode=\"{code}\"}} {}", count.load(Ordering::Relaxed)),
                );
            }
        }
        head(into, "coredns_dns_request_duration_seconds", "histogram", "Histogram of the time (in seconds) each request took per zone.");
        self.durations.write("coredns_dns_request_duration_seconds", "", into);
        head(into, "coredns_proxy_request_duration_seconds", "histogram", "Histogram of the time each request took.");
        self.forward_durations.write("coredns_proxy_request_duration_seconds", "proxy_name=\"forward\",", into);
        head(into, "coredns_forward_responses_total", "counter", "Counter of answers to queries that were forwarded.");
        for (code, count) in names().zip(&self.forwards) {
            line(into, format_args!("coredns_forward_responses_total{{rcode=\"{code}\"}} {}", count.load(Ordering::Relaxed)));
        }
        for (name, help, count) in [
            ("coredns_cache_hits_total", "The count of cache hits.", &self.cache_hits),
            ("coredns_cache_misses_total", "The count of cache misses.", &self.cache_misses),
        ] {
            head(into, name, "counter", help);
            line(into, format_args!("{name} {}", count.load(Ordering::Relaxed)));
        }
        text
    }
}

fn names() -> impl Iterator<Item = &'static str> {
    CODES.iter().map(|(_, name)| *name).chain(["other"])
}

fn position(code: ResponseCode) -> usize {
    CODES.iter().position(|(known, _)| *known == code).unwrap_or(OTHER)
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    line(text, format_args!("# HELP {name} {help}\n# TYPE {name} {kind}"));
}

fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    writeln!(text, "{arguments}").expect("a String takes everything");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_shown_where_they_belong() {
        let metrics = Metrics::default();
        metrics.answered(Duration::from_micros(20), Transport::Udp, ResponseCode::NoError, true);
        metrics.answered(Duration::from_micros(300), Transport::Tcp, ResponseCode::BADVERS, false);
        metrics.forwarded(Duration::from_secs(20), ResponseCode::NXDomain);
        metrics.cache(true);
        let text = metrics.text("cluster.local.");
        for expected in [
            "coredns_dns_requests_total{proto=\"tcp\"} 1",
            "coredns_dns_responses_total{zone=\"cluster.local.\",rcode=\"NOERROR\"} 1",
            "coredns_dns_responses_total{zone=\".\",rcode=\"other\"} 1",
            "coredns_dns_request_duration_seconds_bucket{le=\"0.00025\"} 1",
            "coredns_dns_request_duration_seconds_bucket{le=\"0.0005\"} 2",
            "coredns_proxy_request_duration_seconds_bucket{proxy_name=\"forward\",le=\"8.192\"} 0",
            "coredns_proxy_request_duration_seconds_count{proxy_name=\"forward\"} 1",
            "coredns_forward_responses_total{rcode=\"NXDOMAIN\"} 1",
            "coredns_cache_hits_total 1",
        ] {
            assert!(text.lines().any(|line| line == expected), "{expected} in {text}");
        }
    }
}
