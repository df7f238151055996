//! Calls of extenders over HTTP. Connections are kept and used again. Errors read as a Go client's, for they end up in pods' statuses, which people
//! search for. Redirections are not followed.

use super::Transport;
use crate::config::{Extender, ExtenderTls};
use anyhow::{Context, ensure};
use client::connection;
use futures::future::BoxFuture;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::json;
use std::error::Error;
use std::time::Duration;

/// How long an extender may take if nothing is said.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The largest answer that is read: some thousand nodes, with the images on them.
const MAX_ANSWER: usize = 128 * 1024 * 1024;

/// The server of one extender.
pub struct Server {
    client: Client,
    prefix: String,
    timeout: Duration,
}

impl Server {
    /// Reads the certificates. Nothing is asked yet.
    pub async fn new(extender: &Extender) -> anyhow::Result<Self> {
        let prefix = extender.url_prefix.trim_end_matches('/').to_owned();
        let config = configuration(extender).await.with_context(|| format!("extender {prefix}"))?;
        let timeout = if extender.http_timeout.0.is_zero() { TIMEOUT } else { extender.http_timeout.0 };
        Ok(Self { client: connection::to_any_server(&config)?, prefix, timeout })
    }

    async fn call(&self, verb: &str, url: &str, body: Vec<u8>) -> Result<Vec<u8>, String> {
        let failed = |why: String| format!("Post {url:?}: {why}");
        let request = Request::post(url).header(header::CONTENT_TYPE, "application/json").body(Body::from(body));
        let answer =
            self.client.send(request.map_err(|error| failed(error.to_string()))?).await.map_err(|error| failed(cause(&error, url)))?;
        let code = answer.status();
        if code != StatusCode::OK {
            return Err(format!("failed {verb} with extender at URL {url}, code {}", code.as_u16()));
        }
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
        Ok(body.map_err(|error| failed(error.to_string()))?.to_bytes().into())
    }
}

impl Transport for Server {
    fn post<'a>(&'a self, verb: &'a str, body: Vec<u8>) -> BoxFuture<'a, Result<Vec<u8>, String>> {
        Box::pin(async move {
            let url = format!("{}/{verb}", self.prefix);
            let late = |_| Err(format!("Post {url:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)"));
            tokio::time::timeout(self.timeout, self.call(verb, &url, body)).await.unwrap_or_else(late)
        })
    }
}

/// An extender's settings are a kubeconfig's under other names.
async fn configuration(extender: &Extender) -> anyhow::Result<Config> {
    let tls = extender.tls_config.clone().unwrap_or_default();
    let ExtenderTls { insecure, server_name, cert_file, key_file, ca_file, cert_data, key_data, ca_data } = tls;
    let has_authority = !ca_file.is_empty() || !ca_data.is_empty();
    ensure!(!(insecure && has_authority), "specifying a root certificates file with the insecure flag is not allowed");
    let given = |text: String| Some(text).filter(|text| !text.is_empty());
    let kubeconfig: Kubeconfig = serde_json::from_value(json!({
        "current-context": "extender",
        "contexts": [{"name": "extender", "context": {"cluster": "extender", "user": "scheduler"}}],
        "clusters": [{"name": "extender", "cluster": {
            "server": extender.url_prefix,
            "insecure-skip-tls-verify": insecure || (extender.enable_https && !has_authority),
            "certificate-authority": given(ca_file),
            "certificate-authority-data": given(ca_data),
            "tls-server-name": given(server_name),
        }}],
        "users": [{"name": "scheduler", "user": {
            "client-certificate": given(cert_file),
            "client-certificate-data": given(cert_data),
            "client-key": given(key_file),
            "client-key-data": given(key_data),
        }}],
    }))?;
    Ok(Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?)
}

/// What is at the bottom of a chain of errors, in Go's words where they are known.
fn cause(error: &(dyn Error + 'static), url: &str) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    let refused = deepest.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused);
    match url.parse::<http::Uri>().ok().filter(|_| refused) {
        Some(uri) => {
            let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
            format!("dial tcp {}:{port}: connect: connection refused", uri.host().unwrap_or_default())
        }
        None => deepest.to_string(),
    }
}
