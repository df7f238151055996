//! `admissionregistration.k8s.io`: who looks at objects as they are written.

pub mod expressions;
pub mod matching;
pub mod mutating_admission_policy;
pub mod mutating_admission_policy_binding;
pub mod mutating_webhook_configuration;
pub mod validating_admission_policy;
pub mod validating_admission_policy_binding;
pub mod validating_webhook_configuration;
mod validation;
