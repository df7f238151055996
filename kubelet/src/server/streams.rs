//! `/exec`, `/attach`, `/portForward`: the caller's connection is joined to the runtime's streaming server.
//!
//! What both speak (SPDY, the WebSocket protocols up to v4) goes through as bytes. WebSocket `v5.channel.k8s.io` is translated to SPDY, since
//! only that can end standard input; a port-forward tunnelled through WebSocket is unpacked.

use super::Shared;
use crate::{container::identity, pod::observed::Observed};
use anyhow::Context;
use axum::{
    body::Body,
    extract::{Path, RawQuery, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use client::spdy::{self, Frame};
use futures::{SinkExt, StreamExt};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use k8s_cri::v1::{AttachRequest, ExecRequest, PortForwardRequest};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use std::{collections::HashMap, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional, split},
    net::TcpStream,
    sync::Mutex,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        handshake::derive_accept_key,
        protocol::{CloseFrame, Role, frame::coding::CloseCode},
    },
};

/// The protocol that can end standard input.
const V5: &str = "v5.channel.k8s.io";
/// The protocol that carries SPDY in WebSocket messages.
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
/// How long the runtime's server may take to answer.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a caller has to close its side after the end.
const FAREWELL: Duration = Duration::from_secs(5);
/// The message type of v5 that ends a channel.
const CLOSE_CHANNEL: u8 = 255;
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;

type Refusal = (StatusCode, String);

fn refuse(status: StatusCode, error: impl std::fmt::Display) -> Refusal {
    (status, error.to_string())
}

/// The parameters, repeated ones included.
struct Query(Vec<(String, String)>);

impl Query {
    fn parse(raw: Option<String>) -> Self {
        let raw = raw.unwrap_or_default();
        let url = reqwest::Url::parse(&format!("http://localhost/?{raw}"));
        Query(url.map(|u| u.query_pairs().into_owned().collect()).unwrap_or_default())
    }

    /// Whether any of these names is set: upstream's kubelet and API server call the same things differently.
    fn is(&self, names: &[&str]) -> bool {
        self.0.iter().any(|(k, v)| names.contains(&k.as_str()) && matches!(v.as_str(), "1" | "true"))
    }

    fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(k, _)| k == name).map(|(_, v)| v.clone()).collect()
    }
}

/// Which channels a session has.
#[derive(Clone, Copy, Debug)]
struct Channels {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

impl Channels {
    fn of(query: &Query) -> Self {
        let tty = query.is(&["tty"]);
        Channels {
            stdin: query.is(&["input", "stdin"]),
            stdout: query.is(&["output", "stdout"]),
            // A terminal has one output.
            stderr: query.is(&["error", "stderr"]) && !tty,
            tty,
        }
    }
}

/// The running instance of a container, or why there is none.
async fn running(shared: &Shared, namespace: &str, name: &str, container: &str) -> Result<String, Refusal> {
    let pod = shared.workers.pod(namespace, name).ok_or_else(|| refuse(StatusCode::NOT_FOUND, "pod does not exist"))?;
    let runtime = shared.workers.node().runtime.as_ref();
    let observed = Observed::fetch(runtime, identity::uid(&pod)).await.map_err(|e| refuse(StatusCode::INTERNAL_SERVER_ERROR, e))?;
    let found = observed.latest(container).filter(|i| i.running()).map(|i| i.status.id.clone());
    found.ok_or_else(|| refuse(StatusCode::NOT_FOUND, format!("container not found ({container:?})")))
}

/// `exec`.
pub async fn exec(
    State(shared): State<Shared>,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    RawQuery(raw): RawQuery,
    request: Request,
) -> Response {
    let query = Query::parse(raw);
    let channels = Channels::of(&query);
    let joined = async {
        let id = running(&shared, &namespace, &pod, &container).await?;
        let wanted = ExecRequest {
            container_id: id,
            cmd: query.all("command"),
            tty: channels.tty,
            stdin: channels.stdin,
            stdout: channels.stdout,
            stderr: channels.stderr,
        };
        let url = shared.workers.node().runtime.exec(wanted).await.map_err(|e| refuse(StatusCode::INTERNAL_SERVER_ERROR, e))?;
        join(request, &url, Some(channels)).await
    };
    joined.await.unwrap_or_else(IntoResponse::into_response)
}

/// `attach`.
pub async fn attach(
    State(shared): State<Shared>,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    RawQuery(raw): RawQuery,
    request: Request,
) -> Response {
    let channels = Channels::of(&Query::parse(raw));
    let joined = async {
        let id = running(&shared, &namespace, &pod, &container).await?;
        let wanted =
            AttachRequest { container_id: id, tty: channels.tty, stdin: channels.stdin, stdout: channels.stdout, stderr: channels.stderr };
        let url = shared.workers.node().runtime.attach(wanted).await.map_err(|e| refuse(StatusCode::INTERNAL_SERVER_ERROR, e))?;
        join(request, &url, Some(channels)).await
    };
    joined.await.unwrap_or_else(IntoResponse::into_response)
}

/// `portForward`.
pub async fn port_forward(
    State(shared): State<Shared>,
    Path((namespace, name)): Path<(String, String)>,
    RawQuery(raw): RawQuery,
    request: Request,
) -> Response {
    let query = Query::parse(raw);
    let joined = async {
        let pod = shared.workers.pod(&namespace, &name).ok_or_else(|| refuse(StatusCode::NOT_FOUND, "pod does not exist"))?;
        let runtime = &shared.workers.node().runtime;
        let observed =
            Observed::fetch(runtime.as_ref(), identity::uid(&pod)).await.map_err(|e| refuse(StatusCode::INTERNAL_SERVER_ERROR, e))?;
        let sandbox = observed.ready_sandbox().ok_or_else(|| refuse(StatusCode::NOT_FOUND, format!("pod not found ({name:?})")))?;
        let ports = query.all("port").iter().chain(&query.all("ports")).flat_map(|p| p.split(',')).filter_map(|p| p.parse().ok()).collect();
        let wanted = PortForwardRequest { pod_sandbox_id: sandbox.id.clone(), port: ports };
        let url = runtime.port_forward(wanted).await.map_err(|e| refuse(StatusCode::INTERNAL_SERVER_ERROR, e))?;
        join(request, &url, None).await
    };
    joined.await.unwrap_or_else(IntoResponse::into_response)
}

/// `run`: a command to its end, its output as the answer.
pub async fn run(
    State(shared): State<Shared>,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    RawQuery(raw): RawQuery,
) -> Response {
    let command: Vec<String> = Query::parse(raw).all("cmd").iter().flat_map(|c| c.split(' ').map(str::to_owned)).collect();
    let ran = async {
        let id = running(&shared, &namespace, &pod, &container).await?;
        let output = shared.workers.node().runtime.exec_sync(&id, &command, Duration::ZERO).await;
        output.map_err(|e| refuse(StatusCode::INTERNAL_SERVER_ERROR, e))
    };
    match ran.await {
        Ok(output) if output.exit_code == 0 => [output.stdout, output.stderr].concat().into_response(),
        Ok(output) => (StatusCode::INTERNAL_SERVER_ERROR, [output.stdout, output.stderr].concat()).into_response(),
        Err(refusal) => refusal.into_response(),
    }
}

/// Joins the caller's upgrade to the runtime's. Without channels it is a port-forward's, for which clients offer v5 as well, but mean what the runtime
/// chooses.
async fn join(mut request: Request, url: &str, channels: Option<Channels>) -> Result<Response, Refusal> {
    let headers = request.headers().clone();
    let upgrade = headers.get(header::UPGRADE).and_then(|v| v.to_str().ok()).unwrap_or_default().to_lowercase();
    let offered: Vec<String> = headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(',').map(|p| p.trim().to_owned()))
        .collect();
    let offers = |protocol: &str| offered.iter().any(|p| p == protocol);
    let failed = |e: anyhow::Error| refuse(StatusCode::INTERNAL_SERVER_ERROR, format!("{e:#}"));
    match (upgrade.as_str(), channels) {
        ("websocket", Some(channels)) if offers(V5) => {
            let runtime = connect_spdy(url, "v4.channel.k8s.io").await.map_err(failed)?;
            let answer = accept(&headers, V5)?;
            let caller = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                if let Err(error) = async { translate(server_socket(caller.await?).await, runtime, channels).await }.await {
                    tracing::debug!(%error, "a session broke off");
                }
            });
            Ok(answer)
        }
        ("websocket", None) if offers(TUNNEL) => {
            let runtime = connect_spdy(url, "portforward.k8s.io").await.map_err(failed)?;
            let answer = accept(&headers, TUNNEL)?;
            let caller = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                if let Err(error) = async { tunnel(server_socket(caller.await?).await, runtime).await }.await {
                    tracing::debug!(%error, "a tunnel broke off");
                }
            });
            Ok(answer)
        }
        ("websocket" | "spdy/3.1", _) => {
            let (mut answer, runtime) = connect(url, request.method().clone(), &headers).await.map_err(failed)?;
            let Some(mut runtime) = runtime else { return Ok(answer) };
            let caller = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                if let Ok(caller) = caller.await {
                    // Either side hanging up ends the session.
                    drop(copy_bidirectional(&mut TokioIo::new(caller), &mut runtime).await);
                }
            });
            *answer.body_mut() = Body::empty();
            Ok(answer)
        }
        _ => Err(refuse(
            StatusCode::BAD_REQUEST,
            "you must specify at least 1 of stdin, stdout, stderr with an upgrade to SPDY or WebSocket",
        )),
    }
}

type RuntimeStream = TokioIo<Upgraded>;

/// Sends the upgrade on to the runtime's server. Without its consent there is only its answer.
async fn connect(url: &str, method: axum::http::Method, headers: &HeaderMap) -> anyhow::Result<(Response, Option<RuntimeStream>)> {
    let uri: Uri = url.parse().context("the runtime's streaming URL")?;
    let authority = uri.authority().context("the runtime's streaming URL has no host")?.to_string();
    let asked = async {
        let stream = TcpStream::connect(&authority).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection.with_upgrades());
        let path = uri.path_and_query().map_or("/", |p| p.as_str());
        let mut request = hyper::Request::builder().method(method).uri(path).body(Body::empty())?;
        let kept = |name: &str| {
            matches!(name, "upgrade" | "connection" | "x-stream-protocol-version" | "origin") || name.starts_with("sec-websocket-")
        };
        for (name, value) in headers.iter().filter(|(name, _)| kept(name.as_str())) {
            request.headers_mut().append(name.clone(), value.clone());
        }
        request.headers_mut().insert(header::HOST, HeaderValue::from_str(&authority)?);
        anyhow::Ok(sender.send_request(request).await?)
    };
    let mut response = tokio::time::timeout(CONNECT, asked).await.context("the runtime's streaming server does not answer")??;
    let upgraded = if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        Some(TokioIo::new(hyper::upgrade::on(&mut response).await?))
    } else {
        None
    };
    Ok((response.map(Body::new), upgraded))
}

async fn connect_spdy(url: &str, protocol: &'static str) -> anyhow::Result<RuntimeStream> {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("SPDY/3.1"));
    headers.insert("x-stream-protocol-version", HeaderValue::from_static(protocol));
    let (answer, stream) = connect(url, axum::http::Method::POST, &headers).await?;
    stream.with_context(|| format!("the runtime's streaming server answered {}", answer.status()))
}

/// The answer that turns the caller's connection into a WebSocket.
fn accept(headers: &HeaderMap, protocol: &'static str) -> Result<Response, Refusal> {
    let key = headers.get(header::SEC_WEBSOCKET_KEY).ok_or_else(|| refuse(StatusCode::BAD_REQUEST, "no Sec-WebSocket-Key"))?;
    let answer = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_ACCEPT, derive_accept_key(key.as_bytes()))
        .header(header::SEC_WEBSOCKET_PROTOCOL, protocol)
        .body(Body::empty());
    answer.map_err(|e| refuse(StatusCode::INTERNAL_SERVER_ERROR, e))
}

/// The end of a session in good order; without a code clients take it for a failure.
fn finished() -> Message {
    Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))
}

/// How a session ended whose end the runtime did not tell.
fn broken_off() -> Message {
    let status = Status {
        status: Some("Failure".into()),
        message: Some("the connection to the container runtime broke off before it said how the session ended".into()),
        reason: Some("InternalError".into()),
        code: Some(500),
        ..Status::default()
    };
    let text = serde_json::to_vec(&status).expect("a status is plain data");
    Message::binary([&[ERROR], text.as_slice()].concat())
}

type CallerSocket = WebSocketStream<TokioIo<Upgraded>>;

async fn server_socket(upgraded: Upgraded) -> CallerSocket {
    WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await
}

/// Carries a session between WebSocket v5 and SPDY until the runtime has said how it ended.
async fn translate<C, R>(caller: WebSocketStream<C>, runtime: R, channels: Channels) -> anyhow::Result<()>
where
    C: AsyncRead + AsyncWrite + Unpin,
    R: AsyncRead + AsyncWrite + Unpin,
{
    let (mut reader, writer) = split(runtime);
    let mut writer = spdy::Writer::new(writer);
    let mut streams = HashMap::new();
    let wanted = [
        (ERROR, "error", true),
        (STDIN, "stdin", channels.stdin),
        (STDOUT, "stdout", channels.stdout),
        (STDERR, "stderr", channels.stderr),
        (RESIZE, "resize", channels.tty),
    ];
    let (mut stdin, mut resize) = (None, None);
    let mut open = 0;
    for (channel, name, _) in wanted.into_iter().filter(|(_, _, wanted)| *wanted) {
        let id = writer.open(&[("streamtype", name)]).await?;
        streams.insert(id, channel);
        match channel {
            STDIN => stdin = Some(id),
            RESIZE => resize = Some(id),
            _ => open += 1,
        }
    }
    let writer = Mutex::new(writer);
    let (mut to_caller, mut from_caller) = caller.split();
    // Until the caller goes. A runtime that has ended takes nothing more (a terminal's last size may still come), but how it ended is yet to be told.
    let incoming = async {
        while let Some(Ok(message)) = from_caller.next().await {
            let bytes = match message {
                Message::Binary(bytes) => bytes,
                Message::Text(text) => text.into(),
                Message::Close(_) => break,
                _ => continue,
            };
            let target = |channel: u8| {
                if channel == STDIN {
                    stdin
                } else if channel == RESIZE {
                    resize
                } else {
                    None
                }
            };
            let Some((channel, data)) = bytes.split_first() else { continue };
            if *channel == CLOSE_CHANNEL {
                if let Some(id) = data.first().and_then(|c| target(*c)) {
                    drop(writer.lock().await.data(id, &[], true).await);
                }
            } else if let Some(id) = target(*channel) {
                drop(writer.lock().await.data(id, data, false).await);
            }
        }
    };
    let outgoing = async {
        let mut told = false;
        while open > 0 {
            // A connection that breaks off has ended, too.
            match spdy::read_frame(&mut reader).await.unwrap_or(None) {
                Some(Frame::Data { stream, bytes, end }) => {
                    let Some(channel) = streams.get(&stream).copied() else { continue };
                    if !bytes.is_empty() {
                        told |= channel == ERROR;
                        let message: Vec<u8> = std::iter::once(channel).chain(bytes).collect();
                        to_caller.send(Message::binary(message)).await?;
                    }
                    if end && channel != STDIN && channel != RESIZE {
                        open -= 1;
                    }
                }
                Some(Frame::Reset(stream)) => {
                    let channel = streams.remove(&stream);
                    open -= i32::from(channel.is_some_and(|c| c != STDIN && c != RESIZE));
                }
                Some(Frame::Ping(payload)) => drop(writer.lock().await.pong(&payload).await),
                Some(Frame::GoAway) | None => break,
                Some(Frame::Other) => {}
            }
        }
        // Silence here is success to clients.
        if !told {
            to_caller.send(broken_off()).await?;
        }
        to_caller.send(finished()).await?;
        anyhow::Ok(())
    };
    tokio::pin!(incoming, outgoing);
    tokio::select! {
        ended = &mut outgoing => ended?,
        () = &mut incoming => return Ok(()),
    }
    // Closing at once while the caller still sends would take back what it has not read yet.
    drop(tokio::time::timeout(FAREWELL, incoming).await);
    Ok(())
}

/// Carries the bytes of a SPDY connection in and out of WebSocket messages.
async fn tunnel(caller: CallerSocket, runtime: RuntimeStream) -> anyhow::Result<()> {
    let (mut reader, mut writer) = split(runtime);
    let (mut to_caller, mut from_caller) = caller.split();
    let incoming = async {
        while let Some(message) = from_caller.next().await {
            match message? {
                Message::Binary(bytes) => writer.write_all(&bytes).await?,
                Message::Close(_) => break,
                _ => {}
            }
        }
        anyhow::Ok(())
    };
    let outgoing = async {
        let mut buffer = vec![0; 32 * 1024];
        loop {
            let read = reader.read(&mut buffer).await?;
            if read == 0 {
                to_caller.send(finished()).await?;
                return anyhow::Ok(());
            }
            to_caller.send(Message::binary(buffer[..read].to_vec())).await?;
        }
    };
    tokio::select! {
        ended = incoming => ended,
        ended = outgoing => ended,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_go_by_both_names() {
        let query = Query::parse(Some("input=1&output=true&error=1&tty=1&command=sh&command=-c&command=a%20b%26".into()));
        let channels = Channels::of(&query);
        assert!(channels.stdin && channels.stdout && channels.tty && !channels.stderr);
        assert_eq!(query.all("command"), ["sh", "-c", "a b&"]);
        assert!(!Channels::of(&Query::parse(Some("stdin=false".into()))).stdin);
    }

    #[tokio::test]
    async fn how_a_session_ended_is_told_though_the_runtime_takes_nothing_more() {
        let (caller, callers) = tokio::io::duplex(1 << 16);
        let mut caller = WebSocketStream::from_raw_socket(caller, Role::Client, None).await;
        let callers = WebSocketStream::from_raw_socket(callers, Role::Server, None).await;
        let (told, mut says) = tokio::io::duplex(1 << 16);
        let (written, mut hears) = tokio::io::duplex(1 << 16);
        let channels = Channels { stdin: true, stdout: true, stderr: false, tty: true };
        let session = tokio::spawn(translate(callers, tokio::io::join(told, written), channels));
        for _ in ["error", "stdin", "stdout", "resize"] {
            assert_eq!(spdy::read_frame(&mut hears).await.expect("read"), Some(Frame::Other));
        }
        drop(hears);
        caller.send(Message::binary([&[RESIZE], b"{}".as_slice()].concat())).await.expect("sent");
        // On one thread this lets the session read it.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        // The end of the first stream, with two bytes, and of the third.
        says.write_all(&[0, 0, 0, 1, 1, 0, 0, 2, b'{', b'}', 0, 0, 0, 5, 1, 0, 0, 0]).await.expect("written");
        let message = caller.next().await.expect("a message").expect("well formed");
        assert_eq!(message.into_data().as_ref(), [ERROR, b'{', b'}']);
        assert_eq!(caller.next().await.expect("a message").expect("well formed"), finished());
        session.await.expect("it ends").expect("in good order");
    }

    #[tokio::test]
    async fn a_runtime_that_breaks_off_is_no_success() {
        let (caller, callers) = tokio::io::duplex(1 << 16);
        let mut caller = WebSocketStream::from_raw_socket(caller, Role::Client, None).await;
        let callers = WebSocketStream::from_raw_socket(callers, Role::Server, None).await;
        let (runtime, mut remote) = tokio::io::duplex(1 << 16);
        let channels = Channels { stdin: false, stdout: true, stderr: false, tty: false };
        let session = tokio::spawn(translate(callers, runtime, channels));
        for _ in ["error", "stdout"] {
            assert_eq!(spdy::read_frame(&mut remote).await.expect("read"), Some(Frame::Other));
        }
        // Two bytes of output, and no more.
        remote.write_all(&[0, 0, 0, 3, 0, 0, 0, 2, b'o', b'k']).await.expect("written");
        drop(remote);
        let mut messages = Vec::new();
        while let Some(Ok(Message::Binary(message))) = caller.next().await {
            messages.push(message);
        }
        assert_eq!(messages[0].as_ref(), [STDOUT, b'o', b'k']);
        assert_eq!(messages[1][0], ERROR);
        let status: Status = serde_json::from_slice(&messages[1][1..]).expect("a status");
        assert_eq!(status.status.as_deref(), Some("Failure"));
        session.await.expect("it ends").expect("in good order");
    }
}
