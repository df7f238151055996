//! Policies and bindings, read and compiled once when they change.

use crate::admission::webhook::Rule;
use crate::objects::{Change, Collection, Feed, Objects, decode};
use api::resources::admissionregistration::expressions::{Compiled, Environments};
use bytes::Bytes;
use k8s_openapi::api::admissionregistration::v1::{
    MatchCondition, MatchResources, MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding, ParamKind, ParamRef,
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding, Variable,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

const GROUP: &str = "admissionregistration.k8s.io";

/// What is looked at.
#[derive(Default)]
pub(super) struct Criteria {
    pub rules: Vec<Rule>,
    pub excludes: Vec<Rule>,
    pub exact: bool,
    pub namespace_selector: LabelSelector,
    pub object_selector: LabelSelector,
}

impl From<MatchResources> for Criteria {
    fn from(given: MatchResources) -> Self {
        Criteria {
            rules: given.resource_rules.into_iter().flatten().map(Rule::from).collect(),
            excludes: given.exclude_resource_rules.into_iter().flatten().map(Rule::from).collect(),
            exact: given.match_policy.as_deref() == Some("Exact"),
            namespace_selector: given.namespace_selector.unwrap_or_default(),
            object_selector: given.object_selector.unwrap_or_default(),
        }
    }
}

/// What must hold.
pub(super) struct Validation {
    pub expression: Compiled,
    pub text: String,
    pub message: String,
    pub message_expression: Option<Compiled>,
    pub reason: Option<String>,
}

/// What is to change.
pub(super) enum Mutation {
    /// The expression comes to an object to apply.
    Apply(Compiled),
    /// The expression comes to a list of operations.
    Patch(Compiled),
}

/// A policy.
pub(super) struct Definition {
    pub name: String,
    pub criteria: Criteria,
    pub parameters: Option<ParamKind>,
    /// Whether requests go on when the policy cannot be judged.
    pub ignore_failure: bool,
    pub conditions: Vec<(String, Compiled)>,
    pub variables: Vec<(String, Compiled)>,
    pub validations: Vec<Validation>,
    pub annotations: Vec<(String, Compiled)>,
    pub mutations: Vec<Mutation>,
    /// Whether it wants to see what others change after it.
    pub reinvoked: bool,
}

/// A binding.
pub(super) struct Binding {
    pub name: String,
    pub policy: String,
    pub criteria: Option<Criteria>,
    pub parameters: Option<ParamRef>,
    pub actions: Vec<String>,
}

/// The parts that both kinds of policy have.
struct Common {
    name: String,
    constraints: Option<MatchResources>,
    parameters: Option<ParamKind>,
    failure_policy: Option<String>,
    conditions: Option<Vec<MatchCondition>>,
    variables: Option<Vec<Variable>>,
}

/// Compiles the common parts. The environments come back with the policy's variables in them.
fn common(common: Common) -> (Definition, Environments) {
    let mut environments = Environments::new(common.parameters.is_some());
    let conditions = common.conditions.unwrap_or_default();
    let conditions = conditions.into_iter().map(|c| (c.name, environments.compile(&c.expression))).collect();
    let mut variables = Vec::new();
    for Variable { name, expression } in common.variables.unwrap_or_default() {
        let compiled = environments.compile(&expression);
        environments.declare(&name, &compiled);
        variables.push((name, compiled));
    }
    let definition = Definition {
        name: common.name,
        criteria: common.constraints.map(Criteria::from).unwrap_or_default(),
        parameters: common.parameters,
        ignore_failure: common.failure_policy.as_deref() == Some("Ignore"),
        conditions,
        variables,
        validations: Vec::new(),
        annotations: Vec::new(),
        mutations: Vec::new(),
        reinvoked: false,
    };
    (definition, environments)
}

fn validating(object: &Bytes) -> Option<Definition> {
    let policy: ValidatingAdmissionPolicy = decode(object)?;
    let spec = policy.spec?;
    let (definition, environments) = common(Common {
        name: policy.metadata.name.unwrap_or_default(),
        constraints: spec.match_constraints,
        parameters: spec.param_kind,
        failure_policy: spec.failure_policy,
        conditions: spec.match_conditions,
        variables: spec.variables,
    });
    let validations = spec.validations.unwrap_or_default().into_iter().map(|v| Validation {
        expression: environments.compile(&v.expression),
        text: v.expression,
        message: v.message.unwrap_or_default(),
        message_expression: v.message_expression.filter(|e| !e.is_empty()).map(|e| environments.compile(&e)),
        reason: v.reason,
    });
    let annotations = spec.audit_annotations.unwrap_or_default();
    let annotations = annotations.into_iter().map(|a| (a.key, environments.compile(&a.value_expression))).collect();
    Some(Definition { validations: validations.collect(), annotations, ..definition })
}

fn mutating(object: &Bytes) -> Option<Definition> {
    let policy: MutatingAdmissionPolicy = decode(object)?;
    let spec = policy.spec?;
    let (definition, environments) = common(Common {
        name: policy.metadata.name.unwrap_or_default(),
        constraints: spec.match_constraints,
        parameters: spec.param_kind,
        failure_policy: spec.failure_policy,
        conditions: spec.match_conditions,
        variables: spec.variables,
    });
    let mut mutations = Vec::new();
    for mutation in spec.mutations.unwrap_or_default() {
        if let Some(expression) = mutation.apply_configuration.and_then(|a| a.expression) {
            mutations.push(Mutation::Apply(environments.compile_mutation(&expression)));
        }
        if let Some(expression) = mutation.json_patch.and_then(|p| p.expression) {
            mutations.push(Mutation::Patch(environments.compile_mutation(&expression)));
        }
    }
    let reinvoked = spec.reinvocation_policy.as_deref() == Some("IfNeeded");
    Some(Definition { mutations, reinvoked, ..definition })
}

fn validating_binding(object: &Bytes) -> Option<Binding> {
    let binding: ValidatingAdmissionPolicyBinding = decode(object)?;
    let spec = binding.spec;
    Some(Binding {
        name: binding.metadata.name.unwrap_or_default(),
        policy: spec.policy_name,
        criteria: spec.match_resources.map(Criteria::from),
        parameters: spec.param_ref,
        actions: spec.validation_actions,
    })
}

fn mutating_binding(object: &Bytes) -> Option<Binding> {
    let binding: MutatingAdmissionPolicyBinding = decode(object)?;
    let spec = binding.spec?;
    Some(Binding {
        name: binding.metadata.name.unwrap_or_default(),
        policy: spec.policy_name.unwrap_or_default(),
        criteria: spec.match_resources.map(Criteria::from),
        parameters: spec.param_ref,
        actions: Vec::new(),
    })
}

/// Policies by name, each with its bindings.
type All = Arc<Vec<(Arc<Definition>, Vec<Arc<Binding>>)>>;

/// Objects of one collection, each read when it changes.
struct Kept<T> {
    feed: Box<dyn Feed>,
    read: fn(&Bytes) -> Option<T>,
    all: BTreeMap<String, Arc<T>>,
}

impl<T> Kept<T> {
    fn new(objects: &dyn Objects, plural: &'static str, read: fn(&Bytes) -> Option<T>) -> Self {
        Kept { feed: objects.feed(Collection::of(GROUP, plural)), read, all: BTreeMap::new() }
    }

    /// Brings it up to date; whether anything changed.
    fn refresh(&mut self) -> bool {
        let (all, read, mut changed) = (&mut self.all, self.read, false);
        self.feed.drain(&mut |change| {
            changed = true;
            match change {
                Change::Reset => all.clear(),
                Change::Put { name, object, .. } => match read(&object) {
                    Some(value) => drop(all.insert(name, Arc::new(value))),
                    None => drop(all.remove(&name)),
                },
                Change::Gone { name, .. } => drop(all.remove(&name)),
            }
        });
        changed
    }
}

/// All policies of one kind that are bound, brought up to date whenever they are asked for.
pub(super) struct Definitions(Mutex<(Kept<Definition>, Kept<Binding>, All)>);

impl Definitions {
    /// ValidatingAdmissionPolicies.
    pub fn validating(objects: &dyn Objects) -> Self {
        let policies = Kept::new(objects, "validatingadmissionpolicies", validating);
        Definitions(Mutex::new((policies, Kept::new(objects, "validatingadmissionpolicybindings", validating_binding), All::default())))
    }

    /// MutatingAdmissionPolicies.
    pub fn mutating(objects: &dyn Objects) -> Self {
        let policies = Kept::new(objects, "mutatingadmissionpolicies", mutating);
        Definitions(Mutex::new((policies, Kept::new(objects, "mutatingadmissionpolicybindings", mutating_binding), All::default())))
    }

    /// Those that have bindings, by name.
    pub fn all(&self) -> All {
        let mut guard = self.0.lock();
        let (policies, bindings, all) = &mut *guard;
        let changed = policies.refresh() | bindings.refresh();
        if changed {
            let of = |name: &str| bindings.all.values().filter(|b| b.policy == name).cloned().collect::<Vec<_>>();
            let bound = policies.all.iter().map(|(name, policy)| (policy.clone(), of(name)));
            *all = Arc::new(bound.filter(|(_, bindings)| !bindings.is_empty()).collect());
        }
        all.clone()
    }
}
