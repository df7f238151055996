//! The calls to one driver's node service (`csi.v1.Node`).

use super::protocol::{
    Ability, CapabilitiesResponse, Empty, ExpandRequest, ExpandResponse, InfoResponse, PublishRequest, StageRequest, StatsRequest,
    StatsResponse, UnpublishRequest, UnstageRequest,
};
use crate::plugin::socket;
use std::{collections::HashSet, error::Error as _, path::PathBuf, time::Duration};
use tonic::{Code, Status};

/// How long a call may take (upstream: 2 min): attaching a disk and checking its file system is slow.
const CALL: Duration = Duration::from_secs(120);

/// A driver that is registered. Each call has a connection of its own, so that a driver that was started again is found.
#[derive(Clone, Debug)]
pub struct Driver {
    /// Its socket.
    pub endpoint: PathBuf,
    /// What it can do.
    pub abilities: HashSet<Ability>,
    /// What it calls this node.
    pub node_id: String,
}

/// A status as Go prints it, which is what events quote.
pub fn told(status: &Status) -> String {
    let code = match status.code() {
        Code::Cancelled => "Canceled".to_owned(),
        other => format!("{other:?}"),
    };
    format!("rpc error: code = {code} desc = {}", status.message())
}

/// Whether a driver that failed with this has surely not done what it was asked, and does not go on with it (upstream: `isFinalError`).
pub fn is_final(status: &Status) -> bool {
    use Code::{Aborted, Cancelled, DeadlineExceeded, ResourceExhausted, Unavailable};
    // What has a source came of the connection, and not of the driver.
    status.source().is_none() && !matches!(status.code(), Aborted | Cancelled | DeadlineExceeded | ResourceExhausted | Unavailable)
}

impl Driver {
    /// The driver at a socket, asked what it can do and where it is.
    pub async fn ask(endpoint: PathBuf) -> Result<(Self, InfoResponse), Status> {
        let mut driver = Driver { endpoint, abilities: HashSet::new(), node_id: String::new() };
        let said: CapabilitiesResponse = driver.call("/csi.v1.Node/NodeGetCapabilities", Empty {}).await?;
        driver.abilities = said.capabilities.iter().filter_map(|c| Ability::try_from(c.rpc.as_ref()?.r#type).ok()).collect();
        let info: InfoResponse = driver.call("/csi.v1.Node/NodeGetInfo", Empty {}).await?;
        driver.node_id.clone_from(&info.node_id);
        Ok((driver, info))
    }

    /// Whether it can do something.
    pub fn can(&self, ability: Ability) -> bool {
        self.abilities.contains(&ability)
    }

    async fn call<Q: prost::Message + 'static, A: prost::Message + Default + 'static>(
        &self,
        path: &'static str,
        message: Q,
    ) -> Result<A, Status> {
        socket::call(&socket::connect(&self.endpoint).await?, path, message, CALL).await
    }

    /// Makes a volume ready for all pods of the node.
    pub async fn stage(&self, request: StageRequest) -> Result<(), Status> {
        self.call("/csi.v1.Node/NodeStageVolume", request).await.map(|Empty {}| ())
    }

    /// Undoes that.
    pub async fn unstage(&self, request: UnstageRequest) -> Result<(), Status> {
        self.call("/csi.v1.Node/NodeUnstageVolume", request).await.map(|Empty {}| ())
    }

    /// Puts a volume where a pod gets it from.
    pub async fn publish(&self, request: PublishRequest) -> Result<(), Status> {
        self.call("/csi.v1.Node/NodePublishVolume", request).await.map(|Empty {}| ())
    }

    /// Undoes that.
    pub async fn unpublish(&self, request: UnpublishRequest) -> Result<(), Status> {
        self.call("/csi.v1.Node/NodeUnpublishVolume", request).await.map(|Empty {}| ())
    }

    /// What of a volume is used.
    pub async fn stats(&self, request: StatsRequest) -> Result<StatsResponse, Status> {
        self.call("/csi.v1.Node/NodeGetVolumeStats", request).await
    }

    /// Brings a file system to the size of its volume.
    pub async fn expand(&self, request: ExpandRequest) -> Result<ExpandResponse, Status> {
        self.call("/csi.v1.Node/NodeExpandVolume", request).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_some_failures_are_final() {
        let broken = Status::from_error(Box::new(std::io::Error::other("broken pipe")));
        for (status, want) in [
            (Status::invalid_argument(""), true),
            (Status::internal(""), true),
            (Status::unknown(""), true),
            (Status::deadline_exceeded(""), false),
            (Status::aborted(""), false),
            (Status::unavailable(""), false),
            (broken, false),
        ] {
            assert_eq!(is_final(&status), want, "{status:?}");
        }
    }
}
