//! The node: what all of its pods share ([`Node`]), what it is ([`NodeFacts`], [`machine`]), and what it tells the API of itself
//! ([`registration`], [`status`], [`lease`]).

pub mod cgroups;
pub mod lease;
pub mod machine;
pub mod registration;
pub mod status;

use crate::{
    clock::Clock,
    container::{network::Resolver, resources::Amounts, security},
    image::Images,
    lookup::Lookup,
    pod::worker::StatusSink,
    recorder::Recorder,
    runtime::Runtime,
};
use client::Cache;
use k8s_openapi::api::core::v1::Service;
use std::{path::PathBuf, sync::Arc};

/// What is known of the node from the start and does not change while it runs.
#[derive(Clone, Debug, Default)]
pub struct NodeFacts {
    /// Its name in the API.
    pub name: String,
    /// Its addresses, the main one first.
    pub host_ips: Vec<String>,
    /// What it has.
    pub capacity: Amounts,
    /// What of it is for pods.
    pub allocatable: Amounts,
    /// Its memory in bytes.
    pub memory: i64,
}

/// Where a node keeps things. A simulated node keeps nothing.
#[derive(Clone, Debug)]
pub struct Places {
    /// `--root-dir`.
    pub root: PathBuf,
    /// The root of pods' log directories.
    pub logs: PathBuf,
}

/// What the pods of one node share.
pub struct Node {
    /// Its clock.
    pub clock: Clock,
    /// What it is.
    pub facts: NodeFacts,
    /// Its runtime.
    pub runtime: Arc<dyn Runtime>,
    /// Its events.
    pub events: Recorder,
    /// API objects.
    pub lookup: Lookup,
    /// All services, for environments; absent without an API server and on simulated nodes.
    pub services: Option<Arc<Cache<Service>>>,
    /// Images.
    pub images: Images,
    /// Cgroups of pods; absent on simulated nodes.
    pub cgroups: Option<cgroups::Cgroups>,
    /// Where volumes and logs are; absent on simulated nodes.
    pub places: Option<Places>,
    /// Where names are resolved.
    pub resolver: Resolver,
    /// Settings of security contexts.
    pub security: security::Settings,
    /// Where statuses go.
    pub statuses: Arc<dyn StatusSink>,
}
