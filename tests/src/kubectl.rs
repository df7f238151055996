//! Driving a cluster through `kubectl`, ours and upstream's alike, in a namespace of the test's own.

use crate::Cluster;
use serde_json::Value;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What a command did.
#[derive(Clone, Debug)]
pub struct Output {
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
    /// Exit code; -1 when a signal ended it.
    pub code: i32,
}

/// One `kubectl` binary, bound to a cluster and a namespace, which is deleted with this value.
pub struct Kubectl<'a> {
    /// The cluster it talks to.
    pub cluster: &'a Cluster,
    binary: PathBuf,
    /// The test's namespace.
    pub namespace: String,
    /// `ours` or `upstream`.
    pub name: &'static str,
}

/// Runs `test` with our kubectl and with upstream's, if there is one on PATH, at once, each in a fresh namespace `TEST-NAME`.
pub fn for_each_kubectl(cluster: &Cluster, test: &str, body: impl Fn(&Kubectl<'_>) + Sync) {
    std::thread::scope(|scope| {
        match upstream() {
            Some(binary) => drop(scope.spawn(|| body(&Kubectl::new(cluster, binary, test, "upstream")))),
            None => eprintln!("{test}: left out with upstream's kubectl: none on PATH"),
        }
        body(&Kubectl::ours(cluster, test));
    });
}

/// Upstream's `kubectl` on PATH, which is not ours.
fn upstream() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join("kubectl")).find(|file| {
        let version = Command::new(file).args(["version", "--client", "-o", "json"]).output();
        let version = version.ok().and_then(|output| serde_json::from_slice::<Value>(&output.stdout).ok());
        // Ours is not built by Go.
        version.is_some_and(|v| v["clientVersion"]["goVersion"].as_str().is_some_and(|go| go.starts_with("go")))
    })
}

impl<'a> Kubectl<'a> {
    /// A kubectl on `cluster` with a fresh namespace.
    pub fn new(cluster: &'a Cluster, binary: PathBuf, test: &str, name: &'static str) -> Self {
        let kubectl = Kubectl { cluster, binary, namespace: format!("{test}-{name}"), name };
        kubectl.ok(&["create", "namespace", &kubectl.namespace]);
        // A pod is refused until its service account is there.
        eventually("the default service account", 10, || kubectl.run(&["get", "serviceaccount", "default"]).code == 0);
        kubectl
    }

    /// Our kubectl alone, for what does not depend on which it is.
    pub fn ours(cluster: &'a Cluster, test: &str) -> Self {
        Kubectl::new(cluster, cluster.binary("kubectl"), test, "ours")
    }

    /// Runs a command line in the test's namespace.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.run_with(arguments, "")
    }

    /// The same, with standard input.
    pub fn run_with(&self, arguments: &[&str], input: &str) -> Output {
        let mut child =
            self.command(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("kubectl starts");
        let mut pipe = child.stdin.take().expect("it is piped");
        let input = input.to_owned();
        // A thread, since a command may print before it has read all. One that ends without reading is no fault of ours.
        let writer = std::thread::spawn(move || drop(std::io::Write::write_all(&mut pipe, input.as_bytes())));
        let output = child.wait_with_output().expect("kubectl ends");
        writer.join().expect("the writer does not panic");
        Output {
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
            code: output.status.code().unwrap_or(-1),
        }
    }

    /// The command, to be started by the caller.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg("--kubeconfig").arg(self.cluster.kubeconfig()).args(["-n", &self.namespace]).args(arguments);
        command
    }

    /// Runs a command that must succeed; answers what it printed.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.code, 0, "{} kubectl {arguments:?}: {}{}", self.name, output.out, output.err);
        output.out
    }

    /// Runs a command that must fail with exit code 1; answers its standard error.
    pub fn refused(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.code, 1, "{} kubectl {arguments:?} was to fail: {}{}", self.name, output.out, output.err);
        output.err
    }

    /// Applies a manifest given as text; answers what was printed.
    pub fn apply(&self, manifest: &str) -> String {
        let output = self.run_with(&["apply", "-f", "-"], manifest);
        assert_eq!(output.code, 0, "{} kubectl apply: {}", self.name, output.err);
        output.out
    }

    /// The object, as JSON.
    pub fn object(&self, kind: &str, name: &str) -> Value {
        let text = self.ok(&["get", kind, name, "-o", "json"]);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("get {kind} {name} -o json printed no JSON ({error}): {text}"))
    }

    /// One field, by JSONPath.
    pub fn field(&self, kind: &str, name: &str, path: &str) -> String {
        self.ok(&["get", kind, name, "-o", &format!("jsonpath={path}")])
    }

    /// Waits until a field is `value`; shows `describe` when it does not become so within a minute.
    pub fn until(&self, kind: &str, name: &str, path: &str, value: &str) {
        let mut last = String::new();
        let done = poll(60, || {
            let output = self.run(&["get", kind, name, "-o", &format!("jsonpath={path}")]);
            last = output.out + &output.err;
            last == value
        });
        if !done {
            let story = self.run(&["describe", kind, name]);
            panic!("{kind} {name} {path}: wanted {value:?}, last {last:?}\n{}{}", story.out, story.err);
        }
    }

    /// Waits until the pod's phase is `phase`.
    pub fn until_phase(&self, pod: &str, phase: &str) {
        self.until("pod", pod, "{.status.phase}", phase);
    }

    /// Waits until the pod's Ready condition is True.
    pub fn until_ready(&self, pod: &str) {
        self.until("pod", pod, "{.status.conditions[?(@.type==\"Ready\")].status}", "True");
    }

    /// Waits until the object is gone.
    pub fn until_gone(&self, kind: &str, name: &str) {
        eventually(&format!("{kind} {name} is gone"), 60, || self.run(&["get", kind, name]).err.contains("NotFound"));
    }

    /// The events about an object, oldest first, as (reason, message).
    pub fn events(&self, name: &str) -> Vec<(String, String)> {
        let text = self.ok(&["get", "events", "--field-selector", &format!("involvedObject.name={name}"), "-o", "json"]);
        let list: Value = serde_json::from_str(&text).expect("kubectl prints JSON");
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let mut events: Vec<&Value> = list["items"].as_array().expect("a list has items").iter().collect();
        events.sort_by_key(|e| e["metadata"]["resourceVersion"].as_str().and_then(|v| v.parse::<u64>().ok()));
        events.iter().map(|e| (text(&e["reason"]), text(&e["message"]))).collect()
    }
}

impl Drop for Kubectl<'_> {
    fn drop(&mut self) {
        // What is left in it is ended by the cluster itself, while other tests run.
        let _ = self.command(&["delete", "namespace", &self.namespace, "--wait=false"]).output();
    }
}

fn poll(seconds: u64, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + Duration::from_secs(seconds);
    loop {
        if condition() {
            return true;
        }
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Waits until `condition` holds; fails, saying `what`, when it does not within `seconds`.
#[track_caller]
pub fn eventually(what: &str, seconds: u64, condition: impl FnMut() -> bool) {
    assert!(poll(seconds, condition), "not within {seconds} s: {what}");
}
