//! The Kubernetes API of v1.36 as data and pure functions: which kinds there are, what an object of each must look like,
//! what it becomes when defaults are filled in, what is wrong with it, how it is patched and how it is printed.
//!
//! Nothing here does IO, reads a clock or draws random numbers on its own; whoever calls passes them in.
//! The types themselves are `k8s-openapi`'s, never our own structs.

pub mod cel;
pub mod csi;
pub mod custom;
pub mod decode;
pub mod device_claims;
pub mod diff;
pub mod duration;
pub mod features;
pub mod field;
pub mod generate_name;
pub mod go_error;
pub mod go_regex;
pub mod go_text;
pub mod go_value;
pub mod internal_text;
pub mod jsonpath;
pub mod kind;
pub mod managed_fields;
pub mod normalize;
pub mod openapi;
pub mod patch;
pub mod printer;
pub mod protobuf;
pub mod quantity;
pub mod quota;
pub mod resource;
pub mod resources;
pub mod scheduling;
pub mod schema;
pub mod selector;
pub mod status;
pub mod structural;
pub mod validation;
pub mod version_order;
pub mod yaml;
pub mod zpages;

/// The version of Kubernetes that the components say they are.
pub const VERSION: &str = "v1.36.0";

pub use kind::{Kind, Object};
pub use resource::{Resource, Scope};
pub use status::StatusError;
