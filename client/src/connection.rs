//! The connection to the apiserver: kube-rs's configuration, identity and retries, on a transport of our own.
//!
//! kube-rs opens one HTTP/1.1 connection per concurrent request, so a component with twenty watches would hold twenty connections, each with
//! its own TLS session. Here ALPN offers HTTP/2 and everything shares one connection, as upstream's clients do. Streams that upgrade
//! (`exec`, `attach`, `port-forward`) need HTTP/1.1 and are not for components; a command line builds its client with kube-rs directly.

use anyhow::Context;
use base64::Engine;
use http::{HeaderValue, Request};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::Client;
use kube::client::retry::RetryPolicy;
use kube::client::{Body, ConfigExt};
use kube::config::{AuthInfo, Config, KubeConfigOptions, Kubeconfig};
use parking_lot::RwLock;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tower::retry::RetryLayer;
use tower::{BoxError, ServiceBuilder};

/// A connection with nothing on it for this long is probed (upstream: `HTTP2_READ_IDLE_TIMEOUT_SECONDS`).
const READ_IDLE: Duration = Duration::from_secs(30);
/// A probe that stays unanswered this long closes the connection (upstream: `HTTP2_PING_TIMEOUT_SECONDS`).
const PING_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a TCP connection may take (upstream: the dialer's timeout).
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// A client that acts as the kubeconfig's current user. `component` is the first word of the `User-Agent`, which is also the field
/// manager that the server records for changes without one: upstream's name of the component, `kube-scheduler` and so on.
pub async fn connect(kubeconfig: &Path, component: &str) -> anyhow::Result<Client> {
    let config = read(kubeconfig).await?;
    from_config(config, component)
}

/// A client that acts as the service account of the pod that this process runs in.
pub fn connect_in_cluster(component: &str) -> anyhow::Result<Client> {
    const ADDRESS: [&str; 2] = ["KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"];
    let is_there = ADDRESS.iter().all(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()));
    anyhow::ensure!(
        is_there,
        "unable to load in-cluster configuration, KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT must be defined"
    );
    from_config(Config::incluster().context("unable to load in-cluster configuration")?, component)
}

/// The same from a configuration that was made elsewhere, as tests do.
pub fn from_config(config: Config, component: &str) -> anyhow::Result<Client> {
    install_crypto();
    let transport = transport(&config)?;
    assemble(config, component, transport)
}

/// How often a request is sent again that the server was too busy for: for some seconds, and no longer, since whoever sent it has a queue of its own
/// and others waiting in it.
fn retries() -> anyhow::Result<RetryPolicy> {
    RetryPolicy::new(Duration::from_millis(50), Duration::from_secs(2), 6, true).context("the delays of retries")
}

fn assemble<S>(mut config: Config, component: &str, transport: S) -> anyhow::Result<Client>
where
    S: tower::Service<Request<Body>, Response = http::Response<hyper::body::Incoming>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError> + 'static,
    BoxError: From<S::Error>,
{
    config.headers.push((http::header::USER_AGENT, user_agent(component)?));

    let headers = config.headers.clone();
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .layer(RetryLayer::new(retries()?))
        .option_layer(config.auth_layer().context("setting up authentication from the kubeconfig")?)
        .map_request(move |mut request: Request<Body>| {
            for (name, value) in &headers {
                request.headers_mut().insert(name, value.clone());
            }
            request
        })
        .map_err(BoxError::from)
        .service(transport);
    Ok(Client::new(service, config.default_namespace))
}

/// A connection whose certificate can be replaced while it is in use: what is asked for from then on goes over a new connection with the new
/// certificate. What is under way, watches among it, ends on the old one.
#[derive(Clone)]
pub struct Renewable {
    kubeconfig: std::path::PathBuf,
    transport: Arc<RwLock<Transport>>,
}

impl Renewable {
    /// As [`connect`] does.
    pub async fn connect(kubeconfig: &Path, component: &str) -> anyhow::Result<(Client, Self)> {
        install_crypto();
        let config = read(kubeconfig).await?;
        let renewable = Renewable { kubeconfig: kubeconfig.to_owned(), transport: Arc::new(RwLock::new(transport(&config)?)) };
        let current = renewable.transport.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let mut transport = current.read().clone();
            async move { tower::Service::call(&mut transport, request).await }
        });
        Ok((assemble(config, component, service)?, renewable))
    }

    /// Reads the kubeconfig and the files it names again. The user has to be the same kind of user: only certificates are taken over.
    pub async fn renew(&self) -> anyhow::Result<()> {
        let config = read(&self.kubeconfig).await?;
        *self.transport.write() = transport(&config)?;
        Ok(())
    }
}

type Connector = hyper_rustls::HttpsConnector<hyper_util::client::legacy::connect::HttpConnector>;
type Transport = hyper_util::client::legacy::Client<Connector, Body>;

fn transport(config: &Config) -> anyhow::Result<Transport> {
    let mut tcp = hyper_util::client::legacy::connect::HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    let tls = config.rustls_client_config().context("setting up TLS from the kubeconfig")?;
    let mut builder = hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
    if let Some(name) = &config.tls_server_name {
        let name = rustls::pki_types::ServerName::try_from(name.clone()).with_context(|| format!("the server's name {name:?}"))?;
        builder = builder.with_server_name_resolver(hyper_rustls::FixedServerNameResolver::new(name));
    }
    let connector = builder.enable_all_versions().wrap_connector(tcp);
    Ok(hyper_util::client::legacy::Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .timer(TokioTimer::new())
        .http2_keep_alive_interval(READ_IDLE)
        .http2_keep_alive_timeout(PING_TIMEOUT)
        .http2_keep_alive_while_idle(true)
        .build::<_, Body>(connector))
}

/// A client for a server that is no apiserver, with a configuration's certificates. Requests name their whole URL, and are sent once.
pub fn to_any_server(config: &Config) -> anyhow::Result<Client> {
    install_crypto();
    let service = ServiceBuilder::new().map_err(BoxError::from).service(transport(config)?);
    Ok(Client::new(service, String::new()))
}

/// A connection without an identity of its own, for clients that each bring a token: one for all service accounts of a process.
pub struct TokenConnection {
    config: Config,
    transport: Transport,
}

impl TokenConnection {
    /// To the cluster of a kubeconfig.
    pub async fn new(kubeconfig: &Path) -> anyhow::Result<Self> {
        install_crypto();
        let mut config = read(kubeconfig).await?;
        config.auth_info = AuthInfo::default();
        Ok(Self { transport: transport(&config)?, config })
    }

    /// A client that sends this token, as it is at the time of each request, with a `User-Agent` that names the component.
    pub fn client(&self, component: &str, token: Arc<RwLock<String>>) -> anyhow::Result<Client> {
        let agent = user_agent(component)?;
        let service = ServiceBuilder::new()
            .layer(self.config.base_uri_layer())
            .layer(RetryLayer::new(retries()?))
            .map_request(move |mut request: Request<Body>| {
                // A token is ASCII; one that is not would be refused like one that is missing.
                if let Ok(value) = HeaderValue::from_str(&format!("Bearer {}", token.read())) {
                    request.headers_mut().insert(http::header::AUTHORIZATION, value);
                }
                request.headers_mut().insert(http::header::USER_AGENT, agent.clone());
                request
            })
            .map_err(BoxError::from)
            .service(self.transport.clone());
        Ok(Client::new(service, self.config.default_namespace.clone()))
    }
}

fn user_agent(component: &str) -> anyhow::Result<HeaderValue> {
    let agent = format!("{component}/v1.36.0 (linux/{})", std::env::consts::ARCH);
    HeaderValue::from_str(&agent).context("the component's name")
}

async fn read(kubeconfig: &Path) -> anyhow::Result<Config> {
    let file = Kubeconfig::read_from(kubeconfig).with_context(|| format!("reading the kubeconfig {}", kubeconfig.display()))?;
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
    config.with_context(|| format!("using the kubeconfig {}", kubeconfig.display()))
}

/// rustls wants one provider of cryptography per process; whoever comes first sets it, and all of ours set the same.
pub fn install_crypto() {
    // An error says that it is set already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// The certificate authority of a kubeconfig's current cluster, in PEM, if it names one.
pub fn certificate_authority(kubeconfig: &Path) -> anyhow::Result<Option<String>> {
    let file = Kubeconfig::read_from(kubeconfig).with_context(|| format!("reading the kubeconfig {}", kubeconfig.display()))?;
    let context =
        file.contexts.iter().find(|context| Some(&context.name) == file.current_context.as_ref()).and_then(|named| named.context.as_ref());
    let cluster = context
        .and_then(|context| file.clusters.iter().find(|named| named.name == context.cluster))
        .and_then(|named| named.cluster.as_ref());
    let Some(cluster) = cluster else { return Ok(None) };
    if let Some(data) = &cluster.certificate_authority_data {
        let decoded = base64::engine::general_purpose::STANDARD.decode(data).context("decoding certificate-authority-data")?;
        return Ok(Some(String::from_utf8(decoded).context("certificate-authority-data is no text")?));
    }
    let read = |path: &String| std::fs::read_to_string(path).with_context(|| format!("reading {path}"));
    cluster.certificate_authority.as_ref().map(read).transpose()
}
