//! Namespaces, roles and bindings.

use super::Asker;
use super::writer::{Writer, list, show};
use serde_json::Value;

pub(super) fn namespace(asker: &Asker<'_>, object: &Value, w: &mut Writer) {
    let meta = &object["metadata"];
    w.field(0, "Name", show(&meta["name"]));
    w.map("Labels", &meta["labels"]);
    w.annotations(&meta["annotations"]);
    w.field(0, "Status", show(&object["status"]["phase"]));
    let conditions = list(&object["status"]["conditions"]);
    if !conditions.is_empty() {
        w.line(0, "Conditions:");
        w.line(1, "Type\tLastTransitionTime\tStatus\tReason\tMessage");
        w.line(1, "----\t------------------\t------\t------\t-------");
        for c in conditions {
            w.line(
                1,
                format!(
                    "{}\t{}\t{}\t{}\t{}",
                    show(&c["type"]),
                    super::writer::time(&c["lastTransitionTime"]),
                    show(&c["status"]),
                    show(&c["reason"]),
                    show(&c["message"])
                ),
            );
        }
    }
    let path = |plural: &str| format!("/api/v1/namespaces/{}/{plural}", show(&meta["name"]));
    let quotas = asker.list(&path("resourcequotas"), "", "");
    if quotas.is_empty() {
        w.line(0, "\nNo resource quota.");
    } else {
        w.line(0, "\nResource Quotas");
        for q in &quotas {
            w.line(1, format!("Name:\t{}", show(&q["metadata"]["name"])));
            w.line(1, "Resource\tUsed\tHard");
            w.line(1, "--------\t---\t---");
            for (resource, hard) in q["status"]["hard"].as_object().into_iter().flatten() {
                w.line(1, format!("{resource}\t{}\t{}", show(&q["status"]["used"][resource]), show(hard)));
            }
        }
    }
    let limits = asker.list(&path("limitranges"), "", "");
    if limits.is_empty() {
        w.line(0, "\nNo LimitRange resource.");
        return;
    }
    w.line(0, "\nResource Limits");
    w.line(1, "Type\tResource\tMin\tMax\tDefault Request\tDefault Limit\tMax Limit/Request Ratio");
    w.line(1, "----\t--------\t---\t---\t---------------\t-------------\t-----------------------");
    for item in limits.iter().flat_map(|l| list(&l["spec"]["limits"])) {
        let fields = ["min", "max", "defaultRequest", "default", "maxLimitRequestRatio"];
        let mut names: Vec<&String> = fields.iter().filter_map(|f| item[*f].as_object()).flat_map(|m| m.keys()).collect();
        names.sort();
        names.dedup();
        for name in names {
            let cell = |f: &str| Some(show(&item[f][name.as_str()])).filter(|s| !s.is_empty()).unwrap_or_else(|| "-".to_owned());
            let cells: Vec<String> = fields.iter().map(|f| cell(f)).collect();
            w.line(1, format!("{}\t{name}\t{}", show(&item["type"]), cells.join("\t")));
        }
    }
}

pub(super) fn role(_: &Asker<'_>, object: &Value, w: &mut Writer) {
    let meta = &object["metadata"];
    w.field(0, "Name", show(&meta["name"]));
    w.map("Labels", &meta["labels"]);
    w.annotations(&meta["annotations"]);
    w.line(0, "PolicyRule:");
    w.line(1, "Resources\tNon-Resource URLs\tResource Names\tVerbs");
    w.line(1, "---------\t-----------------\t--------------\t-----");
    let joined = |v: &Value| format!("[{}]", list(v).iter().map(show).collect::<Vec<_>>().join(" "));
    // Upstream sorts rules by how their Go struct prints: verbs, group, resource, name.
    let mut lines: Vec<([String; 4], String)> = Vec::new();
    for rule in list(&object["rules"]) {
        let verbs = joined(&rule["verbs"]);
        for url in list(&rule["nonResourceURLs"]) {
            lines.push(([verbs.clone(), String::new(), String::new(), show(url)], format!("\t[{}]\t[]\t{verbs}", show(url))));
        }
        for group in list(&rule["apiGroups"]) {
            for resource in list(&rule["resources"]) {
                let (resource, group) = (show(resource), show(group));
                let (base, sub) = resource.split_once('/').map_or((resource.as_str(), String::new()), |(b, s)| (b, format!("/{s}")));
                let full = if group.is_empty() { format!("{base}{sub}") } else { format!("{base}.{group}{sub}") };
                let names: Vec<String> = match list(&rule["resourceNames"]) {
                    [] => vec![String::new()],
                    names => names.iter().map(show).collect(),
                };
                for name in names {
                    let key = [verbs.clone(), format!("[{group}]"), format!("[{resource}]"), format!("[{name}]")];
                    lines.push((key, format!("{full}\t[]\t[{name}]\t{verbs}")));
                }
            }
        }
    }
    lines.sort();
    lines.iter().for_each(|(_, l)| w.line(1, l));
}

/// Priority classes.
pub(super) fn priority_class(_: &Asker<'_>, object: &Value, w: &mut Writer) {
    w.field(0, "Name", show(&object["metadata"]["name"]));
    w.field(0, "Value", show(&object["value"]));
    w.field(0, "GlobalDefault", (object["globalDefault"] == true).to_string());
    w.field(0, "PreemptionPolicy", show(&object["preemptionPolicy"]));
    w.field(0, "Description", show(&object["description"]));
    w.field(0, "Annotations", crate::printers::table::labels(&object["metadata"]["annotations"]));
}

pub(super) fn binding(_: &Asker<'_>, object: &Value, w: &mut Writer) {
    let meta = &object["metadata"];
    w.field(0, "Name", show(&meta["name"]));
    w.map("Labels", &meta["labels"]);
    w.annotations(&meta["annotations"]);
    w.line(0, "Role:");
    w.field(1, "Kind", show(&object["roleRef"]["kind"]));
    w.field(1, "Name", show(&object["roleRef"]["name"]));
    w.line(0, "Subjects:");
    w.line(1, "Kind\tName\tNamespace");
    w.line(1, "----\t----\t---------");
    for s in list(&object["subjects"]) {
        w.line(1, format!("{}\t{}\t{}", show(&s["kind"]), show(&s["name"]), show(&s["namespace"])));
    }
}
