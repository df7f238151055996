//! ConfigMap, Secret, ServiceAccount.

use super::Asker;
use super::writer::{Writer, list, or_none, show};
use crate::encoding::unbase64;
use serde_json::Value;

fn head(object: &Value, w: &mut Writer) {
    let meta = &object["metadata"];
    w.field(0, "Name", show(&meta["name"]));
    w.field(0, "Namespace", show(&meta["namespace"]));
    w.map("Labels", &meta["labels"]);
    w.annotations(&meta["annotations"]);
}

fn sorted(value: &Value) -> Vec<(&String, &Value)> {
    let mut pairs: Vec<_> = value.as_object().into_iter().flatten().collect();
    pairs.sort_by_key(|(k, _)| *k);
    pairs
}

pub(super) fn config_map(_: &Asker<'_>, object: &Value, w: &mut Writer) {
    head(object, w);
    w.line(0, "\nData\n====");
    for (key, value) in sorted(&object["data"]) {
        w.line(0, format!("{key}:\n----\n{}\n", show(value)));
    }
    w.line(0, "\nBinaryData\n====");
    for (key, value) in sorted(&object["binaryData"]) {
        let bytes = unbase64(value.as_str().unwrap_or("")).map_or(0, |b| b.len());
        w.line(0, format!("{key}: {bytes} bytes"));
    }
    w.line(0, "");
}

pub(super) fn secret(_: &Asker<'_>, object: &Value, w: &mut Writer) {
    head(object, w);
    w.line(0, format!("\nType:\t{}", show(&object["type"])));
    w.line(0, "\nData\n====");
    for (key, value) in sorted(&object["data"]) {
        let bytes = unbase64(value.as_str().unwrap_or("")).unwrap_or_default();
        // A token is what people describe such a Secret for.
        if object["type"] == "kubernetes.io/service-account-token" && key == "token" {
            w.line(0, format!("{key}:\t{}", String::from_utf8_lossy(&bytes)));
        } else {
            w.line(0, format!("{key}:\t{} bytes", bytes.len()));
        }
    }
}

pub(super) fn service_account(asker: &Asker<'_>, object: &Value, w: &mut Writer) {
    head(object, w);
    let meta = &object["metadata"];
    let path = format!("/api/v1/namespaces/{}/secrets", show(&meta["namespace"]));
    let tokens: Vec<String> = asker
        .list(&path, "", "type=kubernetes.io/service-account-token")
        .iter()
        .filter(|s| s["metadata"]["annotations"]["kubernetes.io/service-account.name"] == meta["name"])
        .map(|s| show(&s["metadata"]["name"]))
        .collect();
    let names = |field: &str| list(&object[field]).iter().map(|r| show(&r["name"])).collect::<Vec<_>>();
    for (title, names) in [("Image pull secrets", names("imagePullSecrets")), ("Mountable secrets", names("secrets")), ("Tokens", tokens)] {
        if names.is_empty() {
            w.field(0, title, or_none(""));
        }
        for (i, name) in names.iter().enumerate() {
            w.line(0, format!("{}\t{name}", if i == 0 { format!("{title}:") } else { String::new() }));
        }
    }
}
