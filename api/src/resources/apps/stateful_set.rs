//! StatefulSet: pods with names, order and storage of their own.

use super::template as workload;
use crate::field::{ErrorList, Path};
use crate::kind::Kind;
use crate::printer::{self, AGE, NAME, shown, wide};
use crate::resource::{Cells, Column, PrintContext, Resource, Subresource, texts};
use crate::resources::core::pod::defaults::template;
use crate::resources::core::pod::warnings;
use crate::resources::defaulting::{absent, text};
use crate::validation::numbers::{self, not_negative};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::apps::v1::{StatefulSetSpec, StatefulSetUpdateStrategy};
use k8s_openapi::api::core::v1::{PersistentVolumeClaimVolumeSource, PodTemplateSpec, Volume};
use serde_json::json;

const SUBRESOURCES: &[Subresource] = &[Subresource::scale(), Subresource::status("StatefulSet")];

const COLUMNS: &[Column] = &[NAME, shown("Ready", "string"), AGE, wide("Containers", "string"), wide("Images", "string")];

impl Kind for StatefulSet {
    fn set_defaults(&mut self) {
        let spec = self.spec.get_or_insert_default();
        template(&mut spec.template);
        text(&mut spec.pod_management_policy, "OrderedReady");
        let strategy = spec.update_strategy.get_or_insert_default();
        text(&mut strategy.type_, "RollingUpdate");
        if strategy.type_.as_deref() == Some("RollingUpdate") {
            absent(&mut strategy.rolling_update.get_or_insert_default().partition, 0);
        }
        let retention = spec.persistent_volume_claim_retention_policy.get_or_insert_default();
        text(&mut retention.when_deleted, "Retain");
        text(&mut retention.when_scaled, "Retain");
        absent(&mut spec.replicas, 1);
        absent(&mut spec.revision_history_limit, 10);
        for claim in spec.volume_claim_templates.iter_mut().flatten() {
            Kind::set_defaults(claim);
        }
    }

    fn prepare_for_create(&mut self) {
        self.status = None;
    }

    fn validate(&self, errors: &mut ErrorList) {
        let Some(spec) = &self.spec else { return };
        let path = Path::new("spec");
        match spec.pod_management_policy.as_deref().unwrap_or("") {
            "" => errors.required(&path.child("podManagementPolicy"), ""),
            "OrderedReady" | "Parallel" => {}
            other => errors.invalid(&path.child("podManagementPolicy"), other, "must be 'OrderedReady' or 'Parallel'"),
        }
        if let Some(strategy) = &spec.update_strategy {
            validate_strategy(errors, &path.child("updateStrategy"), strategy);
        }
        if let Some(retention) = &spec.persistent_volume_claim_retention_policy {
            let path = path.child("persistentVolumeClaimRetentionPolicy");
            for (field, policy) in [("whenDeleted", &retention.when_deleted), ("whenScaled", &retention.when_scaled)] {
                if let Some(policy) = policy.as_deref().filter(|p| !matches!(*p, "Retain" | "Delete")) {
                    errors.not_supported(&path.child(field), policy, &["Retain", "Delete"]);
                }
            }
        }
        not_negative(errors, &path.child("replicas"), spec.replicas.unwrap_or(0));
        not_negative(errors, &path.child("minReadySeconds"), spec.min_ready_seconds.unwrap_or(0));
        if let Some(ordinals) = &spec.ordinals {
            not_negative(errors, &path.child("ordinals").child("start"), ordinals.start.unwrap_or(0));
        }
        workload::selector(errors, &path.child("selector"), &spec.selector, "statefulset");
        workload::running(errors, &path.child("template"), &with_claims(spec), &spec.selector, "StatefulSet");
        not_negative(errors, &path.child("revisionHistoryLimit"), spec.revision_history_limit.unwrap_or(0));
    }

    fn validate_update(&self, old: &Self, errors: &mut ErrorList) {
        self.validate(errors);
        let (Some(new), Some(old)) = (&self.spec, &old.spec) else { return };
        let rest = StatefulSetSpec {
            replicas: old.replicas,
            ordinals: old.ordinals.clone(),
            template: old.template.clone(),
            update_strategy: old.update_strategy.clone(),
            revision_history_limit: old.revision_history_limit,
            persistent_volume_claim_retention_policy: old.persistent_volume_claim_retention_policy.clone(),
            min_ready_seconds: old.min_ready_seconds,
            ..new.clone()
        };
        if rest != *old {
            let why = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', \
                       'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
            errors.forbidden(&Path::new("spec"), why);
        }
    }

    fn warnings(&self, old: Option<&Self>) -> Vec<String> {
        let template = self.spec.as_ref().map(|s| &s.template);
        let name = workload::name_warning(&self.metadata).filter(|_| old.is_none());
        name.into_iter().chain(template.into_iter().flat_map(|t| warnings::template(&Path::new("spec").child("template"), t))).collect()
    }

    fn cells(&self, context: &PrintContext) -> Cells {
        let (spec, status) = (self.spec.clone().unwrap_or_default(), self.status.clone().unwrap_or_default());
        let (names, images) = printer::containers(&spec.template.spec.unwrap_or_default().containers);
        let ready = format!("{}/{}", status.ready_replicas.unwrap_or(0), spec.replicas.unwrap_or(0));
        vec![printer::name(&self.metadata), json!(ready), printer::age(&self.metadata, context), json!(names), json!(images)]
    }
}

fn validate_strategy(errors: &mut ErrorList, path: &Path, strategy: &StatefulSetUpdateStrategy) {
    let rolling = path.child("rollingUpdate");
    match (strategy.type_.as_deref().unwrap_or(""), &strategy.rolling_update) {
        ("", _) => errors.required(path, ""),
        ("OnDelete", Some(update)) => {
            errors.invalid(&rolling, serde_json::json!(update), "only allowed for updateStrategy 'RollingUpdate'");
        }
        ("OnDelete", None) | ("RollingUpdate", None) => {}
        ("RollingUpdate", Some(update)) => {
            not_negative(errors, &rolling.child("partition"), update.partition.unwrap_or(0));
            if let Some(value) = &update.max_unavailable {
                let at = rolling.child("maxUnavailable");
                numbers::not_negative_or_percent(errors, &at, value);
                if workload::amount(&update.max_unavailable) == 0 {
                    errors.invalid(&at, numbers::show(value), "cannot be 0");
                }
                numbers::at_most_hundred_percent(errors, &at, value);
            }
        }
        (other, _) => {
            let shown = format!("{{\"Type\":{other:?},\"RollingUpdate\":null}}");
            errors.invalid_as(path, &shown, "must be 'RollingUpdate' or 'OnDelete'");
        }
    }
}

/// The row.
pub fn row() -> Resource {
    Resource {
        short_names: texts(&["sts"]),
        categories: texts(&["all"]),
        subresources: SUBRESOURCES.into(),
        generation: true,
        columns: COLUMNS.into(),
        decode: |value| crate::resource::decode::<StatefulSet>(&workload::mark_empty_selector(value)),
        ..Resource::of::<StatefulSet>()
    }
}

/// The template with the volumes that each pod gets from its claims, which its containers may mount.
fn with_claims(spec: &StatefulSetSpec) -> PodTemplateSpec {
    let mut template = spec.template.clone();
    let volumes = template.spec.get_or_insert_default().volumes.get_or_insert_default();
    for name in spec.volume_claim_templates.iter().flatten().filter_map(|claim| claim.metadata.name.clone()) {
        if !volumes.iter().any(|volume| volume.name == name) {
            let source = PersistentVolumeClaimVolumeSource { claim_name: name.clone(), ..Default::default() };
            volumes.push(Volume { name, persistent_volume_claim: Some(source), ..Default::default() });
        }
    }
    template
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::{ErrorList, Path};
    use serde_json::json;

    #[test]
    fn containers_mount_what_the_claims_bring() {
        let set = |mounted: &str| -> StatefulSetSpec {
            serde_json::from_value(json!({"serviceName": "s", "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": {
                "restartPolicy": "Always", "containers": [{"name": "c", "image": "i", "volumeMounts": [{"name": mounted, "mountPath": "/d"}]}]}},
                "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}]}))
            .unwrap()
        };
        for (mounted, found) in [("data", true), ("other", false)] {
            let mut errors = ErrorList::default();
            let spec = set(mounted);
            workload::running(&mut errors, &Path::new("template"), &with_claims(&spec), &spec.selector, "StatefulSet");
            let missing = errors.0.iter().any(|e| e.path.to_string().ends_with("volumeMounts[0].name"));
            assert_eq!(missing, !found, "{mounted}: {:?}", errors.0);
        }
    }
}
