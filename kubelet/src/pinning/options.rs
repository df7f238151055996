//! What the static policy may be told (`cpuManagerPolicyOptions`), and what of it goes together (upstream: `pkg/kubelet/cm/cpumanager/policy_options.go`).

use super::{
    assign::Way,
    topology::{Level, Topology},
};
use crate::config::KubeletConfiguration;
use anyhow::{Context, ensure};

/// The options.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Only whole cores (`full-pcpus-only`).
    pub cores: bool,
    /// What is reserved is nobody's, shared or not (`strict-cpu-reservation`).
    pub strict: bool,
    /// CPUs of several NUMA nodes are as many of each (`distribute-cpus-across-numa`).
    pub distribute: bool,
    /// A socket is as good as a NUMA node (`align-by-socket`).
    pub sockets: bool,
    /// How CPUs of one node are chosen.
    pub way: Way,
}

const CORES: &str = "full-pcpus-only";
const STRICT: &str = "strict-cpu-reservation";
const DISTRIBUTE: &str = "distribute-cpus-across-numa";
const SOCKETS: &str = "align-by-socket";
const SPREAD: &str = "distribute-cpus-across-cores";
const CACHES: &str = "prefer-align-cpus-by-uncorecache";

/// One option: its name, the feature gate it is behind with what that is by default, and where it is kept.
type Row = (&'static str, Option<(&'static str, bool)>, fn(&mut Options) -> &mut bool);

const ALPHA: Option<(&str, bool)> = Some(("CPUManagerPolicyAlphaOptions", false));
const BETA: Option<(&str, bool)> = Some(("CPUManagerPolicyBetaOptions", true));

const TABLE: [Row; 6] = [
    (CORES, None, |o| &mut o.cores),
    (STRICT, None, |o| &mut o.strict),
    (DISTRIBUTE, BETA, |o| &mut o.distribute),
    (CACHES, BETA, |o| &mut o.way.caches),
    (SOCKETS, ALPHA, |o| &mut o.sockets),
    (SPREAD, ALPHA, |o| &mut o.way.spread),
];

/// What cannot be had together.
const APART: [(&str, &str); 4] = [(CORES, SPREAD), (DISTRIBUTE, SPREAD), (CACHES, SPREAD), (CACHES, DISTRIBUTE)];

impl Options {
    /// By the configuration, for a machine.
    pub fn of(config: &KubeletConfiguration, topology: &Topology) -> anyhow::Result<Self> {
        let mut options = Options::default();
        for (name, value) in &config.cpu_manager_policy_options {
            let row = TABLE.iter().find(|(known, ..)| known == name);
            let (_, gate, field) = row.with_context(|| format!("unknown cpu manager policy option: {name:?}"))?;
            if let Some((gate, default)) = gate {
                let enabled = config.feature_gates.get(*gate).copied().unwrap_or(*default);
                ensure!(enabled, "CPU Manager Policy options behind {gate} not enabled, but option {name:?} provided");
            }
            *field(&mut options) = value.parse().with_context(|| format!("bad value for option {name:?}"))?;
        }
        let set = |name: &str| TABLE.iter().any(|(known, _, field)| *known == name && *field(&mut options.clone()));
        for (one, other) in APART {
            ensure!(!(set(one) && set(other)), "static policy options {one} and {other} can not be used at the same time");
        }
        if options.sockets {
            let single = "single-numa-node";
            ensure!(
                config.topology_manager_policy != single,
                "Topology manager {single} policy is incompatible with CPUManager {SOCKETS} policy option"
            );
            ensure!(
                topology.count(Level::Socket) <= topology.count(Level::Numa),
                "Align by socket is not compatible with hardware where number of sockets are more than number of NUMA"
            );
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn options_are_known_allowed_and_go_together() {
        for (given, want) in [
            (json!({CORES: "true", STRICT: "false"}), None),
            (json!({DISTRIBUTE: "true", CORES: "true"}), None),
            (json!({"x": "true"}), Some("unknown cpu manager policy option: \"x\"")),
            (json!({CORES: "maybe"}), Some("bad value for option \"full-pcpus-only\"")),
            (
                json!({SPREAD: "true"}),
                Some(
                    "CPU Manager Policy options behind CPUManagerPolicyAlphaOptions not enabled, but option \"distribute-cpus-across-cores\" provided",
                ),
            ),
            (
                json!({CACHES: "true", DISTRIBUTE: "true"}),
                Some(
                    "static policy options prefer-align-cpus-by-uncorecache and distribute-cpus-across-numa can not be used at the same time",
                ),
            ),
        ] {
            let config = serde_json::from_value(json!({"cpuManagerPolicyOptions": given})).expect("a configuration");
            let error = Options::of(&config, &Topology::default()).err().map(|error| error.to_string());
            assert_eq!(error.as_deref(), want, "{given}");
        }
        let config = json!({"cpuManagerPolicyOptions": {SOCKETS: "true"}, "featureGates": {"CPUManagerPolicyAlphaOptions": true}});
        let config = serde_json::from_value(config).expect("a configuration");
        assert!(Options::of(&config, &Topology::default()).expect("it is enabled").sockets);
    }
}
