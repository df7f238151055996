//! Events about pods and the node: [`client::EventRecorder`] where there is an API server, nothing where there is none.

use client::{EventRecorder, events::reference};
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod};

/// What an event is about.
#[derive(Clone, Debug)]
pub struct About(ObjectReference);

impl About {
    /// A pod.
    pub fn pod(pod: &Pod) -> Self {
        About(reference(pod, None))
    }

    /// A part of a pod: `spec.containers{name}`.
    pub fn container(pod: &Pod, list: &str, name: &str) -> Self {
        About(reference(pod, Some(format!("spec.{list}{{{name}}}"))))
    }

    /// The node, whose UID in events is its name, as upstream has it.
    pub fn node(name: &str) -> Self {
        let mut node = Node::default();
        node.metadata.name = Some(name.to_owned());
        node.metadata.uid = Some(name.to_owned());
        About(reference(&node, None))
    }
}

/// The recorder.
#[derive(Clone, Default)]
pub struct Recorder(pub Option<EventRecorder>);

impl Recorder {
    /// Something happened as it should.
    pub fn normal(&self, about: &About, reason: &str, message: impl Into<String>) {
        if let Some(recorder) = &self.0 {
            recorder.normal(about.0.clone(), reason, message);
        }
    }

    /// Something did not.
    pub fn warning(&self, about: &About, reason: &str, message: impl Into<String>) {
        if let Some(recorder) = &self.0 {
            recorder.warning(about.0.clone(), reason, message);
        }
    }
}
