//! Which devices, CPUs and memory of their own which containers have, for programs on the node that measure them: a socket of the kubelet's (upstream: `pkg/kubelet/apis/podresources`,
//! version `v1`).
//!
//! Left out: version `v1alpha1`.

use crate::{
    container::identity,
    device::Devices,
    dynamic_resources::{self, Claims},
    memory_manager::{MemoryManager, state::Block},
    pinning::Pinning,
    plugin::serving::{self, Answer, Call},
    pod::{restart::is_sidecar, workers::Workers},
};
use k8s_openapi::api::core::v1::{Container, Pod};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::PathBuf,
    sync::Arc,
};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// The messages, in the interface's names.
#[allow(missing_docs)]
pub mod protocol {
    /// The nodes are told as device plugins tell them.
    pub use crate::device::protocol::{NumaNode, TopologyInfo};

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Empty {}

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct ListResponse {
        #[prost(message, repeated, tag = "1")]
        pub pod_resources: Vec<PodResources>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct AllocatableResponse {
        #[prost(message, repeated, tag = "1")]
        pub devices: Vec<ContainerDevices>,
        #[prost(int64, repeated, tag = "2")]
        pub cpu_ids: Vec<i64>,
        #[prost(message, repeated, tag = "3")]
        pub memory: Vec<ContainerMemory>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct ContainerMemory {
        #[prost(string, tag = "1")]
        pub memory_type: String,
        #[prost(uint64, tag = "2")]
        pub size: u64,
        #[prost(message, optional, tag = "3")]
        pub topology: Option<TopologyInfo>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct GetRequest {
        #[prost(string, tag = "1")]
        pub pod_name: String,
        #[prost(string, tag = "2")]
        pub pod_namespace: String,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct GetResponse {
        #[prost(message, optional, tag = "1")]
        pub pod_resources: Option<PodResources>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct PodResources {
        #[prost(string, tag = "1")]
        pub name: String,
        #[prost(string, tag = "2")]
        pub namespace: String,
        #[prost(message, repeated, tag = "3")]
        pub containers: Vec<ContainerResources>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct ContainerResources {
        #[prost(string, tag = "1")]
        pub name: String,
        #[prost(message, repeated, tag = "2")]
        pub devices: Vec<ContainerDevices>,
        #[prost(int64, repeated, tag = "3")]
        pub cpu_ids: Vec<i64>,
        #[prost(message, repeated, tag = "4")]
        pub memory: Vec<ContainerMemory>,
        #[prost(message, repeated, tag = "5")]
        pub dynamic_resources: Vec<DynamicResource>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct ContainerDevices {
        #[prost(string, tag = "1")]
        pub resource_name: String,
        #[prost(string, repeated, tag = "2")]
        pub device_ids: Vec<String>,
        #[prost(message, optional, tag = "3")]
        pub topology: Option<TopologyInfo>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct DynamicResource {
        #[prost(string, tag = "2")]
        pub claim_name: String,
        #[prost(string, tag = "3")]
        pub claim_namespace: String,
        #[prost(message, repeated, tag = "4")]
        pub claim_resources: Vec<ClaimResource>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct ClaimResource {
        #[prost(message, repeated, tag = "1")]
        pub cdi_devices: Vec<CdiDevice>,
        #[prost(string, tag = "2")]
        pub driver_name: String,
        #[prost(string, tag = "3")]
        pub pool_name: String,
        #[prost(string, tag = "4")]
        pub device_name: String,
        #[prost(string, optional, tag = "5")]
        pub share_id: Option<String>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct CdiDevice {
        #[prost(string, tag = "1")]
        pub name: String,
    }
}
use protocol::{
    AllocatableResponse, CdiDevice, ClaimResource, ContainerDevices, ContainerMemory, ContainerResources, DynamicResource, Empty,
    GetRequest, GetResponse, ListResponse, NumaNode, PodResources, TopologyInfo,
};

/// What is told of.
pub struct Told {
    /// The pods.
    pub workers: Arc<Workers>,
    /// The device plugins' devices.
    pub devices: Arc<Devices>,
    /// The claims of dynamic resources.
    pub claims: Arc<Claims>,
    /// The CPUs, where containers can have some of their own.
    pub pinning: Option<Arc<Pinning>>,
    /// The memory, where containers can have some of their own.
    pub memory: Option<Arc<MemoryManager>>,
}

/// Devices of a resource, by the NUMA nodes they are near to.
fn devices(resource: &str, by_node: BTreeMap<i64, BTreeSet<String>>) -> Vec<ContainerDevices> {
    let one = |(node, ids): (i64, BTreeSet<String>)| ContainerDevices {
        resource_name: resource.to_owned(),
        device_ids: ids.into_iter().collect(),
        topology: (node >= 0).then(|| TopologyInfo { nodes: vec![NumaNode { id: node }] }),
    };
    by_node.into_iter().map(one).collect()
}

fn memory(block: Block) -> ContainerMemory {
    let nodes = block.numa_affinity.into_iter().map(|node| NumaNode { id: i64::from(node) }).collect();
    ContainerMemory { memory_type: block.kind, size: block.size, topology: Some(TopologyInfo { nodes }) }
}

impl Told {
    fn pod(&self, pod: &Pod) -> PodResources {
        let spec = pod.spec.as_ref();
        let sidecars = spec.into_iter().flat_map(|spec| spec.init_containers.iter().flatten()).filter(|container| is_sidecar(container));
        let containers = sidecars.chain(spec.into_iter().flat_map(|spec| &spec.containers));
        PodResources {
            name: identity::name(pod).to_owned(),
            namespace: identity::namespace(pod).to_owned(),
            containers: containers.map(|container| self.container(pod, container)).collect(),
        }
    }

    fn container(&self, pod: &Pod, container: &Container) -> ContainerResources {
        let given = self.devices.given(identity::uid(pod), &container.name);
        let devices = given.into_iter().flat_map(|(resource, given)| devices(&resource, given.by_node));
        let blocks = self.memory.iter().flat_map(|memory| memory.blocks(identity::uid(pod), &container.name));
        let cpus = self.pinning.iter().flat_map(|pinning| pinning.own(identity::uid(pod), &container.name));
        ContainerResources {
            name: container.name.clone(),
            devices: devices.collect(),
            cpu_ids: cpus.map(i64::from).collect(),
            memory: blocks.map(memory).collect(),
            dynamic_resources: self.claimed(pod, container),
        }
    }

    fn claimed(&self, pod: &Pod, container: &Container) -> Vec<DynamicResource> {
        let (ledger, namespace) = (self.claims.ledger(), identity::namespace(pod));
        // A claim that is not made yet has no devices.
        let requests = dynamic_resources::requests(pod, container).unwrap_or_default();
        let of_claim = |(name, request): (String, String)| {
            let claim = ledger.get(namespace, &name)?;
            let claim_resources = claim.devices(&request).map(|(driver, device)| ClaimResource {
                cdi_devices: device.cdi.iter().map(|name| CdiDevice { name: name.clone() }).collect(),
                driver_name: driver.clone(),
                pool_name: device.pool.clone(),
                device_name: device.name.clone(),
                share_id: device.share.clone(),
            });
            Some(DynamicResource { claim_resources: claim_resources.collect(), claim_name: name, claim_namespace: namespace.to_owned() })
        };
        requests.into_iter().filter_map(of_claim).collect()
    }

    fn list(&self) -> ListResponse {
        ListResponse { pod_resources: self.workers.active().iter().map(|pod| self.pod(pod)).collect() }
    }

    fn get(&self, request: &GetRequest) -> Result<GetResponse, Status> {
        let GetRequest { pod_name, pod_namespace } = request;
        let pod = self.workers.pod(pod_namespace, pod_name);
        let pod = pod.ok_or_else(|| Status::unknown(format!("pod {pod_name} in namespace {pod_namespace} not found")))?;
        Ok(GetResponse { pod_resources: Some(self.pod(&pod)) })
    }

    fn allocatable(&self) -> AllocatableResponse {
        let healthy = self.devices.healthy().into_iter();
        AllocatableResponse {
            devices: healthy.flat_map(|(resource, by_node)| devices(&resource, by_node)).collect(),
            cpu_ids: self.pinning.iter().flat_map(|pinning| pinning.allocatable()).map(i64::from).collect(),
            memory: self.memory.iter().flat_map(|memory| memory.allocatable()).map(memory).collect(),
        }
    }
}

async fn answer(call: Call, told: Arc<Told>) -> Answer {
    use std::future::ready;
    match call.uri().path() {
        "/v1.PodResourcesLister/List" => serving::unary(call, move |_: Empty| ready(Ok(told.list()))).await,
        "/v1.PodResourcesLister/Get" => serving::unary(call, move |request: GetRequest| ready(told.get(&request))).await,
        "/v1.PodResourcesLister/GetAllocatableResources" => serving::unary(call, move |_: Empty| ready(Ok(told.allocatable()))).await,
        _ => serving::unimplemented(&call),
    }
}

/// Serves the socket below `root` until told to stop.
pub async fn serve(root: PathBuf, told: Told, stop: CancellationToken) {
    let socket = root.join("pod-resources/kubelet.sock");
    let listen = || -> io::Result<UnixListener> {
        fs::DirBuilder::new().recursive(true).mode(0o750).create(root.join("pod-resources"))?;
        match fs::remove_file(&socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        UnixListener::bind(&socket)
    };
    let told = Arc::new(told);
    let served = match listen() {
        Ok(listener) => serving::serve(listener, stop, move |call| answer(call, told.clone())).await,
        Err(error) => Err(error),
    };
    if let Err(error) = served {
        tracing::error!(%error, "what devices containers have cannot be asked");
    }
}
