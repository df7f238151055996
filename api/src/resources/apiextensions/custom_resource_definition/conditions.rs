//! Which names a definition gets, and what its conditions say (upstream: `pkg/controller/{status,establish,apiapproval}`).
//!
//! A name is taken by the definition of the group that was given it first. A definition that has all its names is established, and stays so.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, CustomResourceDefinitionCondition, CustomResourceDefinitionNames,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::collections::BTreeSet;

/// Whether the names are those that were asked for.
pub const NAMES_ACCEPTED: &str = "NamesAccepted";
/// Whether the kind is served.
pub const ESTABLISHED: &str = "Established";
/// Whether the definition is being deleted.
pub const TERMINATING: &str = "Terminating";
/// Whether a protected group has its approval.
pub const APPROVED: &str = "KubernetesAPIApprovalPolicyConformant";
/// The annotation that gives it.
pub const APPROVAL: &str = "api-approved.kubernetes.io";

/// The status of a condition.
pub fn is(definition: &CustomResourceDefinition, condition: &str) -> bool {
    find(definition, condition).is_some_and(|c| c.status == "True")
}

fn find<'a>(definition: &'a CustomResourceDefinition, condition: &str) -> Option<&'a CustomResourceDefinitionCondition> {
    definition.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == condition)
}

/// Sets a condition. Its time changes with its status alone.
pub fn set(definition: &mut CustomResourceDefinition, condition: &str, holds: bool, reason: &str, message: &str, now: &Time) {
    let status = if holds { "True" } else { "False" };
    let conditions = definition.status.get_or_insert_default().conditions.get_or_insert_default();
    let new = CustomResourceDefinitionCondition {
        type_: condition.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_transition_time: Some(now.clone()),
        ..Default::default()
    };
    match conditions.iter_mut().find(|c| c.type_ == condition) {
        Some(present) => {
            let time = if present.status == new.status { present.last_transition_time.clone() } else { new.last_transition_time.clone() };
            *present =
                CustomResourceDefinitionCondition { last_transition_time: time, observed_generation: present.observed_generation, ..new };
        }
        None => conditions.push(new),
    }
}

/// Whether a group belongs to Kubernetes, so that its kinds need approval.
pub fn is_protected(group: &str) -> bool {
    ["k8s.io", "kubernetes.io"].iter().any(|p| group == *p || group.ends_with(&format!(".{p}")))
}

/// The names of others in the group that are taken.
#[derive(Default)]
struct Taken {
    resources: BTreeSet<String>,
    kinds: BTreeSet<String>,
}

fn taken<'a>(definition: &CustomResourceDefinition, others: impl Iterator<Item = &'a CustomResourceDefinition>) -> Taken {
    let mut taken = Taken::default();
    for other in others {
        if other.spec.group != definition.spec.group || other.metadata.name == definition.metadata.name {
            continue;
        }
        let Some(names) = other.status.as_ref().and_then(|s| s.accepted_names.as_ref()) else { continue };
        taken.resources.insert(names.plural.clone());
        taken.resources.extend(names.singular.clone());
        taken.resources.extend(names.short_names.iter().flatten().cloned());
        taken.kinds.insert(names.kind.clone());
        taken.kinds.extend(names.list_kind.clone());
    }
    taken
}

/// Takes a name if it is free or has been this definition's before; else says why not.
fn take(wanted: &str, accepted: &str, used: &BTreeSet<String>) -> Result<(), String> {
    if wanted == accepted || !used.contains(wanted) { Ok(()) } else { Err(format!("{wanted:?} is already in use")) }
}

/// The definition with the names it can have and the conditions that follow, `others` being all definitions there are.
pub fn decide<'a>(
    definition: &CustomResourceDefinition,
    others: impl Iterator<Item = &'a CustomResourceDefinition>,
    now: &Time,
) -> CustomResourceDefinition {
    let mut new = definition.clone();
    if is_protected(&new.spec.group) {
        approve(&mut new, now);
    }
    let used = taken(definition, others);
    let wanted = definition.spec.names.clone();
    let mut accepted = definition.status.as_ref().and_then(|s| s.accepted_names.clone()).unwrap_or_default();
    let conflict = choose(&wanted, &mut accepted, &used);
    accepted.categories.clone_from(&wanted.categories);
    new.status.get_or_insert_default().accepted_names = Some(accepted);
    match conflict {
        Some((reason, message)) => {
            set(&mut new, NAMES_ACCEPTED, false, reason, &message, now);
            if !is(&new, ESTABLISHED) {
                set(&mut new, ESTABLISHED, false, "NotAccepted", "not all names are accepted", now);
            }
        }
        None => {
            set(&mut new, NAMES_ACCEPTED, true, "NoConflicts", "no conflicts found", now);
            if !is(&new, ESTABLISHED) {
                set(&mut new, ESTABLISHED, true, "InitialNamesAccepted", "the initial names have been accepted", now);
            }
        }
    }
    new
}

/// Takes each of the wanted names that is free. The last one that is not makes the reason.
fn choose(
    wanted: &CustomResourceDefinitionNames,
    accepted: &mut CustomResourceDefinitionNames,
    used: &Taken,
) -> Option<(&'static str, String)> {
    let mut conflict = None;
    match take(&wanted.plural, &accepted.plural, &used.resources) {
        Ok(()) => accepted.plural.clone_from(&wanted.plural),
        Err(why) => conflict = Some(("PluralConflict", why)),
    }
    let text = |t: &Option<String>| t.clone().unwrap_or_default();
    match take(&text(&wanted.singular), &text(&accepted.singular), &used.resources) {
        Ok(()) => accepted.singular.clone_from(&wanted.singular),
        Err(why) => conflict = Some(("SingularConflict", why)),
    }
    let before = accepted.short_names.clone().unwrap_or_default();
    let taken: Vec<String> =
        wanted.short_names.iter().flatten().filter(|s| !before.contains(s)).filter_map(|s| take(s, "", &used.resources).err()).collect();
    match taken.as_slice() {
        [] => accepted.short_names.clone_from(&wanted.short_names),
        [one] => conflict = Some(("ShortNamesConflict", one.clone())),
        many => conflict = Some(("ShortNamesConflict", format!("[{}]", many.join(", ")))),
    }
    match take(&wanted.kind, &accepted.kind, &used.kinds) {
        Ok(()) => accepted.kind.clone_from(&wanted.kind),
        Err(why) => conflict = Some(("KindConflict", why)),
    }
    match take(&text(&wanted.list_kind), &text(&accepted.list_kind), &used.kinds) {
        Ok(()) => accepted.list_kind.clone_from(&wanted.list_kind),
        Err(why) => conflict = Some(("ListKindConflict", why)),
    }
    conflict
}

fn approve(definition: &mut CustomResourceDefinition, now: &Time) {
    let given = definition.metadata.annotations.as_ref().and_then(|a| a.get(APPROVAL)).cloned().unwrap_or_default();
    let (holds, reason, message) = match given.as_str() {
        "" => {
            let why = format!(
                "protected groups must have approval annotation {APPROVAL:?}, see https://github.com/kubernetes/enhancements/pull/1111"
            );
            (false, "MissingAnnotation", why)
        }
        text if text.starts_with("unapproved") => (false, "UnapprovedAnnotation", format!("not approved: {text:?}")),
        text if text.starts_with("http://") || text.starts_with("https://") => (true, "ApprovedAnnotation", format!("approved in {text}")),
        text => (
            false,
            "InvalidAnnotation",
            format!(
                "protected groups must have approval annotation {APPROVAL:?} with either a URL or a reason starting with \"unapproved\", see https://github.com/kubernetes/enhancements/pull/1111: {text:?}"
            ),
        ),
    };
    set(definition, APPROVED, holds, reason, &message, now);
}
