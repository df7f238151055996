//! Flags of upstream's that change nothing here: they are taken, so that a command line written for upstream's controller-manager starts this one, and the
//! help says why they do nothing. Whoever gives one finds it in the log.

use clap::{Arg, ArgMatches, Args, Command, FromArgMatches, parser::ValueSource};

/// Flags that do nothing for the same reason.
struct Row {
    why: &'static str,
    /// Those that take a value.
    valued: &'static [&'static str],
    /// Those that are on or off.
    switches: &'static [&'static str],
}

const TABLE: &[Row] = &[
    Row {
        why: "there is no cloud behind this cluster",
        valued: &["cloud-config", "cloud-provider", "cluster-name", "external-cloud-volume-plugin", "route-reconciliation-period"],
        switches: &["configure-cloud-routes"],
    },
    Row {
        why: "nothing is looked at again and again: watches tell of every change",
        valued: &[
            "attach-detach-reconcile-sync-period",
            "controller-start-interval",
            "min-resync-period",
            "namespace-sync-period",
            "pvclaimbinder-sync-period",
            "resource-quota-sync-period",
        ],
        switches: &["disable-attach-detach-reconcile-sync"],
    },
    Row { why: "a node is looked at whenever its Lease is due", valued: &["node-monitor-period"], switches: &[] },
    Row {
        why: "volumes are those of CSI drivers and of the built-in provisioner, and none is scrubbed to be used again",
        valued: &[
            "flex-volume-plugin-dir",
            "pv-recycler-increment-timeout-nfs",
            "pv-recycler-minimum-timeout-hostpath",
            "pv-recycler-minimum-timeout-nfs",
            "pv-recycler-pod-template-filepath-hostpath",
            "pv-recycler-pod-template-filepath-nfs",
            "pv-recycler-timeout-increment-hostpath",
        ],
        switches: &["enable-hostpath-provisioner"],
    },
    Row {
        why: "the apiserver checks policies' expressions for their types",
        valued: &["concurrent-validating-admission-policy-status-syncs"],
        switches: &[],
    },
    Row { why: "every node gets its part of one range", valued: &["cidr-allocator-type"], switches: &[] },
    Row {
        why: "requests are not held back here, but by the apiserver's flow control",
        valued: &["http2-max-streams-per-connection", "kube-api-burst", "kube-api-content-type", "kube-api-qps"],
        switches: &[],
    },
    Row {
        why: "what is served holds no secrets, and everybody may read it",
        valued: &[
            "authentication-kubeconfig",
            "authentication-token-webhook-cache-ttl",
            "authorization-always-allow-paths",
            "authorization-kubeconfig",
            "authorization-webhook-cache-authorized-ttl",
            "authorization-webhook-cache-unauthorized-ttl",
            "client-ca-file",
            "requestheader-allowed-names",
            "requestheader-client-ca-file",
            "requestheader-extra-headers-prefix",
            "requestheader-group-headers",
            "requestheader-uid-headers",
            "requestheader-username-headers",
        ],
        switches: &["authentication-skip-lookup", "authentication-tolerate-lookup-failure"],
    },
    Row {
        why: "the serving certificate is made at the start and signed by itself",
        valued: &["cert-dir", "tls-cert-file", "tls-cipher-suites", "tls-min-version", "tls-private-key-file", "tls-sni-cert-key"],
        switches: &["disable-http2-serving", "permit-address-sharing", "permit-port-sharing"],
    },
    Row {
        why: "logs and metrics have one form",
        valued: &[
            "allow-metric-labels",
            "allow-metric-labels-manifest",
            "disabled-metrics",
            "log-flush-frequency",
            "log-json-info-buffer-size",
            "log-text-info-buffer-size",
            "logging-format",
            "show-hidden-metrics-for-version",
            "vmodule",
        ],
        switches: &["contention-profiling", "log-json-split-stream", "log-text-split-stream", "profiling"],
    },
];

/// Those that were given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unused(pub Vec<&'static str>);

fn names() -> impl Iterator<Item = &'static str> {
    TABLE.iter().flat_map(|row| row.valued.iter().chain(row.switches)).copied()
}

impl Args for Unused {
    fn augment_args(command: Command) -> Command {
        let flag = |name: &'static str, why: &str| Arg::new(name).long(name).value_name("VALUE").help(format!("Does nothing here: {why}"));
        TABLE.iter().fold(command, |command, row| {
            let valued = row.valued.iter().map(|name| flag(name, row.why).action(clap::ArgAction::Append));
            let switches = row.switches.iter().map(|name| {
                let switch = flag(name, row.why).num_args(0..=1).require_equals(true).default_missing_value("true");
                switch.value_parser(clap::value_parser!(bool))
            });
            command.args(valued.chain(switches))
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Unused {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self(names().filter(|name| matches.value_source(name) == Some(ValueSource::CommandLine)).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
