//! The controllers, one per file, and the one table of them.

pub mod bootstrap;
pub mod certificates;
pub mod cluster_role_aggregation;
pub mod cron_job;
pub mod daemon_set;
pub mod deployment;
pub mod device_taint_eviction;
pub mod disruption;
pub mod endpoint_slice;
pub mod endpoint_slice_mirroring;
pub mod endpoints;
pub mod garbage_collector;
pub mod horizontal_pod_autoscaler;
pub mod job;
pub mod legacy_tokens;
pub mod names;
pub mod namespace;
pub mod node_ipam;
pub mod node_lifecycle;
pub mod node_ttl;
pub mod pod_garbage_collector;
pub mod replicas;
pub mod resource_claim;
pub mod resource_quota;
pub mod root_ca;
pub mod service_account;
pub mod service_account_token;
mod service_cidr;
pub mod service_lb;
pub mod stateful_set;
pub mod taint_eviction;
pub mod ttl_after_finished;
pub mod volumes;

use crate::controller::{Context, Controller};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::ReplicationController;
use std::sync::Arc;

/// One row of the table.
pub struct Row {
    /// The name for `--controllers` and logs, upstream's.
    pub name: &'static str,
    /// As what it signs its events, upstream's.
    pub component: &'static str,
    /// The service account in `kube-system` as which it acts, upstream's; none if it acts as the controller-manager itself.
    pub account: Option<&'static str>,
    /// Makes it. `None`: it has nothing to do with the flags given.
    pub make: fn(Context) -> Option<Arc<dyn Controller>>,
}

/// The table.
pub const TABLE: &[Row] = &[
    Row {
        name: "serviceaccount-token-controller",
        component: "serviceaccount-token-controller",
        account: None,
        make: |context| Some(Arc::new(service_account_token::TokenController::new(context)?)),
    },
    Row {
        name: "serviceaccount-controller",
        component: "serviceaccount-controller",
        account: Some("service-account-controller"),
        make: |context| Some(Arc::new(service_account::ServiceAccountController::new(context))),
    },
    Row {
        name: "root-ca-certificate-publisher-controller",
        component: "root-ca-certificate-publisher",
        account: Some("root-ca-cert-publisher"),
        make: |context| Some(Arc::new(root_ca::RootCaPublisher::new(context)?)),
    },
    Row {
        name: "namespace-controller",
        component: "namespace-controller",
        account: Some("namespace-controller"),
        make: |context| Some(Arc::new(namespace::NamespaceController::new(context))),
    },
    Row {
        name: "garbage-collector-controller",
        component: "garbage-collector-controller",
        account: Some("generic-garbage-collector"),
        make: |context| Some(Arc::new(garbage_collector::GarbageCollector::new(context))),
    },
    Row {
        name: "replicaset-controller",
        component: "replicaset-controller",
        account: Some("replicaset-controller"),
        make: |context| Some(Arc::new(replicas::ReplicasController::<ReplicaSet>::new(context))),
    },
    Row {
        name: "replicationcontroller-controller",
        component: "replication-controller",
        account: Some("replication-controller"),
        make: |context| Some(Arc::new(replicas::ReplicasController::<ReplicationController>::new(context))),
    },
    Row {
        name: "deployment-controller",
        component: "deployment-controller",
        account: Some("deployment-controller"),
        make: |context| Some(Arc::new(deployment::DeploymentController::new(context))),
    },
    Row {
        name: "endpoints-controller",
        component: "endpoint-controller",
        account: Some("endpoint-controller"),
        make: |context| Some(Arc::new(endpoints::EndpointsController::new(context))),
    },
    Row {
        name: "endpointslice-controller",
        component: "endpoint-slice-controller",
        account: Some("endpointslice-controller"),
        make: |context| Some(Arc::new(endpoint_slice::EndpointSliceController::new(context))),
    },
    Row {
        name: "endpointslice-mirroring-controller",
        component: "endpoint-slice-mirroring-controller",
        account: Some("endpointslicemirroring-controller"),
        make: |context| Some(Arc::new(endpoint_slice_mirroring::MirroringController::new(context))),
    },
    Row {
        name: "clusterrole-aggregation-controller",
        component: "clusterrole-aggregation-controller",
        account: Some("clusterrole-aggregation-controller"),
        make: |context| Some(Arc::new(cluster_role_aggregation::ClusterRoleAggregation::new(context))),
    },
    Row {
        name: "certificatesigningrequest-signing-controller",
        component: "certificate-controller",
        account: Some("certificate-controller"),
        make: |context| Some(Arc::new(certificates::signing::Signer::new(context)?)),
    },
    Row {
        name: "certificatesigningrequest-approving-controller",
        component: "certificate-controller",
        account: Some("certificate-controller"),
        make: |context| Some(Arc::new(certificates::approving::Approver::new(context))),
    },
    Row {
        name: "certificatesigningrequest-cleaner-controller",
        component: "certificate-controller",
        account: Some("certificate-controller"),
        make: |context| Some(Arc::new(certificates::cleaning::Cleaner::new(context))),
    },
    Row {
        name: "resourceclaim-controller",
        component: "resource_claim",
        account: Some("resource-claim-controller"),
        make: |context| Some(Arc::new(resource_claim::ResourceClaimController::new(context))),
    },
    Row {
        name: "resourcequota-controller",
        component: "resourcequota-controller",
        account: Some("resourcequota-controller"),
        make: |context| Some(Arc::new(resource_quota::ResourceQuotaController::new(context))),
    },
    Row {
        name: "statefulset-controller",
        component: "statefulset-controller",
        account: Some("statefulset-controller"),
        make: |context| Some(Arc::new(stateful_set::StatefulSetController::new(context))),
    },
    Row {
        name: "daemonset-controller",
        component: "daemonset-controller",
        account: Some("daemon-set-controller"),
        make: |context| Some(Arc::new(daemon_set::DaemonSetController::new(context))),
    },
    Row {
        name: "disruption-controller",
        component: "controllermanager",
        account: Some("disruption-controller"),
        make: |context| Some(Arc::new(disruption::DisruptionController::new(context))),
    },
    Row {
        name: "job-controller",
        component: "job-controller",
        account: Some("job-controller"),
        make: |context| Some(Arc::new(job::JobController::new(context))),
    },
    Row {
        name: "ttl-after-finished-controller",
        component: "ttl-after-finished-controller",
        account: Some("ttl-after-finished-controller"),
        make: |context| Some(Arc::new(ttl_after_finished::TtlAfterFinishedController::new(context))),
    },
    Row {
        name: "cronjob-controller",
        component: "cronjob-controller",
        account: Some("cronjob-controller"),
        make: |context| Some(Arc::new(cron_job::CronJobController::new(context))),
    },
    Row {
        name: "node-lifecycle-controller",
        component: "node-controller",
        account: Some("node-controller"),
        make: |context| Some(Arc::new(node_lifecycle::NodeLifecycleController::new(context))),
    },
    Row {
        name: "taint-eviction-controller",
        component: "taint-eviction-controller",
        account: Some("node-controller"),
        make: |context| Some(Arc::new(taint_eviction::TaintEvictionController::new(context))),
    },
    Row {
        name: "device-taint-eviction-controller",
        component: "device-taint-eviction",
        account: Some("device-taint-eviction-controller"),
        make: |context| Some(Arc::new(device_taint_eviction::DeviceTaintEvictionController::new(context))),
    },
    Row {
        name: "pod-garbage-collector-controller",
        component: "pod-garbage-collector",
        account: Some("pod-garbage-collector"),
        make: |context| Some(Arc::new(pod_garbage_collector::PodGarbageCollector::new(context))),
    },
    Row {
        name: "horizontal-pod-autoscaler-controller",
        component: "horizontal-pod-autoscaler",
        account: Some("horizontal-pod-autoscaler"),
        make: |context| Some(Arc::new(horizontal_pod_autoscaler::Autoscaler::new(context))),
    },
    Row {
        name: "persistentvolume-binder-controller",
        component: "persistentvolume-controller",
        account: Some("persistent-volume-binder"),
        make: |context| Some(Arc::new(volumes::binder::Binder::new(context))),
    },
    Row {
        name: "persistentvolume-attach-detach-controller",
        component: "attachdetach-controller",
        account: Some("attachdetach-controller"),
        make: |context| Some(Arc::new(volumes::attach_detach::AttachDetach::new(context))),
    },
    Row {
        name: "persistentvolume-expander-controller",
        component: "volume_expand",
        account: Some("expand-controller"),
        make: |context| Some(Arc::new(volumes::expander::Expander::new(context))),
    },
    Row {
        name: "volumeattributesclass-protection-controller",
        component: "volumeattributesclass-protection-controller",
        account: Some("volumeattributesclass-protection-controller"),
        make: |context| Some(Arc::new(volumes::attributes_class_protection::AttributesClassProtection::new(context))),
    },
    Row {
        name: "service-cidr-controller",
        component: "service-cidr-controller",
        account: Some("service-cidrs-controller"),
        make: |context| Some(Arc::new(service_cidr::ServiceCidrs::new(context))),
    },
    Row {
        name: "service-lb-controller",
        component: "service-controller",
        account: Some("service-controller"),
        make: |context| Some(Arc::new(service_lb::ServiceLoadBalancers::new(context)?)),
    },
    Row {
        name: "legacy-serviceaccount-token-cleaner-controller",
        component: "legacy-service-account-token-cleaner",
        account: Some("legacy-service-account-token-cleaner"),
        make: |context| Some(Arc::new(legacy_tokens::LegacyTokens::new(context))),
    },
    Row {
        name: "persistentvolumeclaim-protection-controller",
        component: "pvc-protection-controller",
        account: Some("pvc-protection-controller"),
        make: |context| Some(Arc::new(volumes::claim_protection::ClaimProtection::new(context))),
    },
    Row {
        name: "persistentvolume-protection-controller",
        component: "pv-protection-controller",
        account: Some("pv-protection-controller"),
        make: |context| Some(Arc::new(volumes::volume_protection::VolumeProtection::new(context))),
    },
    Row {
        name: "ephemeral-volume-controller",
        component: "ephemeral_volume",
        account: Some("ephemeral-volume-controller"),
        make: |context| Some(Arc::new(volumes::ephemeral::EphemeralVolumes::new(context))),
    },
    Row {
        // Ours: the provisioner of the default class.
        name: "local-volume-provisioner",
        component: volumes::local::NAME,
        account: Some("local-volume-provisioner"),
        make: |context| Some(Arc::new(volumes::local::LocalVolumes::new(context))),
    },
    Row {
        name: "node-ipam-controller",
        component: "cidrAllocator",
        account: Some("node-controller"),
        make: |context| Some(Arc::new(node_ipam::NodeIpam::new(context)?)),
    },
    Row {
        name: "ttl-controller",
        component: "ttl-controller",
        account: Some("ttl-controller"),
        make: |context| Some(Arc::new(node_ttl::NodeTtl::new(context))),
    },
    Row {
        name: "bootstrap-signer-controller",
        component: "bootstrap-signer",
        account: Some("bootstrap-signer"),
        make: |context| Some(Arc::new(bootstrap::signer::Signer::new(context))),
    },
    Row {
        name: "token-cleaner-controller",
        component: "token-cleaner",
        account: Some("token-cleaner"),
        make: |context| Some(Arc::new(bootstrap::token_cleaner::TokenCleaner::new(context))),
    },
];

/// Whether `--controllers` wants a controller: its own name, of today or before, decides, else `*`; `-` in front switches off.
pub fn is_wanted(name: &str, list: &[String]) -> bool {
    let names = |entry: &str| names::canonical(entry).unwrap_or(entry) == name;
    for entry in list {
        match entry.strip_prefix('-') {
            Some(off) if names(off) => return false,
            None if names(entry) => return true,
            _ => {}
        }
    }
    list.iter().any(|entry| entry == "*") && !names::OFF_BY_DEFAULT.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique() {
        let names: BTreeSet<_> = TABLE.iter().map(|row| row.name).collect();
        assert_eq!(names.len(), TABLE.len());
    }

    #[test]
    fn choosing() {
        for (list, expected) in [("*", true), ("a", true), ("b", false), ("*,-a", false), ("-a,*", false), ("-b,a", true), ("", false)] {
            let list: Vec<String> = list.split(',').map(str::to_owned).collect();
            assert_eq!(is_wanted("a", &list), expected, "{list:?}");
        }
        for (name, list, expected) in [
            ("deployment-controller", "deployment", true),
            ("deployment-controller", "*,-deployment", false),
            ("token-cleaner-controller", "*", false),
            ("token-cleaner-controller", "*,tokencleaner", true),
        ] {
            let list: Vec<String> = list.split(',').map(str::to_owned).collect();
            assert_eq!(is_wanted(name, &list), expected, "{list:?}");
        }
    }
}
