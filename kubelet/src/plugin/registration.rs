//! How a plugin says what it is, and is told what becomes of it (upstream: `staging/src/k8s.io/kubelet/pkg/apis/pluginregistration/v1`).

use super::{Plugin, socket};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};
use tonic::{Status, transport::Channel};

/// How long an answer may take (upstream: 1 s to ask and 1 s to tell, on plugins that are often just starting).
const CALL: Duration = Duration::from_secs(5);

#[derive(Clone, PartialEq, prost::Message)]
pub struct InfoRequest {}

#[derive(Clone, PartialEq, prost::Message)]
pub struct PluginInfo {
    #[prost(string, tag = "1")]
    pub kind: String,
    #[prost(string, tag = "2")]
    pub name: String,
    /// Where it serves, if not at the socket that it registers with.
    #[prost(string, tag = "3")]
    pub endpoint: String,
    #[prost(string, repeated, tag = "4")]
    pub supported_versions: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct RegistrationStatus {
    #[prost(bool, tag = "1")]
    pub plugin_registered: bool,
    #[prost(string, tag = "2")]
    pub error: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct RegistrationStatusResponse {}

/// Asks at a socket who is there. Its kind, and what it is.
pub async fn ask(path: &Path) -> Result<(Channel, String, Plugin), Status> {
    let channel = socket::connect(path).await?;
    let info: PluginInfo = socket::call(&channel, "/pluginregistration.Registration/GetInfo", InfoRequest {}, CALL).await?;
    let endpoint = if info.endpoint.is_empty() { path.to_owned() } else { PathBuf::from(info.endpoint) };
    Ok((channel, info.kind, Plugin { name: info.name, endpoint, versions: info.supported_versions }))
}

/// Tells it whether it was taken.
pub async fn tell(channel: &Channel, outcome: &Result<(), String>) -> Result<(), Status> {
    let status = RegistrationStatus { plugin_registered: outcome.is_ok(), error: outcome.clone().err().unwrap_or_default() };
    socket::call(channel, "/pluginregistration.Registration/NotifyRegistrationStatus", status, CALL)
        .await
        .map(|_: RegistrationStatusResponse| ())
}
