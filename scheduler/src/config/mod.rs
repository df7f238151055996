//! `--config`: a KubeSchedulerConfiguration (`kubescheduler.config.k8s.io/v1`), decoded strictly and validated in upstream's words.
//!
//! `parallelism`, the client's rates and content types, profiling and `delayCacheUntilActive` are read and
//! validated, and mean nothing here: decisions take one thread, and the server's priority and fairness is the only rate limit.

pub mod args;
mod extender;
mod file;
mod profile;
mod validation;

pub use extender::{Extender, ExtenderTls, ManagedResource};

use crate::plugins::{self, Lists};
use crate::queue::Backoff;
use anyhow::{Context, bail};
use args::PluginArgs;
use file::File;
use std::path::Path;
use std::time::Duration;

/// The scheduler's name, for pods that name none.
pub const DEFAULT_NAME: &str = "default-scheduler";
const VERSION: &str = "kubescheduler.config.k8s.io/v1";
const KIND: &str = "KubeSchedulerConfiguration";

/// One of the schedulers that this process is.
#[derive(Clone, Debug)]
pub struct ProfileConfiguration {
    /// The `schedulerName` of its pods.
    pub name: String,
    /// Its plugins at every point.
    pub lists: Lists,
    /// What they are told.
    pub args: PluginArgs,
    /// The share of nodes to look at in percent; 0 chooses by their number.
    pub percentage_of_nodes_to_score: usize,
}

impl ProfileConfiguration {
    /// The default plugins under a name.
    pub fn named(name: &str) -> Self {
        Self { name: name.to_owned(), lists: plugins::default_lists(), args: PluginArgs::default(), percentage_of_nodes_to_score: 0 }
    }
}

/// How a leader is chosen.
#[derive(Clone, Debug)]
pub struct LeaderElection {
    /// Whether one has to be.
    pub elect: bool,
    /// The Lease's namespace.
    pub namespace: String,
    /// The Lease's name.
    pub name: String,
    /// How long a record is respected.
    pub lease_duration: Duration,
    /// How long the leader tries to renew.
    pub renew_deadline: Duration,
    /// The time between tries.
    pub retry_period: Duration,
}

/// What of it is used.
#[derive(Clone, Debug)]
pub struct Configuration {
    /// The schedulers.
    pub profiles: Vec<ProfileConfiguration>,
    /// How long failed pods let others go first.
    pub backoff: Backoff,
    /// How a leader is chosen.
    pub leader_election: LeaderElection,
    /// Who else has a say in decisions, in the order in which they are asked.
    pub extenders: Vec<Extender>,
    /// The kubeconfig, if the file names one.
    pub kubeconfig: Option<String>,
    /// The file with the defaults in it, as `/configz` shows it.
    pub shown: serde_json::Value,
}

impl Configuration {
    /// The defaults for a process that is alone: nobody is elected.
    pub fn alone() -> Self {
        let defaults = Self::default();
        Self { leader_election: LeaderElection { elect: false, ..defaults.leader_election.clone() }, ..defaults }
    }
}

impl Default for Configuration {
    fn default() -> Self {
        interpret(&File::default()).expect("the defaults are valid")
    }
}

/// Reads a file.
pub fn load(path: &Path) -> anyhow::Result<Configuration> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    parse(&text)
}

/// Reads the text of one.
pub fn parse(text: &str) -> anyhow::Result<Configuration> {
    let value: serde_json::Value = serde_yaml::from_str(text).context("reading YAML")?;
    let field = |name: &str| value.get(name).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
    let (version, kind) = (field("apiVersion"), field("kind"));
    if version.is_empty() || kind.is_empty() {
        bail!("Object '{}' is missing in '{value}'", if kind.is_empty() { "Kind" } else { "apiVersion" });
    }
    if version != VERSION || kind != KIND {
        bail!(
            "no kind \"{kind}\" is registered for version \"{version}\" in scheme \"k8s.io/kubernetes/pkg/scheduler/apis/config/scheme/scheme.go:30\""
        );
    }
    let file: File = file::strictly(&value, "")?;
    interpret(&file)
}

fn interpret(file: &File) -> anyhow::Result<Configuration> {
    let profiles = profile::all(file)?;
    let errors = validation::validate(file, &profiles);
    if !errors.is_empty() {
        let lines: Vec<String> = errors.0.iter().map(|error| format!("{}: {}", error.path.as_str(), error.message)).collect();
        match lines.as_slice() {
            [one] => bail!("{one}"),
            several => bail!("[{}]", several.join(", ")),
        }
    }
    let shown = shown(file, &profiles)?;
    let mut extenders = file.extenders.clone();
    // Those that may fail are asked last.
    extenders.sort_by_key(|extender| extender.ignorable);
    let managed = file.extenders.iter().flat_map(|extender| &extender.managed_resources);
    let ignored: Vec<String> = managed.filter(|resource| resource.ignored_by_scheduler).map(|resource| resource.name.clone()).collect();
    let common = usize::try_from(file.percentage_of_nodes_to_score.unwrap_or(0)).unwrap_or(0);
    let election = &file.leader_election;
    Ok(Configuration {
        profiles: profiles
            .into_iter()
            .map(|mut profile| {
                if !ignored.is_empty() {
                    profile.args.resources_fit.ignored_resources.clone_from(&ignored);
                }
                let own = profile.percentage_of_nodes_to_score.and_then(|percentage| usize::try_from(percentage).ok());
                Ok(ProfileConfiguration {
                    lists: profile.lists()?,
                    percentage_of_nodes_to_score: own.unwrap_or(common),
                    name: profile.name,
                    args: profile.args,
                })
            })
            .collect::<anyhow::Result<_>>()?,
        backoff: Backoff { initial: seconds(file.pod_initial_backoff_seconds), max: seconds(file.pod_max_backoff_seconds) },
        leader_election: LeaderElection {
            elect: election.leader_elect,
            namespace: election.resource_namespace.clone(),
            name: election.resource_name.clone(),
            lease_duration: election.lease_duration.0,
            renew_deadline: election.renew_deadline.0,
            retry_period: election.retry_period.0,
        },
        extenders,
        kubeconfig: Some(file.client_connection.kubeconfig.clone()).filter(|path| !path.is_empty()),
        shown,
    })
}

/// The file with the profiles' defaults, and without what is secret in it.
fn shown(file: &File, profiles: &[profile::Profile]) -> anyhow::Result<serde_json::Value> {
    let mut file = file.clone();
    file.profiles = profiles.iter().map(profile::Profile::shown).collect::<anyhow::Result<_>>()?;
    for tls in file.extenders.iter_mut().filter_map(|extender| extender.tls_config.as_mut()) {
        tls.key_data.clear();
    }
    Ok(serde_json::to_value(&file)?)
}

fn seconds(count: i64) -> Duration {
    Duration::from_secs(u64::try_from(count).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::framework::Point;

    fn read(more: &str) -> Result<Configuration, String> {
        parse(&format!("apiVersion: {VERSION}\nkind: {KIND}\n{more}")).map_err(|error| format!("{error:#}"))
    }

    /// The names at a point of the first profile.
    fn names(read: &Configuration, point: Point) -> Vec<&str> {
        read.profiles[0].lists[point as usize].iter().map(|plugin| plugin.name.as_str()).collect()
    }

    #[test]
    fn what_is_read() {
        let more = "
profiles:
- schedulerName: mine
  percentageOfNodesToScore: 30
  plugins:
    multiPoint:
      disabled:
      - name: ImageLocality
    score:
      enabled:
      - name: NodeResourcesFit
        weight: 7
      disabled:
      - name: TaintToleration
    filter:
      disabled:
      - name: '*'
      enabled:
      - name: NodeName
  pluginConfig:
  - name: NodeResourcesFit
    args:
      scoringStrategy:
        type: MostAllocated
- schedulerName: other
podMaxBackoffSeconds: 3
leaderElection:
  leaderElect: false
  leaseDuration: 1m30s
";
        let read = read(more).unwrap();
        assert_eq!(read.profiles.iter().map(|profile| profile.name.as_str()).collect::<Vec<_>>(), ["mine", "other"]);
        assert_eq!(read.profiles.iter().map(|profile| profile.percentage_of_nodes_to_score).collect::<Vec<_>>(), [30, 0]);
        assert_eq!((read.backoff.initial, read.backoff.max), (Duration::from_secs(1), Duration::from_secs(3)));
        assert_eq!((read.leader_election.elect, read.leader_election.lease_duration), (false, Duration::from_secs(90)));
        assert_eq!(names(&read, Point::Filter), ["NodeName"]);
        let score = names(&read, Point::Score);
        assert_eq!(score[0], "NodeResourcesFit", "what is named at a point comes first");
        assert!(!score.contains(&"ImageLocality") && !score.contains(&"TaintToleration") && score.contains(&"NodeAffinity"));
        assert_eq!(read.profiles[0].lists[Point::Score as usize][0].weight, 7);
        assert!(names(&read, Point::PreFilter).contains(&"NodeAffinity"));
        let strategy = |profile: usize| read.profiles[profile].args.resources_fit.scoring_strategy.clone().unwrap().kind;
        assert_eq!((strategy(0).as_str(), strategy(1).as_str()), ("MostAllocated", "LeastAllocated"));
    }

    #[test]
    fn extenders() {
        let more = "
extenders:
- urlPrefix: http://a/x
  ignorable: true
  filterVerb: filter
  nodeCacheCapable: true
  managedResources: [{name: example.com/foo, ignoredByScheduler: true}, {name: example.com/bar}]
- urlPrefix: https://b
  enableHTTPS: true
  bindVerb: bind
  prioritizeVerb: score
  weight: 3
  httpTimeout: 100ms
  tlsConfig: {serverName: b, caFile: /ca.pem, keyData: c2VjcmV0}
";
        let read = read(more).unwrap();
        let urls: Vec<&str> = read.extenders.iter().map(|extender| extender.url_prefix.as_str()).collect();
        assert_eq!(urls, ["https://b", "http://a/x"], "who may fail is asked last");
        assert_eq!(read.profiles[0].args.resources_fit.ignored_resources, ["example.com/foo"]);
        let shown = &read.shown["extenders"][1];
        assert_eq!((&shown["tlsConfig"]["keyData"], &shown["httpTimeout"]), (&serde_json::json!(""), &serde_json::json!("100ms")));
    }

    #[test]
    fn nothing_said_is_the_defaults() {
        let read = read("").unwrap();
        assert_eq!((read.profiles.len(), read.profiles[0].name.as_str()), (1, DEFAULT_NAME));
        assert_eq!(read.profiles[0].lists, plugins::default_lists());
        assert!(read.leader_election.elect);
    }

    #[test]
    fn what_is_shown_has_the_defaults_in_it_and_can_be_read_again() {
        let read = read("profiles: [{plugins: {multiPoint: {disabled: [{name: ImageLocality}]}}}]\n").unwrap();
        let text = serde_yaml::to_string(&read.shown).unwrap();
        let again = parse(&text).unwrap();
        assert_eq!((&again.shown, &again.profiles[0].lists), (&read.shown, &read.profiles[0].lists));
        let profile = &read.shown["profiles"][0];
        assert_eq!(profile["schedulerName"], DEFAULT_NAME);
        assert_eq!(profile["plugins"]["multiPoint"]["enabled"][1]["name"], "PrioritySort");
        let fit = profile["pluginConfig"].as_array().unwrap().iter().find(|config| config["name"] == "NodeResourcesFit").unwrap();
        assert_eq!(
            (&fit["args"]["kind"], &fit["args"]["scoringStrategy"]["type"]),
            (&"NodeResourcesFitArgs".into(), &"LeastAllocated".into())
        );
    }

    #[test]
    fn what_is_refused() {
        let args = |plugin: &str, args: &str| format!("profiles:\n- pluginConfig:\n  - name: {plugin}\n    args: {args}\n");
        let plugins = |text: &str| format!("profiles:\n- plugins: {text}\n");
        for (more, expected) in [
            ("nope: 1\n".to_owned(), "strict decoding error: unknown field \"nope\""),
            ("profiles:\n- nope: 1\n  schedulerName: a\n".to_owned(), "strict decoding error: unknown field \"profiles[0].nope\""),
            ("podMaxBackoffSeconds: soon\n".to_owned(), "invalid type: string \"soon\", expected i64"),
            ("clientConnection: {burst: -1}\n".to_owned(), "clientConnection.burst: Invalid value: -1: must be non-negative"),
            (
                plugins("{queueSort: {enabled: [{name: PrioritySort}, {name: Other}]}}"),
                "profiles[0].plugins.queueSort.Enabled: Invalid value: 2: only one queue sort plugin can be enabled",
            ),
            ("parallelism: 0\n".to_owned(), "parallelism: Invalid value: 0: should be an integer value greater than zero"),
            ("percentageOfNodesToScore: 101\n".to_owned(), "percentageOfNodesToScore: Invalid value: 101: not in valid range [0-100]"),
            ("podInitialBackoffSeconds: 0\n".to_owned(), "podInitialBackoffSeconds: Invalid value: 0: must be greater than 0"),
            (
                "podMaxBackoffSeconds: 0\n".to_owned(),
                "podMaxBackoffSeconds: Invalid value: 0: must be greater than or equal to PodInitialBackoffSeconds",
            ),
            (
                "profiles:\n- schedulerName: a\n- schedulerName: a\n".to_owned(),
                "profiles[1].schedulerName: Duplicate value: \"profiles[0].schedulerName\"",
            ),
            (
                "leaderElection: {resourceLock: endpoints}\n".to_owned(),
                "leaderElection.resourceLock: Invalid value: \"endpoints\": resourceLock value must be \"leases\"",
            ),
            (
                args("InterPodAffinity", "{hardPodAffinityWeight: 101}"),
                "profiles[0].pluginConfig[0].args.hardPodAffinityWeight: Invalid value: 101: not in valid range [0, 100]",
            ),
            (
                args("InterPodAffinity", "{nope: 1}"),
                "decoding .profiles[0].pluginConfig[0]: decoding args for plugin InterPodAffinity: strict decoding error: unknown field \"nope\"",
            ),
            (
                args("DefaultPreemption", "{minCandidateNodesPercentage: 200}"),
                "profiles[0].pluginConfig[0].args.minCandidateNodesPercentage: Invalid value: 200: not in valid range [0, 100]",
            ),
            (
                args("NodeResourcesBalancedAllocation", "{resources: [{name: cpu, weight: 2}]}"),
                "profiles[0].pluginConfig[0].args.resources[0].weight: Invalid value: 2: must be 1",
            ),
            (
                args("PodTopologySpread", "{defaultConstraints: [{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: ScheduleAnyway}]}"),
                "profiles[0].pluginConfig[0].args.defaultingType: Invalid value: \"System\": when .defaultConstraints are not empty",
            ),
            (
                args("VolumeBinding", "{bindTimeoutSeconds: -1}"),
                "profiles[0].pluginConfig[0].args.bindTimeoutSeconds: Invalid value: -1: invalid BindTimeoutSeconds, should not be a negative value",
            ),
            (
                "extenders: [{prioritizeVerb: p}]\n".to_owned(),
                "extenders[0].weight: Invalid value: 0: must have a positive weight applied to it",
            ),
            (
                "extenders: [{bindVerb: b}, {bindVerb: b}]\n".to_owned(),
                "extenders: Invalid value: \"found 2 extenders implementing bind\": only one extender can implement bind",
            ),
            (
                "extenders: [{managedResources: [{name: a.com/b}, {name: a.com/b}]}]\n".to_owned(),
                "extenders[0].managedResources[1].name: Invalid value: \"a.com/b\": duplicate extender managed resource name",
            ),
            (
                "extenders: [{managedResources: [{name: cpu}]}]\n".to_owned(),
                "extenders[0].managedResources[0].name: Invalid value: \"cpu\": is an invalid extended resource name",
            ),
            ("extenders: [{urlprefix: x}]\n".to_owned(), "strict decoding error: unknown field \"extenders[0].urlprefix\""),
            (
                args("DynamicResources", "{bindingTimeout: 10ms}"),
                "profiles[0].pluginConfig[0].args.bindingTimeout: Invalid value: \"10ms\": must be at least 1 second",
            ),
            (args("DynamicResources", "{filterTimeout: -1s}"), "-1s is negative"),
            (
                args(
                    "NodeAffinity",
                    "{addedAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Near}]}]}}}",
                ),
                "profiles[0].pluginConfig[0].args.addedAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].operator: Invalid value: \"Near\": not a valid selector operator",
            ),
            ("leaderElection: {resourceLock: ''}\n".to_owned(), "leaderElection.resourceLock: Required value: resourceLock is required"),
            (plugins("{filter: {enabled: [{name: Nope}]}}"), "plugin \"Nope\" does not exist"),
            (plugins("{score: {enabled: [{name: NodeName}]}}"), "plugin \"NodeName\" does not extend Score plugin"),
            (plugins("{filter: {enabled: [{name: NodeName}, {name: NodeName}]}}"), "plugin \"NodeName\" already registered as \"Filter\""),
            (
                plugins("{filter: {enabled: [{name: EBSLimits}]}}"),
                "profiles[0].plugins.filter.enabled[0]: Invalid value: \"EBSLimits\": was invalid in version \"kubescheduler.config.k8s.io/v1\" (KubeSchedulerConfiguration is version \"kubescheduler.config.k8s.io/v1\")",
            ),
            (
                plugins("{multiPoint: {disabled: [{name: PrioritySort}]}}"),
                "at least one queue sort plugin is needed for profile with scheduler name \"default-scheduler\"",
            ),
            (
                plugins("{bind: {disabled: [{name: '*'}]}}"),
                "at least one bind plugin is needed for profile with scheduler name \"default-scheduler\"",
            ),
        ] {
            let error = read(&more).unwrap_err();
            assert!(error.contains(expected), "{more}: {error}");
        }
        assert!(
            parse("apiVersion: v1\nkind: Pod\n").unwrap_err().to_string().starts_with("no kind \"Pod\" is registered for version \"v1\"")
        );
    }
}
