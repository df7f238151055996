//! A kubelet that a test starts itself, in place of the one that `deploy/up` started.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use skiff_testing::{Cluster, eventually};
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A kubelet of the test's own on a cluster's runtime; ended with this value.
pub struct Kubelet(Child);

impl Drop for Kubelet {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The flags of the kubelet that `deploy/up` started, which is killed; without its configuration file, since each of ours has one of its own.
pub fn take_over(cluster: &Cluster) -> Vec<String> {
    let (_, pid) = cluster.processes().into_iter().find(|(name, _)| name == "kubelet").expect("deploy/up started one");
    let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).expect("it runs");
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it is ours");
    eventually("it is dead", 10, || !cluster.processes().iter().any(|(_, running)| *running == pid));
    let mut flags: Vec<String> = line.split('\0').skip(1).filter(|f| !f.is_empty()).map(str::to_owned).collect();
    if let Some(at) = flags.iter().position(|f| f == "--config") {
        flags.drain(at..at + 2);
    }
    // A process whose first thread is gone holds its sockets until its last one is.
    let at = flags.iter().position(|f| f == "--port").expect("deploy/up says on which port");
    let port = flags[at + 1].parse().expect("a number");
    eventually("its port is free", 20, || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok());
    flags
}

/// A kubelet with these flags and this configuration.
pub fn start(cluster: &Cluster, flags: &[String], config: &Path) -> Kubelet {
    let log = fs::File::create(cluster.run_dir().join("logs/kubelet-of-the-test.log")).expect("the directory is there");
    let mut command = Command::new(cluster.binary("kubelet"));
    command.args(flags).arg("--config").arg(config).stdout(Stdio::null()).stderr(log);
    Kubelet(command.spawn().expect("it starts"))
}
