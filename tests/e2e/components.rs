//! Who may do what: the components' identities, and each step that a request passes.

use skiff_testing::{Cluster, Kubectl, for_each_kubectl};
use std::process::Command;

/// Proves CMP-01: only the apiserver has the store open, and every other component has an identity of its own.
#[test]
fn only_the_apiserver_touches_the_store() {
    let cluster = Cluster::shared();
    let data = cluster.run_dir().join("data");
    for (name, pid) in cluster.processes() {
        let open = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok());
        let touches = open.filter(|file| file.starts_with(&data)).count() > 0;
        assert_eq!(touches, name == "apiserver", "{name}");
    }
    let whoami = |config: &str| {
        let file = cluster.run_dir().join("kubeconfigs").join(config);
        let output = Command::new(cluster.binary("kubectl"))
            .arg("--kubeconfig")
            .arg(file)
            .args(["auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"])
            .output()
            .expect("kubectl starts");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert_eq!(whoami("scheduler.conf"), "system:kube-scheduler");
    assert_eq!(whoami("controller-manager.conf"), "system:kube-controller-manager");
    assert!(whoami("kubelet.conf").starts_with("system:node:"));
    assert_eq!(whoami("admin.conf"), "kubernetes-admin");
}

/// Proves CMP-03: authentication, authorisation, admission, validation; each refusal says which and why, and nothing is stored.
#[test]
fn each_step_refuses_in_its_own_words() {
    for_each_kubectl(Cluster::shared(), "steps", |k| {
        // Not who they say they are.
        let text = std::fs::read_to_string(k.cluster.kubeconfig()).expect("deploy/up wrote it");
        let server = text.lines().find_map(|l| l.trim().strip_prefix("server: ")).expect("it names the server");
        let authority = k.cluster.run_dir().join("pki/ca.crt").display().to_string();
        let output =
            k.run(&["--kubeconfig=/dev/null", "--server", server, "--certificate-authority", &authority, "--token=wrong", "get", "pods"]);
        assert_eq!(output.code, 1, "{output:?}");
        assert!(output.err.contains("Unauthorized") || output.err.contains("must be logged in"), "{output:?}");

        // Known, but not allowed.
        let denied = k.refused(&["--as=bob", "create", "configmap", "a"]);
        assert!(
            denied.contains(&format!(
                "configmaps is forbidden: User \"bob\" cannot create resource \"configmaps\" in API group \"\" in the namespace \"{}\"",
                k.namespace
            )),
            "{denied}"
        );

        // Allowed, but against policy.
        k.ok(&["label", "namespace", &k.namespace, "pod-security.kubernetes.io/enforce=restricted"]);
        let refused = k.refused(&["run", "p", "--image=busybox:1.28", "--privileged"]);
        assert!(refused.contains("violates PodSecurity \"restricted:latest\""), "{refused}");

        // Within policy, but not a valid object.
        let output = k.run_with(&["create", "-f", "-"], "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: Bad_Name}\n");
        assert_eq!(output.code, 1);
        assert!(
            output.err.contains(
                "The ConfigMap \"Bad_Name\" is invalid: metadata.name: Invalid value: \"Bad_Name\": a lowercase RFC 1123 subdomain"
            ),
            "{output:?}"
        );

        assert_eq!(k.ok(&["get", "pods,configmaps", "-o", "name"]), "configmap/kube-root-ca.crt\n", "nothing was stored");
    });
}

/// Proves CMP-06 for what the kubelet counts of its work: what it asked of the runtime, and the pods and containers that came of it.
#[test]
fn the_kubelet_counts_what_it_does() {
    let k = Kubectl::ours(Cluster::shared(), "counted");
    k.ok(&["run", "one", "--image=busybox:1.28", "--restart=Never", "--", "sleep", "1000"]);
    k.until_ready("one");
    let node = k.field("pod", "one", "{.spec.nodeName}");
    let metrics = k.ok(&["get", "--raw", &format!("/api/v1/nodes/{node}/proxy/metrics")]);
    let value = |name: &str| metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
    for name in [
        "kubelet_runtime_operations_total{operation_type=\"run_podsandbox\"}",
        "kubelet_runtime_operations_duration_seconds_count{operation_type=\"start_container\"}",
        "kubelet_runtime_operations_duration_seconds_sum{operation_type=\"create_container\"}",
        "kubelet_pod_start_duration_seconds_count",
        "kubelet_started_pods_total",
        "kubelet_started_containers_total{container_type=\"container\"}",
    ] {
        assert!(value(name).is_some_and(|value| value > 0.0), "{name} in {metrics}");
    }
}
