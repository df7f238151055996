//! `kubectl proxy`: the apiserver without its authentication, for who is on this machine (upstream: `kubectl/pkg/cmd/proxy`, `kubectl/pkg/proxy`).
//!
//! Whoever reaches the address acts as the kubeconfig's user, so only some hosts, paths and methods pass. Left out: files of a directory of this machine (`--www`),
//! probes of quiet connections (`--keepalive`), and `--append-server-path`: the path of the kubeconfig's server is always put in front.

use crate::cli::{Args, Command, Flag};
use crate::connection::Connection;
use crate::context::Context;
use crate::error::{Result, message};
use api::go_regex;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kube::client::Body;
use std::convert::Infallible;
use std::path::Path;
use std::rc::Rc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};

/// Headers that are of one connection alone (RFC 9110, 7.6.1), which goes on only as far as here.
const HOP_BY_HOP: [header::HeaderName; 5] =
    [header::PROXY_AUTHENTICATE, header::PROXY_AUTHORIZATION, header::TE, header::TRAILER, header::TRANSFER_ENCODING];

/// The largest request that is passed on: far more than any apiserver takes.
const MAX_BODY: usize = 16 << 20;

/// The command.
pub fn cli() -> Command {
    Command::new("proxy", "Run a proxy to the Kubernetes API server")
        .usage("[--port=PORT] [--api-prefix=prefix]")
        .flags([
            Flag::string("accept-hosts", r"^localhost$,^127\.0\.0\.1$,^\[::1\]$", "Patterns of hosts that may be asked for."),
            Flag::string("accept-paths", "^.*", "Patterns of paths that pass."),
            Flag::string("address", "127.0.0.1", "The address to listen on."),
            Flag::string("api-prefix", "/", "What paths begin with that lead to the server."),
            Flag::switch("disable-filter", "Let everything pass: dangerous with an address that others reach."),
            Flag::int("port", "8001", "The port to listen on; 0 takes any.").short('p'),
            Flag::string("reject-methods", "^$", "Patterns of methods that do not pass."),
            Flag::string("reject-paths", "^/api/.*/pods/.*/exec,^/api/.*/pods/.*/attach", "Patterns of paths that do not pass."),
            Flag::string("unix-socket", "", "A socket of this machine to listen on, in the place of a port.").short('u'),
        ])
        .exec(exec)
}

/// What may pass.
struct Filter {
    hosts: Vec<regex::Regex>,
    paths: Vec<regex::Regex>,
    not_paths: Vec<regex::Regex>,
    not_methods: Vec<regex::Regex>,
}

impl Filter {
    fn of(args: &Args) -> Result<Filter> {
        let patterns = |flag: &str| -> Result<Vec<regex::Regex>> {
            args.str(flag).split(',').map(|pattern| go_regex::compile(pattern).map_err(message)).collect()
        };
        Ok(Filter {
            hosts: patterns("accept-hosts")?,
            paths: patterns("accept-paths")?,
            not_paths: patterns("reject-paths")?,
            not_methods: patterns("reject-methods")?,
        })
    }

    fn passes(&self, method: &str, path: &str, host: &str) -> bool {
        let any = |patterns: &[regex::Regex], text: &str| patterns.iter().any(|pattern| pattern.is_match(text));
        !any(&self.not_paths, path) && !any(&self.not_methods, method) && any(&self.paths, path) && any(&self.hosts, host)
    }
}

/// The host asked for, without its port: `[::1]` of `[::1]:8001`.
fn host(header: &str) -> &str {
    match header.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => header,
    }
}

/// Everything that a request is judged and sent on by.
struct Proxy {
    connection: Rc<Connection>,
    filter: Option<Filter>,
    prefix: String,
}

/// Where requests come from.
enum Listening {
    Port(TcpListener),
    Socket(UnixListener),
}

fn exec(ctx: &mut Context, args: &Args) -> Result<()> {
    if !args.positional.is_empty() {
        return Err(args.usage("proxy takes no arguments"));
    }
    let filter = if args.bool("disable-filter") {
        if args.str("unix-socket").is_empty() {
            ctx.complain("Request filter disabled, your proxy is vulnerable to XSRF attacks, please be cautious\n");
        }
        None
    } else {
        Some(Filter::of(args)?)
    };
    let trimmed = args.str("api-prefix").trim_matches('/');
    let prefix = if trimmed.is_empty() { "/".to_owned() } else { format!("/{trimmed}/") };
    let connection = ctx.connection()?;
    let listening = connection.block_on(listen(args))?;
    let shown = match &listening {
        Listening::Port(listener) => listener.local_addr()?.to_string(),
        Listening::Socket(_) => args.str("unix-socket").to_owned(),
    };
    ctx.print(&format!("Starting to serve on {shown}\n"));
    ctx.flush();
    let proxy = Rc::new(Proxy { connection: connection.clone(), filter, prefix });
    connection.block_on(tokio::task::LocalSet::new().run_until(async move {
        loop {
            match &listening {
                Listening::Port(listener) => spawn(&proxy, listener.accept().await?.0),
                Listening::Socket(listener) => spawn(&proxy, listener.accept().await?.0),
            }
        }
    }))
}

async fn listen(args: &Args) -> Result<Listening> {
    let socket = args.str("unix-socket");
    if !socket.is_empty() {
        // One that another left behind is in the way.
        if Path::new(socket).exists() && tokio::net::UnixStream::connect(socket).await.is_err() {
            std::fs::remove_file(socket)?;
        }
        return Ok(Listening::Socket(UnixListener::bind(socket).map_err(|e| message(format!("listen unix {socket}: bind: {e}")))?));
    }
    let (address, port) = (args.str("address"), args.int("port"));
    let number = u16::try_from(port).map_err(|_| message(format!("listen tcp: address {port}: invalid port")))?;
    let bound = TcpListener::bind((address, number)).await;
    bound.map(Listening::Port).map_err(|error| {
        let why = if error.kind() == std::io::ErrorKind::AddrInUse { "address already in use".to_owned() } else { error.to_string() };
        message(format!("listen tcp {address}:{port}: bind: {why}"))
    })
}

/// Serves one connection beside the others.
fn spawn(proxy: &Rc<Proxy>, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
    let proxy = proxy.clone();
    tokio::task::spawn_local(async move {
        let answer = service_fn(|request| {
            let proxy = proxy.clone();
            async move { Ok::<_, Infallible>(proxy.answer(request).await) }
        });
        // How a connection ends is the caller's business.
        let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).with_upgrades().await;
    });
}

impl Proxy {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let named = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let path = request.uri().path();
        if self.filter.as_ref().is_some_and(|filter| !filter.passes(request.method().as_str(), path, host(named))) {
            return plain(StatusCode::FORBIDDEN, "Forbidden\n");
        }
        let Some(target) = target(&self.prefix, request.uri().path_and_query().map_or("/", |whole| whole.as_str())) else {
            return plain(StatusCode::NOT_FOUND, "404 page not found\n");
        };
        match self.pass_on(request, &target).await {
            Ok(response) => response,
            Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
        }
    }

    async fn pass_on(&self, request: Request<Incoming>, target: &str) -> Result<Response<Body>> {
        let upgrading = request.headers().contains_key(header::UPGRADE);
        let (mut head, body) = request.into_parts();
        let caller = head.extensions.remove::<hyper::upgrade::OnUpgrade>();
        head.uri = target.parse().map_err(|e| message(format!("{target}: {e}")))?;
        head.headers.remove(header::HOST);
        HOP_BY_HOP.iter().for_each(|name| drop(head.headers.remove(name)));
        if !upgrading {
            head.headers.remove(header::CONNECTION);
        }
        let body = Limited::new(body, MAX_BODY).collect().await.map_err(|e| message(format!("reading the request: {e}")))?.to_bytes();
        let sent = self.connection.client().send(Request::from_parts(head, Body::from(body.to_vec()))).await;
        let mut response = sent.map_err(|error| self.connection.upgrade_error(error))?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            response.headers_mut().remove(header::CONNECTION);
            response.headers_mut().remove(header::TRANSFER_ENCODING);
            return Ok(response);
        }
        let server = hyper::upgrade::on(&mut response);
        let Some(caller) = caller else { return Err(message("the caller's connection cannot change its protocol")) };
        tokio::task::spawn_local(async move {
            if let (Ok(caller), Ok(server)) = tokio::join!(caller, server) {
                let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(caller), &mut TokioIo::new(server)).await;
            }
        });
        Ok(response)
    }
}

/// The server's path behind the prefix; none if the path is another's.
fn target(prefix: &str, whole: &str) -> Option<String> {
    if whole == prefix.trim_end_matches('/') {
        return Some("/".to_owned());
    }
    whole.strip_prefix(prefix).map(|rest| format!("/{rest}"))
}

fn plain(status: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(Body::from(text.as_bytes().to_vec()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_some_requests_pass() {
        let args = Args::parse("kubectl proxy", cli().flags, &[], true).expect("the defaults are right");
        let filter = Filter::of(&args).expect("the defaults are patterns");
        for (method, path, asked, passes) in [
            ("GET", "/api/v1/namespaces", "localhost:8001", true),
            ("POST", "/api/v1/namespaces/a/pods", "127.0.0.1", true),
            ("GET", "/", "[::1]:8001", true),
            ("GET", "/api/v1/namespaces", "example.com", false),
            ("GET", "/api/v1/namespaces", "127.0.0.100:8001", false),
            ("POST", "/api/v1/namespaces/a/pods/p/exec", "localhost", false),
            ("POST", "/api/v1/namespaces/a/pods/p/attach", "localhost", false),
            ("GET", "/api/v1/namespaces/a/pods/p/log", "localhost", true),
        ] {
            assert_eq!(filter.passes(method, path, host(asked)), passes, "{method} {path} {asked}");
        }
    }

    #[test]
    fn the_prefix_is_taken_away() {
        for (prefix, whole, wanted) in [
            ("/", "/api/v1?limit=1", Some("/api/v1?limit=1")),
            ("/", "/", Some("/")),
            ("/k8s/", "/k8s/api/v1", Some("/api/v1")),
            ("/k8s/", "/k8s", Some("/")),
            ("/k8s/", "/api/v1", None),
        ] {
            assert_eq!(target(prefix, whole).as_deref(), wanted, "{prefix} {whole}");
        }
    }
}
