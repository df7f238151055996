//! The way to the pods of other nodes: a route for each node's part of the pods' addresses, by the node's own address. That is enough where all nodes are
//! on one network; where they are not, another CNI has to carry packets (VXLAN and the like are left out on purpose).
//!
//! Routes are marked as ours by their protocol number, so that those of nodes that are gone are found again after a restart.

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::Node;
use kube_proxy::family::Family;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::sync::Notify;

/// The `proto` of our routes: no routing daemon's (`/etc/iproute2/rt_protos`).
const PROTOCOL: &str = "86";

/// How long to wait before routes are watched again.
const AGAIN: Duration = Duration::from_secs(5);

/// Routes: where to, by which address.
pub type Routes = BTreeMap<String, String>;

/// A node's parts of the pods' addresses.
pub fn pod_cidrs(node: &Node) -> Vec<String> {
    let spec = node.spec.as_ref();
    let all = spec.and_then(|spec| spec.pod_cidrs.clone()).filter(|all| !all.is_empty());
    all.or_else(|| Some(vec![spec?.pod_cidr.clone()?])).unwrap_or_default()
}

fn addresses(node: &Node) -> impl Iterator<Item = IpAddr> {
    let all = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    all.filter(|address| address.type_ == "InternalIP").filter_map(|address| address.address.parse().ok())
}

/// What of a node matters for routes.
pub fn facts(node: &Node) -> (Vec<String>, Vec<IpAddr>) {
    (pod_cidrs(node), addresses(node).collect())
}

/// The routes that a node needs in one family.
pub fn routes<'a>(nodes: impl IntoIterator<Item = &'a Node>, own: &str, family: Family) -> Routes {
    let others = nodes.into_iter().filter(|node| node.metadata.name.as_deref() != Some(own));
    let of_one = |node: &Node| {
        let by = addresses(node).find(|address| Family::of(address) == family)?;
        let to = pod_cidrs(node).into_iter().filter(|cidr| family.owns_cidr(cidr));
        Some(to.map(|cidr| (cidr, by.to_string())).collect::<Vec<_>>())
    };
    others.filter_map(of_one).flatten().collect()
}

/// The arguments of the `ip` commands that lead from the routes there are to the wanted ones.
pub fn changes(there: &Routes, wanted: &Routes) -> Vec<Vec<String>> {
    let words = |verb: &str, cidr: &str, via: &str| ["route", verb, cidr, "via", via, "proto", PROTOCOL].map(str::to_owned).to_vec();
    let gone = there.iter().filter(|(cidr, _)| !wanted.contains_key(*cidr)).map(|(cidr, via)| words("delete", cidr, via));
    let new = wanted.iter().filter(|(cidr, via)| there.get(*cidr) != Some(via)).map(|(cidr, via)| words("replace", cidr, via));
    gone.chain(new).collect()
}

#[derive(Deserialize)]
struct Listed {
    dst: String,
    gateway: Option<String>,
}

/// Makes the kernel's routes those.
pub async fn apply(family: Family, wanted: &Routes) -> anyhow::Result<()> {
    let flag = if family == Family::V4 { "-4" } else { "-6" };
    let text = ip(&[flag, "-json", "route", "show", "proto", PROTOCOL]).await?;
    let listed: Vec<Listed> =
        if text.trim().is_empty() { Vec::new() } else { serde_json::from_str(&text).context("reading what ip lists")? };
    let there: Routes = listed.into_iter().map(|route| (route.dst, route.gateway.unwrap_or_default())).collect();
    for arguments in changes(&there, wanted) {
        let words: Vec<&str> = std::iter::once(flag).chain(arguments.iter().map(String::as_str)).collect();
        ip(&words).await?;
    }
    Ok(())
}

/// Notifies whenever an address or a route of the machine changes; never ends. Routes of pods' own links are of no family that is watched here.
pub async fn watch(family: Family, changed: Arc<Notify>) {
    let flag = if family == Family::V4 { "-4" } else { "-6" };
    loop {
        if let Err(error) = monitor(flag, &changed).await {
            tracing::warn!("{error:#}; what happens to routes goes unnoticed for {AGAIN:?}");
        }
        tokio::time::sleep(AGAIN).await;
        // What happened meanwhile.
        changed.notify_one();
    }
}

async fn monitor(flag: &str, changed: &Notify) -> anyhow::Result<()> {
    let mut command = Command::new("ip");
    command.args([flag, "monitor", "address", "route"]).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().context("starting ip monitor")?;
    let output = child.stdout.take().context("ip monitor has no output")?;
    let mut lines = BufReader::new(output).lines();
    while lines.next_line().await.context("reading what ip monitor says")?.is_some() {
        changed.notify_one();
    }
    bail!("ip monitor ended")
}

async fn ip(arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new("ip").args(arguments).output().await.context("starting ip")?;
    if !output.status.success() {
        bail!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    String::from_utf8(output.stdout).context("ip printed no text")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(name: &str, cidrs: &[&str], addresses: &[(&str, &str)]) -> Node {
        let addresses: Vec<_> = addresses.iter().map(|(kind, address)| json!({"type": kind, "address": address})).collect();
        let object =
            json!({"metadata": {"name": name}, "spec": {"podCIDR": cidrs.first(), "podCIDRs": cidrs}, "status": {"addresses": addresses}});
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn every_other_node_that_has_addresses_gets_a_route() {
        let nodes = [
            node("own", &["10.244.0.0/24"], &[("InternalIP", "172.20.0.2")]),
            node(
                "two",
                &["10.244.1.0/24", "fd00:1::/64"],
                &[("Hostname", "two"), ("ExternalIP", "192.0.2.1"), ("InternalIP", "172.20.0.3"), ("InternalIP", "fd01::3")],
            ),
            node("new", &[], &[("InternalIP", "172.20.0.4")]),
            node("lost", &["10.244.3.0/24"], &[]),
        ];
        let shown = |family| routes(&nodes, "own", family).into_iter().map(|(cidr, via)| format!("{cidr} {via}")).collect::<Vec<_>>();
        assert_eq!(shown(Family::V4), ["10.244.1.0/24 172.20.0.3"]);
        assert_eq!(shown(Family::V6), ["fd00:1::/64 fd01::3"]);
    }

    #[test]
    fn only_what_differs_is_changed() {
        let of = |all: &[(&str, &str)]| all.iter().map(|(cidr, via)| (cidr.to_string(), via.to_string())).collect::<Routes>();
        let there = of(&[("10.244.1.0/24", "172.20.0.3"), ("10.244.2.0/24", "172.20.0.4"), ("10.244.3.0/24", "172.20.0.5")]);
        let wanted = of(&[("10.244.1.0/24", "172.20.0.3"), ("10.244.2.0/24", "172.20.0.9")]);
        let shown: Vec<String> = changes(&there, &wanted).iter().map(|words| words.join(" ")).collect();
        assert_eq!(shown, ["route delete 10.244.3.0/24 via 172.20.0.5 proto 86", "route replace 10.244.2.0/24 via 172.20.0.9 proto 86"]);
    }
}
