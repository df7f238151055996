//! Images: whether one has to be pulled, pulling it, and what is said about that (upstream: `pkg/kubelet/images/image_manager.go`).

pub mod access;

use crate::{node::Node, pod::backoff::Backoff, recorder::About, runtime::Runtime};
use access::{Records, SecretUse, Verification};
use jiff::Timestamp;
use k8s_cri::v1::{AuthConfig, Image, PodSandboxConfig};
use k8s_openapi::api::core::v1::{Pod, Secret};
use parking_lot::Mutex;
use serde::Deserialize;
use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};
use tokio::sync::{Semaphore, watch};

/// Why a container cannot be started: the waiting state's reason and message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotStarted {
    /// `ErrImagePull` and the like.
    pub reason: &'static str,
    /// What went wrong.
    pub message: String,
}

impl NotStarted {
    /// The pair.
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        NotStarted { reason, message: message.into() }
    }
}

/// What is shared between the pods of a node about images.
pub struct Images {
    /// One pull at a time, as upstream does by default (`serializeImagePulls`).
    pulls: Semaphore,
    backoff: Mutex<Backoff>,
    failures: Mutex<HashMap<String, (Timestamp, String)>>,
    /// Counts up whenever an image came or went.
    changes: watch::Sender<u64>,
    records: Records,
    verification: Verification,
}

impl Images {
    /// An image came or went.
    pub fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// Tells of images that come and go.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// `parallel` pulls at most.
    pub fn new(parallel: usize) -> Self {
        Images {
            pulls: Semaphore::new(parallel.max(1)),
            backoff: Mutex::default(),
            failures: Mutex::default(),
            changes: Default::default(),
            records: Records::default(),
            verification: Verification::default(),
        }
    }

    /// The same, remembering below the kubelet's root directory what images were pulled with.
    pub fn with_records(parallel: usize, root: &std::path::Path, verification: Verification) -> Self {
        Images { records: Records::new(root), verification, ..Images::new(parallel) }
    }
}

/// Adds `latest` where a reference has neither tag nor digest. The error is the reference grammar's.
pub fn with_default_tag(image: &str) -> Result<String, String> {
    let fail = |why: String| Err(format!("Failed to apply default image tag {image:?}: couldn't parse image name {image:?}: {why}"));
    let (rest, digest) = match image.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (image, None),
    };
    let slash = rest.rfind('/').map_or(0, |at| at + 1);
    let (name, tag) = match rest[slash..].find(':') {
        Some(at) => (&rest[..slash + at], Some(&rest[slash + at + 1..])),
        None => (rest, None),
    };
    let (domain, path) = match name.split_once('/') {
        Some((first, path)) if first.contains(['.', ':']) || first == "localhost" => (first, path.to_owned()),
        Some(_) => ("docker.io", name.to_owned()),
        None => ("docker.io", format!("library/{name}")),
    };
    if path.to_lowercase() != path {
        return fail(format!("invalid reference format: repository name ({path}) must be lowercase"));
    }
    let component = |part: &str| {
        let bytes = part.as_bytes();
        let alphanumeric = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
        alphanumeric(bytes.first()) && alphanumeric(bytes.last()) && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(b))
    };
    let domain_ok = domain.bytes().all(|b| b.is_ascii_alphanumeric() || b".-:[]".contains(&b));
    let tag_ok = tag.is_none_or(|t| !t.is_empty() && t.len() <= 128 && t.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)));
    let digest_ok = digest.is_none_or(|d| d.split_once(':').is_some_and(|(kind, hex)| !kind.is_empty() && hex.len() >= 32));
    if name.is_empty() || !path.split('/').all(component) || !domain_ok || !tag_ok || !digest_ok {
        return fail("invalid reference format".into());
    }
    Ok(if tag.is_none() && digest.is_none() { format!("{image}:latest") } else { image.to_owned() })
}

/// The policy in force: what the container says, or by the tag.
fn policy<'a>(image: &str, given: Option<&'a str>) -> &'a str {
    match given {
        Some(policy) if !policy.is_empty() => policy,
        _ if image.ends_with(":latest") => "Always",
        _ => "IfNotPresent",
    }
}

/// What an image is wanted for.
pub struct Wanted<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The image as the container names it.
    pub image: &'a str,
    /// The container's `imagePullPolicy`.
    pub policy: Option<&'a str>,
    /// What events are about.
    pub about: About,
    /// The pod's sandbox, which some runtimes pull for.
    pub sandbox: &'a PodSandboxConfig,
}

/// Makes sure that the image is there by the container's policy, pulling it where that is due.
pub async fn ensure(node: &Node, wanted: &Wanted<'_>) -> Result<Image, NotStarted> {
    let name = wanted.image;
    let events = &node.events;
    let tagged = with_default_tag(name).map_err(|error| {
        events.warning(&wanted.about, "InspectFailed", error.clone());
        NotStarted::new("InvalidImageName", error)
    })?;
    let present = node.runtime.image_status(&tagged).await.map_err(|error| {
        let message = format!("Failed to inspect image {name:?}: {error}");
        events.warning(&wanted.about, "InspectFailed", message.clone());
        NotStarted::new("ImageInspectError", message)
    })?;
    let policy = policy(&tagged, wanted.policy);
    if let Some(image) = present.as_ref().filter(|_| policy != "Always")
        && !may_use(node, wanted.pod, &tagged, &image.id).await
    {
        if policy == "Never" {
            let message = format!(
                "Container image {name:?} is present with pull policy of Never but does not have the proper credentials to access the image"
            );
            events.warning(&wanted.about, "ErrImageNeverPull", message.clone());
            return Err(NotStarted::new("ErrImageNeverPull", message));
        }
        return pull(node, wanted, &tagged).await;
    }
    match (policy, present) {
        ("IfNotPresent" | "Never", Some(image)) => {
            events.normal(
                &wanted.about,
                "Pulled",
                format!("Container image {name:?} already present on machine and can be accessed by the pod"),
            );
            Ok(image)
        }
        ("Never", None) => {
            let message = format!("Container image {name:?} is not present with pull policy of Never");
            events.warning(&wanted.about, "ErrImageNeverPull", message.clone());
            Err(NotStarted::new("ErrImageNeverPull", message))
        }
        _ => pull(node, wanted, &tagged).await,
    }
}

/// Whether the pod may use an image that is there: it has the credentials that the image was pulled with, or needs none.
async fn may_use(node: &Node, pod: &Pod, tagged: &str, id: &str) -> bool {
    let record = node.images.records.of(id);
    if !node.images.verification.verifies(tagged, record.is_none()) {
        return true;
    }
    let own: Vec<SecretUse> = credentials(node, pod, tagged).await.into_iter().map(|(secret, _)| secret).collect();
    record.is_some_and(|record| record.allows(tagged, &own))
}

async fn pull(node: &Node, wanted: &Wanted<'_>, tagged: &str) -> Result<Image, NotStarted> {
    let (name, events, images) = (wanted.image, &node.events, &node.images);
    let key = format!("{}_{tagged}", crate::container::identity::uid(wanted.pod));
    let failure = images.failures.lock().get(&key).cloned();
    if let Some((at, error)) = failure
        && images.backoff.lock().remaining(&key, at, node.clock.now()).is_some()
    {
        let message = format!("Back-off pulling image {name:?}");
        events.normal(&wanted.about, "BackOff", message.clone());
        return Err(NotStarted::new("ImagePullBackOff", format!("{message}: ErrImagePull: {error}")));
    }
    events.normal(&wanted.about, "Pulling", format!("Pulling image {name:?}"));
    let credentials = credentials(node, wanted.pod, tagged).await;
    let asked = tokio::time::Instant::now();
    let permit = images.pulls.acquire().await;
    let began = tokio::time::Instant::now();
    let pulled = pull_with_any(node.runtime.as_ref(), tagged, credentials, wanted.sandbox).await;
    drop(permit);
    let (fetched, secret) = match pulled {
        Ok((reference, secret)) => (node.runtime.image_status(&reference).await, secret),
        Err(error) => (Err(error), None),
    };
    match fetched {
        Ok(Some(image)) => {
            if let Err(error) = images.records.pulled(&image.id, tagged, secret.as_ref()) {
                tracing::warn!(image = name, %error, "what the image was pulled with could not be noted");
            }
            images.failures.lock().remove(&key);
            images.changed();
            let (took, waited) = (shown(began.elapsed()), shown(asked.elapsed()));
            let size = image.size;
            events.normal(
                &wanted.about,
                "Pulled",
                format!("Successfully pulled image {name:?} in {took} ({waited} including waiting). Image size: {size} bytes."),
            );
            Ok(image)
        }
        Ok(None) => Err(NotStarted::new("ErrImagePull", format!("image {name:?} is gone after it was pulled"))),
        Err(error) => {
            events.warning(&wanted.about, "Failed", format!("Failed to pull image {name:?}: {error}"));
            let now = node.clock.now();
            let text = error.to_string();
            images.backoff.lock().next(&key, now, now);
            images.failures.lock().insert(key, (now, text.clone()));
            Err(NotStarted::new("ErrImagePull", text))
        }
    }
}

impl Images {
    /// Forgets what a pod failed to pull.
    pub fn release(&self, uid: &str) {
        self.failures.lock().retain(|key, _| !key.starts_with(uid));
    }
}

/// Tries the credentials one after the other, or none. Answers with the image's reference and the secret that opened the door.
async fn pull_with_any(
    runtime: &dyn Runtime,
    image: &str,
    credentials: Vec<(SecretUse, AuthConfig)>,
    sandbox: &PodSandboxConfig,
) -> crate::runtime::Result<(String, Option<SecretUse>)> {
    let mut last = None;
    for (secret, auth) in credentials {
        match runtime.pull_image(image, Some(auth), sandbox.clone()).await {
            Ok(reference) => return Ok((reference, Some(secret))),
            Err(error) => last = Some(error),
        }
    }
    match last {
        Some(error) => Err(error),
        None => Ok((runtime.pull_image(image, None, sandbox.clone()).await?, None)),
    }
}

/// A duration as Go prints it, to milliseconds.
fn shown(duration: Duration) -> String {
    let millis = duration.as_millis();
    if millis < 1000 { format!("{millis}ms") } else { format!("{}.{:03}s", millis / 1000, millis % 1000).replace(".000s", "s") }
}

/// `~/.docker/config.json`, in a secret.
#[derive(Deserialize)]
struct DockerConfig {
    auths: BTreeMap<String, DockerAuth>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct DockerAuth {
    username: String,
    password: String,
    auth: String,
    identitytoken: String,
    registrytoken: String,
}

async fn credentials(node: &Node, pod: &Pod, image: &str) -> Vec<(SecretUse, AuthConfig)> {
    let mut out = Vec::new();
    let spec = pod.spec.as_ref();
    for reference in spec.into_iter().flat_map(|s| s.image_pull_secrets.iter().flatten()) {
        match node.lookup.secret(pod, &reference.name).await {
            Ok(secret) => out.extend(matching(&secret, image).into_iter().map(|auth| (SecretUse::new(&secret, &auth), auth))),
            Err(_) => {
                let message = format!(
                    "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                    reference.name
                );
                node.events.warning(&About::pod(pod), "FailedToRetrieveImagePullSecret", message);
            }
        }
    }
    out
}

/// The entries of a pull secret that are for the image's registry.
fn matching(secret: &Secret, image: &str) -> Vec<AuthConfig> {
    let data = |key: &str| secret.data.as_ref().and_then(|d| d.get(key)).map(|b| b.0.as_slice());
    let auths = if let Some(bytes) = data(".dockerconfigjson") {
        serde_json::from_slice::<DockerConfig>(bytes).map(|c| c.auths)
    } else if let Some(bytes) = data(".dockercfg") {
        serde_json::from_slice(bytes)
    } else {
        return Vec::new();
    };
    // A secret that cannot be read grants nothing; that is told to nobody but by the pull that fails.
    let auths: BTreeMap<String, DockerAuth> = auths.unwrap_or_default();
    let full = full_name(image);
    let mut found: Vec<(String, AuthConfig)> = auths
        .into_iter()
        .map(|(server, auth)| (registry_prefix(&server), auth))
        .filter(|(prefix, _)| is_for(&full, prefix))
        .map(|(p, a)| (p, auth_config(a)))
        .collect();
    // The most specific entry is tried first.
    found.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
    found.into_iter().map(|(_, auth)| auth).collect()
}

fn full_name(image: &str) -> String {
    match image.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => image.to_owned(),
        Some(_) => format!("docker.io/{image}"),
        None => format!("docker.io/library/{image}"),
    }
}

fn registry_prefix(server: &str) -> String {
    let bare = server.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    match bare {
        "index.docker.io/v1" | "index.docker.io" => "docker.io".to_owned(),
        other => other.trim_end_matches("/v1").trim_end_matches("/v2").to_owned(),
    }
}

fn is_for(image: &str, prefix: &str) -> bool {
    image.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/') || rest.starts_with(':'))
}

fn auth_config(auth: DockerAuth) -> AuthConfig {
    use base64::Engine;
    let mut config = AuthConfig {
        username: auth.username,
        password: auth.password,
        identity_token: auth.identitytoken,
        registry_token: auth.registrytoken,
        ..Default::default()
    };
    let decoded = base64::engine::general_purpose::STANDARD.decode(auth.auth.trim()).ok().and_then(|b| String::from_utf8(b).ok());
    if let Some((user, password)) = decoded.as_deref().and_then(|d| d.split_once(':')) {
        config.username = user.to_owned();
        config.password = password.trim_end_matches('\0').to_owned();
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;

    #[test]
    fn references_get_a_tag_or_an_error() {
        for (given, want) in [
            ("nginx", Ok("nginx:latest")),
            ("nginx:1.14", Ok("nginx:1.14")),
            ("localhost:5000/a", Ok("localhost:5000/a:latest")),
            ("localhost:1/nosuch:1", Ok("localhost:1/nosuch:1")),
            (
                "a/b@sha256:0123456789012345678901234567890123456789012345678901234567890123",
                Ok("a/b@sha256:0123456789012345678901234567890123456789012345678901234567890123"),
            ),
            ("Bad Image", Err("invalid reference format: repository name (library/Bad Image) must be lowercase")),
            ("bad image", Err("invalid reference format")),
            ("a:", Err("invalid reference format")),
        ] {
            match (with_default_tag(given), want) {
                (Ok(got), Ok(want)) => assert_eq!(got, want),
                (Err(got), Err(want)) => {
                    assert_eq!(got, format!("Failed to apply default image tag {given:?}: couldn't parse image name {given:?}: {want}"));
                }
                (got, want) => panic!("{given}: {got:?}, wanted {want:?}"),
            }
        }
    }

    #[test]
    fn a_pull_secret_is_for_its_registry_only() {
        let json = r#"{"auths": {"https://index.docker.io/v1/": {"auth": "dTpw"}, "example.com/team": {"username": "a", "password": "b"}, "example.com": {"username": "c"}}}"#;
        let data = BTreeMap::from([(".dockerconfigjson".to_owned(), ByteString(json.as_bytes().to_vec()))]);
        let secret = Secret { data: Some(data), ..Default::default() };
        let users = |image| matching(&secret, image).into_iter().map(|a| a.username).collect::<Vec<_>>();
        assert_eq!(users("nginx:1"), ["u"]);
        assert_eq!(users("example.com/team/x:1"), ["a", "c"]);
        assert!(users("example.org/x").is_empty());
        assert!(users("example.community/x").is_empty());
    }
}
