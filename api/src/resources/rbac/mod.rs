//! `rbac.authorization.k8s.io`: roles and who has them.

pub mod cluster_role;
pub mod cluster_role_binding;
pub mod role;
pub mod role_binding;
mod rules;
pub mod subjects;
