//! How pods end.

use skiff_testing::{Cluster, eventually, for_each_kubectl};
use std::time::{Duration, Instant};

fn pod(name: &str, grace: u32, script: &str, extra: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  terminationGracePeriodSeconds: {grace}
  containers:
  - name: c
    image: busybox:1.28
    command: ["sh", "-c", {script:?}]
    volumeMounts: [{{name: out, mountPath: /out}}]
{extra}
  volumes: [{{name: out, hostPath: {{path: OUT, type: DirectoryOrCreate}}}}]
"#
    )
}

/// Proves TRM-01.
#[test]
fn deletion_shows_and_ends() {
    for_each_kubectl(Cluster::shared(), "deletion", |k| {
        for name in ["slow", "now", "forced"] {
            k.ok(&["run", name, "--image=busybox:1.28", "--", "sh", "-c", "trap 'sleep 2; exit 0' TERM; while true; do sleep 0.1; done"]);
        }
        k.ok(&["run", "deaf", "--image=busybox:1.28", "--", "sleep", "1000"]);
        for name in ["slow", "now", "forced", "deaf"] {
            k.until_ready(name);
        }
        assert_eq!(k.ok(&["delete", "pod", "slow", "--wait=false"]), deleted("slow", ""));
        let table = k.ok(&["get", "pod", "slow", "--no-headers"]);
        assert_eq!(table.split_whitespace().nth(2), Some("Terminating"), "{table}");
        assert_eq!(k.field("pod", "slow", "{.metadata.deletionGracePeriodSeconds}"), "30");
        k.until_gone("pod", "slow");

        assert_eq!(k.ok(&["delete", "pod", "now", "--now"]), deleted("now", ""));
        assert!(k.refused(&["get", "pod", "now"]).contains("NotFound"), "delete waits until it is gone");

        // Process 1 is deaf to SIGTERM, so it lives for the grace period given and no longer.
        let begun = Instant::now();
        k.ok(&["delete", "pod", "deaf", "--grace-period=2"]);
        assert!(begun.elapsed() >= Duration::from_secs(2) && begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());

        let uid = k.field("pod", "forced", "{.metadata.uid}");
        let forced = k.run(&["delete", "pod", "forced", "--force"]);
        assert!(forced.err.contains("Immediate deletion does not wait for confirmation"), "{forced:?}");
        assert_eq!(forced.out, deleted("forced", "force "));
        assert!(k.refused(&["get", "pod", "forced"]).contains("NotFound"));
        eventually("its containers are ended all the same", 40, || k.cluster.containers(&uid, "container").is_empty());
    });
}

fn deleted(name: &str, how: &str) -> String {
    format!("pod \"{name}\" {how}deleted\n")
}

/// Proves TRM-02, its signals and preStop, and TRM-04 for a volume.
#[test]
fn signals_come_in_order() {
    for_each_kubectl(Cluster::shared(), "signals", |k| {
        let out = std::env::temp_dir().join(format!("skiff-signals-{}-{}", k.name, std::process::id()));
        let script = "trap 'echo term >> /out/log; exit 0' TERM; echo up > /out/log; while true; do sleep 0.1; done";
        let deaf = "trap 'echo deaf-term >> /out/deaf' TERM; echo up > /out/deaf; while true; do sleep 0.1; done";
        let hook = "    lifecycle: {preStop: {exec: {command: [sh, -c, 'echo prestop >> /out/log; sleep 1']}}}";
        let place = |manifest: String| manifest.replace("OUT", &out.display().to_string());
        k.apply(&place(pod("polite", 30, script, hook)));
        k.apply(&place(pod("deaf", 2, deaf, "")));
        k.until_ready("polite");
        k.until_ready("deaf");
        let read = |name: &str| std::fs::read_to_string(out.join(name)).unwrap_or_default();
        eventually("both have begun", 20, || read("log") == "up\n" && read("deaf") == "up\n");

        let begun = Instant::now();
        k.ok(&["delete", "pod", "polite"]);
        assert_eq!(read("log"), "up\nprestop\nterm\n", "preStop first, then SIGTERM, then it ended by itself");
        assert!(begun.elapsed() < Duration::from_secs(25), "it did not wait for the grace period: {:?}", begun.elapsed());

        let begun = Instant::now();
        k.ok(&["delete", "pod", "deaf"]);
        assert_eq!(read("deaf"), "up\ndeaf-term\n");
        assert!(begun.elapsed() >= Duration::from_secs(2), "SIGKILL only after the grace period: {:?}", begun.elapsed());
        std::fs::remove_dir_all(&out).expect("it is ours");
    });
}
