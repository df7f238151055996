//! One probe's asking: a command, a request, a connection, a health call. Each answers whether the container is well and, if not, in the
//! words of upstream's `Unhealthy` events (`pkg/probe`).

use super::grpc;
use crate::runtime::{Runtime, RuntimeError};
use k8s_openapi::{
    api::core::v1::{Container, HTTPGetAction, Probe},
    apimachinery::pkg::util::intstr::IntOrString,
};
use std::{sync::OnceLock, time::Duration};

/// What one asking found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It is well.
    Success,
    /// It is well, but for something that somebody should look at.
    Warning(String),
    /// It is not, and this is why.
    Failure(String),
    /// It could not be asked: this says nothing of the container.
    Unknown(String),
}

/// How much of an answer's body is read (upstream: 10 KiB).
const MAX_BODY: usize = 10 * 1024;

/// A port by number or by the name it has in the container.
pub fn port(wanted: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match wanted {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|p| p.name.as_deref() == Some(name)).map(|p| p.container_port);
            named.or_else(|| name.parse().ok())
        }
    };
    let number = number.and_then(|n| u16::try_from(n).ok()).filter(|n| *n > 0);
    number.ok_or_else(|| match wanted {
        IntOrString::Int(number) => format!("invalid port number: {number}"),
        IntOrString::String(name) => format!("couldn't find port: {name}"),
    })
}

fn host_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// The address of a request to the container.
pub fn http_url(get: &HTTPGetAction, container: &Container, pod_ip: &str) -> Result<String, String> {
    let scheme = get.scheme.as_deref().unwrap_or("HTTP").to_lowercase();
    let host = get.host.as_deref().filter(|h| !h.is_empty()).unwrap_or(pod_ip);
    let path = get.path.as_deref().unwrap_or_default();
    let slash = if path.starts_with('/') { "" } else { "/" };
    Ok(format!("{scheme}://{}{slash}{path}", host_port(host, port(&get.port, container)?)))
}

/// The client of all requests to containers: certificates are not verified, redirects to other hosts not followed, connections not kept.
fn http_client() -> &'static reqwest::Client {
    static CLIENT: OnceLock<reqwest::Client> = OnceLock::new();
    CLIENT.get_or_init(|| {
        let same_host = reqwest::redirect::Policy::custom(|attempt| {
            let first = attempt.previous().first().and_then(|u| u.host_str().map(str::to_owned));
            if attempt.previous().len() > 10 || attempt.url().host_str() != first.as_deref() { attempt.stop() } else { attempt.follow() }
        });
        reqwest::Client::builder()
            .danger_accept_invalid_certs(true)
            .redirect(same_host)
            .pool_max_idle_per_host(0)
            .no_proxy()
            .build()
            .expect("a client from constants only fails where TLS has no provider, and the kubelet installs one first")
    })
}

/// Sends the request in the name of `agent`, where it names none itself; answers with the status code and the first bytes of the body.
pub async fn http_get(url: &str, get: &HTTPGetAction, timeout: Duration, agent: &str) -> Result<(u16, String), reqwest::Error> {
    let mut request = http_client().get(url).timeout(timeout);
    let headers = || get.http_headers.iter().flatten();
    if !headers().any(|h| h.name.eq_ignore_ascii_case("user-agent")) {
        request = request.header("User-Agent", agent);
    }
    if !headers().any(|h| h.name.eq_ignore_ascii_case("accept")) {
        request = request.header("Accept", "*/*");
    }
    for header in headers() {
        request = request.header(&header.name, &header.value);
    }
    let mut response = request.send().await?;
    let code = response.status().as_u16();
    let mut body = Vec::new();
    while body.len() < MAX_BODY {
        match response.chunk().await? {
            Some(chunk) => body.extend_from_slice(&chunk),
            None => break,
        }
    }
    body.truncate(MAX_BODY);
    Ok((code, String::from_utf8_lossy(&body).into_owned()))
}

/// Asks once.
pub async fn check(runtime: &dyn Runtime, probe: &Probe, container: &Container, id: &str, pod_ip: &str) -> Finding {
    let seconds = probe.timeout_seconds.and_then(|s| u64::try_from(s).ok()).unwrap_or(1).max(1);
    let timeout = Duration::from_secs(seconds);
    if let Some(exec) = &probe.exec {
        return exec_probe(runtime, id, exec.command.as_deref().unwrap_or_default(), timeout).await;
    }
    if let Some(get) = &probe.http_get {
        return http_probe(get, container, pod_ip, timeout).await;
    }
    let found = if let Some(socket) = &probe.tcp_socket {
        let host = socket.host.as_deref().filter(|h| !h.is_empty()).unwrap_or(pod_ip);
        match port(&socket.port, container) {
            Ok(port) => tcp_probe(&host_port(host, port), timeout).await,
            Err(error) => return Finding::Unknown(error),
        }
    } else if let Some(health) = &probe.grpc {
        let address = host_port(pod_ip, u16::try_from(health.port).unwrap_or(0));
        grpc::check(&address, health.service.as_deref().unwrap_or_default(), timeout).await
    } else {
        return Finding::Unknown("missing probe handler".to_owned());
    };
    found.map_or_else(Finding::Failure, |()| Finding::Success)
}

/// A command that ran and failed, or ran out of its time, speaks of the container; a runtime that cannot run it does not.
async fn exec_probe(runtime: &dyn Runtime, id: &str, command: &[String], timeout: Duration) -> Finding {
    let asked = runtime.exec_sync(id, command, timeout);
    let timed_out = || {
        let line = command.join(" ");
        Finding::Failure(format!("command timed out: {line:?} timed out after {}s", timeout.as_secs()))
    };
    // The runtime enforces the time; one that does not is left after a second more.
    match tokio::time::timeout(timeout + Duration::from_secs(1), asked).await {
        Err(_) | Ok(Err(RuntimeError::DeadlineExceeded(_))) => timed_out(),
        Ok(Err(error)) => Finding::Unknown(error.to_string()),
        Ok(Ok(output)) if output.exit_code == 0 => Finding::Success,
        Ok(Ok(output)) => Finding::Failure(String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)),
    }
}

async fn http_probe(get: &HTTPGetAction, container: &Container, pod_ip: &str, timeout: Duration) -> Finding {
    let url = match http_url(get, container, pod_ip) {
        Ok(url) => url,
        Err(error) => return Finding::Unknown(error),
    };
    match http_get(&url, get, timeout, "kube-probe/1.36").await {
        Ok((code, body)) if (300..400).contains(&code) => Finding::Warning(format!("Probe terminated redirects, Response body: {body}")),
        Ok((code, _)) if (200..300).contains(&code) => Finding::Success,
        Ok((code, _)) => Finding::Failure(format!("HTTP probe failed with statuscode: {code}")),
        Err(error) if error.is_timeout() => {
            Finding::Failure(format!("Get {url:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)"))
        }
        Err(error) => Finding::Failure(format!("Get {url:?}: {}", innermost(&error, &url))),
    }
}

/// The cause at the bottom of a request's error, as Go would say it.
fn innermost(error: &(dyn std::error::Error + 'static), url: &str) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    match last.downcast_ref::<std::io::Error>() {
        Some(io) => {
            let address = url.split("://").nth(1).and_then(|rest| rest.split('/').next()).unwrap_or(url);
            format!("dial tcp {address}: {}", dial_error(io))
        }
        None => last.to_string(),
    }
}

/// A failed connection in Go's words.
fn dial_error(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connect: connection refused".into(),
        std::io::ErrorKind::HostUnreachable => "connect: no route to host".into(),
        std::io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".into(),
        _ => error.to_string(),
    }
}

async fn tcp_probe(address: &str, timeout: Duration) -> Result<(), String> {
    match tokio::time::timeout(timeout, tokio::net::TcpStream::connect(address)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(format!("dial tcp {address}: {}", dial_error(&error))),
        Err(_) => Err(format!("dial tcp {address}: i/o timeout")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn container() -> Container {
        serde_json::from_value(json!({"name": "c", "ports": [{"name": "http", "containerPort": 8080}]})).expect("a container")
    }

    #[test]
    fn addresses_come_from_names_and_numbers() {
        for (get, want) in [
            (json!({"port": "http", "path": "/x"}), Ok("http://10.0.0.1:8080/x".to_owned())),
            (json!({"port": 81, "path": "x", "scheme": "HTTPS"}), Ok("https://10.0.0.1:81/x".to_owned())),
            (json!({"port": 81, "host": "::1"}), Ok("http://[::1]:81/".to_owned())),
            (json!({"port": "nosuch"}), Err("couldn't find port: nosuch".to_owned())),
        ] {
            let get: HTTPGetAction = serde_json::from_value(get).expect("an action");
            assert_eq!(http_url(&get, &container(), "10.0.0.1"), want);
        }
    }

    #[tokio::test]
    async fn a_closed_port_is_refused_in_upstreams_words() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        assert_eq!(tcp_probe(&address, Duration::from_secs(5)).await, Ok(()));
        drop(listener);
        assert_eq!(tcp_probe(&address, Duration::from_secs(5)).await, Err(format!("dial tcp {address}: connect: connection refused")));
    }
}
