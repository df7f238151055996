//! Which CPUs a container gets for itself: as few sockets, caches and cores as can be are broken up (upstream: `pkg/kubelet/cm/cpumanager`,
//! `cpu_assignment.go`, its packed algorithm).

use super::{
    cpu_set::CpuSet,
    topology::{Level, Topology},
};

/// What CPUs share, from the largest to the smallest. Memory of several sockets is larger than a socket, and the other way round.
fn levels(topology: &Topology) -> [Level; 2] {
    if topology.count(Level::Socket) >= topology.count(Level::Numa) { [Level::Numa, Level::Socket] } else { [Level::Socket, Level::Numa] }
}

/// The CPUs in the order in which they are taken one by one: from what has the fewest left, so that others stay whole.
fn ordered(topology: &Topology, cpus: &CpuSet, levels: &[Level]) -> Vec<u32> {
    let [level, inner @ ..] = levels else { return cpus.iter().copied().collect() };
    let mut units: Vec<_> = topology.units(cpus, *level).into_iter().collect();
    units.sort_by_key(|(unit, cpus)| (cpus.len(), *unit));
    units.into_iter().flat_map(|(_, cpus)| ordered(topology, &cpus, inner)).collect()
}

/// How CPUs are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// No cache is shared if that can be (`prefer-align-cpus-by-uncorecache`).
    pub caches: bool,
    /// From as many cores as can be (`distribute-cpus-across-cores`).
    pub spread: bool,
}

/// Takes `count` of the available CPUs.
pub fn take(topology: &Topology, available: &CpuSet, count: usize, way: Way) -> Result<CpuSet, String> {
    if count > available.len() {
        return Err(format!("not enough cpus available to satisfy request: requested={count}, available={}", available.len()));
    }
    let outer = levels(topology);
    let all = topology.cpus();
    let (mut left, mut taken) = (available.clone(), CpuSet::new());
    let whole = outer.into_iter().chain(way.caches.then_some(Level::Cache)).chain((!way.spread).then_some(Level::Core));
    for level in whole {
        let full = topology.units(&all, level);
        let order = ordered(topology, &left, &[outer[0], outer[1], Level::Core]);
        for unit in order.into_iter().map(|cpu| topology.unit(cpu, level)) {
            let wanted = &full[&unit];
            if wanted.len() <= count - taken.len() && wanted.is_subset(&left) {
                left = &left - wanted;
                taken.extend(wanted);
            }
        }
        if level == Level::Cache
            && let Some(part) = part_of_a_cache(topology, &left, count - taken.len())
        {
            left = &left - &part;
            taken.extend(part);
        }
    }
    let order: &[Level] = match outer {
        _ if !way.spread => &[outer[0], outer[1], Level::Core],
        [Level::Socket, _] => &[Level::Socket],
        _ => &outer,
    };
    let single = ordered(topology, &left, order);
    taken.extend(single.into_iter().take(count - taken.len()));
    Ok(taken)
}

/// Where a whole cache is too much, so many CPUs that share the one which has the fewest left that suffice.
fn part_of_a_cache(topology: &Topology, left: &CpuSet, count: usize) -> Option<CpuSet> {
    if count == 0 {
        return None;
    }
    let caches = topology.units(left, Level::Cache).into_values().filter(|cpus| cpus.len() >= count);
    let cpus = caches.min_by_key(CpuSet::len)?;
    // A cache is never broken up further than the same rules do it, which end here as no cache in it is whole.
    take(topology, &cpus, count, Way::default()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pinning::{cpu_set, topology::Place};

    /// Two sockets with memory of their own, each of four cores of two threads; two cores share a cache. CPU n and n + 8 are one core.
    fn machine() -> Topology {
        let place = |cpu: u32| {
            let core = cpu % 8;
            Place { numa: core / 4, socket: core / 4, cache: core / 2, core }
        };
        Topology((0..16).map(|cpu| (cpu, place(cpu))).collect())
    }

    #[test]
    fn as_little_as_can_be_is_broken_up() {
        for (available, count, want) in [
            ("0-15", 1, "0"),
            ("0-15", 2, "0,8"),
            ("0-15", 8, "0-3,8-11"),
            ("0-15", 9, "0-4,8-11"),
            ("1-15", 1, "8"),
            ("1-15", 2, "1,9"),
            ("1-15", 8, "4-7,12-15"),
            ("0-15", 16, "0-15"),
            ("0,4,9", 2, "0,4"),
            ("0,4,9", 3, "0,4,9"),
        ] {
            let got = take(&machine(), &cpu_set::parse(available).expect("a set"), count, Way::default()).expect("enough");
            assert_eq!(cpu_set::shown(&got), want, "{count} of {available}");
        }
        let error = take(&machine(), &CpuSet::from([1]), 2, Way::default()).expect_err("too many");
        assert_eq!(error, "not enough cpus available to satisfy request: requested=2, available=1");
    }

    #[test]
    fn caches_are_kept_whole_if_that_is_wanted() {
        for (available, count, want) in [("0-15", 4, "0-1,8-9"), ("1-15", 4, "2-3,10-11"), ("1-15", 3, "1,8-9"), ("1-15", 2, "1,9")] {
            let got = take(&machine(), &cpu_set::parse(available).expect("a set"), count, Way { caches: true, ..Default::default() })
                .expect("enough");
            assert_eq!(cpu_set::shown(&got), want, "{count} of {available}");
        }
    }

    #[test]
    fn cores_are_shared_last_if_that_is_wanted() {
        let spread = Way { spread: true, ..Default::default() };
        for (available, count, want) in [("0-15", 4, "0-3"), ("0-15", 6, "0-3,8-9"), ("1-15", 4, "1-3,8"), ("0-15", 9, "0-4,8-11")] {
            let got = take(&machine(), &cpu_set::parse(available).expect("a set"), count, spread).expect("enough");
            assert_eq!(cpu_set::shown(&got), want, "{count} of {available}");
        }
    }
}
