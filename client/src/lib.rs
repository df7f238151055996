//! What every component needs to live off the API, and nothing that belongs to one of them.
//!
//! - [`connection`]: a `kube::Client` from a kubeconfig, over one HTTP/2 connection.
//! - [`cache`]: one list+watch and one in-memory store per kind and process, shared by whoever asks for that kind.
//! - [`queue`]: the work queue of the reconcilers: every key at most once, at most one worker per key, backoff per key.
//! - [`expectations`]: keeps a reconciler from acting on a cache that has not yet seen what it did last.
//! - [`events`]: writes Events as upstream's two recorders do, counted, combined and rate-limited.
//! - [`election`]: one leader among several replicas, by a Lease.
//! - [`metrics`]: counts and histograms, and Prometheus's text of them.
//! - [`serving`]: `/healthz`, `/livez`, `/readyz` and `/metrics` over TLS.
//! - [`spdy`]: streams into containers, as runtimes speak them.
//!
//! Deliberately absent: client-side rate limits (the server's priority and fairness, and the bound on parallel requests that every
//! caller has anyway, do that work), periodic resyncs (a watch that ends is resumed or listed again), and typed clients per kind
//! (`kube::Api` is that).

pub mod cache;
pub mod clock;
pub mod command_line;
pub mod connection;
pub mod election;
pub mod events;
pub mod expectations;
pub mod metrics;
pub mod queue;
pub mod serving;
pub mod spdy;

pub use cache::{Cache, Change, ObjectKey, SharedCaches};
pub use connection::connect;
pub use events::EventRecorder;
pub use expectations::Expectations;
pub use queue::WorkQueue;
