//! `--concurrent-*-syncs`: how many keys a controller works on at a time. One row is one flag.

use clap::{Arg, ArgMatches, Args, Command, FromArgMatches, value_parser};
use std::collections::BTreeMap;

/// Flags of upstream's, and the controllers of ours that they are about.
const TABLE: &[(&str, &str)] = &[
    ("concurrent-cron-job-syncs", "cronjob-controller"),
    ("concurrent-daemonset-syncs", "daemonset-controller"),
    ("concurrent-deployment-syncs", "deployment-controller"),
    ("concurrent-device-taint-eviction-syncs", "device-taint-eviction-controller"),
    ("concurrent-endpoint-syncs", "endpoints-controller"),
    ("concurrent-ephemeralvolume-syncs", "ephemeral-volume-controller"),
    ("concurrent-gc-syncs", "garbage-collector-controller"),
    ("concurrent-horizontal-pod-autoscaler-syncs", "horizontal-pod-autoscaler-controller"),
    ("concurrent-job-syncs", "job-controller"),
    ("concurrent-namespace-syncs", "namespace-controller"),
    ("concurrent-rc-syncs", "replicationcontroller-controller"),
    ("concurrent-replicaset-syncs", "replicaset-controller"),
    ("concurrent-resource-claim-syncs", "resourceclaim-controller"),
    ("concurrent-resource-quota-syncs", "resourcequota-controller"),
    ("concurrent-service-endpoint-syncs", "endpointslice-controller"),
    ("concurrent-service-syncs", "service-lb-controller"),
    ("concurrent-serviceaccount-token-syncs", "serviceaccount-token-controller"),
    ("concurrent-statefulset-syncs", "statefulset-controller"),
    ("concurrent-ttl-after-finished-syncs", "ttl-after-finished-controller"),
    ("mirroring-concurrent-service-endpoint-syncs", "endpointslice-mirroring-controller"),
];

/// Those that were given, by the names of controllers. The others have their own number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Workers(pub BTreeMap<&'static str, usize>);

impl Args for Workers {
    fn augment_args(command: Command) -> Command {
        let flag = |(flag, controller): &(&'static str, &'static str)| {
            let help = format!("How many objects the {controller} works on at a time");
            Arg::new(*flag).long(*flag).value_name("N").value_parser(value_parser!(u16).range(1..)).help(help)
        };
        command.args(TABLE.iter().map(flag))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Workers {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = |(flag, controller): &(&str, &'static str)| Some((*controller, usize::from(*matches.get_one::<u16>(flag)?)));
        Ok(Self(TABLE.iter().filter_map(given).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0.extend(Self::from_arg_matches(matches)?.0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_is_about_a_controller_that_there_is() {
        for (flag, controller) in TABLE {
            assert!(crate::controllers::TABLE.iter().any(|row| row.name == *controller), "{flag}");
        }
    }

    #[test]
    fn what_is_given_counts() {
        let read = |words: &[&str]| {
            let matches = Workers::augment_args(Command::new("x")).try_get_matches_from(words)?;
            Workers::from_arg_matches(&matches)
        };
        let got = read(&["x", "--concurrent-gc-syncs", "3", "--concurrent-rc-syncs=7"]).unwrap();
        assert_eq!(got.0, BTreeMap::from([("garbage-collector-controller", 3), ("replicationcontroller-controller", 7)]));
        assert!(read(&["x", "--concurrent-gc-syncs=0"]).is_err());
    }
}
