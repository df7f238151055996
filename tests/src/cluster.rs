//! A cluster of real processes, made and ended by the scripts in `deploy/`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// A running cluster. The shared one outlives the tests (`tests/run` ends it); a private one ends with this value.
pub struct Cluster {
    root: PathBuf,
    run: PathBuf,
    environment: Vec<(String, String)>,
    private: bool,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the repository").to_owned()
}

impl Cluster {
    /// The cluster under `deploy/run`, or where `SKIFF_RUN` says, as for `deploy/up`; started at the first call if it does not run.
    pub fn shared() -> &'static Cluster {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        SHARED.get_or_init(|| {
            let root = root();
            let run = std::env::var_os("SKIFF_RUN").map_or_else(|| root.join("deploy/run"), PathBuf::from);
            let cluster = Cluster { run, root, environment: Vec::new(), private: false };
            cluster.up(&["--local-images"]);
            cluster
        })
    }

    /// The cluster whose kubeconfig is in the directory that `SKIFF_RUN` names, and which somebody else started.
    pub fn started() -> Cluster {
        let run = std::env::var_os("SKIFF_RUN").expect("SKIFF_RUN says where the kubeconfig is");
        Cluster { run: run.into(), root: root(), environment: Vec::new(), private: false }
    }

    /// A cluster of the test's own, beside the shared one: its ports and ranges are offset by `slot` (1 to 9, one for each test that does this).
    pub fn private(slot: u16) -> Cluster {
        assert!((1..=9).contains(&slot), "slots are 1 to 9");
        let root = root();
        let run = std::env::temp_dir().join(format!("skiff-e2e-{}-{slot}", std::process::id()));
        let set = |key: &str, value: String| (key.to_owned(), value);
        let environment = vec![
            set("SKIFF_RUN", run.display().to_string()),
            set("SKIFF_NO_BUILD", "1".into()),
            set("SKIFF_PORT", (16440 + slot).to_string()),
            set("SKIFF_KUBELET_PORT", (16540 + slot).to_string()),
            set("SKIFF_REGISTRY_PORT", (16640 + slot).to_string()),
            set("SKIFF_POD_CIDR", format!("10.24{slot}.77.0/24")),
            set("SKIFF_SERVICE_CIDR", format!("10.20{slot}.0.0/16")),
        ];
        Cluster { root, run, environment, private: true }
    }

    /// Runs `deploy/SCRIPT`; answers whether it succeeded, and all that it printed.
    pub fn deploy(&self, script: &str, arguments: &[&str]) -> (bool, String) {
        let output = Command::new(self.root.join("deploy").join(script))
            .args(arguments)
            .envs(self.environment.iter().cloned())
            .output()
            .unwrap_or_else(|error| panic!("deploy/{script}: {error}"));
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.success(), text)
    }

    /// `deploy/up`, which must succeed; answers what it printed.
    pub fn up(&self, arguments: &[&str]) -> String {
        let (ok, text) = self.deploy("up", arguments);
        assert!(ok, "deploy/up failed:\n{text}");
        text
    }

    /// The repository.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// One of our programs: of the release build, or of the one that `SKIFF_PROFILE` names, as for `deploy/up`.
    pub fn binary(&self, name: &str) -> PathBuf {
        let profile = std::env::var("SKIFF_PROFILE").unwrap_or_else(|_| "release".into());
        self.root.join("target").join(profile).join(name)
    }

    /// The state directory.
    pub fn run_dir(&self) -> &Path {
        &self.run
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.run.join("kubeconfig")
    }

    /// A manifest of `tests/manifests`.
    pub fn manifest(&self, name: &str) -> String {
        self.root.join("tests/manifests").join(name).display().to_string()
    }

    /// The ids of the processes that `deploy/up` started and that still run, by name.
    pub fn processes(&self) -> Vec<(String, i32)> {
        let Ok(entries) = std::fs::read_dir(self.run.join("pids")) else { return Vec::new() };
        let mut found: Vec<(String, i32)> = entries
            .filter_map(|entry| {
                let entry = entry.ok()?;
                let text = std::fs::read_to_string(entry.path()).ok()?;
                let (pid, started) = text.trim().split_once(' ')?;
                let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
                let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
                (fields.get(19) == Some(&started) && fields.first() != Some(&"Z"))
                    .then(|| Some((entry.file_name().into_string().ok()?, pid.parse().ok()?)))?
            })
            .collect();
        found.sort();
        found
    }

    /// What containerd itself says: the ids of the containers of a pod, sandboxes (`sandbox`) or others (`container`).
    pub fn containers(&self, pod_uid: &str, kind: &str) -> Vec<String> {
        let filter = format!("labels.\"io.kubernetes.pod.uid\"=={pod_uid},labels.\"io.cri-containerd.kind\"=={kind}");
        self.ctr(&["containers", "ls", "-q", &filter]).lines().map(str::to_owned).collect()
    }

    /// `ctr` on the cluster's own containerd.
    pub fn ctr(&self, arguments: &[&str]) -> String {
        let config = std::fs::read_to_string(self.run.join("containerd/config.toml")).expect("deploy/up wrote it");
        let address =
            config.lines().find_map(|line| line.trim().strip_prefix("address = \"")?.strip_suffix('"')).expect("it has an address");
        let output =
            Command::new("ctr").arg("-a").arg(address).args(["-n", "k8s.io"]).args(arguments).output().expect("ctr comes with containerd");
        assert!(output.status.success(), "ctr {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.private && self.run.exists() {
            let (ok, text) = self.deploy("down", &[]);
            if !ok && !std::thread::panicking() {
                panic!("deploy/down failed:\n{text}");
            }
        }
    }
}
