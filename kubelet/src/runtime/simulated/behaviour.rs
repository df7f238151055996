//! How a simulated runtime behaves: how long its calls take, how often they fail, what its processes do, and what a test has go wrong.

use super::super::RuntimeError;
use anyhow::{Context, bail};
use k8s_cri::v1 as api;
use std::{str::FromStr, time::Duration};

/// The times and failures of all of a runtime's calls. By default everything is done at once and nothing fails.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Behaviour {
    /// How long it takes to make a sandbox.
    pub sandbox: Duration,
    /// How long a pull takes.
    pub pull: Duration,
    /// How long a container takes to start.
    pub start: Duration,
    /// How long a process takes to end after SIGTERM.
    pub stop: Duration,
    /// The share of sandboxes, pulls and starts that fail, from 0 to 1.
    pub failures: f64,
    /// What decides which of them do.
    pub seed: u64,
}

impl FromStr for Behaviour {
    type Err = anyhow::Error;

    /// `sandbox=300ms,pull=2s,start=100ms,stop=1s,failures=0.01,seed=7`, each part optional.
    fn from_str(text: &str) -> anyhow::Result<Self> {
        let mut out = Behaviour::default();
        for part in text.split(',').filter(|p| !p.is_empty()) {
            let (key, value) = part.split_once('=').with_context(|| format!("{part:?} is not key=value"))?;
            let time = || -> anyhow::Result<Duration> {
                let parsed: jiff::SignedDuration = value.parse().with_context(|| format!("{key}={value:?}"))?;
                Ok(Duration::try_from(parsed)?)
            };
            match key {
                "sandbox" => out.sandbox = time()?,
                "pull" => out.pull = time()?,
                "start" => out.start = time()?,
                "stop" => out.stop = time()?,
                "failures" => out.failures = value.parse().ok().filter(|f| (0.0..=1.0).contains(f)).context("failures is from 0 to 1")?,
                "seed" => out.seed = value.parse().context("seed is a number")?,
                _ => bail!("{key:?} is none of sandbox, pull, start, stop, failures, seed"),
            }
        }
        Ok(out)
    }
}

/// What the process of a container does.
#[derive(Clone, Debug)]
pub struct Process {
    /// How long each run lasts and the code it ends with; the last entry holds for all runs after it. None: it runs until it is stopped.
    pub runs: Vec<(Duration, i32)>,
    /// How long it takes to end after SIGTERM; a deaf one waits for SIGKILL.
    pub heeds: Option<Duration>,
}

impl Process {
    /// Runs until it is stopped, and ends at once then.
    pub fn steady() -> Self {
        Process { runs: Vec::new(), heeds: Some(Duration::ZERO) }
    }

    /// Ends after so many seconds with this code, every time.
    pub fn ending(seconds: u64, code: i32) -> Self {
        Process { runs: vec![(Duration::from_secs(seconds), code)], ..Process::steady() }
    }

    /// Ends `seconds` after SIGTERM.
    pub fn slow(seconds: u64) -> Self {
        Process { heeds: Some(Duration::from_secs(seconds)), ..Process::steady() }
    }

    /// Does not listen to SIGTERM.
    pub fn deaf() -> Self {
        Process { heeds: None, ..Process::steady() }
    }

    /// The length and the code of the n-th run, from 0.
    pub fn run(&self, n: usize) -> Option<(Duration, i32)> {
        self.runs.get(n).or(self.runs.last()).copied()
    }
}

/// What a command in a container does.
#[derive(Clone, Debug, Default)]
pub struct Command {
    /// How long it takes.
    pub takes: Duration,
    /// Its exit code.
    pub code: i32,
    /// What it prints.
    pub output: String,
}

/// The calls that can be made to go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // They are named as the calls are.
pub enum Call {
    RunSandbox,
    StopSandbox,
    RemoveSandbox,
    List,
    Create,
    Start,
    Stop,
    Pull,
}

/// How a call goes wrong.
#[derive(Clone, Debug)]
pub enum Fault {
    /// It answers with an error.
    Fails(RuntimeError),
    /// It does not answer until the caller's deadline.
    Hangs,
}

/// What a runtime that answers nonsense does to its answers. By default it leaves them as they are.
#[derive(Clone, Copy, Debug)]
pub struct Distortion {
    /// To the ids of what it makes.
    pub made: fn(&mut String),
    /// To a list of sandboxes.
    pub sandboxes: fn(&mut Vec<api::PodSandbox>),
    /// To the status of a sandbox.
    pub sandbox: fn(&mut api::PodSandboxStatus),
    /// To a list of containers.
    pub containers: fn(&mut Vec<api::Container>),
    /// To the status of a container.
    pub container: fn(&mut api::ContainerStatus),
}

impl Default for Distortion {
    fn default() -> Self {
        Distortion { made: |_| (), sandboxes: |_| (), sandbox: |_| (), containers: |_| (), container: |_| () }
    }
}

/// The deadline of [`Fault::Hangs`], that of the calls to a real runtime.
pub const DEADLINE: Duration = Duration::from_secs(120);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_behaviour_is_written_in_one_flag() {
        let got: Behaviour = "sandbox=300ms,stop=2s,failures=0.5,seed=3".parse().expect("well formed");
        let want =
            Behaviour { sandbox: Duration::from_millis(300), stop: Duration::from_secs(2), failures: 0.5, seed: 3, ..Default::default() };
        assert_eq!(got, want);
        for bad in ["sandbox", "sandbox=fast", "failures=2", "nosuch=1s", "stop=-1s"] {
            assert!(bad.parse::<Behaviour>().is_err(), "{bad}");
        }
    }
}
