//! `--leader-elect*`: whether and how one of several replicas is chosen.

use super::duration;
use client::election::{Candidate, Times};
use std::time::Duration;

/// How one of several replicas is chosen.
#[derive(clap::Args, Debug)]
pub struct Election {
    /// Wait for a Lease before controlling, so that several replicas can run.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true", action = clap::ArgAction::Set)]
    leader_elect: bool,
    /// How long the others respect the Lease of a leader that they do not hear any more.
    #[arg(long, default_value = "15s", value_parser = duration)]
    leader_elect_lease_duration: Duration,
    /// How long the leader tries to renew its Lease before it stops.
    #[arg(long, default_value = "10s", value_parser = duration)]
    leader_elect_renew_deadline: Duration,
    /// The time between two looks at the Lease.
    #[arg(long, default_value = "2s", value_parser = duration)]
    leader_elect_retry_period: Duration,
    /// What is held: there is only one kind of lock.
    #[arg(long, default_value = "leases", value_parser = ["leases"])]
    leader_elect_resource_lock: String,
    /// The Lease's name.
    #[arg(long, default_value = "kube-controller-manager")]
    leader_elect_resource_name: String,
    /// The Lease's namespace.
    #[arg(long, default_value = "kube-system")]
    leader_elect_resource_namespace: String,
}

impl Election {
    /// Who stands for election, if there is one. Times that do not fit together are an error, in upstream's words.
    pub fn candidate(&self) -> anyhow::Result<Option<Candidate>> {
        if !self.leader_elect {
            return Ok(None);
        }
        let times = Times {
            lease: self.leader_elect_lease_duration,
            renew: self.leader_elect_renew_deadline,
            retry: self.leader_elect_retry_period,
        };
        anyhow::ensure!(times.lease > times.renew, "LeaseDuration must be greater than RenewDeadline");
        anyhow::ensure!(times.renew > times.retry, "RenewDeadline must be greater than RetryPeriod");
        anyhow::ensure!(!times.retry.is_zero(), "retryPeriod must be greater than zero");
        let namespace = self.leader_elect_resource_namespace.clone();
        Ok(Some(Candidate { namespace, times, ..Candidate::new(&self.leader_elect_resource_name)? }))
    }
}
