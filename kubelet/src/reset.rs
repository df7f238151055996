//! `kubelet reset`: ends every pod that a runtime has, as `kubeadm reset` does: nobody will come back for them. The runtime takes down their networks,
//! which it alone knows. Volumes, cgroups and the state directory are left to whoever made the node.

use crate::runtime::{Runtime, cri::Cri};
use clap::Args;
use futures::{StreamExt, future, stream};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// What `kubelet reset` takes.
#[derive(Clone, Debug, Args)]
pub struct Reset {
    /// CRI socket.
    #[arg(long, default_value = "unix:///run/containerd/containerd.sock")]
    container_runtime_endpoint: String,
}

/// How many sandboxes are taken down at a time: each is a few processes and a network namespace for the runtime.
const AT_ONCE: usize = 8;
/// How long a runtime may refuse to let go of a sandbox, and how long between two attempts. A container that was being started when the kubelet ended
/// can't be removed until its start is through; nothing tells when that is.
const PATIENCE: Duration = Duration::from_secs(60);
const BETWEEN: Duration = Duration::from_millis(200);

/// Stops and removes all sandboxes with what is in them.
pub async fn reset(options: &Reset) -> anyhow::Result<()> {
    let runtime = Cri::new(&options.container_runtime_endpoint, Default::default());
    empty(&runtime, PATIENCE).await
}

/// Takes all sandboxes down, those that resist again and again until the time is up: then with the last refusal.
async fn empty(runtime: &impl Runtime, patience: Duration) -> anyhow::Result<()> {
    let deadline = Instant::now() + patience;
    loop {
        let sandboxes = runtime.list_sandboxes(&[]).await?;
        let refusal = stream::iter(&sandboxes)
            .map(|sandbox| async {
                runtime.stop_sandbox(&sandbox.id).await?;
                runtime.remove_sandbox(&sandbox.id).await
            })
            .buffer_unordered(AT_ONCE)
            .filter_map(|ended| future::ready(ended.err()))
            .collect::<Vec<_>>()
            .await
            .pop();
        match refusal {
            None => return Ok(()),
            Some(refusal) if Instant::now() >= deadline => return Err(refusal.into()),
            Some(_) => sleep(BETWEEN).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        clock::Clock,
        runtime::{
            RuntimeError,
            simulated::{
                Simulated,
                behaviour::{Behaviour, Call, Fault},
            },
        },
    };

    fn refusal() -> Fault {
        Fault::Fails(RuntimeError::Failed("container is in starting state, can't be removed".into()))
    }

    async fn two_sandboxes() -> Simulated {
        let runtime = Simulated::new(0, Clock::Wall, Behaviour::default());
        for _ in 0..2 {
            runtime.run_sandbox(Default::default(), "").await.expect("simulated");
        }
        runtime
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_runtime_holds_on_to_is_tried_again() {
        let runtime = two_sandboxes().await;
        runtime.fault(Call::RemoveSandbox, 5, refusal());
        empty(&runtime, PATIENCE).await.expect("the refusals end");
        assert_eq!(runtime.list_sandboxes(&[]).await.expect("simulated").len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_runtime_that_never_lets_go_is_reported() {
        let runtime = two_sandboxes().await;
        runtime.fault(Call::RemoveSandbox, 10_000, refusal());
        let refusal = empty(&runtime, PATIENCE).await.expect_err("refused for ever");
        assert!(refusal.to_string().contains("can't be removed"), "{refusal}");
    }
}
