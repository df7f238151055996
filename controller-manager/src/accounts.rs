//! `--use-service-account-credentials`: every controller acts as a service account of its own in `kube-system`, with the rights that RBAC's default roles
//! give to that account and no more.
//!
//! The controller-manager's own user may create these accounts and ask for tokens, little else. Tokens last an hour and are renewed well before;
//! all clients share one connection.

use anyhow::Context;
use client::connection::TokenConnection;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client};
use parking_lot::RwLock;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const NAMESPACE: &str = "kube-system";
/// How long a token lasts.
const LIFETIME: Duration = Duration::from_secs(3600);
/// When it is renewed: upstream's share of 80 %.
const RENEW_AFTER: Duration = Duration::from_secs(2880);
/// The time between tries, while the apiserver is still starting or out of reach.
const AGAIN: Duration = Duration::from_millis(500);

/// Makes clients for service accounts.
pub struct ServiceAccounts {
    api: Api<ServiceAccount>,
    connection: TokenConnection,
}

impl ServiceAccounts {
    /// `client` is that of the controller-manager's user.
    pub fn new(client: Client, connection: TokenConnection) -> Self {
        Self { api: Api::namespaced(client, NAMESPACE), connection }
    }

    /// A client that acts as this account, for as long as `stop` is not cancelled. Tries until it has the first token.
    pub async fn client(&self, name: &'static str, stop: &CancellationToken) -> anyhow::Result<Client> {
        let first = loop {
            match token(&self.api, name).await {
                Ok(token) => break token,
                Err(error) => tracing::warn!(account = name, error = format!("{error:#}"), "no token yet, trying again"),
            }
            tokio::time::sleep(AGAIN).await;
        };
        let current = Arc::new(RwLock::new(first));
        let (api, renewed, stop) = (self.api.clone(), current.clone(), stop.clone());
        tokio::spawn(async move {
            let mut wait = RENEW_AFTER;
            while stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_some() {
                wait = match token(&api, name).await {
                    Ok(token) => {
                        *renewed.write() = token;
                        RENEW_AFTER
                    }
                    Err(error) => {
                        tracing::warn!(account = name, error = format!("{error:#}"), "could not renew the token, trying again");
                        Duration::from_secs(10)
                    }
                };
            }
        });
        self.connection.client(&format!("kube-controller-manager/{name}"), current)
    }
}

async fn token(api: &Api<ServiceAccount>, name: &str) -> anyhow::Result<String> {
    if api.get_opt(name).await.context("reading the service account")?.is_none() {
        let metadata = ObjectMeta { namespace: Some(NAMESPACE.to_owned()), name: Some(name.to_owned()), ..ObjectMeta::default() };
        match api.create(&PostParams::default(), &ServiceAccount { metadata, ..ServiceAccount::default() }).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            other => {
                other.context("creating the service account")?;
            }
        }
    }
    let seconds = i64::try_from(LIFETIME.as_secs()).ok();
    let request = TokenRequest {
        spec: Some(TokenRequestSpec { expiration_seconds: seconds, ..TokenRequestSpec::default() }),
        ..TokenRequest::default()
    };
    let answer = api.create_token_request(name, &PostParams::default(), &request).await.context("asking for a token")?;
    answer.status.and_then(|status| status.token).context("the answer has no token")
}
