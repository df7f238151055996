//! The edge to the kernel: `nft`, as upstream's proxy has it, one process for each transaction.

use crate::family::Family;
use crate::ruleset::Found;
use anyhow::{Context, bail};
use serde::Deserialize;
use std::process::Stdio;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Has the kernel take a transaction, whole or not at all.
pub async fn apply(transaction: &str) -> anyhow::Result<()> {
    run(&["-f", "-"], transaction).await.map(drop)
}

/// The families for which this kernel has tables.
pub async fn families(table: &str) -> Vec<Family> {
    let mut found = Vec::new();
    for family in Family::ALL {
        match run(&["--check", "-f", "-"], &format!("add table {} {table}\n", family.keyword())).await {
            Ok(_) => found.push(family),
            Err(error) => tracing::warn!(family = family.name(), "left out: {error:#}"),
        }
    }
    found
}

/// What a table holds; nothing if there is none.
pub async fn found(family: Family, table: &str) -> anyhow::Result<Found> {
    let tables = run(&["--json", "list", "tables", family.keyword()], "").await?;
    if !parse(&tables)?.iter().any(|object| matches!(object, Listed::Table { name } if name == table)) {
        return Ok(Found::default());
    }
    let text = run(&["--json", "--terse", "list", "table", family.keyword(), table], "").await?;
    let mut found = Found::default();
    for object in parse(&text)? {
        match object {
            Listed::Chain { name } => drop(found.chains.insert(name)),
            Listed::Set { name } => drop(found.sets.insert(name)),
            Listed::Table { .. } | Listed::Other => {}
        }
    }
    Ok(found)
}

/// Removes a table, if it is there.
pub async fn remove(family: Family, table: &str) -> anyhow::Result<()> {
    // Adding first makes the deletion right in either case.
    let ip = family.keyword();
    apply(&format!("add table {ip} {table}\ndelete table {ip} {table}\n")).await
}

#[derive(Deserialize)]
struct Listing {
    nftables: Vec<serde_json::Map<String, serde_json::Value>>,
}

enum Listed {
    Table { name: String },
    Chain { name: String },
    Set { name: String },
    Other,
}

/// Each object of a listing is `{KIND: {…}}`.
fn parse(text: &str) -> anyhow::Result<Vec<Listed>> {
    let listing: Listing = serde_json::from_str(text).context("reading what nft lists")?;
    let listed = listing.nftables.into_iter().flatten().map(|(kind, object)| {
        let name = object["name"].as_str().unwrap_or_default().to_owned();
        match kind.as_str() {
            "table" => Listed::Table { name },
            "chain" => Listed::Chain { name },
            "set" | "map" => Listed::Set { name },
            _ => Listed::Other,
        }
    });
    Ok(listed.collect())
}

async fn run(arguments: &[&str], input: &str) -> anyhow::Result<String> {
    let mut command = Command::new("nft");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().context("starting nft")?;
    let mut pipe = child.stdin.take().context("nft has no standard input")?;
    let input = input.to_owned();
    // Its own task, since nft may complain before it has read everything; how it ended says more than a broken pipe does.
    let writer = tokio::spawn(async move { pipe.write_all(input.as_bytes()).await });
    let output = child.wait_with_output().await.context("waiting for nft")?;
    writer.abort();
    if !output.status.success() {
        // The first complaint is the cause; a transaction of ten thousand Services can have as many.
        let complaint: String = String::from_utf8_lossy(&output.stderr).chars().take(1000).collect();
        bail!("nft: {}: {}", output.status, complaint.trim());
    }
    String::from_utf8(output.stdout).context("nft printed no text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listings_are_read() {
        let text = r#"{"nftables": [{"metainfo": {"version": "1.0.6"}}, {"table": {"family": "ip", "name": "t", "handle": 1}},
            {"map": {"name": "service-ips"}}, {"chain": {"name": "services"}}, {"rule": {"chain": "services"}}]}"#;
        let kinds: Vec<String> = parse(text)
            .unwrap()
            .into_iter()
            .map(|listed| match listed {
                Listed::Table { name } => format!("table {name}"),
                Listed::Chain { name } => format!("chain {name}"),
                Listed::Set { name } => format!("set {name}"),
                Listed::Other => "other".into(),
            })
            .collect();
        assert_eq!(kinds, ["other", "table t", "set service-ips", "chain services", "other"]);
    }
}
