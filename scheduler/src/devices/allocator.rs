//! The search for devices: claim by claim, request by request, device by device, each candidate in its order, going back where it leads nowhere. The first
//! choice that suits all claims is taken.
//!
//! Devices of one request are tried as sets, not as sequences, so that equal choices are not tried twice. The number of steps is bounded; upstream bounds
//! the time instead.

use super::pools::{Pool, PoolDevice};
use super::request::{Want, described, wants};
use super::result::{Chosen, result};
use super::selector::Programs;
use super::{Consumed, DeviceId, InUse, MAX_RESULTS, Pools, capacity, counters, is_for, qualified};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::resource::v1::{AllocationResult, Device, DeviceAttribute, DeviceClass, DeviceSelector, ResourceClaim};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// How many candidates are tried: some seconds' worth, as upstream's limit (`DRASchedulerFilterTimeout`, 10 s).
const MAX_STEPS: usize = 1_000_000;

/// What there is to choose from, and by what rules.
pub struct Inventory<'a> {
    /// All pools.
    pub pools: &'a Pools,
    /// What claims have already.
    pub in_use: &'a InUse,
    /// Classes by name.
    pub class_of: &'a (dyn Fn(&str) -> Option<Arc<DeviceClass>> + Sync),
    /// Compiled expressions.
    pub programs: &'a Programs,
    /// Makes the name of a share, of a number that is new in this allocation.
    pub share: &'a (dyn Fn() -> String + Sync),
}

/// Why devices cannot be chosen at all, besides there being none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Something is wrong with a claim or a class; it is the same on every node.
    Wrong(String),
    /// It would take too long to find out.
    TooLong,
    /// Pools that contradict themselves were left out, and without them there are not enough devices.
    Invalid,
}

struct Candidate<'a> {
    pool: &'a Pool,
    place: &'a PoolDevice,
    device: &'a Device,
}

struct Request {
    /// The alternatives, with the devices of those that want all.
    alternatives: Vec<(Want, Option<Vec<usize>>)>,
}

struct Constraint<'a> {
    requests: BTreeSet<&'a str>,
    attribute: &'a str,
    distinct: bool,
}

struct Plan<'a> {
    claim: &'a ResourceClaim,
    requests: Vec<Request>,
    constraints: Vec<Constraint<'a>>,
}

/// A device that is chosen for now.
struct Pick {
    claim: usize,
    request: usize,
    alternative: usize,
    candidate: usize,
    /// What it takes of a device that others may share.
    consumed: Option<Consumed>,
}

struct Search<'a> {
    inventory: &'a Inventory<'a>,
    candidates: Vec<Candidate<'a>>,
    plans: Vec<Plan<'a>>,
    picks: Vec<Pick>,
    /// The alternative taken, by claim and request.
    taken: HashMap<(usize, usize), usize>,
    /// Whether a device suits a request's alternative, as far as it was asked.
    suits: HashMap<(usize, usize, usize, usize), bool>,
    steps: usize,
}

/// Devices on a node for all these claims, one result each; `None` if there are not enough.
pub fn allocate(inventory: &Inventory<'_>, node: &Node, claims: &[Arc<ResourceClaim>]) -> Result<Option<Vec<AllocationResult>>, Trouble> {
    let pools = inventory.pools.of_node(node.metadata.name.as_deref().unwrap_or_default());
    let candidates: Vec<_> =
        pools.iter().flat_map(|pool| pool.on(node).map(|place| Candidate { pool, place, device: pool.device(place) })).collect();
    let mut search =
        Search { inventory, candidates, plans: Vec::new(), picks: Vec::new(), taken: HashMap::new(), suits: HashMap::new(), steps: 0 };
    search.plan(claims)?;
    if !search.request(0, 0)? {
        let invalid = search.candidates.iter().any(|candidate| candidate.pool.invalid);
        return if invalid { Err(Trouble::Invalid) } else { Ok(None) };
    }
    Ok(Some(search.results(node)))
}

impl<'a> Search<'a> {
    fn plan(&mut self, claims: &'a [Arc<ResourceClaim>]) -> Result<(), Trouble> {
        for (number, claim) in claims.iter().enumerate() {
            let name = described(claim);
            let devices = claim.spec.devices.as_ref();
            let mut requests = Vec::new();
            for (index, request) in devices.iter().flat_map(|d| d.requests.iter().flatten()).enumerate() {
                let mut alternatives = Vec::new();
                for (alternative, want) in wants(request, self.inventory.class_of, &name).map_err(Trouble::Wrong)?.into_iter().enumerate() {
                    let all = match want.count {
                        Some(_) => None,
                        None => Some(self.all(&want, (number, index, alternative), &name)?),
                    };
                    alternatives.push((want, all));
                }
                requests.push(Request { alternatives });
            }
            let fewest = |request: &Request| request.alternatives.iter().map(|(want, all)| needed(want, all.as_ref())).min().unwrap_or(0);
            let least = requests.iter().map(fewest).fold(0, usize::saturating_add);
            if least > MAX_RESULTS {
                let text = format!("claim {name}: number of requested devices {least} exceeds the claim limit of {MAX_RESULTS}");
                return Err(Trouble::Wrong(text));
            }
            let constraints = devices.iter().flat_map(|d| d.constraints.iter().flatten()).enumerate().map(|(index, constraint)| {
                let (attribute, distinct) = match (&constraint.match_attribute, &constraint.distinct_attribute) {
                    (Some(attribute), _) => (attribute, false),
                    (None, Some(attribute)) => (attribute, true),
                    (None, None) => {
                        let text = format!("claim {name}, constraint #{index}: empty constraint (unsupported constraint type?)");
                        return Err(Trouble::Wrong(text));
                    }
                };
                let requests = constraint.requests.iter().flatten().map(String::as_str).collect();
                Ok(Constraint { requests, attribute, distinct })
            });
            let constraints = constraints.collect::<Result<_, _>>()?;
            self.plans.push(Plan { claim, requests, constraints });
        }
        Ok(())
    }

    /// All devices that suit: only from pools of which all is known.
    fn all(&mut self, want: &Want, key: (usize, usize, usize), claim: &str) -> Result<Vec<usize>, Trouble> {
        let mut found = Vec::new();
        for index in 0..self.candidates.len() {
            let pool = self.candidates[index].pool;
            let state = match (pool.incomplete, pool.invalid) {
                (true, _) => Some("being updated"),
                (_, true) => Some("invalid"),
                _ => None,
            };
            if let Some(state) = state {
                let request = want.name.rsplit('/').next().unwrap_or_default();
                let text =
                    format!("claim {claim}, request {request}: asks for all devices, but resource pool {} is currently {state}", pool.name);
                return Err(Trouble::Wrong(text));
            }
            if self.suits(want, key, index, claim)? {
                found.push(index);
            }
        }
        Ok(found)
    }

    /// Whether a device is what the class and the request want.
    fn suits(
        &mut self,
        want: &Want,
        (number, request, alternative): (usize, usize, usize),
        index: usize,
        claim: &str,
    ) -> Result<bool, Trouble> {
        let key = (number, request, alternative, index);
        if let Some(known) = self.suits.get(&key) {
            return Ok(*known);
        }
        let candidate = &self.candidates[index];
        let class = format!("class {}", want.class.metadata.name.as_deref().unwrap_or_default());
        let empty = Vec::new();
        let mut suits = true;
        for (whose, selectors) in
            [(class, want.class.spec.selectors.as_ref().unwrap_or(&empty)), (format!("claim {claim}"), &want.selectors)]
        {
            suits = suits && self.selected(candidate, &whose, selectors).map_err(Trouble::Wrong)?;
        }
        self.suits.insert(key, suits);
        Ok(suits)
    }

    fn selected(&self, candidate: &Candidate<'_>, whose: &str, selectors: &[DeviceSelector]) -> Result<bool, String> {
        for (index, selector) in selectors.iter().enumerate() {
            let Some(cel) = &selector.cel else {
                return Err(format!("{whose}, selector #{index}: CEL expression empty (unsupported selector type?)"));
            };
            let program = self.inventory.programs.get(&cel.expression);
            let program = program.map_err(|error| format!("{whose}: selector #{index}: CEL compile error: {error}"))?;
            let id = &candidate.place.id;
            let matches = super::selector::matches(&program, &id.driver, candidate.device)
                .map_err(|error| format!("{whose}: selector #{index} on device {id}: CEL runtime error: {error}"))?;
            if !matches {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Devices for this request of this claim and all that follow.
    fn request(&mut self, claim: usize, request: usize) -> Result<bool, Trouble> {
        let Some(plan) = self.plans.get(claim) else { return Ok(true) };
        if request >= plan.requests.len() {
            return self.request(claim + 1, 0);
        }
        for alternative in 0..plan.requests[request].alternatives.len() {
            self.taken.insert((claim, request), alternative);
            if self.devices((claim, request, alternative), 0, 0)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The devices that a request still lacks, from a candidate on, and then the next request's. `had` is how many it has.
    fn devices(&mut self, key: (usize, usize, usize), had: usize, from: usize) -> Result<bool, Trouble> {
        let (claim, request, alternative) = key;
        let (want, all) = &self.plans[claim].requests[request].alternatives[alternative];
        let (want, needed, all) = (want.clone(), needed(want, all.as_ref()), all.clone());
        if all.as_ref().is_some_and(Vec::is_empty) {
            return Ok(false);
        }
        if had >= needed {
            return self.request(claim, request + 1);
        }
        let of_claim = self.picks.iter().filter(|pick| pick.claim == claim).count();
        if of_claim + needed - had > MAX_RESULTS {
            return Ok(false);
        }
        let name = described(self.plans[claim].claim);
        if let Some(all) = all {
            let Some(pick) = self.pick(key, &want, all[had]) else { return Ok(false) };
            self.picks.push(pick);
            if self.devices(key, had + 1, 0)? {
                return Ok(true);
            }
            self.picks.pop();
            return Ok(false);
        }
        for index in from..self.candidates.len() {
            self.steps += 1;
            if self.steps > MAX_STEPS {
                return Err(Trouble::TooLong);
            }
            let pool = self.candidates[index].pool;
            if pool.incomplete || pool.invalid || !self.is_free(claim, &want, index) || !self.suits(&want, key, index, &name)? {
                continue;
            }
            let Some(pick) = self.pick(key, &want, index) else { continue };
            self.picks.push(pick);
            if self.devices(key, had + 1, index + 1)? {
                return Ok(true);
            }
            self.picks.pop();
        }
        Ok(false)
    }

    /// Whether nobody has the device whole. An administrator may have what others have, but not twice in one claim.
    fn is_free(&self, claim: usize, want: &Want, index: usize) -> bool {
        let candidate = &self.candidates[index];
        let shared = candidate.device.allow_multiple_allocations == Some(true);
        let mut picked = self.picks.iter().filter(|pick| pick.candidate == index && pick.consumed.is_none());
        if want.admin {
            return shared || !picked.any(|pick| pick.claim == claim);
        }
        !self.inventory.in_use.is_whole(&candidate.place.id) && picked.next().is_none()
    }

    /// The device for a request that it suits, if it can be had.
    fn pick(&self, (claim, request, alternative): (usize, usize, usize), want: &Want, index: usize) -> Option<Pick> {
        let candidate = &self.candidates[index];
        if !self.is_free(claim, want, index) || want.is_kept_off(candidate.device.taints.as_deref().unwrap_or_default()) {
            return None;
        }
        let id = &candidate.place.id;
        let shared = candidate.device.allow_multiple_allocations == Some(true);
        let picked: Vec<&Consumed> = self.picks.iter().filter(|p| p.candidate == index).filter_map(|p| p.consumed.as_ref()).collect();
        let others: Vec<&Consumed> = self.inventory.in_use.consumed(id).into_iter().chain(picked.iter().copied()).collect();
        // A device that is in use by some already consumes its counters already.
        if (!shared || others.is_empty()) && !self.counters_suffice(candidate) {
            return None;
        }
        let consumed = capacity::take(candidate.device, &id.driver, want.capacity.as_ref(), &others)?;
        if !self.constraints_hold(claim, want, candidate) {
            return None;
        }
        Some(Pick { claim, request, alternative, candidate: index, consumed: shared.then_some(consumed) })
    }

    fn counters_suffice(&self, candidate: &Candidate<'_>) -> bool {
        let picked: BTreeSet<&DeviceId> = self.picks.iter().map(|pick| &self.candidates[pick.candidate].place.id).collect();
        let in_use = candidate.pool.devices.iter().filter(|other| self.inventory.in_use.is_any(&other.id) || picked.contains(&other.id));
        counters::suffice(candidate.pool, in_use, candidate.place)
    }

    /// Whether the claim's constraints hold with one more device.
    fn constraints_hold(&self, claim: usize, want: &Want, candidate: &Candidate<'_>) -> bool {
        let plan = &self.plans[claim];
        plan.constraints.iter().filter(|constraint| is_for(&constraint.requests, &want.name)).all(|constraint| {
            let Some(own) = attribute(candidate, constraint.attribute) else { return false };
            let mut others = self.picks.iter().filter(|pick| pick.claim == claim).filter(|pick| {
                let (other, _) = &plan.requests[pick.request].alternatives[pick.alternative];
                is_for(&constraint.requests, &other.name)
            });
            others.all(|pick| {
                let same = attribute(&self.candidates[pick.candidate], constraint.attribute) == Some(own);
                same != constraint.distinct
            })
        })
    }

    fn results(&self, node: &Node) -> Vec<AllocationResult> {
        let of = |(number, plan): (usize, &Plan<'_>)| {
            let want = |request: usize, alternative: usize| &plan.requests[request].alternatives[alternative].0;
            let taken = (0..plan.requests.len()).filter_map(|request| Some(want(request, *self.taken.get(&(number, request))?)));
            let chosen = self.picks.iter().filter(|pick| pick.claim == number).map(|pick| {
                let candidate = &self.candidates[pick.candidate];
                Chosen {
                    want: want(pick.request, pick.alternative),
                    device: candidate.device,
                    slice: candidate.pool.slice(candidate.place),
                    share: pick.consumed.as_ref().map(|_| (self.inventory.share)()),
                    consumed: pick.consumed.clone().unwrap_or_default(),
                }
            });
            result(plan.claim, &taken.collect::<Vec<_>>(), &chosen.collect::<Vec<_>>(), node)
        };
        self.plans.iter().enumerate().map(of).collect()
    }
}

/// How many devices an alternative needs.
fn needed(want: &Want, all: Option<&Vec<usize>>) -> usize {
    want.count.unwrap_or_else(|| all.map_or(0, Vec::len))
}

/// A device's attribute by its full name; one of the driver's own may be published without the domain.
fn attribute<'d>(candidate: &Candidate<'d>, name: &str) -> Option<&'d DeviceAttribute> {
    let driver = &candidate.place.id.driver;
    candidate.device.attributes.iter().flatten().find(|(own, _)| qualified(own, driver) == name).map(|(_, value)| value)
}

#[cfg(test)]
mod tests;
