//! A server process under measurement, and what the kernel tells of one.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the repository").to_owned()
}

/// Our apiserver on a free port, with a store on disk; ended, with its files, when dropped.
pub struct Apiserver {
    child: Child,
    directory: PathBuf,
    /// `https://127.0.0.1:PORT`.
    pub url: String,
    /// From the start of the process to the first good answer of /readyz.
    pub ready_after: Duration,
}

impl Apiserver {
    /// Starts it with keys made before, as a second start of a real one would find them.
    pub fn start() -> Self {
        let directory = std::env::temp_dir().join(format!("skiff-bench-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a temporary directory");
        let tokens = directory.join("tokens");
        std::fs::write(&tokens, "admin,admin,1,\"system:masters\"\n").expect("a temporary file");
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("loopback has ports").port();
        let url = format!("https://127.0.0.1:{port}");
        let binary = root().join("target/release/apiserver");
        let made = Command::new(&binary)
            .args(["pki", "--cert-dir"])
            .arg(directory.join("pki"))
            .arg("--kubeconfig-dir")
            .arg(directory.join("kubeconfigs"))
            .args(["--server", &url, "--node-name", "n1"])
            .stdout(Stdio::null())
            .status()
            .expect("the release build is there");
        assert!(made.success(), "apiserver pki failed");
        let begun = Instant::now();
        let child = Command::new(&binary)
            .args(["--secure-port", &port.to_string(), "--bind-address", "127.0.0.1", "--authorization-mode", "RBAC"])
            .arg("--cert-dir")
            .arg(directory.join("pki"))
            .arg("--data-dir")
            .arg(directory.join("data"))
            .arg("--token-auth-file")
            .arg(&tokens)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the release build is there");
        let mut server = Apiserver { child, directory, url, ready_after: Duration::ZERO };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let client = crate::api::client();
            while !client.get(format!("{}/readyz", server.url)).send().await.is_ok_and(|r| r.status() == 200) {
                assert!(begun.elapsed() < Duration::from_secs(30), "the apiserver is not ready after 30 s");
                assert!(server.child.try_wait().is_ok_and(|ended| ended.is_none()), "the apiserver ended");
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
        server.ready_after = begun.elapsed();
        server
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Apiserver {
    fn drop(&mut self) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.child.id().cast_signed()), nix::sys::signal::Signal::SIGTERM);
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// What a process has used so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// CPU seconds, user and system.
    pub cpu: f64,
    /// Bytes handed to the disk.
    pub written: u64,
}

/// Reads `/proc`; zero for a process that is not ours to see.
pub fn usage(pid: Option<u32>) -> Usage {
    let Some(pid) = pid else { return Usage::default() };
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ').collect()).unwrap_or_default();
    let ticks = |i: usize| fields.get(i).and_then(|t| t.parse::<f64>().ok()).unwrap_or(0.0);
    let io = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    let written = io.lines().find_map(|l| l.strip_prefix("write_bytes: ")?.parse().ok()).unwrap_or(0);
    // The kernel counts in hundredths of a second on every machine we build for (USER_HZ).
    Usage { cpu: (ticks(11) + ticks(12)) / 100.0, written }
}

/// Resident memory now, in MB.
pub fn resident(pid: u32) -> f64 {
    status(pid, "VmRSS:")
}

/// Resident memory, now and at its peak.
pub fn memory(pid: u32) -> String {
    format!("{:.1} MB, peak {:.1} MB", resident(pid), status(pid, "VmHWM:"))
}

/// A size in `/proc/PID/status`, in MB; zero for a process that is gone.
fn status(pid: u32, key: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().find_map(|l| l.strip_prefix(key)?.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}
