//! The process that holds a pod sandbox's namespaces open: it sleeps, reaps the orphans of a shared process namespace, and ends when told.
//!
//! Linked statically (`deploy/images` does that), so that it is the only file of its image.

use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

fn main() {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGCHLD] {
        signals.add(signal);
    }
    if let Err(error) = signals.thread_block() {
        eprintln!("pause: cannot block signals: {error}");
        std::process::exit(1);
    }
    loop {
        match signals.wait() {
            Ok(Signal::SIGINT | Signal::SIGTERM) => return,
            // One signal may stand for several ended children.
            Ok(_) => while matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Ok(status) if status != WaitStatus::StillAlive) {},
            Err(error) => {
                eprintln!("pause: cannot wait for signals: {error}");
                std::process::exit(1);
            }
        }
    }
}
