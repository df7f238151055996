//! Talking to the server: raw requests with JSON bodies, over the connection (TLS, credentials, proxies) that kube-rs makes from the
//! kubeconfig. Nothing here knows a kind.

use crate::cli::Args;
use crate::error::{Error, Result, message};
use crate::kubeconfig::{CLUSTERS, CONTEXTS, Kubeconfig, USERS};
use futures::AsyncBufReadExt;
use http::{Method, Request};
use http_body_util::BodyExt;
use hyper::upgrade::Upgraded;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::client::Body;
use serde_json::{Map, Value, json};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

/// Largest answer read into memory: the API server itself sends no more in one list page, and a log comes as a stream.
const MAX_ANSWER: usize = 1 << 30;

/// A refusal is a Status of a few kilobytes; anything longer is no Status.
const MAX_REFUSAL: usize = 8 << 20;

/// Flags that replace fields of the cluster entry.
const CLUSTER_FLAGS: [(&str, &str); 5] = [
    ("server", "server"),
    ("certificate-authority", "certificate-authority"),
    ("insecure-skip-tls-verify", "insecure-skip-tls-verify"),
    ("tls-server-name", "tls-server-name"),
    ("disable-compression", "disable-compression"),
];
/// Flags that replace fields of the user entry.
const USER_FLAGS: [(&str, &str); 8] = [
    ("client-certificate", "client-certificate"),
    ("client-key", "client-key"),
    ("token", "token"),
    ("username", "username"),
    ("password", "password"),
    ("as", "as"),
    ("as-uid", "as-uid"),
    ("as-group", "as-groups"),
];

/// A body that replaces or changes an object, and its media type.
pub const JSON: &str = "application/json";
/// RFC 7386.
pub const MERGE_PATCH: &str = "application/merge-patch+json";
/// RFC 6902.
pub const JSON_PATCH: &str = "application/json-patch+json";
/// Kubernetes' own, for built-in kinds.
pub const STRATEGIC_MERGE_PATCH: &str = "application/strategic-merge-patch+json";
/// Server-side apply.
pub const APPLY_PATCH: &str = "application/apply-patch+yaml";
/// What asks a list to come as a table.
pub const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";

/// One server, one identity.
pub struct Connection {
    client: kube::Client,
    runtime: Rc<tokio::runtime::Runtime>,
    /// Host and port, as messages name the server.
    pub host: String,
    /// The server's address as the kubeconfig has it.
    pub server: String,
    timeout: Option<Duration>,
    warnings: RefCell<Vec<String>>,
}

/// A path with its query under construction.
#[derive(Clone, Debug)]
pub struct Url(String);

impl Url {
    /// A path without query.
    pub fn new(path: impl Into<String>) -> Url {
        Url(path.into())
    }
    /// With a query parameter, unless the value is empty.
    pub fn query(self, key: &str, value: impl AsRef<str>) -> Url {
        if value.as_ref().is_empty() { self } else { self.query_even_empty(key, value) }
    }
    /// With a query parameter, which may be empty.
    pub fn query_even_empty(mut self, key: &str, value: impl AsRef<str>) -> Url {
        let sign = if self.0.contains('?') { '&' } else { '?' };
        self.0.push(sign);
        self.0.push_str(key);
        self.0.push('=');
        value.as_ref().bytes().for_each(|b| match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => self.0.push(char::from(b)),
            other => self.0.push_str(&format!("%{other:02X}")),
        });
        self
    }
    /// The text for a request line.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Connection {
    /// Opens nothing yet; resolves who and where from the kubeconfig and the flags over it.
    pub fn open(config: &Kubeconfig, flags: &Args, runtime: Rc<tokio::runtime::Runtime>) -> Result<Connection> {
        let effective = effective(config, flags)?;
        let server = effective["clusters"][0]["cluster"]["server"].as_str().unwrap_or("").to_owned();
        let impersonation = effective["users"][0]["user"].clone();
        let file: kube::config::Kubeconfig =
            serde_json::from_value(effective).map_err(|e| message(format!("invalid configuration: {e}")))?;
        let options = kube::config::KubeConfigOptions::default();
        let _guard = runtime.enter();
        let mut settings = runtime.block_on(kube::Config::from_custom_kubeconfig(file, &options)).map_err(|e| message(go_words(&e)))?;
        // Watches and logs are quiet for as long as nothing happens.
        settings.read_timeout = None;
        // A refusal is told at once: the library would try again for minutes.
        settings.default_retry = false;
        for (header, field) in [("impersonate-uid", "as-uid")] {
            if let Some(v) = impersonation[field].as_str() {
                let value = v.parse().map_err(|_| message(format!("invalid value for --{field}")))?;
                settings.headers.push((http::HeaderName::from_static(header), value));
            }
        }
        let uri = settings.cluster_url.clone();
        let host = uri.authority().map_or_else(String::new, ToString::to_string);
        let client = kube::Client::try_from(settings).map_err(|e| message(go_words(&e)))?;
        let timeout = match flags.str("request-timeout") {
            "" | "0" => None,
            seconds if seconds.chars().all(|c| c.is_ascii_digit()) => seconds.parse().ok().map(Duration::from_secs),
            text => Some(crate::duration::parse(text).map_err(|_| {
                message("Invalid timeout value. Timeout must be a single integer in seconds, or an integer followed by a corresponding time unit (e.g. 1s | 2m | 3h)")
            })?),
        };
        Ok(Connection { client, runtime, host, server, timeout, warnings: RefCell::new(Vec::new()) })
    }

    /// The client, for streams.
    pub fn client(&self) -> &kube::Client {
        &self.client
    }

    /// Waits for a future on the command's one thread.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    /// What the server warned of since the last call, each once.
    pub fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut self.warnings.borrow_mut())
    }

    /// GET of one JSON document.
    pub fn get(&self, url: &Url) -> Result<Value> {
        self.get_as(url, JSON)
    }

    /// GET with a given `Accept`.
    pub fn get_as(&self, url: &Url, accept: &str) -> Result<Value> {
        parse(&self.bytes(Method::GET, url, accept, None)?)
    }

    /// GET of whatever it is.
    pub fn get_bytes(&self, url: &Url) -> Result<Vec<u8>> {
        self.bytes(Method::GET, url, "application/json, */*", None)
    }

    /// A request with a JSON body of the given media type, answered by a JSON document.
    pub fn send(&self, method: Method, url: &Url, media_type: &str, body: &Value) -> Result<Value> {
        parse(&self.bytes(method, url, JSON, Some((media_type, body.to_string().into_bytes())))?)
    }

    /// A request whose body is sent as it is, whatever it is.
    pub fn send_text(&self, method: Method, url: &Url, media_type: &str, body: &str) -> Result<Value> {
        parse(&self.bytes(method, url, JSON, Some((media_type, body.as_bytes().to_vec())))?)
    }

    /// POST.
    pub fn post(&self, url: &Url, body: &Value) -> Result<Value> {
        self.send(Method::POST, url, JSON, body)
    }

    /// PUT.
    pub fn put(&self, url: &Url, body: &Value) -> Result<Value> {
        self.send(Method::PUT, url, JSON, body)
    }

    /// PATCH.
    pub fn patch(&self, url: &Url, media_type: &str, body: &Value) -> Result<Value> {
        self.send(Method::PATCH, url, media_type, body)
    }

    /// DELETE, with options.
    pub fn delete(&self, url: &Url, options: &Value) -> Result<Value> {
        self.send(Method::DELETE, url, JSON, options)
    }

    /// Any request with any body.
    pub fn bytes(&self, method: Method, url: &Url, accept: &str, body: Option<(&str, Vec<u8>)>) -> Result<Vec<u8>> {
        let request = self.request(method, url, accept, body)?;
        self.block_on(async {
            let response = self.answer(request).await?;
            let body = http_body_util::Limited::new(response.into_body(), MAX_ANSWER);
            let bytes = body.collect().await.map_err(|e| message(format!("unexpected error when reading response body: {e}")))?;
            Ok(bytes.to_bytes().to_vec())
        })
    }

    /// A stream of lines or bytes: a watch, a log.
    pub async fn stream(&self, url: &Url, accept: &str) -> Result<impl futures::AsyncBufRead + Unpin + use<>> {
        use futures::{StreamExt, TryStreamExt};
        let request = self.request(Method::GET, url, accept, None)?;
        let response = self.answer(request).await?;
        // --request-timeout ends a watch or a log, too.
        let limit = self.timeout;
        let expired = async move {
            match limit {
                Some(limit) => tokio::time::sleep(limit).await,
                None => std::future::pending().await,
            }
        };
        let stream = response.into_body().into_data_stream().map_err(std::io::Error::other).take_until(Box::pin(expired));
        Ok(Box::pin(stream).into_async_read())
    }

    /// The next JSON document of a stream, or nothing at its end.
    pub async fn next_line(stream: &mut (impl futures::AsyncBufRead + Unpin)) -> Result<Option<Value>> {
        let mut line = Vec::new();
        match stream.read_until(b'\n', &mut line).await {
            Ok(0) => Ok(None),
            Ok(_) => parse(&line).map(Some),
            Err(e) => Err(message(format!(
                "an error on the server (\"unable to decode an event from the watch stream: {e}\") has prevented the request from succeeding"
            ))),
        }
    }

    fn request(&self, method: Method, url: &Url, accept: &str, body: Option<(&str, Vec<u8>)>) -> Result<Request<Body>> {
        let mut request = Request::builder().method(method).uri(url.as_str()).header("accept", accept).header("user-agent", USER_AGENT);
        if let Some((media_type, _)) = &body {
            request = request.header("content-type", *media_type);
        }
        let body = body.map_or_else(Body::empty, |(_, bytes)| Body::from(bytes));
        request.body(body).map_err(|e| message(format!("invalid request: {e}")))
    }

    /// Sends, collects warnings, and turns a refusal into an error.
    async fn answer(&self, request: Request<Body>) -> Result<http::Response<Body>> {
        let (verb, path) = (request.method().clone(), request.uri().to_string());
        let sent = self.client.send(request);
        let response = match self.timeout {
            Some(t) => tokio::time::timeout(t, sent).await.map_err(|_| Error::Unreachable {
                text: "Unable to connect to the server: net/http: request canceled (Client.Timeout exceeded while awaiting headers)\n"
                    .into(),
            })?,
            None => sent.await,
        };
        let response = response.map_err(|e| unreachable(&e, &self.host))?;
        for header in response.headers().get_all("warning") {
            if let Some(text) = header.to_str().ok().and_then(warning_text) {
                let mut warnings = self.warnings.borrow_mut();
                if !warnings.contains(&text) {
                    warnings.push(text);
                }
            }
        }
        let code = response.status();
        if code.is_success() {
            return Ok(response);
        }
        let body = http_body_util::Limited::new(response.into_body(), MAX_REFUSAL).collect().await;
        let body = body.map(|b| b.to_bytes()).unwrap_or_default();
        Err(refusal(code.as_u16(), &body, &verb, &path))
    }

    /// Has the server change to another protocol, as `headers` ask for it. Answers with the headers it agreed with and the bytes behind them.
    pub async fn upgrade(&self, method: Method, url: &Url, headers: &[(&str, &str)]) -> Result<(http::HeaderMap, Upgraded)> {
        let mut request = self.request(method, url, "*/*", None)?;
        request.headers_mut().insert(http::header::CONNECTION, http::HeaderValue::from_static("Upgrade"));
        for (name, value) in headers {
            let parsed = http::HeaderName::try_from(*name).ok().zip(http::HeaderValue::from_str(value).ok());
            let (name, value) = parsed.ok_or_else(|| message(format!("invalid header {name}: {value}")))?;
            request.headers_mut().insert(name, value);
        }
        let (verb, path) = (request.method().clone(), request.uri().to_string());
        let response = self.client.send(request).await.map_err(|e| unreachable(&e, &self.host))?;
        let code = response.status();
        if code != http::StatusCode::SWITCHING_PROTOCOLS {
            let body = http_body_util::Limited::new(response.into_body(), MAX_REFUSAL).collect().await;
            return Err(refusal(code.as_u16(), &body.map(|b| b.to_bytes()).unwrap_or_default(), &verb, &path));
        }
        let answered = response.headers().clone();
        let upgraded = hyper::upgrade::on(response).await.map_err(|e| message(format!("unable to upgrade connection: {e}")))?;
        Ok((answered, upgraded))
    }

    /// The error of a failed WebSocket upgrade.
    pub fn upgrade_error(&self, error: kube::Error) -> Error {
        match error {
            kube::Error::Api(status) => {
                let value = serde_json::to_value(&*status).unwrap_or_default();
                match serde_json::from_value::<Status>(value) {
                    Ok(status) => Error::Status(Box::new(status)),
                    Err(_) => message(status.message.clone()),
                }
            }
            other => unreachable(&other, &self.host),
        }
    }
}

/// How kubectl names itself to the server.
pub const USER_AGENT: &str = concat!("kubectl/v1.36.0 (linux/amd64) skiff/", env!("CARGO_PKG_VERSION"));

fn parse(bytes: &[u8]) -> Result<Value> {
    serde_json::from_slice(bytes).map_err(|e| message(format!("couldn't decode the server's answer: {e}")))
}

/// Why a server could not be reached, in upstream's words.
pub fn unreachable(error: &(dyn std::error::Error + 'static), host: &str) -> Error {
    let words = go_words(error);
    let text = if words.contains("Connection refused") {
        format!("The connection to the server {host} was refused - did you specify the right host or port?")
    } else if words.contains("UnknownIssuer") {
        "Unable to connect to the server: tls: failed to verify certificate: x509: certificate signed by unknown authority".to_owned()
    } else if words.contains("Expired") && words.contains("certificate") {
        "Unable to connect to the server: tls: failed to verify certificate: x509: certificate has expired or is not yet valid".to_owned()
    } else if words.contains("NotValidForName") {
        "Unable to connect to the server: tls: failed to verify certificate: x509: certificate is not valid for that name".to_owned()
    } else if words.contains("InvalidContentType") {
        "Unable to connect to the server: tls: first record does not look like a TLS handshake".to_owned()
    } else {
        format!("Unable to connect to the server: {words}")
    };
    Error::Unreachable { text }
}

/// The innermost cause, which is the one that says something.
fn go_words(error: &(dyn std::error::Error + 'static)) -> String {
    let (mut at, mut text) = (error, error.to_string());
    while let Some(source) = at.source() {
        at = source;
        text = source.to_string();
    }
    text
}

/// The text of a `Warning` header: code, agent, quoted text.
fn warning_text(header: &str) -> Option<String> {
    let quoted = header.strip_prefix("299 ")?.split_once(' ')?.1.strip_prefix('"')?;
    let mut out = String::new();
    let mut chars = quoted.chars();
    loop {
        match chars.next()? {
            '\\' => out.extend(chars.next()),
            '"' => return Some(out),
            c => out.push(c),
        }
    }
}

/// A refusal's Status; made up as client-go makes it up when the body is none.
fn refusal(code: u16, body: &[u8], verb: &Method, path: &str) -> Error {
    if let Ok(value) = serde_json::from_slice::<Value>(body)
        && value["kind"] == "Status"
        && let Ok(status) = serde_json::from_value::<Status>(value)
    {
        return Error::Status(Box::new(status));
    }
    let _ = (verb, path);
    let body = String::from_utf8_lossy(body).trim().to_owned();
    let (reason, text) = match code {
        400 => ("BadRequest", "the server rejected our request for an unknown reason".to_owned()),
        401 => ("Unauthorized", "the server has asked for the client to provide credentials".to_owned()),
        403 => ("Forbidden", if body.is_empty() { "the server does not allow access to the requested resource".to_owned() } else { body }),
        404 => ("NotFound", "the server could not find the requested resource".to_owned()),
        405 => ("MethodNotAllowed", "the server does not allow this method on the requested resource".to_owned()),
        406 => ("NotAcceptable", "the server was unable to respond with a content type that the client supports".to_owned()),
        409 => ("Conflict", "the server reported a conflict".to_owned()),
        413 => ("RequestEntityTooLarge", "Request entity too large: limit is 3145728".to_owned()),
        415 => ("UnsupportedMediaType", "the body of the request was in an unknown format".to_owned()),
        429 => ("TooManyRequests", "the server has received too many requests and has asked us to try again later".to_owned()),
        500 => ("InternalError", format!("an error on the server ({body:?}) has prevented the request from succeeding")),
        503 => ("ServiceUnavailable", "the server is currently unable to handle the request".to_owned()),
        504 => (
            "Timeout",
            "the server was unable to return a response in the time allotted, but may still be processing the request".to_owned(),
        ),
        _ => ("", format!("the server responded with the status code {code} but did not return more information")),
    };
    Error::Status(Box::new(Status {
        code: Some(i32::from(code)),
        message: Some(text),
        reason: (!reason.is_empty()).then(|| reason.to_owned()),
        status: Some("Failure".into()),
        ..Default::default()
    }))
}

/// The one cluster, user and context this command line means, as a kubeconfig of their own.
fn effective(config: &Kubeconfig, flags: &Args) -> Result<Value> {
    let context_name = flags.text("context").unwrap_or(config.current_context());
    let context = config.entry(CONTEXTS, context_name).cloned();
    if context.is_none() && (flags.text("context").is_some() || !context_name.is_empty()) {
        return Err(message(format!("context {context_name:?} does not exist")));
    }
    let context = context.unwrap_or_else(|| json!({}));
    let named = |flag: &str, field: &str| flags.global(flag).or(context[field].as_str()).unwrap_or("").to_owned();
    let (cluster_name, user_name) = (named("cluster", "cluster"), named("user", "user"));
    let find = |list, what: &str, name: &str| match config.entry(list, name) {
        Some(Value::Object(map)) => Ok(map.clone()),
        _ if name.is_empty() => Ok(Map::new()),
        _ => Err(message(format!("{what} {name:?} does not exist"))),
    };
    let (mut cluster, mut user) = (find(CLUSTERS, "cluster", &cluster_name)?, find(USERS, "auth info", &user_name)?);
    for (target, table) in [(&mut cluster, &CLUSTER_FLAGS[..]), (&mut user, &USER_FLAGS[..])] {
        for (flag, field) in table.iter().filter(|(flag, _)| flags.changed(flag)) {
            let value = match *flag {
                "as-group" => json!(flags.list(flag)),
                "insecure-skip-tls-verify" | "disable-compression" => json!(flags.bool(flag)),
                _ => json!(flags.str(flag)),
            };
            target.insert((*field).to_owned(), value);
            target.remove(&format!("{field}-data"));
        }
    }
    if flags.changed("insecure-skip-tls-verify") && flags.bool("insecure-skip-tls-verify") {
        cluster.remove("certificate-authority");
        cluster.remove("certificate-authority-data");
    }
    if flags.changed("token") {
        user.remove("tokenFile");
    }
    let server = cluster.entry("server").or_insert(json!(""));
    if server == "" {
        *server = json!("http://localhost:8080");
    }
    if let Some(text) = server.as_str().filter(|s| !s.contains("://")) {
        *server = json!(format!("http://{text}"));
    }
    Ok(json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "c", "user": user}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_escaped() {
        let url = Url::new("/x").query("labelSelector", "a in (b,c)").query("limit", "").query("watch", "true");
        assert_eq!(url.as_str(), "/x?labelSelector=a%20in%20%28b%2Cc%29&watch=true");
    }

    #[test]
    fn warnings_are_unquoted() {
        assert_eq!(warning_text("299 - \"unknown field \\\"a\\\"\""), Some("unknown field \"a\"".to_owned()));
        assert_eq!(warning_text("199 - \"x\""), None);
    }

    #[test]
    fn a_refusal_without_status_gets_upstreams_words() {
        assert_eq!(
            refusal(404, b"404 page not found", &Method::GET, "/x").text(),
            "Error from server (NotFound): the server could not find the requested resource\n"
        );
    }
}
