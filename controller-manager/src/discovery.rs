//! What kinds the apiserver serves, as it says itself: for controllers that deal with all of them.

use anyhow::Context;
use kube::Client;
use kube::core::ApiResource;
use kube::discovery::{ApiCapabilities, Discovery, Scope};

/// One kind.
#[derive(Clone, Debug)]
pub struct Served {
    /// Its names.
    pub resource: ApiResource,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    verbs: Vec<String>,
}

impl Served {
    /// Whether it has a verb.
    pub fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|known| known == verb)
    }

    /// `pods` or `deployments.apps`.
    pub fn qualified(&self) -> String {
        format!("{}.{}", self.resource.plural, self.resource.group)
    }

    /// The path of its objects.
    pub fn path(&self, namespace: &str, name: &str) -> String {
        let root = if self.resource.group.is_empty() { "/api" } else { "/apis" };
        let namespace = if self.namespaced && !namespace.is_empty() { format!("/namespaces/{namespace}") } else { String::new() };
        let name = if name.is_empty() { String::new() } else { format!("/{name}") };
        format!("{root}/{}{namespace}/{}{name}", self.resource.api_version, self.resource.plural)
    }
}

/// All kinds in the version that the apiserver prefers, by the names of their groups. Asks for everything at once; where that is not served, group by group.
pub async fn served(client: &Client) -> anyhow::Result<Vec<Served>> {
    let discovery = match Discovery::new(client.clone()).run_aggregated().await {
        Ok(discovery) => discovery,
        Err(error) => {
            tracing::debug!(%error, "no aggregated discovery");
            Discovery::new(client.clone()).run().await.context("asking the apiserver what it serves")?
        }
    };
    let one = |(resource, capabilities): (ApiResource, ApiCapabilities)| Served {
        resource,
        namespaced: capabilities.scope == Scope::Namespaced,
        verbs: capabilities.operations,
    };
    let mut kinds: Vec<Served> =
        discovery.groups_alphabetical().into_iter().flat_map(|group| group.recommended_resources()).map(one).collect();
    // Events are served in two groups, and are the same objects.
    kinds.retain(|kind| kind.resource.group != "events.k8s.io");
    Ok(kinds)
}
