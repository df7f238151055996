//! What a cgroup is set to, and how that is said: in files of the kernel, or in properties of a systemd unit (`systemd.resource-control(5)`).

use crate::container::resources;
use zbus::Variant;

/// What a cgroup may use at most; what is not set stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Its part of the CPUs, in thousandths of one.
    pub cpu: Option<i64>,
    /// Bytes.
    pub memory: Option<i64>,
    /// Processes and threads.
    pub processes: Option<i64>,
}

/// One thing that a cgroup is set to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// Its part of the CPUs where they do not suffice, in shares of cgroup v1.
    Shares(u64),
    /// Microseconds of CPU in each [`resources::CPU_PERIOD`]; nothing is no limit.
    Quota(Option<i64>),
    /// Bytes; nothing is no limit.
    Memory(Option<i64>),
    /// Processes and threads.
    Processes(i64),
}

/// A file of a cgroup: the controller, its name, what is written.
pub type File = (&'static str, &'static str, String);
/// A property of a systemd unit.
pub type Property = (&'static str, Variant<'static>);

impl Limits {
    /// In the order in which they are set.
    pub fn settings(&self) -> Vec<Setting> {
        let all = [
            self.cpu.map(|cpu| Setting::Shares(resources::shares(cpu))),
            self.memory.map(|bytes| Setting::Memory(Some(bytes))),
            self.processes.map(Setting::Processes),
        ];
        all.into_iter().flatten().collect()
    }
}

impl Setting {
    /// As cgroup v2 (`unified`) or v1 has it.
    pub fn files(self, unified: bool) -> Vec<File> {
        let period = resources::CPU_PERIOD;
        let or = |amount: Option<i64>, none: &str| amount.map_or_else(|| none.to_owned(), |amount| amount.to_string());
        match (self, unified) {
            (Setting::Shares(shares), true) => vec![("cpu", "cpu.weight", weight(shares).to_string())],
            (Setting::Shares(shares), false) => vec![("cpu", "cpu.shares", shares.to_string())],
            (Setting::Quota(quota), true) => vec![("cpu", "cpu.max", format!("{} {period}", or(quota, "max")))],
            (Setting::Quota(quota), false) => {
                vec![("cpu", "cpu.cfs_period_us", period.to_string()), ("cpu", "cpu.cfs_quota_us", or(quota, "-1"))]
            }
            (Setting::Memory(bytes), true) => vec![("memory", "memory.max", or(bytes, "max"))],
            (Setting::Memory(bytes), false) => vec![("memory", "memory.limit_in_bytes", or(bytes, "-1"))],
            (Setting::Processes(most), _) => vec![("pids", "pids.max", most.to_string())],
        }
    }

    /// As systemd has it on cgroup v2 (`unified`) or v1, whose properties it names otherwise.
    pub fn property(self, unified: bool) -> Property {
        // All of them count from 0, and the highest number is "infinity".
        let amount = |amount: Option<i64>| amount.and_then(|amount| u64::try_from(amount).ok()).unwrap_or(u64::MAX);
        let (name, value) = match (self, unified) {
            (Setting::Shares(shares), true) => ("CPUWeight", weight(shares)),
            (Setting::Shares(shares), false) => ("CPUShares", shares),
            (Setting::Quota(quota), _) => ("CPUQuotaPerSecUSec", amount(quota.map(per_second))),
            (Setting::Memory(bytes), true) => ("MemoryMax", amount(bytes)),
            (Setting::Memory(bytes), false) => ("MemoryLimit", amount(bytes)),
            (Setting::Processes(most), _) => ("TasksMax", amount(Some(most))),
        };
        (name, Variant::from(value))
    }
}

/// Shares as the weight of cgroup v2 (upstream: `getCPUWeight`).
fn weight(shares: u64) -> u64 {
    1 + ((shares.max(2) - 2) * 9999) / 262_142
}

/// A quota in microseconds a second. systemd keeps whole hundredths of a CPU, so that what is between two is rounded up, lest a pod get less than its containers.
fn per_second(quota: i64) -> i64 {
    (quota * 1_000_000 / resources::CPU_PERIOD + 9_999) / 10_000 * 10_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_said_as_each_version_and_systemd_know_it() {
        for (setting, two, one, property_two, property_one) in [
            (Setting::Shares(256), "cpu.weight=10", "cpu.shares=256", ("CPUWeight", 10), ("CPUShares", 256)),
            (Setting::Shares(2), "cpu.weight=1", "cpu.shares=2", ("CPUWeight", 1), ("CPUShares", 2)),
            (
                Setting::Quota(Some(50_000)),
                "cpu.max=50000 100000",
                "cpu.cfs_period_us=100000 cpu.cfs_quota_us=50000",
                ("CPUQuotaPerSecUSec", 500_000),
                ("CPUQuotaPerSecUSec", 500_000),
            ),
            (
                Setting::Quota(Some(1_001)),
                "cpu.max=1001 100000",
                "cpu.cfs_period_us=100000 cpu.cfs_quota_us=1001",
                ("CPUQuotaPerSecUSec", 20_000),
                ("CPUQuotaPerSecUSec", 20_000),
            ),
            (
                Setting::Quota(None),
                "cpu.max=max 100000",
                "cpu.cfs_period_us=100000 cpu.cfs_quota_us=-1",
                ("CPUQuotaPerSecUSec", u64::MAX),
                ("CPUQuotaPerSecUSec", u64::MAX),
            ),
            (Setting::Memory(Some(1024)), "memory.max=1024", "memory.limit_in_bytes=1024", ("MemoryMax", 1024), ("MemoryLimit", 1024)),
            (Setting::Memory(None), "memory.max=max", "memory.limit_in_bytes=-1", ("MemoryMax", u64::MAX), ("MemoryLimit", u64::MAX)),
            (Setting::Processes(9), "pids.max=9", "pids.max=9", ("TasksMax", 9), ("TasksMax", 9)),
        ] {
            let files = |unified| {
                let written = setting.files(unified).into_iter().map(|(_, file, value)| format!("{file}={value}"));
                written.collect::<Vec<_>>().join(" ")
            };
            assert_eq!((files(true).as_str(), files(false).as_str()), (two, one));
            let property = |(name, value): (&'static str, u64)| (name, Variant::from(value));
            assert_eq!((setting.property(true), setting.property(false)), (property(property_two), property(property_one)));
        }
        let limits = Limits { cpu: Some(250), memory: Some(7), processes: None };
        assert_eq!(limits.settings(), [Setting::Shares(256), Setting::Memory(Some(7))]);
    }
}
