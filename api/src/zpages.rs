//! `/statusz` and `/flagz`: what a component says of itself to whoever looks into a cluster by hand (upstream: `component-base/zpages`).
//!
//! Both are text unless the caller asks for the object by its group, version and kind. Left out: the version of Go, and upstream's habit of choosing
//! another delimiter each time so that nobody reads the text by machine.

use jiff::{Timestamp, tz::TimeZone};
use serde_json::{Value, json};
use std::collections::BTreeMap;

const GROUP: &str = "config.k8s.io";
const VERSIONS: [&str; 2] = ["v1alpha1", "v1beta1"];
const WARNING: &str = "Warning: This endpoint is not meant to be machine parseable, has no formatting compatibility guarantees and is for debugging purposes only.";
/// What a caller hears that takes neither form.
pub const NOT_ACCEPTABLE: &str = "media type not acceptable, must be: text/plain, or application/json with g, v and as";

/// A component, as it was started.
#[derive(Clone, Debug)]
pub struct Component {
    /// Upstream's name of it: `kube-scheduler`.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
    /// When its process began.
    pub started: Timestamp,
    /// What else it serves.
    pub paths: Vec<&'static str>,
    /// The command line: every flag with its value, defaults too.
    pub flags: BTreeMap<String, String>,
}

/// A page: its content type and its body.
pub type Page = (&'static str, String);

/// The form of a page that a caller takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Text,
    Object(&'static str),
}

/// The first form that an `Accept` header names. `None`: neither.
fn form(accept: &str, kind: &str) -> Option<Form> {
    if accept.trim().is_empty() {
        return Some(Form::Text);
    }
    accept.split(',').find_map(|range| {
        let mut parts = range.split(';').map(str::trim);
        match parts.next()? {
            "*/*" | "text/*" | "text/plain" => Some(Form::Text),
            "application/json" => {
                let given: BTreeMap<&str, &str> = parts.filter_map(|p| p.split_once('=')).collect();
                let version = VERSIONS.into_iter().find(|version| given.get("v") == Some(version))?;
                (given.get("g") == Some(&GROUP) && given.get("as") == Some(&kind)).then_some(Form::Object(version))
            }
            _ => None,
        }
    })
}

impl Component {
    /// `/statusz`, if the caller takes a form of it.
    pub fn statusz(&self, accept: &str, now: Timestamp) -> Option<Page> {
        let up = now.duration_since(self.started).as_secs();
        let minor = self.version.trim_start_matches('v').rsplit_once('.').map_or(self.version, |(minor, _)| minor);
        let text = || {
            let started = self.started.to_zoned(TimeZone::UTC).strftime("%a %b %e %H:%M:%S UTC %Y");
            let up = format!("{} hr {:02} min {:02} sec", up / 3600, up / 60 % 60, up % 60);
            let version = self.version.trim_start_matches('v');
            let paths = self.paths.join(" ");
            format!("Started: {started}\nUp: {up}\nBinary version: {version}\nEmulation version: {minor}\nPaths: {paths}\n")
        };
        let object = || {
            json!({
                "startTime": self.started.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
                "uptimeSeconds": up,
                "binaryVersion": self.version.trim_start_matches('v'),
                "emulationVersion": minor,
                "paths": self.paths,
            })
        };
        self.page(form(accept, "Statusz")?, ("Statusz", "statusz"), text, object)
    }

    /// `/flagz`, if the caller takes a form of it.
    pub fn flagz(&self, accept: &str) -> Option<Page> {
        let text = || self.flags.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
        self.page(form(accept, "Flagz")?, ("Flagz", "flags"), text, || json!({"flags": self.flags}))
    }

    fn page(&self, form: Form, (kind, title): (&str, &str), text: impl Fn() -> String, object: impl Fn() -> Value) -> Option<Page> {
        Some(match form {
            Form::Text => ("text/plain; charset=utf-8", format!("\n{} {title}\n{WARNING}\n\n{}", self.name, text())),
            Form::Object(version) => {
                let mut object = object();
                object["kind"] = kind.into();
                object["apiVersion"] = format!("{GROUP}/{version}").into();
                object["metadata"] = json!({"name": self.name});
                ("application/json", object.to_string())
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn component() -> Component {
        Component {
            name: "kube-scheduler",
            version: "v1.36.0",
            started: "2026-01-01T00:00:00Z".parse().expect("a time"),
            paths: vec!["/healthz", "/metrics"],
            flags: BTreeMap::from([("v".into(), "2".into()), ("leader-elect".into(), "true".into())]),
        }
    }

    #[test]
    fn the_caller_chooses_the_form() {
        for (accept, want) in [
            ("", Some(Form::Text)),
            ("*/*", Some(Form::Text)),
            ("text/html, text/plain", Some(Form::Text)),
            ("application/json;v=v1alpha1;g=config.k8s.io;as=Statusz", Some(Form::Object("v1alpha1"))),
            ("application/json; v=v1beta1; g=config.k8s.io; as=Statusz", Some(Form::Object("v1beta1"))),
            ("application/json", None),
            ("application/json;v=v1alpha1;g=config.k8s.io;as=Flagz", None),
            ("application/json;v=v2;g=config.k8s.io;as=Statusz,text/plain", Some(Form::Text)),
            ("application/yaml", None),
        ] {
            assert_eq!(form(accept, "Statusz"), want, "{accept}");
        }
    }

    #[test]
    fn pages_say_what_upstreams_say() {
        let (component, now) = (component(), "2026-01-01T01:02:03Z".parse().expect("a time"));
        let (_, text) = component.statusz("", now).expect("text");
        let want = "Started: Thu Jan  1 00:00:00 UTC 2026\nUp: 1 hr 02 min 03 sec\nBinary version: 1.36.0\nEmulation version: 1.36\nPaths: /healthz /metrics\n";
        assert_eq!(text, format!("\nkube-scheduler statusz\n{WARNING}\n\n{want}"));
        let (_, text) = component.flagz("text/plain").expect("text");
        assert!(text.starts_with("\nkube-scheduler flags\n") && text.ends_with("\n\nleader-elect=true\nv=2\n"), "{text}");
        let (_, text) = component.flagz("application/json;v=v1alpha1;g=config.k8s.io;as=Flagz").expect("an object");
        let object: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!((&object["apiVersion"], &object["flags"]["v"]), (&"config.k8s.io/v1alpha1".into(), &"2".into()));
        let (_, text) = component.statusz("application/json;v=v1beta1;g=config.k8s.io;as=Statusz", now).expect("an object");
        let object: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!((&object["uptimeSeconds"], &object["startTime"]), (&3723.into(), &"2026-01-01T00:00:00Z".into()));
    }
}
