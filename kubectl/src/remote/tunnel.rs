//! The tunnel of `port-forward`: one SPDY connection to the pod's node, and in it for every local connection a stream of bytes and one that says what
//! went wrong (upstream: `client-go/tools/portforward`).
//!
//! The SPDY bytes travel in WebSocket messages (`SPDY/3.1+portforward.k8s.io`); a server that does not know these is asked for SPDY itself, as
//! upstream's kubectl does. There is no flow control in either, so a local connection that is not read holds the others up.

use crate::connection::{Connection, Url};
use crate::error::{Error, Result, message};
use bytes::Bytes;
use client::spdy::{self, Frame};
use futures::{SinkExt, StreamExt, TryStreamExt};
use http::Method;
use hyper_util::rt::TokioIo;
use std::cell::RefCell;
use std::collections::HashMap;
use std::future::ready;
use std::io;
use std::rc::Rc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Mutex, mpsc};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Message, handshake, protocol::Role};
use tokio_util::io::{CopyToBytes, SinkWriter, StreamReader};

/// The WebSocket subprotocol.
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
/// What is spoken on the SPDY connection.
const PROTOCOL: &str = "portforward.k8s.io";
/// Pieces of a stream that may wait to be written locally. Servers send 32 KiB at once, so 512 KiB.
const WAITING: usize = 16;

type Reader = Box<dyn AsyncRead + Unpin>;
type Writer = spdy::Writer<Box<dyn AsyncWrite + Unpin>>;
type Streams = Rc<RefCell<HashMap<u32, mpsc::Sender<Vec<u8>>>>>;

/// One stream of the tunnel.
pub struct Stream {
    /// Its number, to write to it.
    pub id: u32,
    /// What comes in, until it ends.
    pub incoming: mpsc::Receiver<Vec<u8>>,
}

/// An open tunnel.
pub struct Tunnel {
    writer: Rc<Mutex<Writer>>,
    streams: Streams,
    requests: RefCell<u32>,
}

impl Tunnel {
    /// Opens a tunnel. The future is its reading, and ends with it.
    pub async fn dial(connection: &Connection, url: &Url) -> Result<(Tunnel, impl Future<Output = ()> + use<>)> {
        let (mut reader, writer) = match through_web_socket(connection, url).await {
            Ok(halves) => halves,
            // The server was there and did not want to.
            Err(Error::Status(_)) => plain(connection, url).await?,
            Err(error) => return Err(error),
        };
        let writer = Rc::new(Mutex::new(spdy::Writer::new(writer)));
        let tunnel = Tunnel { writer: writer.clone(), streams: Streams::default(), requests: RefCell::new(0) };
        let streams = tunnel.streams.clone();
        let reading = async move {
            // Whatever ends the connection ends all streams.
            drop(read(&mut reader, &writer, &streams).await);
            streams.borrow_mut().clear();
        };
        Ok((tunnel, reading))
    }

    /// Has the node connect to a port of the pod: the stream of what goes wrong, and that of the bytes.
    pub async fn forward(&self, port: u16) -> Result<(Stream, Stream)> {
        let request = {
            let mut requests = self.requests.borrow_mut();
            *requests += 1;
            (*requests - 1).to_string()
        };
        let port = port.to_string();
        let headers = |kind| [("streamtype", kind), ("port", port.as_str()), ("requestid", request.as_str())];
        let errors = self.open(&headers("error")).await?;
        // Nobody writes to an error stream.
        self.finish(errors.id).await?;
        Ok((errors, self.open(&headers("data")).await?))
    }

    async fn open(&self, headers: &[(&str, &str)]) -> Result<Stream> {
        let (sender, incoming) = mpsc::channel(WAITING);
        let mut writer = self.writer.lock().await;
        let id = writer.open(headers).await.map_err(broken)?;
        self.streams.borrow_mut().insert(id, sender);
        Ok(Stream { id, incoming })
    }

    /// Writes to a stream.
    pub async fn send(&self, stream: u32, bytes: &[u8]) -> Result<()> {
        self.writer.lock().await.data(stream, bytes, false).await.map_err(broken)
    }

    /// Ends what is written to a stream; what comes from there goes on.
    pub async fn finish(&self, stream: u32) -> Result<()> {
        self.writer.lock().await.data(stream, &[], true).await.map_err(broken)
    }

    /// Ends the tunnel.
    pub async fn close(&self) {
        // One that is broken is closed.
        drop(self.writer.lock().await.close().await);
    }
}

fn broken(error: io::Error) -> Error {
    message(format!("error sending to the remote end: {error}"))
}

/// Hands out what comes in, until the connection ends.
async fn read(reader: &mut Reader, writer: &Mutex<Writer>, streams: &Streams) -> io::Result<()> {
    while let Some(frame) = spdy::read_frame(reader).await? {
        match frame {
            Frame::Data { stream, bytes, end } => {
                let to = streams.borrow().get(&stream).cloned();
                if let Some(to) = to
                    && !bytes.is_empty()
                {
                    // A connection that ended locally does not listen any more.
                    drop(to.send(bytes).await);
                }
                if end {
                    streams.borrow_mut().remove(&stream);
                }
            }
            Frame::Reset(stream) => drop(streams.borrow_mut().remove(&stream)),
            Frame::Ping(payload) => writer.lock().await.pong(&payload).await?,
            Frame::GoAway => return Ok(()),
            Frame::Other => {}
        }
    }
    Ok(())
}

async fn through_web_socket(connection: &Connection, url: &Url) -> Result<(Reader, Box<dyn AsyncWrite + Unpin>)> {
    let key = handshake::client::generate_key();
    let asked = [
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", key.as_str()),
        ("sec-websocket-protocol", TUNNEL),
    ];
    let (answered, upgraded) = connection.upgrade(Method::GET, url, &asked).await?;
    let agreed = |name: &str, value: &str| answered.get(name).is_some_and(|v| v.as_bytes() == value.as_bytes());
    if !agreed("sec-websocket-accept", &handshake::derive_accept_key(key.as_bytes())) || !agreed("sec-websocket-protocol", TUNNEL) {
        return Err(message("unable to upgrade streaming request: the server did not agree to the protocol"));
    }
    let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, None).await;
    let (sink, source) = socket.split();
    let bytes = source.try_filter_map(|message| ready(Ok(matches!(message, Message::Binary(_)).then(|| message.into_data()))));
    let sink = sink
        .with(|bytes: Bytes| ready(Ok(Message::Binary(bytes))))
        .sink_map_err(|e: tokio_tungstenite::tungstenite::Error| io::Error::other(e));
    let reader = StreamReader::new(Box::pin(bytes.map_err(io::Error::other)));
    Ok((Box::new(reader), Box::new(SinkWriter::new(CopyToBytes::new(sink)))))
}

async fn plain(connection: &Connection, url: &Url) -> Result<(Reader, Box<dyn AsyncWrite + Unpin>)> {
    let asked = [("upgrade", "SPDY/3.1"), ("x-stream-protocol-version", PROTOCOL)];
    let (_, upgraded) = connection.upgrade(Method::POST, url, &asked).await?;
    let (reader, writer) = tokio::io::split(TokioIo::new(upgraded));
    Ok((Box::new(reader), Box::new(writer)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A data frame of a stream; the last one ends it.
    fn data(stream: u8, text: &[u8], end: bool) -> Vec<u8> {
        let length = u8::try_from(text.len()).expect("short");
        [&[0, 0, 0, stream, u8::from(end), 0, 0, length], text].concat()
    }

    #[tokio::test]
    async fn what_comes_in_is_handed_out_by_stream() {
        let wire = [data(3, b"ab", false), data(1, b"why", true), data(9, b"nobody's", false), data(3, b"c", true)].concat();
        let written: Box<dyn AsyncWrite + Unpin> = Box::new(io::Cursor::new(Vec::new()));
        let tunnel =
            Tunnel { writer: Rc::new(Mutex::new(spdy::Writer::new(written))), streams: Streams::default(), requests: RefCell::default() };
        let (mut errors, mut bytes) = tunnel.forward(80).await.expect("opened");
        assert_eq!((errors.id, bytes.id), (1, 3));
        let mut reader: Reader = Box::new(io::Cursor::new(wire));
        read(&mut reader, &tunnel.writer, &tunnel.streams).await.expect("read");
        assert_eq!(errors.incoming.recv().await.as_deref(), Some(b"why".as_slice()));
        assert_eq!(errors.incoming.recv().await, None);
        let mut all = Vec::new();
        while let Some(piece) = bytes.incoming.recv().await {
            all.extend(piece);
        }
        assert_eq!(all, b"abc");
    }
}
