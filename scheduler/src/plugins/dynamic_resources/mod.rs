//! Claims of devices (`spec.resourceClaims`): a pod goes where its claims' devices can be used, and claims without devices get them with the node.
//!
//! What is chosen for a node is kept until the pod goes there ([`Plugin::reserve`]) and is written before it is bound ([`binding`]). A pod whose extended
//! resources are a class's devices gets a claim that it does not name ([`extended`]).

mod binding;
mod extended;

pub use binding::give_back;

use crate::config::args::{BINDING_TIMEOUT, DynamicResourcesArgs};
use crate::devices::allocator::{Inventory, Trouble, allocate};
use crate::devices::pools::selects;
use crate::devices::selector::Programs;
use crate::devices::{InUse, Pools};
use crate::framework::{
    Changed, ClusterEvent, Context, CycleState, Effect, Handle, Plugin, Point, PostFilter, PreFilter, Rejection, Unplaced, Verdict, scale,
};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::resources::is_extended;
use api::device_claims;
use client::ObjectKey;
use extended::Classes;
use k8s_openapi::api::core::v1::{ContainerExtendedResourceRequest, PodResourceClaim};
use k8s_openapi::api::resource::v1::{AllocationResult, ResourceClaim};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// How many alternatives a request has at most; the first is worth as much (upstream: `FirstAvailableDeviceRequestMaxSize`).
const MAX_ALTERNATIVES: i64 = 8;

/// See the module's description.
pub struct DynamicResources {
    programs: Programs,
    binding_timeout: Duration,
}

impl DynamicResources {
    /// With the arguments of a profile.
    pub fn new(args: &DynamicResourcesArgs) -> Self {
        Self { programs: Programs::default(), binding_timeout: args.binding_timeout.map_or(BINDING_TIMEOUT, |timeout| timeout.0) }
    }
}

/// The claims of the pod that is looked at.
#[derive(Clone)]
struct Claims {
    /// All of them.
    all: Arc<Vec<Arc<ResourceClaim>>>,
    /// Those without devices.
    waiting: Arc<Vec<Arc<ResourceClaim>>>,
    pools: Arc<Pools>,
    in_use: Arc<InUse>,
    /// What was chosen for the waiting ones, by node.
    by_node: Arc<Mutex<HashMap<String, Chosen>>>,
    /// The extended resources that are devices of classes.
    extended: Arc<Classes>,
    /// The UID of the claim for them until it has its own.
    extended_uid: Arc<str>,
    /// The claim for them that an earlier try has left behind.
    stale: Option<Arc<ResourceClaim>>,
}

/// What was chosen on a node.
#[derive(Clone, Default)]
struct Chosen {
    /// For the waiting claims, in their order, and then for that of extended resources.
    results: Vec<AllocationResult>,
    extended: Option<(Arc<ResourceClaim>, Vec<ContainerExtendedResourceRequest>)>,
}

/// What is to be written before the pod is bound: each of its claims, with the devices it gets if it had none.
#[derive(Clone, Default)]
struct Reserved {
    claims: Arc<Vec<(Arc<ResourceClaim>, Option<AllocationResult>)>>,
    extended: Option<Arc<binding::Extended>>,
}

fn pod_claims(pod: &PodInfo) -> &[PodResourceClaim] {
    pod.spec().resource_claims.as_deref().unwrap_or_default()
}

fn uid(claim: &ResourceClaim) -> &str {
    claim.metadata.uid.as_deref().unwrap_or_default()
}

/// Whether pods with this claim cannot run on the node, because its devices are elsewhere.
fn is_elsewhere(claim: &ResourceClaim, node: &NodeInfo) -> bool {
    let selector = claim.status.as_ref().and_then(|status| status.allocation.as_ref()?.node_selector.as_ref());
    selector.is_some_and(|selector| node.node.as_ref().is_some_and(|node| !selects(selector, node)))
}

/// The claims of a pod, all there and its to use; else what it waits for.
fn claims_of(pod: &PodInfo, context: &Context<'_>) -> Result<Vec<Arc<ResourceClaim>>, String> {
    let mut claims = Vec::new();
    for wanted in pod_claims(pod) {
        let Some(used) = device_claims::used(&pod.pod, wanted)? else { continue };
        let key = ObjectKey::new(pod.namespace(), used.name);
        let claim = context.listers.resource_claim(pod.namespace(), used.name);
        let claim = claim.ok_or_else(|| format!("could not find ResourceClaim {:?}", key.to_string()))?;
        if claim.metadata.deletion_timestamp.is_some() {
            return Err(format!("resourceclaim {:?} is being deleted", used.name));
        }
        if used.own {
            device_claims::is_for_pod(&pod.pod, &claim)?;
        }
        claims.push(claim);
    }
    Ok(claims)
}

/// Why devices cannot be chosen for a claim now, wherever.
fn hindrance(claim: &ResourceClaim, context: &Context<'_>) -> Option<String> {
    if context.listers.resource_claim_is_pending(uid(claim)) {
        return Some(format!("resource claim {} is in the process of being allocated", ObjectKey::of(claim)));
    }
    let requests = claim.spec.devices.iter().flat_map(|devices| devices.requests.iter().flatten());
    let mut classes = requests.flat_map(|request| {
        let exactly = request.exactly.iter().map(|exactly| (request.name.clone(), &exactly.device_class_name));
        let first = request.first_available.iter().flatten();
        exactly.chain(first.map(|alternative| (format!("{}/{}", request.name, alternative.name), &alternative.device_class_name)))
    });
    let (request, class) = classes.find(|(_, class)| context.listers.device_class(class).is_none())?;
    Some(format!("request {request}: device class {class} does not exist"))
}

/// How good the alternatives are that were chosen: the earlier, the better.
fn worth(claims: &[Arc<ResourceClaim>], chosen: &[AllocationResult]) -> i64 {
    let of_claim = |(claim, result): (&Arc<ResourceClaim>, &AllocationResult)| -> i64 {
        let requests = claim.spec.devices.iter().flat_map(|devices| devices.requests.iter().flatten());
        let results = || result.devices.iter().flat_map(|devices| devices.results.iter().flatten());
        let ranks = requests.filter_map(|request| {
            let alternatives = request.first_available.as_ref()?;
            let taken = |name: &str| results().any(|result| result.request == format!("{}/{name}", request.name));
            let rank = alternatives.iter().position(|alternative| taken(&alternative.name))?;
            Some(MAX_ALTERNATIVES - i64::try_from(rank).unwrap_or(MAX_ALTERNATIVES))
        });
        ranks.sum()
    };
    claims.iter().zip(chosen).map(of_claim).sum()
}

impl Plugin for DynamicResources {
    fn name(&self) -> &'static str {
        "DynamicResources"
    }

    fn points(&self) -> &'static [Point] {
        &[
            Point::PreEnqueue,
            Point::PreFilter,
            Point::Filter,
            Point::PostFilter,
            Point::PreScore,
            Point::Score,
            Point::Reserve,
            Point::PreBind,
        ]
    }

    fn pre_enqueue(&self, pod: &PodInfo) -> Verdict {
        // Whether the claims are there is seen when it is the pod's turn.
        pod_claims(pod).iter().try_for_each(|claim| device_claims::used(&pod.pod, claim).map(drop)).map_err(Rejection::unresolvable)
    }

    fn pre_filter(&self, cycle: &mut CycleState, pod: &PodInfo, context: &Context<'_>) -> Result<PreFilter, Rejection> {
        let extended = extended::asked(pod, context.listers);
        if pod_claims(pod).is_empty() && extended.is_empty() {
            return Ok(PreFilter::Skip);
        }
        let all = claims_of(pod, context).map_err(Rejection::unresolvable)?;
        if all.is_empty() && extended.is_empty() {
            return Ok(PreFilter::Skip);
        }
        let mut waiting = Vec::new();
        for claim in &all {
            if !device_claims::is_allocated(claim) {
                if let Some(why) = hindrance(claim, context) {
                    return Err(Rejection::unresolvable(why));
                }
                waiting.push(claim.clone());
            } else if !device_claims::can_be_reserved(claim) && !device_claims::is_reserved_for(&pod.pod, claim) {
                return Err(Rejection::unresolvable("resourceclaim in use"));
            }
        }
        let in_use = if waiting.is_empty() && extended.is_empty() {
            InUse::default()
        } else {
            let allocated = context.listers.allocated_claims();
            InUse::by(allocated.iter().map(Arc::as_ref))
        };
        cycle.put_lasting(Claims {
            all: Arc::new(all),
            waiting: Arc::new(waiting),
            pools: context.listers.device_pools(),
            in_use: Arc::new(in_use),
            by_node: Arc::default(),
            stale: if extended.is_empty() { None } else { context.listers.extended_claim(pod.uid()) },
            extended: Arc::new(extended),
            extended_uid: uuid::Uuid::new_v4().to_string().into(),
        });
        Ok(PreFilter::AllNodes)
    }

    fn filter(&self, cycle: &CycleState, pod: &PodInfo, node: &NodeInfo, context: &Context<'_>) -> Verdict {
        let (Some(claims), Some(object)) = (cycle.get::<Claims>(), &node.node) else { return Ok(()) };
        if claims.all.iter().any(|claim| is_elsewhere(claim, node)) {
            return Err(Rejection::unresolvable("resourceclaim not available on the node"));
        }
        if claims.stale.is_some() {
            return Err(Rejection::unresolvable("cannot schedule extended resource claim"));
        }
        let missing = extended::missing(&claims.extended, node);
        if (claims.waiting.is_empty() && missing.is_empty()) || claims.by_node.lock().contains_key(node.name()) {
            return Ok(());
        }
        let extended = (!missing.is_empty()).then(|| {
            let (claim, mappings) = extended::claim(pod, &missing, &claims.extended_uid);
            (Arc::new(claim), mappings)
        });
        let wanted: Vec<_> = claims.waiting.iter().chain(extended.iter().map(|(claim, _)| claim)).cloned().collect();
        let inventory = Inventory {
            pools: &claims.pools,
            in_use: &claims.in_use,
            class_of: &|name| context.listers.device_class(name),
            programs: &self.programs,
            share: &|| uuid::Uuid::new_v4().to_string(),
        };
        match allocate(&inventory, object, &wanted) {
            Ok(Some(results)) => {
                claims.by_node.lock().insert(node.name().to_owned(), Chosen { results, extended });
                Ok(())
            }
            Ok(None) => Err(Rejection::unresolvable("cannot allocate all claims")),
            Err(Trouble::Invalid) => Err(Rejection::unresolvable("cannot allocate all claims: invalid resource pools were encountered")),
            Err(Trouble::TooLong) => Err(Rejection::unresolvable("timed out trying to allocate devices")),
            Err(Trouble::Wrong(why)) => Err(Rejection::unresolvable(why)),
        }
    }

    fn post_filter(&self, unplaced: &mut Unplaced<'_>) -> PostFilter {
        let Unplaced { pod, context, cycle, .. } = unplaced;
        let Some(claims) = cycle.get::<Claims>() else { return PostFilter::Nothing("no new claims to deallocate".to_owned()) };
        if let Some(stale) = &claims.stale {
            return PostFilter::Deallocate(ObjectKey::of(stale.as_ref()), "deletion of ResourceClaim completed".to_owned());
        }
        // Devices that nobody but this pod has, on some nodes only: elsewhere there may be others, and room for the pod.
        let only_ours = |claim: &ResourceClaim| {
            let consumers = claim.status.as_ref().and_then(|status| status.reserved_for.as_deref()).unwrap_or_default();
            consumers.iter().all(|consumer| consumer.uid == pod.uid())
        };
        let elsewhere = |claim: &ResourceClaim| context.snapshot.nodes().iter().any(|node| is_elsewhere(claim, node));
        let mut movable = claims.all.iter().filter(|claim| device_claims::is_allocated(claim) && only_ours(claim) && elsewhere(claim));
        match movable.next() {
            Some(claim) => PostFilter::Deallocate(ObjectKey::of(claim.as_ref()), "deallocation of ResourceClaim completed".to_owned()),
            None => PostFilter::Nothing("still not schedulable".to_owned()),
        }
    }

    fn pre_score(&self, cycle: &mut CycleState, _: &PodInfo, _: &[Arc<NodeInfo>], _: &Context<'_>) -> bool {
        let has_alternatives = |claim: &Arc<ResourceClaim>| {
            let mut requests = claim.spec.devices.iter().flat_map(|devices| devices.requests.iter().flatten());
            requests.any(|request| request.first_available.is_some())
        };
        cycle.get::<Claims>().is_some_and(|claims| claims.waiting.iter().any(has_alternatives))
    }

    fn score(&self, cycle: &CycleState, _: &PodInfo, node: &NodeInfo) -> i64 {
        let Some(claims) = cycle.get::<Claims>() else { return 0 };
        claims.by_node.lock().get(node.name()).map_or(0, |chosen| worth(&claims.waiting, &chosen.results))
    }

    fn normalize(&self, _: &CycleState, _: &[Arc<NodeInfo>], scores: &mut [i64]) {
        scale(scores, false);
    }

    fn reserve(&self, cycle: &mut CycleState, _: &PodInfo, node: &NodeInfo, handle: &dyn Handle) -> Verdict {
        let Some(claims) = cycle.get::<Claims>() else { return Ok(()) };
        let Chosen { results, extended } = claims.by_node.lock().remove(node.name()).unwrap_or_default();
        let mut given = results.into_iter();
        let mut reserved = Vec::new();
        let decide = |claim: &Arc<ResourceClaim>, allocation: &AllocationResult| {
            let mut decided = claim.as_ref().clone();
            decided.status.get_or_insert_default().allocation = Some(allocation.clone());
            if handle.devices().decisions().begin(decided) {
                return Ok(());
            }
            let claim = ObjectKey::of(claim.as_ref());
            Err(Rejection::unschedulable(format!("resource claim {claim} is in the process of being allocated")))
        };
        for claim in claims.all.iter() {
            if device_claims::is_allocated(claim) {
                reserved.push((claim.clone(), None));
                continue;
            }
            let Some(allocation) = given.next() else { return Err(Rejection::unschedulable("cannot allocate all claims")) };
            decide(claim, &allocation)?;
            reserved.push((claim.clone(), Some(allocation)));
        }
        let mut for_extended = None;
        if let (Some((claim, mappings)), Some(allocation)) = (extended, given.next()) {
            decide(&claim, &allocation)?;
            for_extended = Some(Arc::new(binding::Extended { claim, allocation, mappings, created: Mutex::default() }));
        }
        if !reserved.is_empty() || for_extended.is_some() {
            cycle.put_lasting(Reserved { claims: Arc::new(reserved), extended: for_extended });
        }
        Ok(())
    }

    fn unreserve(&self, cycle: &CycleState, _: &PodInfo, handle: &dyn Handle) {
        let Some(claims) = cycle.get::<Claims>() else { return };
        claims.waiting.iter().for_each(|claim| handle.devices().decisions().drop_unwritten(uid(claim)));
        handle.devices().decisions().drop_unwritten(&claims.extended_uid);
        let extended = cycle.get::<Reserved>().and_then(|reserved| reserved.extended.as_ref());
        if let Some(created) = extended.and_then(|extended| extended.created.lock().take()) {
            handle.devices().discard(created);
        }
    }

    fn pre_bind<'a>(&'a self, cycle: &'a CycleState, pod: &'a PodInfo, _: &'a NodeInfo, handle: &'a dyn Handle) -> Option<Effect<'a>> {
        let reserved = cycle.get::<Reserved>()?;
        Some(Box::pin(async move {
            binding::bind(&reserved.claims, pod, handle.devices(), self.binding_timeout).await?;
            match &reserved.extended {
                Some(extended) => binding::bind_extended(extended, pod, handle.devices(), self.binding_timeout).await,
                None => Ok(()),
            }
        }))
    }

    fn cures(&self, pod: &PodInfo, event: &ClusterEvent) -> bool {
        match event {
            ClusterEvent::DeviceClaim(Changed { old, new }) => {
                let uses = new.metadata.namespace.as_deref() == Some(pod.namespace())
                    && pod_claims(pod)
                        .iter()
                        .filter_map(|claim| device_claims::used(&pod.pod, claim).ok().flatten())
                        .any(|used| Some(used.name) == new.metadata.name.as_deref());
                // What an earlier try has left behind is gone, or will be.
                if device_claims::is_for_extended_resources(new) && device_claims::is_for_pod(&pod.pod, new).is_ok() {
                    return true;
                }
                let Some(old) = old else { return uses };
                let freed = device_claims::is_allocated(old) && !device_claims::is_allocated(new);
                freed || (uses && old.status != new.status)
            }
            ClusterEvent::Itself { old, new } => old.status().resource_claim_statuses != new.status().resource_claim_statuses,
            ClusterEvent::DeviceSlice(_) | ClusterEvent::DeviceClass(_) => true,
            ClusterEvent::Node(Changed { old, new }) => old.as_ref().is_none_or(|old| old.metadata.labels != new.metadata.labels),
            // What was decided for a pod and came to nothing is free, and no claim changes by that.
            ClusterEvent::PodGone(gone) => !pod_claims(gone).is_empty() || gone.requests.scalar.keys().any(|name| is_extended(name)),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests;
