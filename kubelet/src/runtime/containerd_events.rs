//! Container exits as containerd's own events service tells them (`containerd.services.events.v1.Events/Subscribe`).
//!
//! CRI has `GetContainerEvents`, but containerd 1.6 does not implement it, and polling lists is what this avoids. The three messages are
//! written out here because a whole client crate for containerd would be compiled for them. A runtime that has no such service answers
//! `Unimplemented`, and the kubelet relists instead.

use super::{Result, Runtime, RuntimeError, RuntimeEvent, cri::Cri};
use k8s_cri::v1::{ContainerState, PodSandboxState};
use std::time::Duration;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};
use tonic::{Request, client::Grpc, codegen::http::uri::PathAndQuery, metadata::MetadataValue, transport::Channel};

/// CRI's containers live in this namespace of containerd.
const NAMESPACE: &str = "k8s.io";

#[derive(Clone, PartialEq, prost::Message)]
struct SubscribeRequest {
    #[prost(string, repeated, tag = "1")]
    filters: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Envelope {
    #[prost(string, tag = "2")]
    namespace: String,
    #[prost(string, tag = "3")]
    topic: String,
    #[prost(message, optional, tag = "4")]
    event: Option<Any>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `containerd.events.TaskExit`, the two fields that matter: `id` differs from `container_id` when a process started by exec ended.
#[derive(Clone, PartialEq, prost::Message)]
struct TaskExit {
    #[prost(string, tag = "1")]
    container_id: String,
    #[prost(string, tag = "2")]
    id: String,
}

/// Follows the stream until it breaks. An event is passed on once the runtime's own status agrees with it: its CRI part learns of the
/// exit at the same time as we do, and may be behind.
pub async fn follow(channel: Channel, runtime: Cri, sender: mpsc::Sender<RuntimeEvent>) -> Result<()> {
    let mut client = Grpc::new(channel);
    client.ready().await.map_err(|e| RuntimeError::Unavailable(e.to_string()))?;
    let filters = vec![r#"topic=="/tasks/exit""#.to_owned()];
    let mut request = Request::new(SubscribeRequest { filters });
    request.metadata_mut().insert("containerd-namespace", MetadataValue::from_static(NAMESPACE));
    let path = PathAndQuery::from_static("/containerd.services.events.v1.Events/Subscribe");
    let codec: tonic_prost::ProstCodec<SubscribeRequest, Envelope> = tonic_prost::ProstCodec::default();
    let mut stream = client.server_streaming(request, path, codec).await?.into_inner();
    while let Some(envelope) = stream.message().await? {
        if let Some(container_id) = ended(&envelope) {
            if sender.is_closed() {
                return Ok(());
            }
            let (runtime, sender) = (runtime.clone(), sender.clone());
            // One slow status must not hold up the next exit; there is one short task per exit at most.
            tokio::spawn(async move {
                settle(&runtime, &container_id).await;
                // Nobody listens any more: the kubelet is on its way out.
                drop(sender.send(RuntimeEvent { container_id }).await);
            });
        }
    }
    Ok(())
}

/// The id of the container whose main process ended, if that is what the event says.
fn ended(envelope: &Envelope) -> Option<String> {
    if envelope.namespace != NAMESPACE || envelope.topic != "/tasks/exit" {
        return None;
    }
    let exit: TaskExit = prost::Message::decode(envelope.event.as_ref()?.value.as_slice()).ok()?;
    (exit.id == exit.container_id).then_some(exit.container_id)
}

/// How long the status may be behind. A busy machine has been seen to need seconds; what never agrees is left to the next relist.
const LATEST: Duration = Duration::from_secs(120);

/// Waits until the status says that it ended. A container that ended at once may not even have been seen running yet.
async fn settle(runtime: &Cri, id: &str) {
    let (end, mut wait) = (Instant::now() + LATEST, Duration::from_millis(1));
    while Instant::now() < end {
        let ended = match runtime.container_status(id).await {
            Ok(status) => status.state == ContainerState::ContainerExited as i32,
            Err(RuntimeError::NotFound(_)) => match runtime.sandbox_status(id).await {
                Ok(sandbox) => sandbox.state == PodSandboxState::SandboxNotready as i32,
                Err(error) => matches!(error, RuntimeError::NotFound(_)),
            },
            Err(_) => false,
        };
        if ended {
            return;
        }
        sleep(wait).await;
        wait = (wait * 2).min(Duration::from_secs(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;

    fn envelope(topic: &str, container_id: &str, id: &str) -> Envelope {
        let value = TaskExit { container_id: container_id.into(), id: id.into() }.encode_to_vec();
        Envelope { namespace: NAMESPACE.into(), topic: topic.into(), event: Some(Any { type_url: "x".into(), value }) }
    }

    #[test]
    fn only_the_end_of_a_main_process_counts() {
        assert_eq!(ended(&envelope("/tasks/exit", "c", "c")), Some("c".into()));
        assert_eq!(ended(&envelope("/tasks/exit", "c", "exec-1")), None);
        assert_eq!(ended(&envelope("/tasks/start", "c", "c")), None);
    }
}
