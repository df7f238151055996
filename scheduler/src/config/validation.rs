//! What is wrong with a file, in upstream's words (`pkg/scheduler/apis/config/validation`).

use super::args::{self, PluginArgs, ResourceSpec, ShapePoint};
use super::extender;
use super::file::File;
use super::profile::Profile;
use api::field::{ErrorList, Path};
use api::resources::core::pod::validation::scheduling;
use api::validation::labels::label_name;
use k8s_openapi::api::core::v1::{NodeAffinity, TopologySpreadConstraint};
use std::time::Duration;

/// Plugins that are no more.
const REMOVED: &[&str] = &["AzureDiskLimits", "CinderLimits", "EBSLimits", "GCEPDLimits"];

/// Everything that is wrong.
pub fn validate(file: &File, profiles: &[Profile]) -> ErrorList {
    let mut errors = ErrorList::new();
    if file.client_connection.burst < 0 {
        errors.invalid(&Path::new("clientConnection").child("burst"), file.client_connection.burst, "must be non-negative");
    }
    let election = &file.leader_election;
    let path = Path::new("leaderElection");
    if election.leader_elect {
        if election.lease_duration.0 <= election.renew_deadline.0 {
            errors.invalid(
                &path.child("leaseDuration"),
                file_text(election.renew_deadline),
                "LeaseDuration must be greater than RenewDeadline",
            );
        }
        if election.renew_deadline.0 <= election.retry_period.0 {
            errors.invalid(
                &path.child("renewDeadline"),
                file_text(election.retry_period),
                "RenewDeadline must be greater than RetryPeriod",
            );
        }
        for (name, span) in
            [("leaseDuration", election.lease_duration), ("renewDeadline", election.renew_deadline), ("retryPeriod", election.retry_period)]
        {
            if span.0.is_zero() {
                errors.invalid(&path.child(name), file_text(span), "must be greater than zero");
            }
        }
        if election.resource_name.is_empty() {
            errors.required(&path.child("resourceName"), "resourceName is required");
        }
        if election.resource_namespace.is_empty() {
            errors.required(&path.child("resourceNamespace"), "resourceNamespace is required");
        }
        if election.resource_lock.is_empty() {
            errors.required(&path.child("resourceLock"), "resourceLock is required");
        }
        if election.resource_lock != "leases" {
            errors.invalid(&path.child("resourceLock"), election.resource_lock.as_str(), "resourceLock value must be \"leases\"");
        }
    }
    if file.parallelism <= 0 {
        errors.invalid(&Path::new("parallelism"), file.parallelism, "should be an integer value greater than zero");
    }
    for (position, profile) in profiles.iter().enumerate() {
        let path = Path::new("profiles").index(position);
        validate_profile(&mut errors, &path, profile);
        if let Some(first) = profiles[..position].iter().position(|other| other.name == profile.name) {
            errors.duplicate(&path.child("schedulerName"), format!("profiles[{first}].schedulerName"));
        }
        if profile.plugins.queue_sort != profiles[0].plugins.queue_sort {
            errors.invalid(&path.child("plugins").child("queueSort"), profile.name.as_str(), "must be the same for all profiles");
        }
    }
    if let Some(sorting) = profiles.first().map(|profile| profile.plugins.queue_sort.enabled.len()).filter(|count| *count > 1) {
        let path = Path::new("profiles").index(0).child("plugins").child("queueSort").child("Enabled");
        errors.invalid(&path, sorting, "only one queue sort plugin can be enabled");
    }
    percentage(&mut errors, &Path::new("percentageOfNodesToScore"), file.percentage_of_nodes_to_score);
    if file.pod_initial_backoff_seconds <= 0 {
        errors.invalid(&Path::new("podInitialBackoffSeconds"), file.pod_initial_backoff_seconds, "must be greater than 0");
    }
    if file.pod_max_backoff_seconds < file.pod_initial_backoff_seconds {
        let detail = "must be greater than or equal to PodInitialBackoffSeconds";
        errors.invalid(&Path::new("podMaxBackoffSeconds"), file.pod_max_backoff_seconds, detail);
    }
    extender::validate(&mut errors, &Path::new("extenders"), &file.extenders);
    errors
}

fn file_text(span: super::file::Span) -> serde_json::Value {
    serde_json::to_value(span).unwrap_or_default()
}

fn percentage(errors: &mut ErrorList, path: &Path, percentage: Option<i32>) {
    if let Some(percentage) = percentage.filter(|percentage| !(0..=100).contains(percentage)) {
        errors.invalid(path, percentage, "not in valid range [0-100]");
    }
}

fn validate_profile(errors: &mut ErrorList, path: &Path, profile: &Profile) {
    if profile.name.is_empty() {
        errors.required(&path.child("schedulerName"), "");
    }
    percentage(errors, &path.child("percentageOfNodesToScore"), profile.percentage_of_nodes_to_score);
    let removed = |errors: &mut ErrorList, path: &Path, name: &str| {
        let version = super::VERSION;
        errors.invalid(path, name, &format!("was invalid in version {version:?} (KubeSchedulerConfiguration is version {version:?})"));
    };
    for (point, list) in profile.plugins.by_point() {
        for (index, plugin) in list.enabled.iter().enumerate().filter(|(_, plugin)| REMOVED.contains(&plugin.name.as_str())) {
            removed(errors, &path.child("plugins").child(point).child("enabled").index(index), &plugin.name);
        }
    }
    for (index, name) in profile.configured.iter().enumerate() {
        let path = path.child("pluginConfig").index(index);
        if profile.configured[..index].contains(name) {
            errors.duplicate(&path, name.as_str());
        }
        if REMOVED.contains(&name.as_str()) {
            removed(errors, &path, name);
        }
        validate_args(errors, &path.child("args"), name, &profile.args);
    }
}

fn validate_args(errors: &mut ErrorList, path: &Path, plugin: &str, args: &PluginArgs) {
    match plugin {
        "DefaultPreemption" => {
            let args::DefaultPreemptionArgs { min_candidate_nodes_percentage: share, min_candidate_nodes_absolute: absolute } =
                args.default_preemption;
            let (of_share, of_absolute) = (path.child("minCandidateNodesPercentage"), path.child("minCandidateNodesAbsolute"));
            if !(0..=100).contains(&share) {
                errors.invalid(&of_share, share, "not in valid range [0, 100]");
            }
            if absolute < 0 {
                errors.invalid(&of_absolute, absolute, "not in valid range [0, inf)");
            }
            if share == 0 && absolute == 0 {
                errors.invalid(&of_share, share, "cannot be zero at the same time as minCandidateNodesAbsolute");
                errors.invalid(&of_absolute, absolute, "cannot be zero at the same time as minCandidateNodesPercentage");
            }
        }
        "DynamicResources" => {
            if let Some(timeout) = args.dynamic_resources.binding_timeout.filter(|timeout| timeout.0 < Duration::from_secs(1)) {
                errors.invalid(&path.child("bindingTimeout"), file_text(timeout), "must be at least 1 second");
            }
        }
        "NodeAffinity" => validate_added_affinity(errors, &path.child("addedAffinity"), args.node_affinity.added_affinity.as_ref()),
        "InterPodAffinity" => {
            let weight = args.inter_pod_affinity.hard_pod_affinity_weight;
            if !(0..=100).contains(&weight) {
                errors.invalid(&path.child("hardPodAffinityWeight"), weight, "not in valid range [0, 100]");
            }
        }
        "NodeResourcesBalancedAllocation" => {
            let resources = &args.balanced_allocation.resources;
            for (index, resource) in resources.iter().enumerate() {
                let path = path.child("resources").index(index);
                if resources[..index].iter().any(|other| other.name == resource.name) {
                    errors.duplicate(&path.child("name"), resource.name.as_str());
                }
                if resource.weight != 1 {
                    errors.invalid(&path.child("weight"), resource.weight, "must be 1");
                }
            }
        }
        "NodeResourcesFit" => validate_fit(errors, path, &args.resources_fit),
        "PodTopologySpread" => validate_spread(errors, path, &args.topology_spread),
        "VolumeBinding" => {
            let binding = &args.volume_binding;
            if binding.bind_timeout_seconds < 0 {
                let detail = "invalid BindTimeoutSeconds, should not be a negative value";
                errors.invalid(&path.child("bindTimeoutSeconds"), binding.bind_timeout_seconds, detail);
            }
            if let Some(shape) = &binding.shape {
                let detail = "unexpected field `shape`, remove it or turn on the feature gate StorageCapacityScoring";
                errors.invalid(&path.child("shape"), serde_json::to_value(shape).unwrap_or_default(), detail);
            }
        }
        _ => {}
    }
}

fn validate_added_affinity(errors: &mut ErrorList, path: &Path, affinity: Option<&NodeAffinity>) {
    let Some(affinity) = affinity else { return };
    if let Some(required) = &affinity.required_during_scheduling_ignored_during_execution {
        scheduling::node_selector(errors, &path.child("requiredDuringSchedulingIgnoredDuringExecution"), required);
    }
    let path = path.child("preferredDuringSchedulingIgnoredDuringExecution");
    for (index, term) in affinity.preferred_during_scheduling_ignored_during_execution.iter().flatten().enumerate() {
        scheduling::node_selector_term(errors, &path.index(index), &term.preference, true);
    }
}

fn validate_fit(errors: &mut ErrorList, path: &Path, args: &args::NodeResourcesFitArgs) {
    for (index, resource) in args.ignored_resources.iter().enumerate() {
        label_name(errors, &path.child("ignoredResources").index(index), resource);
    }
    for (index, group) in args.ignored_resource_groups.iter().enumerate() {
        let path = path.child("ignoredResourceGroups").index(index);
        if group.contains('/') {
            errors.invalid(&path, group.as_str(), "resource group name can't contain '/'");
        }
        label_name(errors, &path, group);
    }
    let path = path.child("scoringStrategy");
    let Some(strategy) = &args.scoring_strategy else { return errors.required(&path, "ScoringStrategy field is required") };
    let kinds = [args::LEAST_ALLOCATED, args::MOST_ALLOCATED, args::REQUESTED_TO_CAPACITY_RATIO];
    if !kinds.contains(&strategy.kind.as_str()) {
        errors.not_supported(&path.child("type"), strategy.kind.as_str(), &kinds);
    }
    validate_resources(errors, &path.child("resources"), &strategy.resources);
    let of_function = path.child("requestedToCapacityRatio");
    match (strategy.kind == args::REQUESTED_TO_CAPACITY_RATIO, &strategy.requested_to_capacity_ratio) {
        (true, None) => errors.required(&of_function, "must be specified when type is RequestedToCapacityRatio"),
        (true, Some(function)) => validate_shape(errors, &of_function.child("shape"), &function.shape),
        (false, Some(_)) => errors.forbidden(&of_function, "must be nil when type is not RequestedToCapacityRatio"),
        (false, None) => {}
    }
}

fn validate_resources(errors: &mut ErrorList, path: &Path, resources: &[ResourceSpec]) {
    for (index, resource) in resources.iter().enumerate().filter(|(_, resource)| !(1..=100).contains(&resource.weight)) {
        let detail = format!("resource weight of {} not in valid range (0, 100]", resource.name);
        errors.invalid(&path.index(index).child("weight"), resource.weight, &detail);
    }
}

fn validate_shape(errors: &mut ErrorList, path: &Path, shape: &[ShapePoint]) {
    if shape.is_empty() {
        return errors.required(path, "at least one point must be specified");
    }
    if let Some(index) = (1..shape.len()).find(|index| shape[index - 1].utilization >= shape[*index].utilization) {
        let path = path.index(index).child("utilization");
        errors.invalid(&path, shape[index].utilization, "values must be sorted in increasing order");
    }
    for (index, point) in shape.iter().enumerate() {
        if !(0..=100).contains(&point.utilization) {
            errors.invalid(&path.index(index).child("utilization"), point.utilization, "not in valid range [0, 100]");
        }
        if !(0..=10).contains(&point.score) {
            errors.invalid(&path.index(index).child("score"), point.score, "not in valid range [0, 10]");
        }
    }
}

fn validate_spread(errors: &mut ErrorList, path: &Path, args: &args::PodTopologySpreadArgs) {
    let kinds = [args::LIST_DEFAULTING, args::SYSTEM_DEFAULTING];
    let kind = args.defaulting_type.as_str();
    if !kinds.contains(&kind) {
        errors.not_supported(&path.child("defaultingType"), kind, &kinds);
    } else if kind == args::SYSTEM_DEFAULTING && !args.default_constraints.is_empty() {
        errors.invalid(&path.child("defaultingType"), kind, "when .defaultConstraints are not empty");
    }
    for (index, constraint) in args.default_constraints.iter().enumerate() {
        let of_list = path.child("defaultConstraints").index(index);
        if constraint.max_skew <= 0 {
            errors.invalid(&of_list.child("maxSkew"), constraint.max_skew, "not in valid range (0, inf)");
        }
        if constraint.topology_key.is_empty() {
            errors.required(&of_list.child("topologyKey"), "can not be empty");
        } else {
            label_name(errors, &of_list.child("topologyKey"), &constraint.topology_key);
        }
        match constraint.when_unsatisfiable.as_str() {
            "" => errors.required(&of_list.child("whenUnsatisfiable"), "can not be empty"),
            "DoNotSchedule" | "ScheduleAnyway" => {}
            other => errors.not_supported(&of_list.child("whenUnsatisfiable"), other, &["DoNotSchedule", "ScheduleAnyway"]),
        }
        if constraint.label_selector.is_some() {
            errors.forbidden(&of_list.child("labelSelector"), "constraint must not define a selector, as they deduced for each pod");
        }
        let pair = |constraint: &TopologySpreadConstraint| (constraint.topology_key.clone(), constraint.when_unsatisfiable.clone());
        if args.default_constraints[..index].iter().any(|other| pair(other) == pair(constraint)) {
            errors.duplicate(&of_list, format!("{{{}, {}}}", constraint.topology_key, constraint.when_unsatisfiable));
        }
    }
}
