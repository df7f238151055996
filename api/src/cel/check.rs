//! The types of all nodes of an expression, and what does not fit (upstream: `cel-go/checker`). Types that are not known yet are variables which get
//! their meaning as more of the expression is seen; what is never known counts as dynamic.

use super::declarations::{self, Form};
use super::syntax::{Kind, Node, Problem};
use super::types::{ObjectType, Type};
use std::collections::HashMap;
use std::sync::Arc;

/// The types of an expression's nodes, by their addresses: a tree is checked where it stays.
pub(super) type Types = HashMap<*const Node, Type>;

/// What an expression may name.
pub(super) struct Checker<'a> {
    scopes: Vec<(&'a str, Type)>,
    types: Types,
    problems: Vec<Problem>,
    known: Vec<Option<Type>>,
    structs: &'a [(String, Type)],
}

/// The names of types, as values.
const TYPE_NAMES: [&str; 16] = [
    "bool",
    "int",
    "uint",
    "double",
    "string",
    "bytes",
    "list",
    "map",
    "null_type",
    "type",
    "google.protobuf.Timestamp",
    "google.protobuf.Duration",
    "optional_type",
    "net.IP",
    "net.CIDR",
    "kubernetes.Quantity",
];

/// Whether a dotted name is that of a type.
pub(super) fn is_type_name(name: &str) -> bool {
    TYPE_NAMES.contains(&name)
}

/// The dotted name that a chain of selections spells.
pub(super) fn dotted(node: &Node) -> Option<String> {
    match &node.kind {
        Kind::Ident(name) => Some(name.clone()),
        Kind::Select { operand, field, test: false } => Some(format!("{}.{field}", dotted(operand)?)),
        _ => None,
    }
}

/// Checks an expression, and gives its type and those of its nodes.
pub(super) fn check<'a>(
    node: &'a Node,
    variables: &'a [(String, Type)],
    structs: &'a [(String, Type)],
) -> Result<(Type, Types), Vec<Problem>> {
    let scopes = variables.iter().map(|(name, ty)| (name.as_str(), ty.clone())).collect();
    let mut checker = Checker { scopes, types: Types::new(), problems: Vec::new(), known: Vec::new(), structs };
    let ty = checker.node(node);
    if !checker.problems.is_empty() {
        checker.problems.sort_by_key(|p| p.at);
        return Err(checker.problems);
    }
    let mut types = std::mem::take(&mut checker.types);
    for ty in types.values_mut() {
        *ty = checker.resolve(ty);
    }
    Ok((checker.resolve(&ty), types))
}

impl<'a> Checker<'a> {
    fn problem(&mut self, at: u32, message: String) -> Type {
        self.problems.push(Problem { at, message });
        Type::DYN
    }

    fn fresh(&mut self) -> Type {
        self.known.push(None);
        // Declared functions use the first two numbers for their parameters.
        Type::Var(u32::try_from(self.known.len() + 1).unwrap_or(u32::MAX))
    }

    fn meaning(&self, variable: u32) -> Option<&Type> {
        self.known.get(variable as usize - 2)?.as_ref()
    }

    /// The type with all that is known filled in; what is not is dynamic.
    fn resolve(&self, ty: &Type) -> Type {
        match ty {
            Type::Var(n) if *n >= 2 => self.meaning(*n).map_or(Type::DYN, |t| self.resolve(t)),
            Type::List(list) => {
                let mut list = (**list).clone();
                list.item = self.resolve(&list.item);
                Type::List(Arc::new(list))
            }
            Type::Map(map) => {
                let mut map = (**map).clone();
                (map.key, map.value) = (self.resolve(&map.key), self.resolve(&map.value));
                Type::Map(Arc::new(map))
            }
            Type::Optional(of) => Type::optional(self.resolve(of)),
            other => other.clone(),
        }
    }

    /// The type without variables on its outside.
    fn shallow(&self, ty: &Type) -> Type {
        match ty {
            Type::Var(n) if *n >= 2 => self.meaning(*n).map_or_else(|| ty.clone(), |t| self.shallow(t)),
            other => other.clone(),
        }
    }

    /// Whether a value of type `given` can stand where `wanted` is asked for. Learns what variables mean.
    fn fits(&mut self, given: &Type, wanted: &Type) -> bool {
        let (given, wanted) = (self.shallow(given), self.shallow(wanted));
        match (&given, &wanted) {
            (Type::Var(a), Type::Var(b)) if a == b => true,
            (Type::Var(n), other) | (other, Type::Var(n)) => {
                self.known[*n as usize - 2] = Some(other.clone());
                true
            }
            (Type::Dyn(_), _) | (_, Type::Dyn(_)) => true,
            (Type::Null, Type::Null | Type::Object(_) | Type::Timestamp(_) | Type::Duration(_) | Type::Optional(_) | Type::Opaque(_)) => {
                true
            }
            (Type::Object(_) | Type::Timestamp(_) | Type::Duration(_), Type::Null) => true,
            (Type::List(a), Type::List(b)) => self.fits(&a.item, &b.item),
            (Type::Map(a), Type::Map(b)) => self.fits(&a.key, &b.key) && self.fits(&a.value, &b.value),
            (Type::Optional(a), Type::Optional(b)) => self.fits(a, b),
            (Type::Object(a), Type::Object(b)) => Arc::ptr_eq(a, b) || a.name == b.name,
            (Type::Opaque(a), Type::Opaque(b)) => a == b,
            (a, b) => std::mem::discriminant(a) == std::mem::discriminant(b),
        }
    }

    fn node(&mut self, node: &'a Node) -> Type {
        let ty = match &node.kind {
            Kind::Const(value) => constant(value),
            Kind::Ident(name) => self.ident(node, name),
            Kind::Select { operand, field, test } => self.select(node, operand, field, *test),
            Kind::List(items) => {
                let item = self.fresh();
                let mut mixed = false;
                for (value, optional) in items {
                    let ty = self.node(value);
                    let ty = if *optional { self.unwrapped(&ty) } else { ty };
                    mixed |= !self.fits(&ty, &item);
                }
                Type::list(if mixed { Type::DYN } else { item })
            }
            Kind::Map(entries) => {
                let (key, value) = (self.fresh(), self.fresh());
                let (mut mixed_keys, mut mixed_values) = (false, false);
                for (k, v, optional) in entries {
                    let (k, v) = (self.node(k), self.node(v));
                    let v = if *optional { self.unwrapped(&v) } else { v };
                    mixed_keys |= !self.fits(&k, &key);
                    mixed_values |= !self.fits(&v, &value);
                }
                Type::map(if mixed_keys { Type::DYN } else { key }, if mixed_values { Type::DYN } else { value })
            }
            Kind::Struct { name, fields } => self.made(node, name, fields),
            Kind::Call(call) => {
                let arguments: Vec<Type> = call.arguments.iter().map(|a| self.node(a)).collect();
                self.call(node, &call.function, call.method, &arguments, &call.arguments)
            }
            Kind::Fold(fold) => {
                let range = self.node(&fold.range);
                let start = self.node(&fold.start);
                let (first, second) = match self.shallow(&range) {
                    Type::List(list) => match fold.second {
                        Some(_) => (Type::Int, Some(list.item.clone())),
                        None => (list.item.clone(), None),
                    },
                    Type::Map(map) => (map.key.clone(), fold.second.as_ref().map(|_| map.value.clone())),
                    Type::Dyn(_) | Type::Var(_) => (Type::DYN, fold.second.as_ref().map(|_| Type::DYN)),
                    other => {
                        let shown = self.resolve(&other);
                        let message =
                            format!("expression of type '{shown}' cannot be range of a comprehension (must be list, map, or dynamic)");
                        (self.problem(fold.range.at, message), Some(Type::DYN))
                    }
                };
                let depth = self.scopes.len();
                self.scopes.push((&fold.accumulator, start.clone()));
                self.scopes.push((&fold.variable, first));
                if let (Some(name), Some(ty)) = (&fold.second, second) {
                    self.scopes.push((name, ty));
                }
                let condition = self.node(&fold.condition);
                self.expect(&fold.condition, &condition, &Type::Bool);
                let step = self.node(&fold.step);
                self.expect(&fold.step, &step, &start);
                self.scopes.truncate(depth);
                self.scopes.push((&fold.accumulator, start));
                let result = self.node(&fold.result);
                self.scopes.truncate(depth);
                result
            }
        };
        self.types.insert(std::ptr::from_ref(node), ty.clone());
        ty
    }

    fn unwrapped(&self, ty: &Type) -> Type {
        match self.shallow(ty) {
            Type::Optional(of) => (*of).clone(),
            other => other,
        }
    }

    fn expect(&mut self, node: &Node, given: &Type, wanted: &Type) {
        if !self.fits(given, wanted) {
            let message = format!("expected type '{}' but found '{}'", self.resolve(wanted), self.resolve(given));
            self.problem(node.at, message);
        }
    }

    fn ident(&mut self, node: &Node, name: &str) -> Type {
        match self.scopes.iter().rev().find(|(n, _)| *n == name) {
            Some((_, ty)) => ty.clone(),
            None if is_type_name(name) => Type::Type,
            None => self.problem(node.at, format!("undeclared reference to '{name}' (in container '')")),
        }
    }

    fn select(&mut self, node: &'a Node, operand: &'a Node, field: &str, test: bool) -> Type {
        if let Some(name) = dotted(node)
            && is_type_name(&name)
        {
            return Type::Type;
        }
        let ty = self.node(operand);
        let found = self.field(node, &ty, field);
        if test { Type::Bool } else { found }
    }

    fn field(&mut self, node: &Node, ty: &Type, field: &str) -> Type {
        match self.shallow(ty) {
            Type::Object(object) => match declared(&object, field) {
                Some(ty) => ty,
                None => self.problem(node.at, format!("undefined field '{field}'")),
            },
            Type::Map(map) => map.value.clone(),
            Type::Optional(of) => {
                let inner = self.field(node, &of, field);
                match inner {
                    Type::Optional(_) => inner,
                    other => Type::optional(other),
                }
            }
            Type::Dyn(_) | Type::Var(_) => Type::DYN,
            // Values whose fields are the caller's.
            Type::Opaque(name) if name.starts_with("kubernetes.variables") => Type::DYN,
            other => {
                let shown = self.resolve(&other);
                self.problem(node.at, format!("type '{shown}' does not support field selection"))
            }
        }
    }

    fn made(&mut self, node: &Node, name: &str, fields: &'a [(String, Node, bool)]) -> Type {
        let declared_type = self.structs.iter().find(|(n, _)| n == name).map(|(_, ty)| ty.clone());
        for (field, value, _) in fields {
            let given = self.node(value);
            if let Some(Type::Object(object)) = &declared_type {
                match declared(object, field) {
                    Some(wanted) => self.expect(value, &given, &wanted),
                    None => drop(self.problem(value.at, format!("undefined field '{field}'"))),
                }
            }
        }
        match declared_type {
            Some(ty) => ty,
            // Whatever is below the object to apply has a name of its own.
            None if self.structs.iter().any(|(n, ty)| ty.is_dyn() && (name == n || name.starts_with(&format!("{n}.")))) => {
                Type::Object(Arc::new(ObjectType { name: name.to_owned(), fields: Default::default() }))
            }
            None => self.problem(node.at, format!("undeclared reference to '{name}' (in container '')")),
        }
    }

    fn call(&mut self, node: &Node, function: &str, method: bool, given: &[Type], arguments: &[Node]) -> Type {
        if function == "_?._" {
            return self.optional_select(node, given, arguments);
        }
        let forms = declarations::forms(function);
        if !forms.iter().any(|f| f.method == method) {
            return self.problem(node.at, format!("undeclared reference to '{function}' (in container '')"));
        }
        let mut result: Option<Type> = None;
        for form in forms.iter().filter(|f| f.method == method && f.parameters.len() == given.len()) {
            let before = self.known.clone();
            let Some(ty) = self.matches(form, given) else {
                self.known = before;
                continue;
            };
            result = match result {
                None => Some(ty),
                Some(present) => {
                    // Several forms take what is dynamic; which it is, shows later.
                    self.known = before;
                    let same = self.resolve(&present).to_string() == self.resolve(&ty).to_string();
                    Some(if same { present } else { Type::DYN })
                }
            };
            if !given.iter().any(|t| matches!(self.shallow(t), Type::Dyn(_) | Type::Var(_))) {
                break;
            }
        }
        result.unwrap_or_else(|| {
            let shown: Vec<String> = given.iter().map(|t| self.resolve(t).to_string()).collect();
            let applied = match (method, shown.split_first()) {
                (true, Some((target, rest))) => format!("{target}.({})", rest.join(", ")),
                _ => format!("({})", shown.join(", ")),
            };
            self.problem(node.at, format!("found no matching overload for '{function}' applied to '{applied}'"))
        })
    }

    /// `x.?field`.
    fn optional_select(&mut self, node: &Node, given: &[Type], arguments: &[Node]) -> Type {
        let ([target, ..], [_, name]) = (given, arguments) else { return Type::DYN };
        let Kind::Const(super::value::Val::String(field)) = &name.kind else { return Type::DYN };
        let field = field.to_string();
        match self.field(node, target, &field) {
            Type::Optional(of) => Type::Optional(of),
            other => Type::optional(other),
        }
    }

    /// The result of a form for these arguments, if they fit.
    fn matches(&mut self, form: &Form, given: &[Type]) -> Option<Type> {
        let parameters = [self.fresh(), self.fresh()];
        for (wanted, given) in form.parameters.iter().zip(given) {
            let wanted = instance(wanted, &parameters);
            if !self.fits(given, &wanted) {
                return None;
            }
        }
        Some(instance(&form.result, &parameters))
    }
}

/// The type of a field, under its name or that which JSON has.
fn declared(object: &ObjectType, field: &str) -> Option<Type> {
    let found = object.fields.get(field).or_else(|| object.fields.get(&super::escape(field)?));
    found.map(|f| f.ty.clone())
}

fn instance(ty: &Type, parameters: &[Type; 2]) -> Type {
    match ty {
        Type::Var(n) => parameters[(*n as usize).min(1)].clone(),
        Type::List(list) => Type::list(instance(&list.item, parameters)),
        Type::Map(map) => Type::map(instance(&map.key, parameters), instance(&map.value, parameters)),
        Type::Optional(of) => Type::optional(instance(of, parameters)),
        other => other.clone(),
    }
}

fn constant(value: &super::value::Val<'_>) -> Type {
    use super::value::Val;
    match value {
        Val::Null => Type::Null,
        Val::Bool(_) => Type::Bool,
        Val::Int(_) => Type::Int,
        Val::Uint(_) => Type::Uint,
        Val::Double(_) => Type::Double,
        Val::String(_) => Type::STRING,
        Val::Bytes(_) => Type::BYTES,
        _ => Type::DYN,
    }
}
