//! Volumes, claims and storage classes.

use super::Asker;
use super::pod;
use super::writer::{Writer, list, or_none, show};
use serde_json::Value;

/// `ReadWriteOnce` as `RWO`.
fn modes(value: &Value) -> String {
    let short = |m: &Value| match m.as_str().unwrap_or("") {
        "ReadWriteOnce" => "RWO".to_owned(),
        "ReadOnlyMany" => "ROX".to_owned(),
        "ReadWriteMany" => "RWX".to_owned(),
        "ReadWriteOncePod" => "RWOP".to_owned(),
        other => other.to_owned(),
    };
    list(value).iter().map(short).collect::<Vec<_>>().join(",")
}

pub(super) fn claim(asker: &Asker<'_>, object: &Value, w: &mut Writer) {
    let (meta, spec, status) = (&object["metadata"], &object["spec"], &object["status"]);
    w.field(0, "Name", show(&meta["name"]));
    w.field(0, "Namespace", show(&meta["namespace"]));
    w.field(0, "StorageClass", show(&spec["storageClassName"]));
    let deleting = !meta["deletionTimestamp"].is_null();
    w.field(0, "Status", if deleting { "Terminating".into() } else { show(&status["phase"]) });
    w.field(0, "Volume", show(&spec["volumeName"]));
    w.map("Labels", &meta["labels"]);
    w.annotations(&meta["annotations"]);
    let finalizers: Vec<String> = list(&meta["finalizers"]).iter().map(show).collect();
    w.field(0, "Finalizers", format!("[{}]", finalizers.join(" ")));
    let bound = !show(&spec["volumeName"]).is_empty();
    w.field(0, "Capacity", if bound { show(&status["capacity"]["storage"]) } else { String::new() });
    w.field(0, "Access Modes", if bound { modes(&status["accessModes"]) } else { String::new() });
    w.some(0, "VolumeMode", &spec["volumeMode"]);
    let path = format!("/api/v1/namespaces/{}/pods", show(&meta["namespace"]));
    let pods = asker.list(&path, "", "");
    let uses = |p: &&Value| list(&p["spec"]["volumes"]).iter().any(|v| v["persistentVolumeClaim"]["claimName"] == meta["name"]);
    let users: Vec<String> = pods.iter().filter(uses).map(|p| show(&p["metadata"]["name"])).collect();
    if users.is_empty() {
        w.field(0, "Used By", "<none>");
    }
    for (i, user) in users.iter().enumerate() {
        w.line(0, format!("{}\t{user}", if i == 0 { "Used By:" } else { "" }));
    }
}

pub(super) fn volume(_: &Asker<'_>, object: &Value, w: &mut Writer) {
    let (meta, spec, status) = (&object["metadata"], &object["spec"], &object["status"]);
    w.field(0, "Name", show(&meta["name"]));
    w.map("Labels", &meta["labels"]);
    w.annotations(&meta["annotations"]);
    let finalizers: Vec<String> = list(&meta["finalizers"]).iter().map(show).collect();
    w.field(0, "Finalizers", format!("[{}]", finalizers.join(" ")));
    w.field(0, "StorageClass", show(&spec["storageClassName"]));
    let deleting = !meta["deletionTimestamp"].is_null();
    w.field(0, "Status", if deleting { "Terminating".into() } else { show(&status["phase"]) });
    let claim = &spec["claimRef"];
    w.field(0, "Claim", if claim.is_object() { format!("{}/{}", show(&claim["namespace"]), show(&claim["name"])) } else { String::new() });
    w.field(0, "Reclaim Policy", show(&spec["persistentVolumeReclaimPolicy"]));
    w.field(0, "Access Modes", modes(&spec["accessModes"]));
    w.some(0, "VolumeMode", &spec["volumeMode"]);
    w.field(0, "Capacity", show(&spec["capacity"]["storage"]));
    if spec["nodeAffinity"]["required"].is_object() {
        w.line(0, "Node Affinity:");
        w.line(1, "Required Terms:");
        for (i, term) in list(&spec["nodeAffinity"]["required"]["nodeSelectorTerms"]).iter().enumerate() {
            let one = |e: &Value| {
                let values: Vec<String> = list(&e["values"]).iter().map(show).collect();
                format!("{} {} [{}]", show(&e["key"]), show(&e["operator"]).to_lowercase(), values.join(", "))
            };
            let text: Vec<String> = list(&term["matchExpressions"]).iter().map(one).collect();
            w.field(2, &format!("Term {i}"), or_none(text.join(", ")));
        }
    } else {
        w.field(0, "Node Affinity", "<none>");
    }
    w.field(0, "Message", show(&status["message"]));
    w.line(0, "Source:");
    pod::source(spec, 1, w);
}

pub(super) fn class(_: &Asker<'_>, object: &Value, w: &mut Writer) {
    let meta = &object["metadata"];
    w.field(0, "Name", show(&meta["name"]));
    let default = meta["annotations"]["storageclass.kubernetes.io/is-default-class"] == "true";
    w.field(0, "IsDefaultClass", if default { "Yes" } else { "No" });
    let annotations = super::service::pairs(&meta["annotations"]);
    w.field(0, "Annotations", annotations);
    w.field(0, "Provisioner", show(&object["provisioner"]));
    w.field(0, "Parameters", super::service::pairs(&object["parameters"]));
    let expansion = &object["allowVolumeExpansion"];
    w.field(
        0,
        "AllowVolumeExpansion",
        if expansion.is_null() {
            "<unset>".into()
        } else if expansion == true {
            "True".into()
        } else {
            "False".to_owned()
        },
    );
    let options: Vec<String> = list(&object["mountOptions"]).iter().map(show).collect();
    if options.is_empty() {
        w.field(0, "MountOptions", "<none>");
    } else {
        w.line(0, "MountOptions:");
        options.iter().for_each(|o| w.line(1, o));
    }
    w.some(0, "ReclaimPolicy", &object["reclaimPolicy"]);
    w.some(0, "VolumeBindingMode", &object["volumeBindingMode"]);
}
