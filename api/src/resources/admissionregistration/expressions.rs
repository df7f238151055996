//! What expressions of admission may name: match conditions of webhooks, and all expressions of policies
//! (upstream: `apiserver/pkg/admission/plugin/cel/compile.go`). They are compiled where they are validated and again where they are evaluated.

use crate::cel::declarations::{AUTHORIZER, RESOURCE_CHECK};
use crate::cel::types::Type;
use crate::cel::{self, Environment, Program};

/// A compiled expression, or why it does not compile.
pub type Compiled = Result<Program, String>;

fn object(name: &str, fields: &[(&str, Type)]) -> Type {
    Type::object(name, fields.iter().map(|(name, ty)| ((*name).to_owned(), ty.clone())))
}

/// The type of `request`.
pub fn request_type() -> Type {
    let group_version = |last: &str, name: &str| object(name, &[("group", Type::STRING), ("version", Type::STRING), (last, Type::STRING)]);
    let kind = group_version("kind", "kubernetes.GroupVersionKind");
    let resource = group_version("resource", "kubernetes.GroupVersionResource");
    let list = || Type::list(Type::STRING);
    let user = object(
        "kubernetes.UserInfo",
        &[("username", Type::STRING), ("uid", Type::STRING), ("groups", list()), ("extra", Type::map(Type::STRING, list()))],
    );
    object(
        "kubernetes.AdmissionRequest",
        &[
            ("kind", kind.clone()),
            ("resource", resource.clone()),
            ("subResource", Type::STRING),
            ("requestKind", kind),
            ("requestResource", resource),
            ("requestSubResource", Type::STRING),
            ("name", Type::STRING),
            ("namespace", Type::STRING),
            ("operation", Type::STRING),
            ("userInfo", user),
            ("dryRun", Type::Bool),
            ("options", Type::DYN),
        ],
    )
}

/// The type of `namespaceObject`: what of a namespace may be looked at.
pub fn namespace_type() -> Type {
    let map = || Type::map(Type::STRING, Type::STRING);
    let metadata = object(
        "kubernetes.NamespaceMetadata",
        &[
            ("name", Type::STRING),
            ("generateName", Type::STRING),
            ("namespace", Type::STRING),
            ("labels", map()),
            ("annotations", map()),
            ("UID", Type::STRING),
            ("creationTimestamp", Type::TIMESTAMP),
            ("deletionGracePeriodSeconds", Type::Int),
            ("deletionTimestamp", Type::TIMESTAMP),
            ("generation", Type::Int),
            ("resourceVersion", Type::STRING),
            ("finalizers", Type::list(Type::STRING)),
        ],
    );
    let condition = object(
        "kubernetes.NamespaceCondition",
        &[
            ("status", Type::STRING),
            ("type", Type::STRING),
            ("lastTransitionTime", Type::TIMESTAMP),
            ("message", Type::STRING),
            ("reason", Type::STRING),
        ],
    );
    object(
        "kubernetes.Namespace",
        &[
            ("metadata", metadata),
            ("spec", object("kubernetes.NamespaceSpec", &[("finalizers", Type::list(Type::STRING))])),
            ("status", object("kubernetes.NamespaceStatus", &[("conditions", Type::list(condition)), ("phase", Type::STRING)])),
        ],
    )
}

/// What expressions may name.
pub struct Environments {
    variables: Vec<(String, Type)>,
    own: Vec<(String, Type)>,
}

impl Environments {
    /// For objects of any type; with `params` where the policy has some.
    pub fn new(parameters: bool) -> Self {
        Self::typed(Type::DYN, parameters.then_some(Type::DYN))
    }

    /// For objects of this type.
    pub fn typed(object: Type, parameters: Option<Type>) -> Self {
        let mut variables = vec![
            ("object".to_owned(), object.clone()),
            ("oldObject".to_owned(), object),
            ("request".to_owned(), request_type()),
            ("namespaceObject".to_owned(), namespace_type()),
            ("authorizer".to_owned(), AUTHORIZER),
            ("authorizer.requestResource".to_owned(), RESOURCE_CHECK),
        ];
        variables.extend(parameters.map(|ty| ("params".to_owned(), ty)));
        Environments { variables, own: Vec::new() }
    }

    /// Makes a variable of the policy's known to the expressions that come after it.
    pub fn declare(&mut self, name: &str, compiled: &Compiled) {
        let ty = compiled.as_ref().map_or(Type::DYN, |program| program.result().clone());
        self.own.push((name.to_owned(), ty));
    }

    fn environment(&self) -> Environment {
        let mut variables = self.variables.clone();
        variables.push(("variables".to_owned(), Type::object("kubernetes.variables", self.own.iter().cloned())));
        Environment { variables, structs: Vec::new() }
    }

    /// Compiles an expression.
    pub fn compile(&self, expression: &str) -> Compiled {
        cel::compile(expression, &self.environment())
    }

    /// Compiles one that may make objects and patches.
    pub fn compile_mutation(&self, expression: &str) -> Compiled {
        let mut environment = self.environment();
        let text = || Type::STRING;
        let patch = [("op", text()), ("path", text()), ("from", text()), ("value", Type::DYN)];
        environment.structs = vec![("Object".into(), Type::DYN), ("JSONPatch".into(), object("JSONPatch", &patch))];
        cel::compile(expression, &environment)
    }
}
