//! Manifests, names, namespaces.

use skiff_testing::{Cluster, eventually, for_each_kubectl};

const CONFIG_MAP: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {k: v}\n";

/// Proves OBJ-01.
#[test]
fn manifests_come_in_all_shapes() {
    for_each_kubectl(Cluster::shared(), "shapes", |k| {
        let several =
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: one}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: two}\n";
        assert_eq!(k.apply(several), "configmap/one created\nconfigmap/two created\n");
        assert_eq!(k.apply(r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"json"}}"#), "configmap/json created\n");

        let directory = std::env::temp_dir().join(format!("skiff-shapes-{}-{}", k.name, std::process::id()));
        std::fs::create_dir_all(&directory).expect("a temporary directory");
        std::fs::write(directory.join("a.yaml"), CONFIG_MAP).expect("a file");
        std::fs::write(directory.join("b.json"), r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"b"}}"#).expect("a file");
        std::fs::write(directory.join("notes.txt"), "not a manifest").expect("a file");
        let printed = k.ok(&["apply", "-f", directory.to_str().expect("it is UTF-8")]);
        std::fs::remove_dir_all(&directory).expect("it is ours");
        assert_eq!(printed, "configmap/a created\nconfigmap/b created\n");

        for (manifest, wanted) in [
            ("kind: ConfigMap\nmetadata: {name: x}\n", "apiVersion"),
            ("apiVersion: v1\nmetadata: {name: x}\n", "ind"),
            ("a: [b\n", "error converting YAML to JSON"),
        ] {
            let output = k.run_with(&["apply", "-f", "-"], manifest);
            assert_eq!(output.code, 1, "{} apply {manifest:?}: {output:?}", k.name);
            assert!(output.err.contains(wanted), "{} apply {manifest:?}: wanted {wanted:?}, got {:?}", k.name, output.err);
        }
    });
}

/// Proves OBJ-02.
#[test]
fn a_name_is_taken_once() {
    for_each_kubectl(Cluster::shared(), "taken", |k| {
        assert_eq!(k.ok(&["create", "configmap", "a", "--from-literal=k=v"]), "configmap/a created\n");
        assert_eq!(
            k.refused(&["create", "configmap", "a"]),
            "error: failed to create configmap: configmaps \"a\" already exists\n",
            "{}",
            k.name
        );
        let printed = k.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {k: w}\n");
        assert_eq!(printed, "configmap/a configured\n");
        assert_eq!(k.field("configmap", "a", "{.data.k}"), "w");
        assert_eq!(k.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {k: w}\n"), "configmap/a unchanged\n");

        let generated = k.run_with(&["create", "-f", "-", "-o", "name"], "apiVersion: v1\nkind: ConfigMap\nmetadata: {generateName: g-}\n");
        assert!(generated.out.starts_with("configmap/g-") && generated.out.trim().len() == "configmap/g-".len() + 5, "{generated:?}");
    });
}

/// Proves OBJ-03.
#[test]
fn namespaces_are_there_from_the_start() {
    for_each_kubectl(Cluster::shared(), "from-start", |k| {
        for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
            assert_eq!(k.field("namespace", name, "{.status.phase}"), "Active");
        }
        let other = format!("{}-yaml", k.namespace);
        assert_eq!(
            k.apply(&format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {other}}}\n")),
            format!("namespace/{other} created\n")
        );
        let table = k.ok(&["get", "ns", &other, "--no-headers"]);
        assert_eq!(table.split_whitespace().take(2).collect::<Vec<_>>(), [other.as_str(), "Active"]);
        assert_eq!(k.ok(&["delete", "ns", &other]), format!("namespace \"{other}\" deleted\n"));
        assert!(k.refused(&["get", "ns", &other]).contains("(NotFound)"));
    });
}

/// Proves OBJ-04.
#[test]
fn a_namespace_ends_with_all_that_is_in_it() {
    for_each_kubectl(Cluster::shared(), "ending", |k| {
        let other = format!("{}-other", k.namespace);
        k.ok(&["create", "namespace", &other]);
        for namespace in [&k.namespace, &other] {
            let mut created = k.run(&["-n", namespace, "create", "configmap", "same"]);
            assert_eq!((created.code, created.out.as_str()), (0, "configmap/same created\n"));
            created = k.run(&["-n", namespace, "run", "same", "--image=busybox:1.28", "--", "sleep", "1000"]);
            assert_eq!(created.err, "", "{created:?}");
        }
        let all = k.ok(&["get", "pods", "-A", "--no-headers"]);
        for namespace in [&k.namespace, &other] {
            assert!(all.lines().any(|line| line.split_whitespace().take(2).eq([namespace.as_str(), "same"])), "{namespace}: {all}");
        }
        let held = |finalizers: &str| {
            let patch = format!(r#"{{"metadata":{{"finalizers":{finalizers}}}}}"#);
            k.ok(&["-n", &other, "patch", "configmap", "same", "--type=merge", "-p", &patch]);
        };
        // So that the namespace is seen on its way out.
        held(r#"["skiff.example/held"]"#);
        k.ok(&["delete", "ns", &other, "--wait=false"]);
        assert_eq!(k.field("namespace", &other, "{.status.phase}"), "Terminating");
        let late = k.refused(&["-n", &other, "create", "configmap", "late"]);
        assert!(late.contains("because it is being terminated"), "{late}");
        held("null");
        eventually("the namespace is gone", 90, || k.run(&["get", "ns", &other]).err.contains("NotFound"));
        assert!(k.run(&["-n", &other, "get", "configmap", "same"]).err.contains("NotFound"));
        assert_eq!(k.field("configmap", "same", "{.metadata.namespace}"), k.namespace, "the other one's twin stays");
    });
}

/// Proves OBJ-05.
#[test]
fn the_whole_object_is_shown_with_defaults_and_status() {
    for_each_kubectl(Cluster::shared(), "whole", |k| {
        k.ok(&["apply", "-f", &k.cluster.manifest("nginx-pod.yml")]);
        k.until_ready("my-nginx-pod");
        let pod = k.object("pod", "my-nginx-pod");
        for (path, value) in [
            ("/spec/restartPolicy", "Always"),
            ("/spec/dnsPolicy", "ClusterFirst"),
            ("/spec/schedulerName", "default-scheduler"),
            ("/spec/serviceAccountName", "default"),
            ("/spec/containers/0/imagePullPolicy", "Always"),
            ("/spec/containers/0/terminationMessagePath", "/dev/termination-log"),
            ("/status/phase", "Running"),
            ("/status/qosClass", "BestEffort"),
        ] {
            assert_eq!(pod.pointer(path).and_then(|v| v.as_str()), Some(value), "{path} of {pod:#}");
        }
        assert_eq!(pod.pointer("/spec/terminationGracePeriodSeconds"), Some(&30.into()));
        let yaml = k.ok(&["get", "po", "my-nginx-pod", "-o", "yaml"]);
        for line in ["kind: Pod", "  phase: Running", "  restartPolicy: Always"] {
            assert!(yaml.lines().any(|l| l == line), "{line:?} in {yaml}");
        }
    });
}
