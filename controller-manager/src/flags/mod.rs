//! The command line: upstream's names. A command line written for upstream's controller-manager starts this one; [`unused`] lists what changes nothing here.

pub mod election;
pub mod unused;
pub mod workers;

use crate::controllers::certificates::request;
use crate::controllers::horizontal_pod_autoscaler::{Startup, Tuning};
use crate::controllers::node_ipam::Networks;
use crate::controllers::node_lifecycle::NodeHealth;
use crate::controllers::node_lifecycle::zones::Rates;
use crate::controllers::service_lb::Pool;
use crate::endpoint_slices::Limits;
use clap::Parser;
use election::Election;
use ipnet::IpNet;
use jiff::SignedDuration;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use unused::Unused;
use workers::Workers;

/// Makes what is asked for come true.
#[derive(Parser)]
#[command(name = "controller-manager", version)]
pub struct Flags {
    /// The kubeconfig with the apiserver's address and the controller-manager's identity.
    #[arg(long)]
    pub kubeconfig: PathBuf,
    /// Controllers to run: `*` for all that are on by default, `NAME` for one, `-NAME` for not that one.
    #[arg(long, value_delimiter = ',', default_value = "*", allow_hyphen_values = true)]
    pub controllers: Vec<String>,
    /// How one of several replicas is chosen.
    #[command(flatten)]
    pub election: Election,
    /// How many objects the controllers work on at a time.
    #[command(flatten)]
    pub workers: Workers,
    /// Delete what belongs to objects that are gone.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true", action = clap::ArgAction::Set)]
    pub enable_garbage_collector: bool,
    /// Have volumes made for claims of classes that have a provisioner.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true", action = clap::ArgAction::Set)]
    pub enable_dynamic_provisioning: bool,
    /// Never take a volume away from a node that says that it has it in use, however long it has not been heard.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", action = clap::ArgAction::Set)]
    pub disable_force_detach_on_timeout: bool,
    /// How many endpoints an EndpointSlice has at most.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub max_endpoints_per_slice: u16,
    /// How many addresses of one subset of Endpoints are mirrored to EndpointSlices.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub mirroring_max_endpoints_per_subset: u16,
    /// How long changes of pods wait for others before they show in Endpoints.
    #[arg(long, default_value = "0s", value_parser = duration)]
    pub endpoint_updates_batch_period: Duration,
    /// The same for EndpointSlices.
    #[arg(long, default_value = "0s", value_parser = duration)]
    pub endpointslice_updates_batch_period: Duration,
    /// How long changes of mirrored EndpointSlices wait for others before they are looked at.
    #[arg(long, default_value = "0s", value_parser = duration)]
    pub mirroring_endpointslice_updates_batch_period: Duration,
    /// Features to switch on or off, as NAME=true. None of this version's has anything to do with controllers that there are: only its form is checked.
    #[arg(long, value_delimiter = ',')]
    pub feature_gates: Vec<String>,
    /// Let every controller act as a service account of its own, whose rights are those that it needs. Unlike upstream's, on by default: the roles
    /// that every cluster starts with give the controller-manager's own user hardly any.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true", action = clap::ArgAction::Set)]
    pub use_service_account_credentials: bool,
    /// The certificate authority that pods are to trust; the kubeconfig's by default.
    #[arg(long)]
    pub root_ca_file: Option<PathBuf>,
    /// The key that signs tokens of service accounts.
    #[arg(long)]
    pub service_account_private_key_file: Option<PathBuf>,
    /// The certificate of the authority that signs certificates that nodes and users ask for.
    #[arg(long, requires = "cluster_signing_key_file")]
    pub cluster_signing_cert_file: Option<PathBuf>,
    /// That authority's key.
    #[arg(long, requires = "cluster_signing_cert_file")]
    pub cluster_signing_key_file: Option<PathBuf>,
    /// The same for clients of the apiserver only. Whoever names authorities one by one names none for all.
    #[arg(long, requires = "cluster_signing_kube_apiserver_client_key_file", conflicts_with = "cluster_signing_cert_file")]
    pub cluster_signing_kube_apiserver_client_cert_file: Option<PathBuf>,
    /// That authority's key.
    #[arg(long, requires = "cluster_signing_kube_apiserver_client_cert_file")]
    pub cluster_signing_kube_apiserver_client_key_file: Option<PathBuf>,
    /// The same for kubelets as clients only.
    #[arg(long, requires = "cluster_signing_kubelet_client_key_file", conflicts_with = "cluster_signing_cert_file")]
    pub cluster_signing_kubelet_client_cert_file: Option<PathBuf>,
    /// That authority's key.
    #[arg(long, requires = "cluster_signing_kubelet_client_cert_file")]
    pub cluster_signing_kubelet_client_key_file: Option<PathBuf>,
    /// The same for kubelets as servers only.
    #[arg(long, requires = "cluster_signing_kubelet_serving_key_file", conflicts_with = "cluster_signing_cert_file")]
    pub cluster_signing_kubelet_serving_cert_file: Option<PathBuf>,
    /// That authority's key.
    #[arg(long, requires = "cluster_signing_kubelet_serving_cert_file")]
    pub cluster_signing_kubelet_serving_key_file: Option<PathBuf>,
    /// The same for requests to the signer that takes all others.
    #[arg(long, requires = "cluster_signing_legacy_unknown_key_file", conflicts_with = "cluster_signing_cert_file")]
    pub cluster_signing_legacy_unknown_cert_file: Option<PathBuf>,
    /// That authority's key.
    #[arg(long, requires = "cluster_signing_legacy_unknown_cert_file")]
    pub cluster_signing_legacy_unknown_key_file: Option<PathBuf>,
    /// How long such certificates last at most.
    #[arg(long, default_value = "8760h", value_parser = duration)]
    pub cluster_signing_duration: Duration,
    /// Give every node a part of --cluster-cidr for its pods.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", action = clap::ArgAction::Set)]
    pub allocate_node_cidrs: bool,
    /// The networks of all pods: one, or one of each family.
    #[arg(long, value_delimiter = ',')]
    pub cluster_cidr: Vec<IpNet>,
    /// The networks of Services, which nodes are not given.
    #[arg(long, value_delimiter = ',')]
    pub service_cluster_ip_range: Vec<IpNet>,
    /// The prefix length of a node's network: 24 for IPv4, 64 for IPv6.
    #[arg(long)]
    pub node_cidr_mask_size: Option<u8>,
    /// The same for IPv4, with two families.
    #[arg(long)]
    pub node_cidr_mask_size_ipv4: Option<u8>,
    /// The same for IPv6.
    #[arg(long)]
    pub node_cidr_mask_size_ipv6: Option<u8>,
    /// Where Services of type LoadBalancer get addresses from, for clusters without a cloud. Ours: upstream leaves it to clouds.
    #[arg(long)]
    pub load_balancer_cidr: Option<IpNet>,
    /// Services of type LoadBalancer answer on the nodes' own addresses. Ours, too.
    #[arg(long, conflicts_with = "load_balancer_cidr")]
    pub load_balancer_on_nodes: bool,
    /// How long a node may be silent before it counts as failed.
    #[arg(long, default_value = "50s", value_parser = duration)]
    pub node_monitor_grace_period: Duration,
    /// The same for a node that has never said anything.
    #[arg(long, default_value = "60s", value_parser = duration)]
    pub node_startup_grace_period: Duration,
    /// How many failed nodes a second are emptied.
    #[arg(long, default_value_t = 0.1)]
    pub node_eviction_rate: f32,
    /// The same in a large zone of which much has failed.
    #[arg(long, default_value_t = 0.01)]
    pub secondary_node_eviction_rate: f32,
    /// The share of failed nodes from which a zone counts as partly disrupted.
    #[arg(long, default_value_t = 0.55)]
    pub unhealthy_zone_threshold: f32,
    /// The number of nodes above which a zone counts as large.
    #[arg(long, default_value_t = 50)]
    pub large_cluster_size_threshold: usize,
    /// How often autoscalers are looked at.
    #[arg(long, default_value = "15s", value_parser = duration)]
    pub horizontal_pod_autoscaler_sync_period: Duration,
    /// For how long the highest number that an autoscaler has come to counts on the way down.
    #[arg(long, default_value = "5m", value_parser = signed_duration)]
    pub horizontal_pod_autoscaler_downscale_stabilization: SignedDuration,
    /// How far use may be off the target before autoscalers do something about it, as a share.
    #[arg(long, default_value_t = 0.1)]
    pub horizontal_pod_autoscaler_tolerance: f64,
    /// How long after its start a pod's CPU use is taken for that of its start.
    #[arg(long, default_value = "5m", value_parser = signed_duration)]
    pub horizontal_pod_autoscaler_cpu_initialization_period: SignedDuration,
    /// How soon after its start a pod is ready for the first time.
    #[arg(long, default_value = "30s", value_parser = signed_duration)]
    pub horizontal_pod_autoscaler_initial_readiness_delay: SignedDuration,
    /// How long tokens of service accounts that nobody uses are kept.
    #[arg(long, default_value = "8760h", value_parser = signed_duration)]
    pub legacy_service_account_token_clean_up_period: SignedDuration,
    /// How many finished pods are kept; all, if this is not above 0.
    #[arg(long, default_value_t = 12_500, allow_negative_numbers = true)]
    pub terminated_pod_gc_threshold: i32,
    /// The address on which health and metrics are served.
    #[arg(long, default_value = "0.0.0.0")]
    pub bind_address: IpAddr,
    /// The port on which health and metrics are served over TLS; 0 serves none.
    #[arg(long, default_value_t = 10257)]
    pub secure_port: u16,
    /// How much to log: 0 is normal, 4 is for debugging.
    #[arg(short, long, default_value_t = 0)]
    pub v: u8,
    /// Flags that do nothing here.
    #[command(flatten)]
    pub unused: Unused,
}

/// `8760h`, `1h30m`.
fn signed_duration(text: &str) -> Result<SignedDuration, jiff::Error> {
    text.parse()
}

fn duration(text: &str) -> anyhow::Result<Duration> {
    Ok(Duration::try_from(signed_duration(text)?)?)
}

impl Flags {
    /// Which controllers to run.
    pub fn controllers(&self) -> Vec<String> {
        let off = (!self.enable_garbage_collector).then(|| "-garbage-collector-controller".to_owned());
        off.into_iter().chain(self.controllers.iter().cloned()).collect()
    }

    /// What bounds Endpoints and their slices.
    pub fn endpoints(&self) -> Limits {
        Limits {
            per_slice: self.max_endpoints_per_slice.into(),
            per_subset: self.mirroring_max_endpoints_per_subset.into(),
            endpoints_wait: self.endpoint_updates_batch_period,
            slices_wait: self.endpointslice_updates_batch_period,
            mirror_wait: self.mirroring_endpointslice_updates_batch_period,
        }
    }

    /// Where load balancers' addresses come from; nowhere when no flag says so.
    pub fn load_balancers(&self) -> Option<Pool> {
        self.load_balancer_cidr.map(Pool::Network).or(self.load_balancer_on_nodes.then_some(Pool::Nodes))
    }

    /// The files of the authority behind each signer that has one: its certificate and its key.
    pub fn signing_files(&self) -> Vec<(&'static str, &Path, &Path)> {
        let of = |signer: &str| match signer {
            request::CLIENT => {
                (&self.cluster_signing_kube_apiserver_client_cert_file, &self.cluster_signing_kube_apiserver_client_key_file)
            }
            request::KUBELET_CLIENT => (&self.cluster_signing_kubelet_client_cert_file, &self.cluster_signing_kubelet_client_key_file),
            request::KUBELET_SERVING => (&self.cluster_signing_kubelet_serving_cert_file, &self.cluster_signing_kubelet_serving_key_file),
            _ => (&self.cluster_signing_legacy_unknown_cert_file, &self.cluster_signing_legacy_unknown_key_file),
        };
        let files = |signer| {
            let (certificate, key) = of(signer);
            let certificate = certificate.as_ref().or(self.cluster_signing_cert_file.as_ref())?;
            Some((signer, certificate.as_path(), key.as_ref().or(self.cluster_signing_key_file.as_ref())?.as_path()))
        };
        request::signers().filter_map(files).collect()
    }

    /// How autoscalers are looked at.
    pub fn autoscaling(&self) -> Tuning {
        Tuning {
            period: self.horizontal_pod_autoscaler_sync_period,
            downscale: self.horizontal_pod_autoscaler_downscale_stabilization,
            tolerance: self.horizontal_pod_autoscaler_tolerance,
            startup: Startup {
                initialization: self.horizontal_pod_autoscaler_cpu_initialization_period,
                readiness: self.horizontal_pod_autoscaler_initial_readiness_delay,
            },
        }
    }

    /// When nodes count as failed, and what follows.
    pub fn node_health(&self) -> NodeHealth {
        NodeHealth {
            grace: self.node_monitor_grace_period,
            startup_grace: self.node_startup_grace_period,
            rates: Rates {
                normal: f64::from(self.node_eviction_rate),
                reduced: f64::from(self.secondary_node_eviction_rate),
                unhealthy: f64::from(self.unhealthy_zone_threshold),
                large: self.large_cluster_size_threshold,
            },
        }
    }

    /// The networks that nodes are given, if they are.
    pub fn node_networks(&self) -> anyhow::Result<Option<Networks>> {
        if !self.allocate_node_cidrs {
            return Ok(None);
        }
        let of = |bits: u8, own: Option<u8>| own.or(self.node_cidr_mask_size).map(|mask| (bits, mask));
        let mask = [of(32, self.node_cidr_mask_size_ipv4), of(128, self.node_cidr_mask_size_ipv6)].into_iter().flatten().collect();
        let networks = Networks { cluster: self.cluster_cidr.clone(), services: self.service_cluster_ip_range.clone(), mask };
        networks.check()?;
        Ok(Some(networks))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As kubeadm writes it.
    #[test]
    fn upstreams_command_line_is_understood() {
        let line = "kube-controller-manager --allocate-node-cidrs=true --authentication-kubeconfig=/etc/kubernetes/controller-manager.conf \
            --authorization-kubeconfig=/etc/kubernetes/controller-manager.conf --bind-address=127.0.0.1 --client-ca-file=/etc/kubernetes/pki/ca.crt \
            --cluster-cidr=10.244.0.0/16,fd00:10:244::/56 --cluster-name=kubernetes --cluster-signing-cert-file=/etc/kubernetes/pki/ca.crt \
            --cluster-signing-key-file=/etc/kubernetes/pki/ca.key --controllers=*,bootstrapsigner,tokencleaner \
            --kubeconfig=/etc/kubernetes/controller-manager.conf --leader-elect=true --requestheader-client-ca-file=/etc/kubernetes/pki/front-proxy-ca.crt \
            --root-ca-file=/etc/kubernetes/pki/ca.crt --service-account-private-key-file=/etc/kubernetes/pki/sa.key \
            --service-cluster-ip-range=10.96.0.0/16,fd00:10:96::/112 --use-service-account-credentials=true --concurrent-gc-syncs 20 --profiling";
        let flags = Flags::try_parse_from(line.split_whitespace()).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(flags.controllers, ["*", "bootstrapsigner", "tokencleaner"]);
        assert_eq!((flags.autoscaling(), flags.terminated_pod_gc_threshold), (Tuning::default(), 12_500));
        let networks = flags.node_networks().unwrap().unwrap();
        assert_eq!((networks.cluster.len(), networks.services.len()), (2, 2));
        assert_eq!(flags.workers.0, std::collections::BTreeMap::from([("garbage-collector-controller", 20)]));
        assert!(flags.unused.0.contains(&"profiling") && flags.unused.0.contains(&"client-ca-file"), "{:?}", flags.unused);
        let all = Path::new("/etc/kubernetes/pki/ca.crt");
        assert_eq!(flags.signing_files().iter().filter(|(_, certificate, _)| *certificate == all).count(), 4);
        let line =
            "controller-manager --kubeconfig=x --cluster-signing-kubelet-serving-cert-file=c --cluster-signing-kubelet-serving-key-file=k";
        let flags = Flags::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(flags.signing_files(), [(request::KUBELET_SERVING, Path::new("c"), Path::new("k"))]);
        let both = format!("{line} --cluster-signing-cert-file=c --cluster-signing-key-file=k");
        assert!(Flags::try_parse_from(both.split(' ')).is_err(), "one for all and one for some");
    }

    #[test]
    fn flags_do_what_they_say_or_are_refused() {
        let read = |line: &str| Flags::try_parse_from(["controller-manager", "--kubeconfig=x"].into_iter().chain(line.split_whitespace()));
        let plain = read("").unwrap_or_else(|error| panic!("{error}"));
        assert_eq!((plain.endpoints(), plain.controllers()), (Limits::default(), vec!["*".to_owned()]));
        let candidate = plain.election.candidate().unwrap().unwrap();
        assert_eq!((candidate.name.as_str(), candidate.times.lease), ("kube-controller-manager", Duration::from_secs(15)));
        let changed = read(
            "--max-endpoints-per-slice=10 --endpointslice-updates-batch-period=1s --enable-garbage-collector=false --leader-elect=false",
        )
        .unwrap_or_else(|error| panic!("{error}"));
        assert_eq!((changed.endpoints().per_slice, changed.endpoints().slices_wait), (10, Duration::from_secs(1)));
        assert!(!crate::controllers::is_wanted("garbage-collector-controller", &changed.controllers()));
        assert!(changed.election.candidate().unwrap().is_none());
        let times = read("--leader-elect-lease-duration=10s").unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(times.election.candidate().unwrap_err().to_string(), "LeaseDuration must be greater than RenewDeadline");
        for refused in ["--no-such-flag=1", "--max-endpoints-per-slice=1001", "--leader-elect-resource-lock=endpoints"] {
            assert!(read(refused).is_err(), "{refused}");
        }
    }
}
