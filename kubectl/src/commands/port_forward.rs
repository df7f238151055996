//! `kubectl port-forward`: local ports that lead into a pod, each connection as a pair of streams of one tunnel ([`Tunnel`]).

use crate::cli::{Args, Command, Flag};
use crate::connection::{Connection, Url};
use crate::context::Context;
use crate::error::{Result, message};
use crate::remote::{self, Tunnel};
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What one read from a local connection may bring.
const PIECE: usize = 32 * 1024;
/// How long after the end of a connection its error stream may still say why.
const LAST_WORD: Duration = Duration::from_secs(1);

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

/// Accepts until interrupted, or until the tunnel to the pod ends.
fn serve(connection: &Rc<Connection>, listeners: Vec<(TcpListener, u16, u16)>, path: &str) -> Result<()> {
    let tasks = tokio::task::LocalSet::new();
    connection.block_on(tasks.run_until(async {
        let (tunnel, ended) = Tunnel::dial(connection, &Url::new(path)).await?;
        let tunnel = Rc::new(tunnel);
        for (listener, remote, local) in listeners {
            let tunnel = tunnel.clone();
            tokio::task::spawn_local(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    println!("Handling connection for {local}");
                    let tunnel = tunnel.clone();
                    tokio::task::spawn_local(async move {
                        if let Err(e) = forward(&tunnel, remote, stream).await {
                            eprintln!("an error occurred forwarding {local} -> {remote}: {e}");
                            // Where one port does not answer upstream gives all of them up, and scripts start it anew.
                            tunnel.close().await;
                        }
                    });
                }
            });
        }
        ended.await;
        Err(message("lost connection to pod"))
    }))
}

/// Joins a local connection to the pod's port, each direction for as long as it lasts.
async fn forward(tunnel: &Tunnel, port: u16, stream: TcpStream) -> Result<()> {
    let (mut errors, mut data) = tunnel.forward(port).await?;
    let (mut reader, mut writer) = stream.into_split();
    let id = data.id;
    let outgoing = async {
        let mut buffer = vec![0; PIECE];
        // A local end that breaks off has nothing more to say, either.
        while let Ok(n @ 1..) = reader.read(&mut buffer).await {
            tunnel.send(id, &buffer[..n]).await?;
        }
        tunnel.finish(id).await
    };
    let incoming = async {
        while let Some(bytes) = data.incoming.recv().await {
            if writer.write_all(&bytes).await.is_err() {
                return; // Nobody listens any more.
            }
        }
        // The same: whoever went away needs no end.
        drop(writer.shutdown().await);
    };
    let said = async {
        let mut text = Vec::new();
        while let Some(bytes) = errors.incoming.recv().await {
            text.extend(bytes);
        }
        text
    };
    tokio::pin!(outgoing, said);
    let mut sending = true;
    let received = async {
        tokio::pin!(incoming);
        loop {
            tokio::select! {
                () = &mut incoming => return Ok(()),
                sent = &mut outgoing, if sending => { sending = false; sent? }
            }
        }
    };
    let done: Result<()> = received.await;
    drop(data);
    done?;
    if sending {
        // The pod has ended the connection: what is still said here is heard by nobody.
        tunnel.finish(id).await?;
    }
    // What went wrong is told before the error stream ends; a server that keeps it open has nothing to tell.
    match tokio::time::timeout(LAST_WORD, said).await {
        Ok(text) if !text.is_empty() => Err(message(String::from_utf8_lossy(&text).into_owned())),
        _ => Ok(()),
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
