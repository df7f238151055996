//! Counters that devices of a pool share: parts of one piece of hardware can be devices of their own, as long as there is enough of it for all that are in use.

use super::pools::{Pool, PoolDevice};
use api::quantity::Quantity;
use k8s_openapi::api::resource::v1::Device;
use std::collections::HashMap;

type Sums<'a> = HashMap<(&'a str, &'a str), Quantity>;

fn add<'a>(sums: &mut Sums<'a>, device: &'a Device) {
    for consumption in device.consumes_counters.iter().flatten() {
        for (name, counter) in &consumption.counters {
            let amount = Quantity::of(&counter.value).unwrap_or_else(|_| Quantity::from_units(0));
            let sum = sums.entry((consumption.counter_set.as_str(), name.as_str())).or_insert_with(|| Quantity::from_units(0));
            *sum += amount;
        }
    }
}

/// Whether the counters of a pool suffice for one more device besides those in use.
pub fn suffice<'a>(pool: &'a Pool, in_use: impl Iterator<Item = &'a PoolDevice>, device: &'a PoolDevice) -> bool {
    let wanted = pool.device(device);
    if wanted.consumes_counters.as_ref().is_none_or(Vec::is_empty) {
        return true;
    }
    let mut sums = Sums::new();
    in_use.filter(|other| other.id != device.id).for_each(|other| add(&mut sums, pool.device(other)));
    add(&mut sums, wanted);
    let sets = || pool.slices.iter().flat_map(|slice| slice.spec.shared_counters.iter().flatten());
    wanted.consumes_counters.iter().flatten().all(|consumption| {
        let there = sets().find(|set| set.name == consumption.counter_set);
        consumption.counters.keys().all(|name| {
            let whole = there.and_then(|set| set.counters.get(name)).and_then(|counter| Quantity::of(&counter.value).ok());
            whole.is_some_and(|whole| sums.get(&(consumption.counter_set.as_str(), name.as_str())).is_none_or(|sum| *sum <= whole))
        })
    })
}
