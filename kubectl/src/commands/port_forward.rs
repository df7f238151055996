//! `kubectl port-forward`: local ports that lead into a pod, each connection over a WebSocket of its own
//! (`v4.channel.k8s.io` framing: a data and an error channel for the port).

use crate::cli::{Args, Command, Flag};
use crate::connection::{Connection, Url};
use crate::context::Context;
use crate::error::{Error, Result, message};
use crate::remote;
use futures::{SinkExt, StreamExt};
use std::rc::Rc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;

/// What one read from a local connection may bring.
const PIECE: usize = 32 * 1024;
/// Channels of the one port a connection asks for.
const DATA: u8 = 0;
const ERROR: u8 = 1;

/// The command.
pub fn cli() -> Command {
    Command::new("port-forward", "Forward one or more local ports to a pod")
        .usage("TYPE/NAME [options] [LOCAL_PORT:]REMOTE_PORT [...[LOCAL_PORT_N:]REMOTE_PORT_N]")
        .flags([
            Flag::strings("address", "Addresses to listen on; localhost when not given."),
            Flag::duration("pod-running-timeout", "1m0s", "How long to wait until one pod is running."),
        ])
        .exec(exec)
}

/// `8080:80`, `:80`, `80`: the local port, 0 for any, and the remote one.
fn ports(spec: &str) -> Result<(u16, String)> {
    let (local, remote) = match spec.split_once(':') {
        Some((l, r)) => (if l.is_empty() { "0" } else { l }, r),
        None => (spec, spec),
    };
    let local = local
        .parse()
        .map_err(|_| message(format!("error parsing local port {local:?}: strconv.ParseUint: parsing {local:?}: invalid syntax")))?;
    if remote.is_empty() || remote == "0" {
        return Err(message("remote port must be > 0"));
    }
    Ok((local, remote.to_owned()))
}

fn exec(ctx: &mut Context, args: &Args) -> Result<()> {
    let [word, specs @ ..] = args.positional.as_slice() else {
        return Err(args.usage("TYPE/NAME and list of ports are required for port-forward"));
    };
    if specs.is_empty() {
        return Err(args.usage("TYPE/NAME and list of ports are required for port-forward"));
    }
    let wanted: Vec<(u16, String)> = specs.iter().map(|s| ports(s)).collect::<Result<_>>()?;
    let namespace = ctx.namespace()?;
    let pods = remote::pods_of(ctx, word, &namespace)?;
    let pod = &pods[0];
    let name = pod["metadata"]["name"].as_str().unwrap_or("").to_owned();
    let phase = pod["status"]["phase"].as_str().unwrap_or("");
    if phase != "Running" {
        return Err(message(format!("unable to forward port because pod is not running. Current status={phase}")));
    }
    let service = if word.contains("svc/") || word.contains("service") { Some(service(ctx, word, &namespace)?) } else { None };
    let connection = ctx.connection()?;
    let addresses: Vec<String> = match args.list("address") {
        [] => vec!["127.0.0.1".into(), "::1".into()],
        given => given
            .iter()
            .flat_map(|a| if a == "localhost" { vec!["127.0.0.1".to_owned(), "::1".to_owned()] } else { vec![a.clone()] })
            .collect(),
    };
    let mut listeners = Vec::new();
    for (local, remote) in wanted {
        let remote = target_port(pod, service.as_ref(), &remote)?;
        let mut port = local;
        let mut bound = 0;
        for address in &addresses {
            // A machine without IPv6 listens on IPv4 alone.
            if let Ok(listener) = connection.block_on(TcpListener::bind((address.as_str(), port))) {
                port = listener.local_addr()?.port();
                let shown = if address.contains(':') { format!("[{address}]") } else { address.clone() };
                ctx.print(&format!("Forwarding from {shown}:{port} -> {remote}\n"));
                listeners.push((listener, remote, port));
                bound += 1;
            }
        }
        if bound == 0 {
            return Err(message(format!(
                "unable to listen on port {local}: Listeners failed to create with the following errors: [unable to create listener: Error listen tcp4 127.0.0.1:{local}: bind: address already in use]"
            )));
        }
    }
    ctx.flush();
    let path = format!("/api/v1/namespaces/{namespace}/pods/{name}/portforward");
    serve(&connection, listeners, &path)
}

fn service(ctx: &mut Context, word: &str, namespace: &str) -> Result<serde_json::Value> {
    let name = word.split_once('/').map_or(word, |(_, n)| n);
    ctx.connection()?.get(&Url::new(format!("/api/v1/namespaces/{namespace}/services/{name}")))
}

/// The number behind a port, which may be a container's port name, or a Service's port.
fn target_port(pod: &serde_json::Value, service: Option<&serde_json::Value>, port: &str) -> Result<u16> {
    let mut wanted = port.to_owned();
    if let Some(service) = service {
        let found = service["spec"]["ports"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|p| p["port"].as_u64().is_some_and(|n| port.parse() == Ok(n)) || p["name"] == port);
        let Some(found) = found else {
            return Err(message(format!(
                "Service {} does not have a service port {port}",
                service["metadata"]["name"].as_str().unwrap_or("")
            )));
        };
        wanted = found["targetPort"].as_str().map_or_else(|| found["targetPort"].to_string(), str::to_owned);
    }
    if let Ok(n) = wanted.parse() {
        return Ok(n);
    }
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    let mut named = containers.flat_map(|c| c["ports"].as_array().into_iter().flatten()).filter(|p| p["name"] == wanted.as_str());
    named
        .find_map(|p| p["containerPort"].as_u64().and_then(|n| u16::try_from(n).ok()))
        .ok_or_else(|| message(format!("Pod '{}' does not have a named port '{wanted}'", pod["metadata"]["name"].as_str().unwrap_or(""))))
}

/// Accepts until interrupted.
fn serve(connection: &Rc<Connection>, listeners: Vec<(TcpListener, u16, u16)>, path: &str) -> Result<()> {
    let tasks = tokio::task::LocalSet::new();
    for (listener, remote, local) in listeners {
        let (connection, url) = (connection.clone(), Url::new(path).query("ports", remote.to_string()));
        tasks.spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                println!("Handling connection for {local}");
                let (connection, url) = (connection.clone(), url.clone());
                tokio::task::spawn_local(async move {
                    if let Err(e) = forward(&connection, &url, stream).await {
                        eprintln!("an error occurred forwarding {local} -> {remote}: {e}");
                    }
                });
            }
        });
    }
    connection.block_on(tasks);
    Ok(())
}

async fn forward(connection: &Connection, url: &Url, stream: TcpStream) -> Result<()> {
    let request = http::Request::get(url.as_str()).body(Vec::new()).map_err(|e| message(e.to_string()))?;
    let open = connection.client().connect(request).await.map_err(|e| connection.upgrade_error(e))?;
    let (mut sink, mut source) = open.into_stream().split();
    let (mut reader, mut writer) = stream.into_split();
    let mut buffer = vec![0; PIECE];
    // The first frame of each channel carries only the port's number.
    let mut fresh = [true, true];
    let broken = |e: &dyn std::fmt::Display| message(e.to_string());
    loop {
        tokio::select! {
            n = reader.read(&mut buffer) => {
                let n = n?;
                if n == 0 {
                    // The subprotocol cannot say that one direction has ended, so the end of input ends the connection.
                    sink.close().await.map_err(|e| broken(&e))?;
                    return Ok(());
                }
                let mut frame = vec![DATA];
                frame.extend_from_slice(&buffer[..n]);
                sink.send(Message::Binary(frame.into())).await.map_err(|e| broken(&e))?;
            }
            frame = source.next() => {
                let data = match frame {
                    Some(Ok(Message::Binary(data))) => data,
                    Some(Ok(Message::Close(_))) | None => return Ok(()),
                    Some(Ok(_)) => continue,
                    Some(Err(e)) => return Err(broken(&e)),
                };
                let Some((channel, data)) = data.split_first() else { continue };
                if let Some(first) = fresh.get_mut(usize::from(*channel))
                    && std::mem::take(first)
                {
                    continue;
                }
                match *channel {
                    DATA => writer.write_all(data).await?,
                    ERROR => return Err(Error::Message(String::from_utf8_lossy(data).into_owned())),
                    _ => {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_specs_are_read() {
        for (spec, expected) in [("80", (80, "80")), ("8080:80", (8080, "80")), (":80", (0, "80")), ("1:http", (1, "http"))] {
            assert_eq!(ports(spec).unwrap(), (expected.0, expected.1.to_owned()));
        }
        assert!(ports("x:80").is_err() && ports("80:0").is_err());
    }
}
