//! Everything that is not the cluster's is asked of the servers of the machine's `resolv.conf`, over UDP and where an answer is cut off over TCP.
//!
//! Servers are asked in their order; one that has not answered twice in a row goes behind the others until it does. A query has five seconds in all.
//! The file is looked at again when there is something to forward, at most every few seconds, so that a laptop may change its network.
//!
//! A server that forwards to itself would never stop. So every set of servers is first asked for a name that nobody else can know: if that query
//! arrives here, nothing is forwarded to them.

use crate::cache::{Cache, Key};
use crate::message::{self, Request, UDP_PAYLOAD};
use crate::metrics::Metrics;
use crate::resolv_conf;
use crate::zone::Answer;
use hickory_proto::op::{Message, MessageType, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use parking_lot::Mutex;
use std::io::{Error, ErrorKind, Result};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// How long a query may take in all, as stub resolvers wait (resolv.conf(5): `timeout`), and how long one server has.
const PATIENCE: Duration = Duration::from_secs(5);
const EACH: Duration = Duration::from_secs(2);
/// Queries under way (kubeadm's Corefile: `max_concurrent 1000`).
const CONCURRENT: usize = 1000;
/// Answers missed in a row until a server goes behind the others (CoreDNS: `max_fails`).
const MISSED: u32 = 2;
/// How often at most the file is looked at.
const LOOK: Duration = Duration::from_secs(5);

/// Where the servers come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A file like resolv.conf(5).
    File(PathBuf),
    /// These.
    Given(Vec<SocketAddr>),
}

struct Server {
    address: SocketAddr,
    missed: AtomicU32,
}

/// Servers that were found together, and what came of the question whether they lead back here.
struct Servers {
    all: Vec<Server>,
    probe: Name,
    looped: AtomicBool,
}

struct Found {
    servers: Arc<Servers>,
    looked: Option<Instant>,
    changed: Option<SystemTime>,
}

/// Asks others.
pub struct Forwarder {
    source: Source,
    /// Our own addresses, never to be asked.
    own: Vec<SocketAddr>,
    found: Mutex<Found>,
    cache: Mutex<Cache>,
    permits: Semaphore,
    metrics: Arc<Metrics>,
}

impl Forwarder {
    /// A forwarder; nobody is asked yet.
    pub fn new(source: Source, own: Vec<SocketAddr>, metrics: Arc<Metrics>) -> Self {
        let none = Servers { all: Vec::new(), probe: Name::root(), looped: AtomicBool::new(false) };
        let found = Mutex::new(Found { servers: Arc::new(none), looked: None, changed: None });
        Self { source, own, found, cache: Mutex::default(), permits: Semaphore::new(CONCURRENT), metrics }
    }

    /// What is known already.
    pub fn known(&self, request: &Request, query: &Query) -> Option<Answer> {
        let key = Key::new(query, request.dnssec, request.checking_disabled());
        let found = self.cache.lock().get(&key, Instant::now());
        self.metrics.cache(found.is_some());
        found
    }

    /// Whether the query is the one that asks whether we forward to ourselves.
    pub fn is_probe(&self, query: &Query) -> bool {
        if query.query_type() != RecordType::HINFO {
            return false;
        }
        let servers = self.found.lock().servers.clone();
        let ours = !servers.all.is_empty() && *query.name() == servers.probe;
        if ours && !servers.looped.swap(true, Ordering::Relaxed) {
            let to: Vec<String> = servers.all.iter().map(|server| server.address.to_string()).collect();
            tracing::error!(servers = to.join(" "), "forwarding would come back here: nothing is forwarded");
        }
        ours
    }

    /// Asks, and keeps the answer.
    pub async fn ask(self: &Arc<Self>, request: &Request, query: &Query) -> Answer {
        let Ok(_permit) = self.permits.try_acquire() else { return Answer::of(ResponseCode::Refused) };
        let servers = self.servers().await;
        if servers.looped.load(Ordering::Relaxed) {
            return Answer::of(ResponseCode::ServFail);
        }
        let started = Instant::now();
        let answer = match timeout(PATIENCE, self.ask_servers(&servers, request, query)).await {
            Ok(Some(answer)) => answer,
            Ok(None) | Err(_) => Answer::of(ResponseCode::ServFail),
        };
        self.metrics.forwarded(started.elapsed(), answer.code);
        self.cache.lock().put(Key::new(query, request.dnssec, request.checking_disabled()), &answer, Instant::now());
        answer
    }

    async fn ask_servers(&self, servers: &Servers, request: &Request, query: &Query) -> Option<Answer> {
        let missed = |server: &&Server| server.missed.load(Ordering::Relaxed) >= MISSED;
        let mut order: Vec<&Server> = servers.all.iter().filter(|server| !missed(server)).collect();
        order.extend(servers.all.iter().filter(missed));
        // The last one may be slow, if there is time.
        for server in order {
            match timeout(EACH, exchange(server.address, request, query)).await {
                Ok(Ok(message)) => {
                    server.missed.store(0, Ordering::Relaxed);
                    return Some(answer(message));
                }
                Ok(Err(error)) => tracing::debug!(server = %server.address, %error, "no answer"),
                Err(_) => tracing::debug!(server = %server.address, "no answer in time"),
            }
            server.missed.fetch_add(1, Ordering::Relaxed);
        }
        None
    }

    /// The servers, as the file has them now.
    async fn servers(self: &Arc<Self>) -> Arc<Servers> {
        let now = Instant::now();
        let looked = self.found.lock().looked;
        let changed = match (&self.source, looked) {
            (_, Some(looked)) if now.duration_since(looked) < LOOK => None,
            (Source::Given(_), Some(_)) => None,
            (Source::Given(all), None) => Some((all.clone(), None)),
            (Source::File(path), _) => self.read(path),
        };
        let mut found = self.found.lock();
        found.looked = Some(now);
        let Some((all, at)) = changed else { return found.servers.clone() };
        found.changed = at;
        let all = all.into_iter().filter(|address| !self.own.contains(address));
        let all: Vec<Server> = all.map(|address| Server { address, missed: AtomicU32::new(0) }).collect();
        let same = !found.servers.all.is_empty()
            && all.iter().map(|server| server.address).eq(found.servers.all.iter().map(|server| server.address));
        if same {
            return found.servers.clone();
        }
        let [first, second] = rand::random::<[u64; 2]>();
        // Two labels of digits are a name.
        let probe = Name::from_ascii(format!("{first}.{second}.")).unwrap_or_default();
        let servers = Arc::new(Servers { all, probe, looped: AtomicBool::new(false) });
        found.servers = servers.clone();
        drop(found);
        let (asking, asked) = (self.clone(), servers.clone());
        tokio::spawn(async move {
            let query = Query::query(asked.probe.clone(), RecordType::HINFO);
            let request = Request::plain(query.clone());
            // What the answer says does not matter, only whether the query arrives here.
            let _ = timeout(PATIENCE, asking.ask_servers(&asked, &request, &query)).await;
        });
        servers
    }

    /// The servers of the file, if it is not the one read before.
    fn read(&self, path: &PathBuf) -> Option<(Vec<SocketAddr>, Option<SystemTime>)> {
        let changed = std::fs::metadata(path).and_then(|about| about.modified()).ok();
        if changed.is_some() && changed == self.found.lock().changed {
            return None;
        }
        match std::fs::read_to_string(path) {
            Ok(text) => Some((resolv_conf::name_servers(&text), changed)),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "reading the name servers");
                None
            }
        }
    }
}

fn answer(message: Message) -> Answer {
    Answer {
        code: message.metadata.response_code,
        authoritative: false,
        answers: message.answers,
        authority: message.authorities,
        additional: message.additionals,
    }
}

/// One query and its answer, over UDP, and over TCP when it does not fit.
async fn exchange(server: SocketAddr, request: &Request, query: &Query) -> Result<Message> {
    let id = rand::random();
    let invalid = || Error::new(ErrorKind::InvalidInput, "the query cannot be written");
    let question = message::question(id, request, query).ok_or_else(invalid)?;
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    // A socket, and so a port, for each query: whoever wants to forge an answer has to guess both that and the id.
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(&question).await?;
    let mut buffer = [0; UDP_PAYLOAD as usize];
    let message = loop {
        let length = socket.recv(&mut buffer).await?;
        if let Some(message) = Message::from_vec(&buffer[..length]).ok().filter(|message| answers(message, id, query)) {
            break message;
        }
    };
    if !message.metadata.truncation {
        return Ok(message);
    }
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(question.len()).map_err(|_| invalid())?;
    stream.write_all(&[&length.to_be_bytes(), question.as_slice()].concat()).await?;
    let length = stream.read_u16().await?;
    let mut bytes = vec![0; length.into()];
    stream.read_exact(&mut bytes).await?;
    let message = Message::from_vec(&bytes).map_err(|error| Error::new(ErrorKind::InvalidData, error))?;
    if answers(&message, id, query) { Ok(message) } else { Err(Error::new(ErrorKind::InvalidData, "the answer to something else")) }
}

fn answers(message: &Message, id: u16, query: &Query) -> bool {
    message.metadata.id == id
        && message.metadata.message_type == MessageType::Response
        && message.queries.first().is_none_or(|asked| asked == query)
}
