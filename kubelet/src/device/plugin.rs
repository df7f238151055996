//! The calls to one plugin (`v1beta1.DevicePlugin`), over its socket.

use super::protocol::{
    AllocateRequest, AllocateResponse, ContainerAllocateRequest, ContainerAllocateResponse, ContainerPreferredAllocationRequest, Empty,
    ListAndWatchResponse, Options, PreStartContainerRequest, PreferredAllocationRequest, PreferredAllocationResponse,
};
use crate::plugin::socket;
use std::{collections::BTreeSet, path::Path, time::Duration};
use tonic::{Request, Status, Streaming, client::Grpc, codegen::http::uri::PathAndQuery, transport::Channel};
use tonic_prost::ProstCodec;

/// How long a call may take. Upstream has a limit for `PreStartContainer` alone, of 30 s; a plugin that hangs should hold up no pod for good.
const CALL: Duration = Duration::from_secs(30);

/// A connection to a plugin.
#[derive(Clone)]
pub struct Plugin {
    channel: Channel,
    /// What it wants to be asked.
    pub options: Options,
}

impl Plugin {
    /// Connects to a plugin's socket. Who did not say with the registration what it wants to be asked is asked.
    pub async fn connect(socket_path: &Path, options: Option<Options>) -> Result<Self, Status> {
        let channel = socket::connect(socket_path).await?;
        let mut plugin = Plugin { channel, options: options.clone().unwrap_or_default() };
        if options.is_none() {
            plugin.options = plugin.call("/v1beta1.DevicePlugin/GetDevicePluginOptions", Empty {}).await?;
        }
        Ok(plugin)
    }

    async fn call<Q: prost::Message + 'static, A: prost::Message + Default + 'static>(
        &self,
        path: &'static str,
        message: Q,
    ) -> Result<A, Status> {
        socket::call(&self.channel, path, message, CALL).await
    }

    /// All of its devices, again whenever they change.
    pub async fn watch(&self) -> Result<Streaming<ListAndWatchResponse>, Status> {
        let mut client = Grpc::new(self.channel.clone());
        client.ready().await.map_err(|e| Status::unavailable(e.to_string()))?;
        let path = PathAndQuery::from_static("/v1beta1.DevicePlugin/ListAndWatch");
        Ok(client.server_streaming(Request::new(Empty {}), path, ProstCodec::<Empty, _>::default()).await?.into_inner())
    }

    /// Which of the available devices it would give, if it has an opinion.
    pub async fn preferred(&self, available: Vec<String>, must: Vec<String>, size: usize) -> Result<Vec<String>, Status> {
        if !self.options.get_preferred_allocation_available {
            return Ok(Vec::new());
        }
        let wanted = ContainerPreferredAllocationRequest {
            available_device_ids: available,
            must_include_device_ids: must,
            allocation_size: i32::try_from(size).unwrap_or(i32::MAX),
        };
        let request = PreferredAllocationRequest { container_requests: vec![wanted] };
        let answer: PreferredAllocationResponse = self.call("/v1beta1.DevicePlugin/GetPreferredAllocation", request).await?;
        Ok(answer.container_responses.into_iter().next().map(|r| r.device_ids).unwrap_or_default())
    }

    /// Tells it that a container gets these devices; answers with what that takes.
    pub async fn allocate(&self, devices: &BTreeSet<String>) -> Result<ContainerAllocateResponse, Status> {
        let request =
            AllocateRequest { container_requests: vec![ContainerAllocateRequest { devices_ids: devices.iter().cloned().collect() }] };
        let answer: AllocateResponse = self.call("/v1beta1.DevicePlugin/Allocate", request).await?;
        answer.container_responses.into_iter().next().ok_or_else(|| Status::internal("no containers return in allocation response"))
    }

    /// Tells it that a container with these devices is about to start, if it wants to know.
    pub async fn pre_start(&self, devices: &BTreeSet<String>) -> Result<(), Status> {
        if !self.options.pre_start_required {
            return Ok(());
        }
        let request = PreStartContainerRequest { devices_ids: devices.iter().cloned().collect() };
        self.call::<_, Empty>("/v1beta1.DevicePlugin/PreStartContainer", request).await.map(drop)
    }
}
