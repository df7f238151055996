//! `componentstatuses`: whether the scheduler, the controller-manager and the store work, asked of them when somebody asks here and never stored
//! (upstream: `pkg/registry/core/componentstatus`). Deprecated since v1.19, and still what many people type first.
//!
//! As with upstream's, the two components are looked for on this machine and at their usual ports, wherever they really are; and the store, whatever it is,
//! is called `etcd-0`.

use crate::connect::Connections;
use crate::health::Health;
use api::status::{Result, StatusError};
use serde_json::{Value, json};
use std::sync::Arc;

/// The resource, of the group without a name.
pub const PLURAL: &str = "componentstatuses";
/// Components and where they answer.
const COMPONENTS: [(&str, u16); 2] = [("controller-manager", 10257), ("scheduler", 10259)];
const STORE: &str = "etcd-0";

/// Who asks them.
pub struct Components {
    connections: Arc<Connections>,
}

impl Components {
    /// Asks through these connections.
    pub fn new(connections: Arc<Connections>) -> Self {
        Components { connections }
    }

    /// All of them.
    pub async fn list(&self, health: &Health) -> Vec<Value> {
        let components = futures::future::join_all(COMPONENTS.map(|(name, port)| self.component(name, port)));
        let (mut items, store) = tokio::join!(components, store(health));
        items.push(store);
        items
    }

    /// One of them.
    pub async fn get(&self, name: &str, health: &Health) -> Result<Value> {
        if name == STORE {
            return Ok(store(health).await);
        }
        match COMPONENTS.iter().find(|(known, _)| *known == name) {
            Some((name, port)) => Ok(self.component(name, *port).await),
            None => Err(StatusError::new(500, "", format!("Component not found: {name}"))),
        }
    }

    async fn component(&self, name: &str, port: u16) -> Value {
        status(name, self.connections.probe_local(port, "/healthz").await)
    }
}

async fn store(health: &Health) -> Value {
    status(STORE, health.store().await.map(|()| "ok".to_owned()))
}

/// An object of a component that said it is well, or of one that is not, and why.
fn status(name: &str, said: std::result::Result<String, String>) -> Value {
    let (healthy, message) = match said {
        Ok(message) => ("True", message),
        Err(why) => ("False", why),
    };
    let condition = json!({"type": "Healthy", "status": healthy, "message": message});
    json!({"kind": "ComponentStatus", "apiVersion": "v1", "metadata": {"name": name}, "conditions": [condition]})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_becomes_a_condition() {
        let refused = r#"Get "https://127.0.0.1:10259/healthz": dial tcp 127.0.0.1:10259: connect: connection refused"#;
        let cases = [(Ok("ok".to_owned()), "True", "ok"), (Err(refused.to_owned()), "False", refused)];
        for (said, healthy, message) in cases {
            let object = status("scheduler", said);
            assert_eq!(object["metadata"], json!({"name": "scheduler"}));
            assert_eq!(object["conditions"], json!([{"type": "Healthy", "status": healthy, "message": message}]));
        }
    }
}
