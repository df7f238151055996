//! Puts the server together from its options: keys, store, registry, identity, policy, handlers, listener.
//!
//! The order matters: the registry comes before whoever reads objects through it, and the socket is only taken once all caches are filled,
//! so that nobody is answered from half a state. Bootstrap objects are made while the server already answers; `/readyz` waits for them.

use crate::admission;
use crate::aggregation::{self, Aggregator, ProxyIdentity};
use crate::audit::log::{Log, Rotation};
use crate::audit::{Audit, policy::Policy};
use crate::authentication::jwt::configuration::{ALGORITHMS, AuthenticationConfiguration, JwtAuthenticator};
use crate::authentication::{self, Authenticator};
use crate::authorization::{self, rbac::Rbac};
use crate::bootstrap::Cluster;
use crate::connect::{Connections, KubeletTls};
use crate::custom::Definitions;
use crate::flow_control::Classifier;
use crate::handlers::{Api, Document};
use crate::health::{Check, Health};
use crate::metrics::Metrics;
use crate::objects::Objects;
use crate::options::Options;
use crate::outbound::Caller;
use crate::pipeline::{Pipeline, Turns};
use crate::registry::Registry;
use crate::reviews::{self, Reviews};
use crate::server::Listener;
use crate::services::Services;
use crate::store::encryption::Encrypted;
use crate::store::{self, Store};
use crate::tokens::{Issuer, SigningKey, VerificationKey};
use crate::{pki, tls};
use anyhow::{Context, Result, anyhow};
use bytes::Bytes;
use jsonwebtoken::Algorithm;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The server.
pub struct Server;

/// How to start one.
#[derive(Default)]
pub struct Builder {
    options: Options,
    store: Option<Arc<dyn Store>>,
    tokens: String,
}

/// A server that runs.
pub struct Running {
    address: SocketAddr,
    cert_dir: PathBuf,
    registry: Arc<Registry>,
    stop: CancellationToken,
    serving: JoinHandle<()>,
    store: Arc<dyn Store>,
}

impl Server {
    /// A server with the default options.
    pub fn builder() -> Builder {
        Builder::default()
    }
}

impl Builder {
    /// Takes these options.
    pub fn options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// Keeps everything in memory, and listens on a free port of the loopback: for tests. Keys are still files, in the options' certificate directory.
    pub fn in_memory(mut self) -> Result<Self> {
        self.store = Some(store::memory::open(store::embedded::Options::default()).map_err(|e| anyhow!(e))?);
        self.options.secure_port = 0;
        self.options.bind_address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        Ok(self)
    }

    /// Accepts this token for this user besides those of `--token-auth-file`.
    pub fn token(mut self, token: &str, user: &str, groups: &[&str]) -> Self {
        self.tokens += &format!("{token},{user},{user},\"{}\"\n", groups.join(","));
        self
    }

    /// Starts it; when this returns it is listening.
    pub async fn start(self) -> Result<Running> {
        let Builder { options, store, tokens } = self;
        api::resources::core::pod::validation::security::allow_privileged(options.allow_privileged);
        let cert_dir = options.cert_dir();
        let advertised = options.advertise_address.unwrap_or_else(|| advertised(options.bind_address));
        let mut names = pki::serving_names(&pki::host_name(), &options.service_cluster_ip_range, Some(advertised));
        names.push(options.bind_address.to_string());
        pki::ensure(&cert_dir, names, SystemTime::now()).context("keys and certificates")?;
        let file = |given: &Option<PathBuf>, name: &str| given.clone().unwrap_or_else(|| cert_dir.join(name));
        let tls =
            tls::server_config(&file(&options.tls_cert_file, "apiserver.crt"), &file(&options.tls_private_key_file, "apiserver.key"))?;

        let store = match store {
            Some(store) => store,
            None => open_store(&options).await?,
        };
        let services = Services::new(&options.service_cluster_ip_range, options.node_ports()?)?;
        let rows = api::resources::all().to_vec();
        let encrypted = encrypted(&store, &options, &rows)?;
        let store: Arc<dyn Store> = match &encrypted {
            Some(encrypted) => encrypted.clone(),
            None => store,
        };
        let event_ttl = Duration::from_secs(options.event_ttl_seconds);
        let gates = api::features::Gates::parse(&options.feature_gates).map_err(|e| anyhow!("--feature-gates: {e}"))?;
        for gate in gates.unknown() {
            tracing::warn!(gate, "nothing here is behind this feature gate");
        }
        let registry =
            Registry::start(store.clone(), &options.etcd_prefix, rows, services, gates, event_ttl).await.map_err(|e| anyhow!(e))?;
        let objects: Arc<dyn Objects> = registry.clone();

        let caller = Arc::new(Caller::new(objects.clone()));
        let definitions = Definitions::start(registry.clone(), caller.clone()).await.map_err(|e| anyhow!(e))?;

        let issuer = Arc::new(issuer(&options, &cert_dir)?);
        let authentication = Arc::new(authentication(&options, &cert_dir, &tokens, issuer.clone(), objects.clone(), &caller)?);
        let rbac = Arc::new(Rbac::new(&*objects));
        let authorization = Arc::new(authorization::Chain::new(&options.authorization_mode, &rbac, &objects));

        let policy = admission::Sources {
            objects: objects.clone(),
            authorizer: authorization.clone(),
            rbac: rbac.clone(),
            registry: registry.clone(),
            caller: caller.clone(),
        };
        let plugins = admission::plugins(&policy, &options.enable_admission_plugins, &options.disable_admission_plugins);
        registry.set_admission(plugins.map_err(|e| anyhow!(e))?);
        let reviews = Reviews::new(reviews::Sources {
            authentication: authentication.clone(),
            authorizer: authorization.clone(),
            rbac,
            issuer: issuer.clone(),
            objects: objects.clone(),
            longest_token: None,
            extend_tokens: true,
            clock: SystemTime::now,
        });

        let certificate = read(&file(&options.proxy_client_cert_file, "front-proxy-client.crt"))?;
        let key = read(&file(&options.proxy_client_key_file, "front-proxy-client.key"))?;
        let identity = ProxyIdentity::new(certificate.as_bytes(), key.as_bytes()).map_err(|e| anyhow!("the front-proxy client: {e}"))?;
        let aggregator = Arc::new(Aggregator::new(objects.clone(), identity));

        let health = Health::new(store.clone());
        let bootstrapped = health.check("poststarthook/rbac/bootstrap-roles");
        let metrics = Arc::new(Metrics::default());
        let connections = Arc::new(Connections::new(objects.clone(), kubelet_tls(&options, &cert_dir)?));
        let stop = CancellationToken::new();
        let api = Api {
            registry: registry.clone(),
            reviews,
            components: crate::component_status::Components::new(connections.clone()),
            usage: crate::usage::Usage::new(objects.clone(), connections.clone()),
            connections,
            aggregator: aggregator.clone(),
            documents: documents(issuer, advertised, options.secure_port),
            openapi: Default::default(),
            health,
            metrics: metrics.clone(),
            server_address: SocketAddr::new(advertised, options.secure_port).to_string(),
            min_watch_timeout: Duration::from_secs(options.min_request_timeout),
            stop: stop.clone(),
        };
        let audit = audit(&options)?;
        let pipeline = Arc::new(Pipeline {
            audit,
            authentication,
            authorization,
            api: Arc::new(api),
            flows: Classifier::new(&*objects),
            reads: Turns::new(options.max_requests_inflight),
            writes: Turns::new(options.max_mutating_requests_inflight),
            metrics,
        });
        // Before anybody can ask for an address: a store may know of services that have one and of no object that says so.
        crate::services::repair::pass(&*objects, k8s_openapi::jiff::Timestamp::now()).await;
        let listener = Listener::bind(SocketAddr::new(options.bind_address, options.secure_port), tls, pipeline).await?;
        let address = listener.address()?;
        tracing::info!(%address, "serving");
        let serving = tokio::spawn(listener.serve(stop.clone()));
        let cluster = Cluster {
            service_range: options.service_cluster_ip_range.clone(),
            advertise_address: advertised,
            port: address.port(),
            client_ca: Some(read(&file(&options.client_ca_file, "ca.crt"))?),
            request_header: request_header_keys(&options, &cert_dir)?,
            api_services: aggregation::local::api_services(crate::discovery::groups(api::resources::all()).into_iter()),
            today: k8s_openapi::jiff::Timestamp::now().strftime("%Y-%m-%d").to_string(),
        };
        tokio::spawn(aggregation::availability::run(aggregator, registry.clone(), stop.clone()));
        if options.check_policy_types {
            tokio::spawn(admission::policy::type_checking::run(registry.clone(), stop.clone()));
        }
        tokio::spawn(crate::services::repair::run(registry.clone(), stop.clone()));
        tokio::spawn(crate::flow_control::run(registry.clone(), stop.clone()));
        if let Some(encrypted) = encrypted {
            tokio::spawn(renew(encrypted));
        }
        tokio::spawn(definitions.run(stop.clone()));
        tokio::spawn(bootstrap(registry.clone(), cluster, bootstrapped, stop.clone()));
        Ok(Running { address, cert_dir, registry, stop, serving, store })
    }
}

impl Running {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The authority that signed its certificate, as PEM.
    pub fn authority(&self) -> Result<String> {
        read(&self.cert_dir.join("ca.crt"))
    }

    /// Its registry, for those in the same process.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// Ends it: what is running finishes, what is written is on disk.
    pub async fn stop(self) -> Result<()> {
        self.stop.cancel();
        self.serving.await.context("the server's task failed")?;
        self.store.close().await.map_err(|e| anyhow!(e)).context("closing the store")
    }
}

/// Makes the objects that every cluster starts with, again and again until it succeeds: a store that is briefly away must not leave a
/// cluster without its roles.
async fn bootstrap(registry: Arc<Registry>, cluster: Cluster, done: Check, stop: CancellationToken) {
    const RETRY: Duration = Duration::from_secs(1);
    while let Err(error) = crate::bootstrap::run(&*registry, &cluster).await {
        tracing::warn!(%error, "the objects that a cluster starts with cannot all be made; trying again");
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(RETRY) => {}
        }
    }
    done.set(true);
    crate::bootstrap::keep_own_service(&registry, &cluster, &stop).await;
}

/// The audit log, where there is to be one.
fn audit(options: &Options) -> Result<Option<Audit>> {
    let (Some(policy), Some(path)) = (&options.audit_policy_file, &options.audit_log_path) else { return Ok(None) };
    let read = Policy::parse(&read(policy)?).map_err(|e| anyhow!("{}: {e}", policy.display()))?;
    let rotation = Rotation { size: options.audit_log_maxsize.saturating_mul(1024 * 1024), backups: options.audit_log_maxbackup };
    let log = Log::open(path, rotation).with_context(|| format!("cannot open {}", path.display()))?;
    Ok(Some(Audit::start(read, log)))
}

/// What encrypts in front of the store, where that is wanted.
fn encrypted(store: &Arc<dyn Store>, options: &Options, rows: &[Arc<api::Resource>]) -> Result<Option<Arc<Encrypted>>> {
    let Some(file) = &options.encryption_provider_config else { return Ok(None) };
    let rules = store::encryption::parse(&read(file)?, &options.etcd_prefix, rows);
    let rules = rules.with_context(|| format!("--encryption-provider-config {}", file.display()))?;
    Ok(Some(Arc::new(Encrypted::new(store.clone(), rules))))
}

/// Encrypts as it is wanted now what is not.
async fn renew(encrypted: Arc<Encrypted>) {
    match encrypted.renew().await {
        Ok(0) => {}
        Ok(count) => tracing::info!(count, "objects were encrypted anew"),
        Err(error) => {
            tracing::error!(%error, "what is not encrypted as it is to be cannot all be encrypted anew; the next start tries again")
        }
    }
}

async fn open_store(options: &Options) -> Result<Arc<dyn Store>> {
    if !options.etcd_servers.is_empty() {
        let given = |path: &Option<PathBuf>| path.as_deref().map(|p| read(p).map(String::into_bytes)).transpose();
        let etcd = store::etcd::Options {
            servers: options.etcd_servers.clone(),
            ca: given(&options.etcd_cafile)?,
            identity: given(&options.etcd_certfile)?.zip(given(&options.etcd_keyfile)?),
        };
        return store::etcd::connect(etcd).await.map_err(|e| anyhow!(e)).context("connecting to etcd");
    }
    let directory = options.data_dir.join("store");
    store::sled::open(&directory, store::embedded::Options::default()).map_err(|e| anyhow!(e)).context("opening the store")
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn issuer(options: &Options, cert_dir: &Path) -> Result<Issuer> {
    let signing = options.service_account_signing_key_file.clone().unwrap_or_else(|| cert_dir.join("sa.key"));
    let signing = SigningKey::from_pem(&read(&signing)?).map_err(|e| anyhow!("{}: {e}", signing.display()))?;
    let files = match options.service_account_key_file.as_slice() {
        [] => vec![cert_dir.join("sa.pub")],
        given => given.to_vec(),
    };
    let mut keys = Vec::new();
    for file in files {
        keys.extend(VerificationKey::all_from_pem(&read(&file)?).map_err(|e| anyhow!("{}: {e}", file.display()))?);
    }
    Ok(Issuer::new(options.service_account_issuer.clone(), options.api_audiences.clone(), Some(signing), keys))
}

/// What the server shows kubelets, and how it knows them.
fn kubelet_tls(options: &Options, cert_dir: &Path) -> Result<KubeletTls> {
    let file = |given: &Option<PathBuf>, name: &str| read(&given.clone().unwrap_or_else(|| cert_dir.join(name)));
    let certificate = file(&options.kubelet_client_certificate, "apiserver-kubelet-client.crt")?;
    let key = file(&options.kubelet_client_key, "apiserver-kubelet-client.key")?;
    let authority = options.kubelet_certificate_authority.as_deref().map(read).transpose()?;
    KubeletTls::new(certificate.as_bytes(), key.as_bytes(), authority.as_deref().map(str::as_bytes)).context("the kubelet client")
}

fn front_proxy_ca(options: &Options, cert_dir: &Path) -> PathBuf {
    options.requestheader_client_ca_file.clone().unwrap_or_else(|| cert_dir.join("front-proxy-ca.crt"))
}

/// What servers that delegate authentication to this one have to know of its front-proxy headers.
fn request_header_keys(options: &Options, cert_dir: &Path) -> Result<Vec<(&'static str, String)>> {
    let list = |names: &[String]| serde_json::Value::from(names).to_string();
    Ok(vec![
        ("requestheader-client-ca-file", read(&front_proxy_ca(options, cert_dir))?),
        ("requestheader-allowed-names", list(&options.requestheader_allowed_names)),
        ("requestheader-username-headers", list(&options.requestheader_username_headers)),
        ("requestheader-uid-headers", list(&options.requestheader_uid_headers)),
        ("requestheader-group-headers", list(&options.requestheader_group_headers)),
        ("requestheader-extra-headers-prefix", list(&options.requestheader_extra_headers_prefix)),
    ])
}

/// What others verify service account tokens with.
fn documents(issuer: Arc<Issuer>, advertised: IpAddr, port: u16) -> Vec<(&'static str, Document)> {
    let print = |value: &serde_json::Value| Bytes::from(value.to_string());
    let keys = format!("https://{}/openid/v1/jwks", SocketAddr::new(advertised, port));
    let (of_keys, of_discovery) = (issuer.clone(), issuer);
    vec![
        ("/.well-known/openid-configuration", Box::new(move || (200, "application/json", print(&of_discovery.discovery(&keys))))),
        ("/openid/v1/jwks", Box::new(move || (200, "application/jwk-set+json", print(&of_keys.key_set())))),
    ]
}

fn authentication(
    options: &Options,
    cert_dir: &Path,
    tokens: &str,
    issuer: Arc<Issuer>,
    objects: Arc<dyn Objects>,
    caller: &Arc<Caller>,
) -> Result<authentication::Chain> {
    use authentication::{
        bootstrap_token::BootstrapTokens,
        certificate::ClientCertificates,
        jwt::Jwt,
        request_header::{Headers, RequestHeader},
        service_account::ServiceAccountTokens,
        token_file::TokenFile,
    };
    let audiences = issuer.audiences().to_vec();
    let authorities = options.client_ca_file.clone().unwrap_or_else(|| cert_dir.join("ca.crt"));
    let certificates = ClientCertificates::new(read(&authorities)?.as_bytes()).map_err(|e| anyhow!(e))?;
    let mut text = match &options.token_auth_file {
        Some(file) => read(file)?,
        None => String::new(),
    };
    text.push('\n');
    text += tokens;
    let proxies = read(&front_proxy_ca(options, cert_dir))?;
    let request_header = RequestHeader {
        authority: ClientCertificates::new(proxies.as_bytes()).map_err(|e| anyhow!("--requestheader-client-ca-file: {e}"))?,
        allowed_names: options.requestheader_allowed_names.clone(),
        headers: Headers {
            username: options.requestheader_username_headers.clone(),
            uid: options.requestheader_uid_headers.clone(),
            group: options.requestheader_group_headers.clone(),
            extra_prefix: options.requestheader_extra_headers_prefix.clone(),
        },
    };
    let mut list: Vec<Box<dyn Authenticator>> = vec![
        Box::new(request_header),
        Box::new(certificates),
        Box::new(TokenFile::parse(&text, audiences.clone())?),
        Box::new(ServiceAccountTokens { issuer, objects: objects.clone() }),
        Box::new(BootstrapTokens { objects, audiences: audiences.clone() }),
    ];
    let (issuers, algorithms, anonymous) = outside_issuers(options)?;
    for configured in issuers {
        let url = configured.issuer.url.clone();
        let jwt = Jwt::new(configured, algorithms.clone(), audiences.clone(), caller.clone()).map_err(|e| anyhow!("issuer {url}: {e}"))?;
        list.push(Box::new(jwt));
    }
    Ok(authentication::Chain::new(list, audiences, anonymous))
}

/// The issuers outside the cluster whose tokens name users, which signatures are accepted of them, and whether requests without credentials are let in.
fn outside_issuers(options: &Options) -> Result<(Vec<JwtAuthenticator>, Vec<Algorithm>, bool)> {
    let Some(file) = &options.authentication_config else {
        let authority = options.oidc.oidc_ca_file.as_deref().map(read).transpose()?.unwrap_or_default();
        let issuers = options.oidc.authenticator(authority)?.into_iter().collect();
        return Ok((issuers, options.oidc.oidc_signing_algs.clone(), options.anonymous_auth));
    };
    let configuration =
        AuthenticationConfiguration::parse(&read(file)?).with_context(|| format!("--authentication-config {}", file.display()))?;
    let anonymous = configuration.anonymous.map_or(options.anonymous_auth, |anonymous| anonymous.enabled);
    Ok((configuration.jwt, ALGORITHMS.to_vec(), anonymous))
}

/// The address that others use: the one listened on, or, for all of them, the one this machine would reach others from.
fn advertised(bind: IpAddr) -> IpAddr {
    if !bind.is_unspecified() {
        return bind;
    }
    // Connecting a datagram socket sends nothing; it only makes the kernel choose a source address.
    let chosen = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| {
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
        socket.local_addr()
    });
    chosen.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |address| address.ip())
}

#[cfg(test)]
mod custom_tests;
#[cfg(test)]
pub(crate) mod tests;
