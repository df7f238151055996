//! Labels, annotations, selectors.

use skiff_testing::{Cluster, Kubectl, for_each_kubectl};

/// Pods that are never scheduled: what labels do needs no containers.
fn pod(name: &str, labels: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{{labels}}}}}\nspec: {{schedulerName: nobody, containers: [{{name: c, image: busybox:1.28}}]}}\n---\n"
    )
}

fn names(k: &Kubectl<'_>, arguments: &[&str]) -> Vec<String> {
    let mut line = vec!["get", "pods", "-o", "name"];
    line.extend(arguments);
    k.ok(&line).lines().map(|l| l.trim_start_matches("pod/").to_owned()).collect()
}

/// Proves LBL-01.
#[test]
fn labels_show_as_text_and_as_columns() {
    for_each_kubectl(Cluster::shared(), "label-columns", |k| {
        k.ok(&["apply", "-f", &k.cluster.manifest("multipod.yml")]);
        let shown = k.ok(&["get", "po", "multipod", "--show-labels", "--no-headers"]);
        assert_eq!(shown.split_whitespace().last(), Some("creation_method=manual,env=prod"));
        let columns = k.ok(&["get", "po", "multipod", "-L", "env,none,creation_method"]);
        let header = columns.lines().next().unwrap_or_default();
        assert!(header.split_whitespace().eq(["NAME", "READY", "STATUS", "RESTARTS", "AGE", "ENV", "NONE", "CREATION_METHOD"]), "{header}");
        let cells: Vec<&str> = columns.lines().nth(1).unwrap_or_default().split_whitespace().collect();
        assert_eq!(cells[cells.len() - 2..], ["prod", "manual"], "{columns}");
    });
}

/// Proves LBL-02.
#[test]
fn labels_and_annotations_change_only_when_told() {
    for_each_kubectl(Cluster::shared(), "label-change", |k| {
        k.apply(&pod("x", "a: b"));
        assert_eq!(k.ok(&["label", "po", "x", "k=v"]), "pod/x labeled\n");
        let version = k.field("pod", "x", "{.metadata.resourceVersion}");
        assert_eq!(k.refused(&["label", "po", "x", "k=w"]), "error: 'k' already has a value (v), and --overwrite is false\n");
        assert_eq!(k.field("pod", "x", "{.metadata.labels.k} {.metadata.resourceVersion}"), format!("v {version}"));
        assert_eq!(k.ok(&["label", "po", "x", "k=w", "--overwrite"]), "pod/x labeled\n");
        assert_eq!(k.ok(&["label", "po", "x", "k-"]), "pod/x unlabeled\n");
        assert_eq!(k.field("pod", "x", "{.metadata.labels}"), r#"{"a":"b"}"#);

        assert_eq!(k.ok(&["annotate", "po", "x", "note=one two"]), "pod/x annotated\n");
        assert!(k.refused(&["annotate", "po", "x", "note=three"]).contains("--overwrite is false"));
        assert_eq!(k.field("pod", "x", "{.metadata.annotations.note}"), "one two");
        assert_eq!(k.ok(&["annotate", "po", "x", "note-"]), "pod/x annotated\n");

        let node = k.ok(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"]);
        let key = format!("test-{}", k.namespace);
        assert_eq!(k.ok(&["label", "node", &node, &format!("{key}=v")]), format!("node/{node} labeled\n"));
        assert_eq!(k.ok(&["get", "nodes", "-l", &key, "-o", "name"]), format!("node/{node}\n"));
        assert_eq!(k.ok(&["label", "node", &node, &format!("{key}-")]), format!("node/{node} unlabeled\n"));
        assert_eq!(k.ok(&["annotate", "node", &node, &format!("{key}=v")]), format!("node/{node} annotated\n"));
        assert_eq!(k.ok(&["annotate", "node", &node, &format!("{key}-")]), format!("node/{node} annotated\n"));
    });
}

/// Proves LBL-03.
#[test]
fn selectors_choose_in_lists_and_in_watches() {
    for_each_kubectl(Cluster::shared(), "selectors", |k| {
        k.apply(&(pod("a", "env: prod, tier: web") + &pod("b", "env: debug") + &pod("c", "")));
        for (selector, wanted) in [
            ("env=prod", vec!["a"]),
            ("env==prod", vec!["a"]),
            ("env!=prod", vec!["b", "c"]),
            ("env", vec!["a", "b"]),
            ("!env", vec!["c"]),
            ("env in (prod,debug)", vec!["a", "b"]),
            ("env notin (prod)", vec!["b", "c"]),
            ("env in (prod,debug),tier=web", vec!["a"]),
            ("env=none", vec![]),
        ] {
            assert_eq!(names(k, &["-l", selector]), wanted, "{} -l {selector:?}", k.name);
        }
        let bad = k.refused(&["get", "pods", "-l", "env in (prod"]);
        assert!(bad.contains("unable to parse requirement") || bad.contains("found"), "{bad}");

        // A watch with a selector sees what enters it.
        let mut watch = k
            .command(&["get", "pods", "-l", "seen=yes", "-w", "-o", "name"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("kubectl starts");
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(watch.stdout.take().expect("it is piped")));
        k.ok(&["label", "pod", "c", "seen=yes"]);
        let first = lines.next().expect("the watch prints").expect("text");
        watch.kill().and_then(|()| watch.wait()).expect("it is ours");
        assert_eq!(first, "pod/c");
    });
}

/// Proves LBL-04.
#[test]
fn field_selectors_choose() {
    for_each_kubectl(Cluster::shared(), "fields", |k| {
        k.apply(&(pod("a", "") + &pod("b", "")));
        k.ok(&["run", "r", "--image=busybox:1.28", "--", "sleep", "1000"]);
        k.until_phase("r", "Running");
        let node = k.field("pod", "r", "{.spec.nodeName}");
        assert_eq!(names(k, &["--field-selector", "status.phase=Running"]), ["r"]);
        assert_eq!(names(k, &["--field-selector", &format!("spec.nodeName={node}")]), ["r"]);
        assert_eq!(names(k, &["--field-selector", "metadata.name=a"]), ["a"]);
        assert_eq!(names(k, &["--field-selector", "metadata.name!=a,status.phase!=Running"]), ["b"]);
        let bad = k.refused(&["get", "pods", "--field-selector", "spec.nothing=x"]);
        assert!(bad.contains("field label not supported: spec.nothing"), "{bad}");
    });
}

/// Proves LBL-05.
#[test]
fn run_labels_the_pod() {
    for_each_kubectl(Cluster::shared(), "run-label", |k| {
        assert_eq!(k.ok(&["run", "web", "--image=nginx:1.14"]), "pod/web created\n");
        assert_eq!(k.field("pod", "web", "{.metadata.labels}"), r#"{"run":"web"}"#);
        assert_eq!(names(k, &["-l", "run=web"]), ["web"]);
    });
}
