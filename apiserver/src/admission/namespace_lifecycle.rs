//! NamespaceLifecycle: objects are created only in namespaces that exist and are not being deleted, and the system's namespaces stay
//! (upstream: `apiserver/pkg/admission/plugin/namespace/lifecycle`).

use super::{Admission, Operation, Request};
use crate::objects::{Collection, Objects, decode};
use api::{
    Object,
    status::{Result, StatusError},
};
use futures::future::BoxFuture;
use k8s_openapi::{api::core::v1::Namespace, apimachinery::pkg::apis::meta::v1::StatusCause};
use std::sync::Arc;

/// The plugin.
pub struct NamespaceLifecycle {
    /// Where namespaces are.
    pub objects: Arc<dyn Objects>,
}

/// Namespaces that cannot be deleted.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];
const NAMESPACES: Collection = Collection::core("namespaces");

fn terminating(request: &Request<'_>) -> StatusError {
    let namespace = request.namespace;
    let mut error = request.forbidden(&format!("unable to create new content in namespace {namespace} because it is being terminated"));
    if let Some(details) = &mut error.0.details {
        details.causes = Some(vec![StatusCause {
            field: Some("metadata.namespace".into()),
            message: Some(format!("namespace {namespace} is being terminated")),
            reason: Some("NamespaceTerminating".into()),
        }]);
    }
    error
}

impl NamespaceLifecycle {
    async fn check(&self, request: &Request<'_>) -> Result<()> {
        let about_namespace = request.resource.group.is_empty() && request.resource.plural == "namespaces";
        if about_namespace {
            let doomed = request.operation == Operation::Delete && IMMORTAL.contains(&request.name);
            return if doomed { Err(request.forbidden("this namespace may not be deleted")) } else { Ok(()) };
        }
        // Deletion is always allowed: it is how a namespace empties. What reviews ask about need not exist.
        if request.namespace.is_empty() || !request.writes() || request.is("authorization.k8s.io", "localsubjectaccessreviews", "") {
            return Ok(());
        }
        let found = match self.objects.get(NAMESPACES, "", request.namespace) {
            Some(found) => Some(found),
            // Another server may have made it just now.
            None => self.objects.read(NAMESPACES, "", request.namespace).await?,
        };
        let namespace = found.as_ref().and_then(decode::<Namespace>);
        let namespace = namespace.ok_or_else(|| StatusError::not_found("", "namespaces", request.namespace))?;
        let phase = namespace.status.and_then(|s| s.phase);
        if request.operation == Operation::Create && phase.as_deref() == Some("Terminating") {
            return Err(terminating(request));
        }
        Ok(())
    }
}

impl Admission for NamespaceLifecycle {
    fn admit<'a>(&'a self, request: &'a Request<'a>, _object: Option<&'a mut dyn Object>) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.check(request))
    }
}
