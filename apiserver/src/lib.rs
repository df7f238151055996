//! The Kubernetes API server: one request path for every kind, over a narrow store.
//!
//! A request passes, in this order: connection (TLS), request info, authentication, authorisation, then its handler, which is generic
//! over the rows of `api::resources`: decode, default, admission, prepare, validate, compare-and-swap, encode. Reads are served
//! from the watch cache as bytes. [`Server`] puts it together, for `main` as for tests that want a control plane in their own process.

pub mod admission;
pub mod aggregation;
pub mod assembly;
pub mod audit;
pub mod authentication;
pub mod authorization;
pub mod bootstrap;
pub mod cache;
pub mod component_status;
pub mod connect;
pub mod custom;
pub mod discovery;
pub mod encoding;
pub mod flow_control;
pub mod handlers;
pub mod health;
pub mod metrics;
pub mod negotiation;
pub mod notes;
pub mod objects;
pub mod openapi;
pub mod options;
pub mod outbound;
pub mod paths;
pub mod pipeline;
pub mod pki;
pub mod registry;
pub mod request;
pub mod respond;
pub mod reviews;
pub mod server;
pub mod services;
pub mod store;
pub mod table;
pub mod tls;
pub mod tokens;
pub mod usage;

pub use assembly::{Builder, Running, Server};
pub use options::Options;
