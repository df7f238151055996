//! Which objects a command line means: `pods`, `pods a b`, `pod/a svc/b`, `all`, with or without selectors
//! (upstream: `cli-runtime/pkg/resource/builder.go`).

use crate::connection::Url;
use crate::context::Context;
use crate::discovery::{Mapper, Resource};
use crate::error::{Error, Result, message};
use crate::manifest::Document;
use serde_json::Value;

/// A resource, and one of its objects if the line names it.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// The resource.
    pub resource: Resource,
    /// The object's name; all objects when absent.
    pub name: Option<String>,
}

/// What a command allows beside names.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rules {
    /// A type alone means all its objects.
    pub empty_selector: bool,
    /// A selector was given.
    pub selector: bool,
    /// `--all` was given.
    pub all: bool,
    /// `--all-namespaces` was given.
    pub all_namespaces: bool,
}

/// What the arguments mean.
pub fn choose(mapper: &Mapper, args: &[String], rules: Rules) -> Result<Vec<Choice>> {
    if args.iter().any(|a| a.contains('/')) {
        return by_slash(mapper, args, rules);
    }
    let [types, names @ ..] = args else { return Ok(Vec::new()) };
    let mut resources = Vec::new();
    for word in types.split(',') {
        let members = mapper.category(word)?;
        if members.is_empty() {
            resources.push(mapper.resource(word)?);
        } else {
            resources.extend(members);
        }
    }
    if names.is_empty() {
        if !(rules.empty_selector || rules.selector || rules.all) {
            return Err(message("resource(s) were provided, but no name was specified"));
        }
        return Ok(resources.into_iter().map(|resource| Choice { resource, name: None }).collect());
    }
    if rules.selector {
        return Err(message("name cannot be provided when a selector is specified"));
    }
    if rules.all_namespaces {
        return Err(message("a resource cannot be retrieved by name across all namespaces"));
    }
    let pair = |r: &Resource| names.iter().map(|n| Choice { resource: r.clone(), name: Some(n.clone()) }).collect::<Vec<_>>();
    Ok(resources.iter().flat_map(pair).collect())
}

fn by_slash(mapper: &Mapper, args: &[String], rules: Rules) -> Result<Vec<Choice>> {
    let mut choices = Vec::new();
    for arg in args {
        let parts: Vec<&str> = arg.split('/').collect();
        match parts.as_slice() {
            [_] => {
                return Err(message(
                    "there is no need to specify a resource type as a separate argument when passing arguments in resource/name form (e.g. 'kubectl get resource/<resource_name>' instead of 'kubectl get resource resource/<resource_name>'",
                ));
            }
            [types, name] if !types.is_empty() && !name.is_empty() => {
                if types.contains(',') {
                    return Err(message("arguments in resource/name form must have a single resource and name"));
                }
                choices.push(Choice { resource: mapper.resource(types)?, name: Some((*name).to_owned()) });
            }
            [_, _] => return Err(message("arguments in resource/name form must have a single resource and name")),
            _ => return Err(message("arguments in resource/name form may not have more than one slash")),
        }
    }
    if rules.selector {
        return Err(message("name cannot be provided when a selector is specified"));
    }
    if rules.all_namespaces {
        return Err(message("a resource cannot be retrieved by name across all namespaces"));
    }
    Ok(choices)
}

/// One object to work on: where it is, and what is known of it.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its resource.
    pub resource: Resource,
    /// Its namespace; empty for cluster-wide objects.
    pub namespace: String,
    /// Its name; empty for one that gets a generated name.
    pub name: String,
    /// Where it came from: a file's name, empty for the command line.
    pub source: String,
    /// The object: from the manifest or from the server.
    pub object: Value,
}

impl Target {
    /// Fails when it cannot be asked for, for want of a name.
    pub fn require_name(&self) -> Result<()> {
        if self.name.is_empty() { Err(message("resource name may not be empty")) } else { Ok(()) }
    }

    /// Where it is on the server.
    pub fn path(&self) -> String {
        self.resource.object_path(&self.namespace, &self.name)
    }

    /// `pods/x`, as some errors name it.
    pub fn described(&self) -> String {
        format!("{}/{}", self.resource.name, self.name)
    }
}

/// Manifests with their resources looked up and their namespaces filled in. What could not be read or resolved is in the second answer.
pub fn resolve(ctx: &mut Context, documents: Vec<Result<Document>>) -> Result<(Vec<Target>, Vec<Error>)> {
    let mapper = ctx.mapper()?;
    let (default, enforced) = (ctx.namespace()?, ctx.namespace_given());
    let (mut targets, mut errors) = (Vec::new(), Vec::new());
    for document in documents {
        let Document { source, mut object } = match document {
            Ok(document) => document,
            Err(e) => {
                errors.push(e);
                continue;
            }
        };
        let text = |v: &Value| v.as_str().unwrap_or("").to_owned();
        let (version, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
        let (name, mut namespace) = (text(&object["metadata"]["name"]), text(&object["metadata"]["namespace"]));
        let Some(resource) = mapper.kind(&version, &kind)? else {
            errors.push(message(format!(
                "resource mapping not found for name: {name:?} namespace: {namespace:?} from {source:?}: no matches for kind {kind:?} in version {version:?}\nensure CRDs are installed first"
            )));
            continue;
        };
        if resource.namespaced {
            if namespace.is_empty() {
                namespace.clone_from(&default);
                object["metadata"]["namespace"] = Value::String(default.clone());
            } else if enforced && namespace != default {
                errors.push(message(format!(
                    "the namespace from the provided object {namespace:?} does not match the namespace {default:?}. You must pass '--namespace={namespace}' to perform this operation."
                )));
                continue;
            }
        } else {
            namespace.clear();
        }
        targets.push(Target { resource, namespace, name, source, object });
    }
    Ok((targets, errors))
}

/// The error of a list that the server could not make sense of, naming what was asked for.
pub fn list_error(error: Error, resource: &Resource, labels: &str, fields: &str) -> Error {
    match error {
        Error::Status(mut status) if matches!(status.reason.as_deref(), Some("BadRequest" | "NotFound")) => {
            let asked = format!("{}/{}, Resource={}", resource.group, resource.version, resource.name);
            let why = status.message.unwrap_or_default();
            status.message = Some(match (labels, fields) {
                ("", "") => format!("Unable to list {asked:?}: {why}"),
                _ => format!("Unable to find {asked:?} that match label selector {labels:?}, field selector {fields:?}: {why}"),
            });
            Error::Status(status)
        }
        other => other,
    }
}

/// How objects are fetched for the commands that change them.
#[derive(Clone, Debug, Default)]
pub struct Fetch {
    /// Label selector.
    pub selector: String,
    /// Field selector.
    pub field_selector: String,
    /// From all namespaces.
    pub all_namespaces: bool,
}

/// The objects that the choices mean, fetched one by one or listed. Failures do not stop the rest.
pub fn fetch(ctx: &mut Context, choices: &[Choice], how: &Fetch) -> Result<(Vec<Target>, Vec<Error>)> {
    let connection = ctx.connection()?;
    let default = if how.all_namespaces { String::new() } else { ctx.namespace()? };
    let (mut targets, mut errors) = (Vec::new(), Vec::new());
    for Choice { resource, name } in choices {
        let namespace = if resource.namespaced { default.clone() } else { String::new() };
        if let Some(name) = name {
            match connection.get(&Url::new(resource.object_path(&namespace, name))) {
                Ok(object) => {
                    targets.push(Target { resource: resource.clone(), namespace, name: name.clone(), source: String::new(), object })
                }
                Err(e @ Error::Unreachable { .. }) => return Err(e),
                Err(e) => errors.push(e),
            }
            continue;
        }
        let mut next = String::new();
        loop {
            let url = Url::new(resource.path(&namespace))
                .query("fieldSelector", &how.field_selector)
                .query("labelSelector", &how.selector)
                .query("limit", "500")
                .query("continue", &next);
            let list = match connection.get(&url) {
                Ok(l) => l,
                Err(e @ Error::Unreachable { .. }) => return Err(e),
                Err(e) => {
                    errors.push(list_error(e, resource, &how.selector, &how.field_selector));
                    break;
                }
            };
            let kind = list["kind"].as_str().unwrap_or("").trim_end_matches("List").to_owned();
            for mut object in list["items"].as_array().cloned().into_iter().flatten() {
                // Items of a list may come without their own type.
                if object["kind"].is_null() {
                    object["kind"] = Value::String(kind.clone());
                    object["apiVersion"] = list["apiVersion"].clone();
                }
                let text = |v: &Value| v.as_str().unwrap_or("").to_owned();
                let (name, namespace) = (text(&object["metadata"]["name"]), text(&object["metadata"]["namespace"]));
                targets.push(Target { resource: resource.clone(), namespace, name, source: String::new(), object });
            }
            next = list["metadata"]["continue"].as_str().unwrap_or("").to_owned();
            if next.is_empty() {
                break;
            }
        }
    }
    Ok((targets, errors))
}
