//! A client of SPDY/3.1 as container runtimes' streaming servers speak it: streams are opened, written, half-closed and read. It exists because
//! their WebSocket protocol cannot say that one direction of a stream has ended: the kubelet needs that for standard input, kubectl for the ports it
//! forwards.
//!
//! Header blocks are written as zlib streams of stored blocks, each followed by an empty one (what a sync flush writes), so no compressor is needed;
//! those that come back say nothing that we need and are skipped. The runtime's library has no flow control, and neither has this. SPDY: draft-mbelshe-httpbis-spdy-00.

use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Control frames: this bit and the version, 3.
const CONTROL: u16 = 0x8003;
const SYN_STREAM: u16 = 1;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
/// The flag of a frame after which its sender writes no more on the stream.
const FIN: u8 = 1;
/// The longest frame taken: its length has 24 bits, and the runtime writes pieces of 32 KiB.
const MAX_FRAME: usize = 1 << 20;

/// What came in.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    /// Bytes of a stream; `end` says that there are no more.
    Data {
        /// The stream.
        stream: u32,
        /// The bytes.
        bytes: Vec<u8>,
        /// Whether they are the last.
        end: bool,
    },
    /// The stream was broken off.
    Reset(u32),
    /// A ping, to be answered as it is.
    Ping(Vec<u8>),
    /// The other side goes.
    GoAway,
    /// Something that needs no answer.
    Other,
}

/// The writing half.
pub struct Writer<W> {
    inner: W,
    next: u32,
    zlib_started: bool,
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    /// Nothing written yet.
    pub fn new(inner: W) -> Self {
        Writer { inner, next: 1, zlib_started: false }
    }

    /// Opens a stream with these headers and answers with its number.
    pub async fn open(&mut self, headers: &[(&str, &str)]) -> io::Result<u32> {
        let stream = self.next;
        self.next += 2;
        let mut payload = Vec::new();
        payload.extend_from_slice(&stream.to_be_bytes());
        payload.extend_from_slice(&[0; 6]); // No associated stream, highest priority, no slot.
        payload.extend(self.header_block(headers));
        self.control(SYN_STREAM, &payload).await?;
        Ok(stream)
    }

    fn header_block(&mut self, headers: &[(&str, &str)]) -> Vec<u8> {
        let mut plain = size(headers.len()).to_vec();
        for (name, value) in headers {
            for text in [name, value] {
                plain.extend_from_slice(&size(text.len()));
                plain.extend_from_slice(text.as_bytes());
            }
        }
        let mut out = Vec::new();
        if !self.zlib_started {
            out.extend_from_slice(&[0x78, 0x01]);
            self.zlib_started = true;
        }
        // Headers are a few dozen bytes; a stored block holds 65,535.
        let length = u16::try_from(plain.len()).unwrap_or(u16::MAX);
        for (length, bytes) in [(length, plain.as_slice()), (0, &[])] {
            out.push(0);
            out.extend_from_slice(&length.to_le_bytes());
            out.extend_from_slice(&(!length).to_le_bytes());
            out.extend_from_slice(bytes);
        }
        out
    }

    async fn control(&mut self, kind: u16, payload: &[u8]) -> io::Result<()> {
        let mut frame = Vec::with_capacity(8 + payload.len());
        frame.extend_from_slice(&CONTROL.to_be_bytes());
        frame.extend_from_slice(&kind.to_be_bytes());
        frame.push(0);
        frame.extend_from_slice(&size(payload.len())[1..]);
        frame.extend_from_slice(payload);
        self.inner.write_all(&frame).await?;
        self.inner.flush().await
    }

    /// Writes on a stream; `end` half-closes it.
    pub async fn data(&mut self, stream: u32, bytes: &[u8], end: bool) -> io::Result<()> {
        let mut frame = Vec::with_capacity(8 + bytes.len());
        frame.extend_from_slice(&stream.to_be_bytes());
        frame.push(if end { FIN } else { 0 });
        frame.extend_from_slice(&size(bytes.len())[1..]);
        frame.extend_from_slice(bytes);
        self.inner.write_all(&frame).await?;
        self.inner.flush().await
    }

    /// Ends the connection.
    pub async fn close(&mut self) -> io::Result<()> {
        self.inner.shutdown().await
    }

    /// Answers a ping.
    pub async fn pong(&mut self, payload: &[u8]) -> io::Result<()> {
        self.control(PING, payload).await
    }
}

/// A length as it is written. Everything written here is far below 24 bits.
fn size(length: usize) -> [u8; 4] {
    u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes()
}

/// Reads one frame; `None` at the end of the connection.
pub async fn read_frame<R: AsyncRead + Unpin>(reader: &mut R) -> io::Result<Option<Frame>> {
    let mut head = [0; 8];
    match reader.read_exact(&mut head).await {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let first = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
    let (flags, length) = (head[4], u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize);
    if length > MAX_FRAME {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {length} bytes")));
    }
    let mut bytes = vec![0; length];
    reader.read_exact(&mut bytes).await?;
    if first >> 31 == 0 {
        return Ok(Some(Frame::Data { stream: first, bytes, end: flags & FIN != 0 }));
    }
    let stream = bytes.first_chunk::<4>().map(|b| u32::from_be_bytes(*b) & 0x7fff_ffff);
    let kind = u16::try_from(first & 0xffff).unwrap_or_default();
    Ok(Some(match (kind, stream) {
        (RST_STREAM, Some(stream)) => Frame::Reset(stream),
        (PING, _) => Frame::Ping(bytes),
        (GOAWAY, _) => Frame::GoAway,
        _ => Frame::Other,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_are_laid_out_as_the_draft_says() {
        let mut out = Vec::new();
        let mut writer = Writer::new(&mut out);
        assert_eq!(writer.open(&[("streamtype", "stdin")]).await.expect("written"), 1);
        assert_eq!(writer.open(&[]).await.expect("written"), 3);
        writer.data(1, b"hi", true).await.expect("written");
        assert_eq!(&out[..8], [0x80, 3, 0, 1, 0, 0, 0, 49]);
        assert_eq!(&out[8..18], [0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        // zlib's header, a stored block of 27 bytes, one header, its name.
        assert_eq!(&out[18..29], [0x78, 1, 0, 27, 0, !27, 255, 0, 0, 0, 1]);
        assert_eq!(&out[33..43], b"streamtype");
        assert_eq!(&out[52..57], [0, 0, 0, 255, 255]);
        assert_eq!(&out[out.len() - 10..], [0, 0, 0, 1, 1, 0, 0, 2, b'h', b'i']);
    }

    #[tokio::test]
    async fn frames_are_read_back() {
        let mut input: &[u8] = &[0, 0, 0, 3, 1, 0, 0, 1, b'x', 0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 2, 0x80, 3, 0, 7, 0, 0, 0, 0];
        assert_eq!(read_frame(&mut input).await.expect("read"), Some(Frame::Data { stream: 3, bytes: b"x".to_vec(), end: true }));
        assert_eq!(read_frame(&mut input).await.expect("read"), Some(Frame::Ping(vec![0, 0, 0, 2])));
        assert_eq!(read_frame(&mut input).await.expect("read"), Some(Frame::GoAway));
        assert_eq!(read_frame(&mut input).await.expect("read"), None);
        let mut endless: &[u8] = &[0, 0, 0, 3, 0, 255, 255, 255];
        assert!(read_frame(&mut endless).await.is_err());
    }
}
