//! `kubelet reset`: ends every pod that a runtime has, as `kubeadm reset` does: nobody will come back for them. The runtime takes down their networks,
//! which it alone knows. Volumes, cgroups and the state directory are left to whoever made the node.

use crate::runtime::{Runtime, cri::Cri};
use clap::Args;
use futures::{StreamExt, stream};

/// What `kubelet reset` takes.
#[derive(Clone, Debug, Args)]
pub struct Reset {
    /// CRI socket.
    #[arg(long, default_value = "unix:///run/containerd/containerd.sock")]
    container_runtime_endpoint: String,
}

/// How many sandboxes are taken down at a time: each is a few processes and a network namespace for the runtime.
const AT_ONCE: usize = 8;

/// Stops and removes all sandboxes with what is in them.
pub async fn reset(options: &Reset) -> anyhow::Result<()> {
    let runtime = Cri::new(&options.container_runtime_endpoint);
    let sandboxes = runtime.list_sandboxes(&[]).await?;
    let ended = stream::iter(&sandboxes)
        .map(|sandbox| async {
            runtime.stop_sandbox(&sandbox.id).await?;
            runtime.remove_sandbox(&sandbox.id).await
        })
        .buffer_unordered(AT_ONCE)
        .collect::<Vec<_>>()
        .await;
    for result in ended {
        result?;
    }
    Ok(())
}
