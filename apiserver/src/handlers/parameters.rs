//! The options of each verb, from query and body, and what is wrong with them
//! (upstream: `apimachinery/pkg/apis/meta/v1` and its `validation`).

use crate::request::Query;
use api::StatusError;
use api::decode::body::FieldValidation;
use api::field::{ErrorList, Path};
use api::selector::{FieldSelector, LabelSelector};
use api::status::Result;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

const OPTIONS_GROUP: &str = "meta.k8s.io";

fn refuse(kind: &str, errors: ErrorList) -> Result<()> {
    if errors.is_empty() { Ok(()) } else { Err(StatusError::invalid(OPTIONS_GROUP, kind, "", errors)) }
}

/// How a query's number fails to parse, as Go words it.
fn parse_int(text: &str) -> Result<i64> {
    text.parse().map_err(|e: std::num::ParseIntError| {
        use std::num::IntErrorKind::{NegOverflow, PosOverflow};
        let why = if matches!(e.kind(), PosOverflow | NegOverflow) { "value out of range" } else { "invalid syntax" };
        StatusError::bad_request(format!("strconv.ParseInt: parsing {text:?}: {why}"))
    })
}

/// The options of list, watch and deletecollection (upstream: `ListOptions`).
#[derive(Clone, Debug, Default)]
pub struct ListParameters {
    /// As given.
    pub label_selector: String,
    /// As given.
    pub field_selector: String,
    /// As given.
    pub resource_version: String,
    /// `Exact`, `NotOlderThan` or empty.
    pub resource_version_match: String,
    /// 0 for no limit.
    pub limit: usize,
    /// The token of the next page, or empty.
    pub continue_token: String,
    /// Watch: end after so many seconds.
    pub timeout_seconds: Option<u64>,
    /// Watch: send bookmarks.
    pub allow_bookmarks: bool,
    /// Watch: begin with the state as ADDED events.
    pub send_initial_events: Option<bool>,
}

impl ListParameters {
    /// Which of the objects that have no more to select by than their metadata the selectors pick.
    pub fn picks(&self) -> Result<impl Fn(&ObjectMeta) -> bool + use<>> {
        let refused = |error: api::selector::ParseError| StatusError::bad_request(error.0);
        let labels = LabelSelector::parse(&self.label_selector).map_err(refused)?;
        let fields = FieldSelector::parse(&self.field_selector).map_err(refused)?;
        Ok(move |meta: &ObjectMeta| {
            let field = |name: &str| match name {
                "metadata.name" => meta.name.clone().unwrap_or_default(),
                "metadata.namespace" => meta.namespace.clone().unwrap_or_default(),
                _ => String::new(),
            };
            labels.matches(meta.labels.as_ref()) && fields.matches(field)
        })
    }

    /// Reads and validates them.
    pub fn parse(query: &Query, watch: bool) -> Result<Self> {
        let own = |name| query.get(name).unwrap_or("").to_owned();
        let limit = query.non_empty("limit").map_or(Ok(0), parse_int)?;
        let timeout = query.non_empty("timeoutSeconds").map(parse_int).transpose()?;
        let parameters = ListParameters {
            label_selector: own("labelSelector"),
            field_selector: own("fieldSelector"),
            resource_version: own("resourceVersion"),
            resource_version_match: own("resourceVersionMatch"),
            // A negative limit means none.
            limit: usize::try_from(limit).unwrap_or(0),
            continue_token: own("continue"),
            timeout_seconds: timeout.and_then(|t| u64::try_from(t).ok()),
            allow_bookmarks: query.flag("allowWatchBookmarks"),
            send_initial_events: query.get("sendInitialEvents").map(|_| query.flag("sendInitialEvents")),
        };
        let mut errors = ErrorList::new();
        if watch {
            parameters.check_watch(&mut errors)
        } else {
            parameters.check_list(&mut errors)
        }
        refuse("ListOptions", errors)?;
        Ok(parameters)
    }

    fn check_list(&self, errors: &mut ErrorList) {
        let path = Path::new("resourceVersionMatch");
        let wanted = self.resource_version_match.as_str();
        if !wanted.is_empty() {
            if self.resource_version.is_empty() {
                errors.forbidden(&path, "resourceVersionMatch is forbidden unless resourceVersion is provided");
            }
            if !self.continue_token.is_empty() {
                errors.forbidden(&path, "resourceVersionMatch is forbidden with continue");
            }
            if wanted != "Exact" && wanted != "NotOlderThan" {
                errors.not_supported(&path, wanted, &["Exact", "NotOlderThan", ""]);
            }
            if wanted == "Exact" && self.resource_version == "0" {
                errors.forbidden(&path, "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"");
            }
        }
        if self.send_initial_events.is_some() {
            errors.forbidden(&Path::new("sendInitialEvents"), "sendInitialEvents is forbidden for list");
        }
    }

    fn check_watch(&self, errors: &mut ErrorList) {
        let path = Path::new("resourceVersionMatch");
        let wanted = self.resource_version_match.as_str();
        if self.send_initial_events.is_some() && wanted != "NotOlderThan" {
            errors.forbidden(&path, "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
        }
        if !wanted.is_empty() {
            if self.send_initial_events.is_none() {
                errors.forbidden(&path, "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided");
            }
            if wanted != "NotOlderThan" {
                errors.not_supported(&path, wanted, &["NotOlderThan"]);
            }
            if !self.continue_token.is_empty() {
                errors.forbidden(&path, "resourceVersionMatch is forbidden with continue");
            }
        }
    }
}

/// The options of create, update and patch.
#[derive(Clone, Debug, Default)]
pub struct WriteParameters {
    /// Go through everything but the store.
    pub dry_run: bool,
    /// Who owns the fields that are written; empty to go by the user agent.
    pub field_manager: String,
    /// What becomes of unknown fields.
    pub field_validation: FieldValidation,
    /// The same as it was given, if it was.
    pub given_validation: Option<String>,
    /// Apply: take fields over from other managers.
    pub force: bool,
}

/// Which verb's options are read: their names differ in messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// POST.
    Create,
    /// PUT.
    Update,
    /// PATCH.
    Patch,
    /// PATCH with `application/apply-patch+yaml`.
    Apply,
}

impl WriteParameters {
    /// Reads and validates them.
    pub fn parse(query: &Query, write: Write) -> Result<Self> {
        let mut errors = ErrorList::new();
        let manager = query.get("fieldManager").unwrap_or("");
        let manager_path = Path::new("fieldManager");
        if write == Write::Apply {
            if manager.is_empty() {
                errors.required(&manager_path, "is required for apply patch");
            }
        } else if write == Write::Patch && query.get("force").is_some() {
            errors.forbidden(&Path::new("force"), "may not be specified for non-apply patch");
        }
        check_manager(manager, &mut errors);
        let dry_run = check_dry_run(query.all("dryRun"), &mut errors);
        let field_validation = match query.get("fieldValidation").unwrap_or("") {
            "" | "Warn" => FieldValidation::Warn,
            "Ignore" => FieldValidation::Ignore,
            "Strict" => FieldValidation::Strict,
            other => {
                errors.not_supported(&Path::new("fieldValidation"), other, &["", "Ignore", "Strict", "Warn"]);
                FieldValidation::Warn
            }
        };
        let kind = match write {
            Write::Create => "CreateOptions",
            Write::Update => "UpdateOptions",
            Write::Patch | Write::Apply => "PatchOptions",
        };
        refuse(kind, errors)?;
        let given_validation = query.non_empty("fieldValidation").map(str::to_owned);
        Ok(WriteParameters { dry_run, field_manager: manager.to_owned(), field_validation, given_validation, force: query.flag("force") })
    }
}

fn check_manager(manager: &str, errors: &mut ErrorList) {
    let path = Path::new("fieldManager");
    // 128 is upstream's FieldManagerMaxLength.
    if manager.len() > 128 {
        errors.too_long(&path, 128);
    }
    for (at, c) in manager.char_indices().filter(|(_, c)| c.is_control()) {
        errors.invalid(&path, manager, &format!("invalid character U+{:04X} (at position {at})", u32::from(c)));
    }
}

fn check_dry_run<'a>(values: impl Iterator<Item = &'a str>, errors: &mut ErrorList) -> bool {
    let values: Vec<&str> = values.collect();
    if values.iter().any(|v| *v != "All") {
        errors.not_supported(&Path::new("dryRun"), serde_json::json!(values), &["All"]);
    }
    !values.is_empty()
}

/// What must still be so when the object is deleted.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default, rename_all = "camelCase")]
pub struct Preconditions {
    /// The object's uid.
    pub uid: Option<String>,
    /// The object's version.
    pub resource_version: Option<String>,
}

/// What becomes of the objects that the deleted one owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// They are deleted afterwards.
    Background,
    /// They are deleted first.
    Foreground,
    /// They stay.
    Orphan,
}

impl Propagation {
    /// Its name in the API.
    fn name(self) -> &'static str {
        match self {
            Propagation::Background => "Background",
            Propagation::Foreground => "Foreground",
            Propagation::Orphan => "Orphan",
        }
    }
}

/// The options of delete (upstream: `DeleteOptions`), from the query or, if there is one, from the body.
#[derive(Clone, Debug, Default)]
pub struct DeleteParameters {
    /// Seconds until the object may go; `None` for the kind's default.
    pub grace_period_seconds: Option<i64>,
    /// What must still be so.
    pub preconditions: Preconditions,
    /// The older way to say [`Propagation`].
    pub orphan_dependents: Option<bool>,
    /// What becomes of dependents; `None` for the kind's default.
    pub propagation: Option<Propagation>,
    /// Go through everything but the store.
    pub dry_run: bool,
}

/// `DeleteOptions` as sent. Fields we do not know are ignored, as upstream does.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct DeleteBody {
    kind: Option<String>,
    grace_period_seconds: Option<i64>,
    preconditions: Option<Preconditions>,
    orphan_dependents: Option<bool>,
    propagation_policy: Option<String>,
    dry_run: Option<Vec<String>>,
}

impl DeleteParameters {
    /// As an object of `meta.k8s.io/v1`, for those who are asked about the deletion.
    pub fn shown(&self) -> serde_json::Value {
        let mut out = serde_json::json!({"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1"});
        let Preconditions { uid, resource_version } = &self.preconditions;
        let mut preconditions = serde_json::Map::new();
        for (key, value) in [("uid", uid), ("resourceVersion", resource_version)] {
            if let Some(value) = value {
                preconditions.insert(key.into(), value.as_str().into());
            }
        }
        let fields = [
            ("gracePeriodSeconds", self.grace_period_seconds.map(Into::into)),
            ("preconditions", (!preconditions.is_empty()).then(|| preconditions.into())),
            ("orphanDependents", self.orphan_dependents.map(Into::into)),
            ("propagationPolicy", self.propagation.map(|p| p.name().into())),
            ("dryRun", self.dry_run.then(|| serde_json::json!(["All"]))),
        ];
        for (key, value) in fields {
            if let Some(value) = value {
                out[key] = value;
            }
        }
        out
    }

    /// Reads and validates them. A body, if there is one, counts instead of the query, except for `dryRun`, which counts from either.
    pub fn parse(query: &Query, body: Option<serde_json::Value>) -> Result<Self> {
        let sent = match body {
            Some(value) => {
                let sent: DeleteBody = serde_json::from_value(value).map_err(|e| StatusError::bad_request(e.to_string()))?;
                if sent.kind.as_deref().is_some_and(|k| k != "DeleteOptions") {
                    return Err(StatusError::bad_request("decoded object cannot be converted to DeleteOptions"));
                }
                sent
            }
            None => DeleteBody {
                kind: None,
                grace_period_seconds: query.non_empty("gracePeriodSeconds").map(parse_int).transpose()?,
                preconditions: None,
                orphan_dependents: query.get("orphanDependents").map(|_| query.flag("orphanDependents")),
                propagation_policy: query.non_empty("propagationPolicy").map(str::to_owned),
                dry_run: None,
            },
        };
        let mut errors = ErrorList::new();
        let path = Path::new("propagationPolicy");
        let propagation = match sent.propagation_policy.as_deref() {
            None => None,
            Some("Background") => Some(Propagation::Background),
            Some("Foreground") => Some(Propagation::Foreground),
            Some("Orphan") => Some(Propagation::Orphan),
            Some(other) => {
                errors.not_supported(&path, other, &["Foreground", "Background", "Orphan", "nil"]);
                None
            }
        };
        if let (Some(policy), Some(_)) = (&sent.propagation_policy, sent.orphan_dependents) {
            errors.invalid(&path, policy.as_str(), "orphanDependents and deletionPropagation cannot be both set");
        }
        let in_body = sent.dry_run.unwrap_or_default();
        let dry_run = check_dry_run(in_body.iter().map(String::as_str).chain(query.all("dryRun")), &mut errors);
        refuse("DeleteOptions", errors)?;
        Ok(DeleteParameters {
            grace_period_seconds: sent.grace_period_seconds,
            preconditions: sent.preconditions.unwrap_or_default(),
            orphan_dependents: sent.orphan_dependents,
            propagation,
            dry_run,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text<T>(result: Result<T>) -> String {
        result.map_or_else(|e| e.to_string(), |_| "ok".into())
    }

    #[test]
    fn list_options_are_checked_as_upstream_does() {
        for (query, watch, want) in [
            ("limit=x", false, "strconv.ParseInt: parsing \"x\": invalid syntax"),
            ("limit=-1", false, "ok"),
            (
                "resourceVersionMatch=Exact",
                false,
                "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided",
            ),
            (
                "sendInitialEvents=true",
                true,
                "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            ),
            ("sendInitialEvents=true&resourceVersionMatch=NotOlderThan", true, "ok"),
        ] {
            assert_eq!(text(ListParameters::parse(&Query::parse(query), watch)), want, "{query}");
        }
    }

    #[test]
    fn write_options_are_checked_as_upstream_does() {
        for (query, write, want) in [
            ("", Write::Create, "ok"),
            ("dryRun=All", Write::Create, "ok"),
            (
                "dryRun=Some",
                Write::Create,
                "CreateOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: [\"Some\"]: supported values: \"All\"",
            ),
            (
                "fieldValidation=Nope",
                Write::Update,
                "UpdateOptions.meta.k8s.io \"\" is invalid: fieldValidation: Unsupported value: \"Nope\": supported values: \"\", \"Ignore\", \"Strict\", \"Warn\"",
            ),
            ("", Write::Apply, "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch"),
            (
                "force=true",
                Write::Patch,
                "PatchOptions.meta.k8s.io \"\" is invalid: force: Forbidden: may not be specified for non-apply patch",
            ),
        ] {
            assert_eq!(text(WriteParameters::parse(&Query::parse(query), write)), want, "{query}");
        }
    }

    #[test]
    fn delete_options_come_from_the_body_or_the_query() {
        let of = |query: &str, body: Option<serde_json::Value>| DeleteParameters::parse(&Query::parse(query), body);
        assert_eq!(of("gracePeriodSeconds=5", None).unwrap().grace_period_seconds, Some(5));
        let body = serde_json::json!({"kind": "DeleteOptions", "propagationPolicy": "Orphan", "preconditions": {"uid": "u"}});
        let parsed = of("gracePeriodSeconds=5", Some(body)).unwrap();
        assert_eq!((parsed.grace_period_seconds, parsed.propagation), (None, Some(Propagation::Orphan)));
        assert_eq!(parsed.preconditions.uid.as_deref(), Some("u"));
        assert!(text(of("", Some(serde_json::json!({"propagationPolicy": "Nope"})))).contains("\"Background\", \"Orphan\", \"nil\""));
    }
}
