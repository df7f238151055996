//! The sockets. A query of the cluster's zone is answered by the task that received it, without a task, a lock that is held or an allocation of its own
//! for each; only what has to be asked of others gets a task.

use crate::message::{self, Received, Request, Transport};
use crate::metrics::Metrics;
use crate::resolver::{Resolver, Step};
use anyhow::Context;
use hickory_proto::op::{Query, ResponseCode};
use socket2::{Domain, Protocol, Socket, Type};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// TCP connections at a time; more wait to be accepted.
const CONNECTIONS: usize = 1024;
/// How long a connection may be idle (RFC 7766 asks for seconds), and how long a reader may leave an answer unread.
const IDLE: Duration = Duration::from_secs(10);
/// What the kernel keeps for us while all tasks are busy: some thousand queries.
const RECEIVE_BUFFER: usize = 4 << 20;
/// The largest datagram.
const DATAGRAM: usize = u16::MAX as usize;

/// What serves: shared by all sockets.
pub struct Serving {
    /// What answers.
    pub resolver: Arc<Resolver>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// What becomes of bytes that arrived.
enum Next {
    Nothing,
    Send(Vec<u8>),
    Ask(Box<(Request, crate::zone::Answer, Query)>),
}

impl Serving {
    /// Listens on an address, over UDP on as many sockets as there are cores, and over TCP. Returns the address, whose port may have been 0.
    pub async fn listen(self: &Arc<Self>, address: SocketAddr, stop: &CancellationToken) -> anyhow::Result<SocketAddr> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        // The port that TCP gets is free on UDP nearly always, when none was asked for.
        let listener = TcpListener::bind(address).await.with_context(|| format!("listening on {address} (TCP)"))?;
        let bound = listener.local_addr().context("reading the address bound")?;
        for _ in 0..cores {
            let socket = udp_socket(bound).with_context(|| format!("listening on {bound} (UDP)"))?;
            let (serving, stop) = (self.clone(), stop.clone());
            tokio::spawn(async move { stop.run_until_cancelled(serving.datagrams(Arc::new(socket))).await });
        }
        let (serving, stop) = (self.clone(), stop.clone());
        tokio::spawn(async move { stop.run_until_cancelled(serving.connections(listener)).await });
        Ok(bound)
    }

    async fn datagrams(self: Arc<Self>, socket: Arc<UdpSocket>) {
        let mut buffer = vec![0; DATAGRAM];
        loop {
            // An error is about a datagram sent before, or passes.
            let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
            match self.receive(&buffer[..length], Transport::Udp) {
                Next::Nothing => {}
                Next::Send(bytes) => drop(socket.send_to(&bytes, from).await),
                Next::Ask(asked) => {
                    let (serving, socket) = (self.clone(), socket.clone());
                    // How many of these there are at a time is bounded where others are asked.
                    tokio::spawn(async move {
                        let bytes = serving.ask(*asked, Transport::Udp).await;
                        drop(socket.send_to(&bytes, from).await);
                    });
                }
            }
        }
    }

    async fn connections(self: Arc<Self>, listener: TcpListener) {
        let permits = Arc::new(Semaphore::new(CONNECTIONS));
        // The semaphore is never closed.
        while let Ok(permit) = permits.clone().acquire_owned().await {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let serving = self.clone();
                    tokio::spawn(async move {
                        // How a client ends its connection is its own business.
                        let _ = serving.connection(stream).await;
                        drop(permit);
                    });
                }
                // Out of descriptors, which others have to give back.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    async fn connection(&self, mut stream: TcpStream) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        let mut bytes = Vec::new();
        loop {
            let read = async {
                let length = stream.read_u16().await?;
                bytes.resize(length.into(), 0);
                stream.read_exact(&mut bytes).await
            };
            timeout(IDLE, read).await??;
            let reply = match self.receive(&bytes, Transport::Tcp) {
                Next::Nothing => return Ok(()),
                Next::Send(reply) => reply,
                Next::Ask(asked) => self.ask(*asked, Transport::Tcp).await,
            };
            // Replies are written with 16 bits of length in mind.
            let length = u16::try_from(reply.len()).unwrap_or(u16::MAX);
            let framed = [&length.to_be_bytes(), reply.as_slice()].concat();
            timeout(IDLE, stream.write_all(&framed)).await??;
        }
    }

    fn receive(&self, bytes: &[u8], transport: Transport) -> Next {
        let started = Instant::now();
        let request = match message::receive(bytes) {
            Received::Noise => return Next::Nothing,
            Received::Refused(code, reply) => {
                self.metrics.answered(started.elapsed(), transport, code, false);
                return Next::Send(reply);
            }
            Received::Query(request) => request,
        };
        match self.resolver.at_once(&request) {
            Step::Answer(answer) => {
                let (code, ours) = (answer.code, answer.authoritative);
                let reply = message::reply(&request, answer, transport);
                self.metrics.answered(started.elapsed(), transport, code, ours);
                Next::Send(reply)
            }
            Step::Ask(so_far, query) => Next::Ask(Box::new((request, so_far, query))),
        }
    }

    async fn ask(&self, (request, so_far, query): (Request, crate::zone::Answer, Query), transport: Transport) -> Vec<u8> {
        let started = Instant::now();
        let answer = self.resolver.ask(&request, so_far, &query).await;
        let code: ResponseCode = answer.code;
        let reply = message::reply(&request, answer, transport);
        self.metrics.answered(started.elapsed(), transport, code, false);
        reply
    }
}

/// A UDP socket that shares its port with others of this process: the kernel gives each the clients of its own.
fn udp_socket(address: SocketAddr) -> std::io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // The kernel gives what its limit allows.
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}
