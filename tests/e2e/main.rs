//! End to end: real processes, real containers, our kubectl and upstream's. Each test names the rows of the behaviour list that it proves.
//!
//! The cluster is the one under `deploy/run`, started when it does not run; `tests/run` builds the binaries first and ends the cluster after.

mod bad_input;
mod claims;
mod components;
mod containers;
mod csi;
mod deployment;
mod devices;
mod explaining;
mod full_disk;
mod images;
mod jobs;
mod labels;
mod leftovers;
mod load_balancers;
mod names;
mod objects;
mod own_kubelet;
mod placement;
mod pods;
mod probes;
mod resources;
mod restart;
mod rollouts;
mod scheduling;
mod security;
mod services;
mod sets;
mod static_pods;
mod streams;
mod termination;
mod volumes;
mod workloads;
