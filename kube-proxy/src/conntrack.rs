//! Flows that the kernel remembers beyond their endpoint (upstream: `pkg/proxy/conntrack`).
//!
//! Only UDP needs this: the kernel sends a client's packets where its first one went, and a client that goes on sending never lets it forget.
//! TCP notices by itself.

use crate::family::Family;
use crate::rules::{Front, Rules};
use std::net::{IpAddr, SocketAddr};
use tokio::process::Command;

/// Flows to forget.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flows {
    front: Front,
    endpoint: Option<IpAddr>,
}

/// Which flows go with a change of a Service's rules: those to endpoints that are gone, and all to a front that had no endpoint, since those went
/// nowhere.
pub fn stale(old: Option<&Rules>, new: &Rules) -> Vec<Flows> {
    let none = Rules::default();
    let old = old.unwrap_or(&none);
    let mut flows = Vec::new();
    for (front, before) in &old.udp {
        let now = new.udp.get(front);
        let gone = before.iter().filter(|endpoint| now.is_none_or(|now| !now.contains(*endpoint)));
        flows.extend(gone.map(SocketAddr::ip).map(|endpoint| Flows { front: *front, endpoint: Some(endpoint) }));
    }
    for (front, now) in &new.udp {
        if !now.is_empty() && old.udp.get(front).is_none_or(|before| before.is_empty()) {
            flows.push(Flows { front: *front, endpoint: None });
        }
    }
    flows
}

impl Flows {
    /// The arguments for `conntrack`.
    fn arguments(&self, family: Family) -> Vec<String> {
        let mut arguments = vec!["--delete".into(), "--family".into(), if family == Family::V4 { "ipv4" } else { "ipv6" }.into()];
        arguments.extend(["--proto".into(), "udp".into()]);
        let (address, port) = match self.front {
            Front::Address(address, port) => (Some(address), port),
            Front::NodePort(port) => (None, port),
        };
        arguments.extend(address.into_iter().flat_map(|address| ["--orig-dst".into(), address.to_string()]));
        arguments.extend(["--orig-port-dst".into(), port.to_string()]);
        arguments.extend(self.endpoint.into_iter().flat_map(|endpoint| ["--reply-src".into(), endpoint.to_string()]));
        arguments
    }
}

/// Forgets them. Without `conntrack` they stay, and a warning says so.
pub async fn forget(family: Family, flows: &[Flows]) {
    for flow in flows {
        let output = Command::new("conntrack").args(flow.arguments(family)).output().await;
        match output {
            // It also fails when there was no such flow.
            Ok(output) if output.status.success() || String::from_utf8_lossy(&output.stderr).contains("0 flow entries") => {}
            Ok(output) => tracing::warn!(?flow, "conntrack: {}", String::from_utf8_lossy(&output.stderr).trim()),
            Err(error) => return tracing::warn!(%error, "stale UDP flows stay: conntrack does not start"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn flows_of_lost_endpoints_and_of_new_services_are_stale() {
        let front = Front::Address("10.96.0.10".parse().unwrap(), 53);
        let with = |endpoints: &[&str]| {
            let endpoints: BTreeSet<SocketAddr> = endpoints.iter().map(|endpoint| endpoint.parse().unwrap()).collect();
            Rules { udp: [(front, endpoints)].into(), ..Rules::default() }
        };
        let (one, two) = ("10.0.0.1:53", "10.0.0.2:53");
        let to = |endpoint: &str| Flows { front, endpoint: Some(endpoint.parse().unwrap()) };
        let nothing: &[Flows] = &[];
        assert_eq!(stale(Some(&with(&[one])), &with(&[one, two])), nothing);
        assert_eq!(stale(Some(&with(&[one, two])), &with(&[two])), [to("10.0.0.1")]);
        assert_eq!(stale(Some(&with(&[one])), &Rules::default()), [to("10.0.0.1")]);
        assert_eq!(stale(None, &with(&[one])), [Flows { front, endpoint: None }]);
        assert_eq!(
            to("10.0.0.1").arguments(Family::V4).join(" "),
            "--delete --family ipv4 --proto udp --orig-dst 10.96.0.10 --orig-port-dst 53 --reply-src 10.0.0.1"
        );
    }
}
