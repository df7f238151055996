//! One exec or attach session: channels multiplexed over a WebSocket, each frame led by its channel's number.

use super::terminal;
use crate::connection::{Connection, Url};
use crate::error::{Error, Result, message};
use futures::{SinkExt, StreamExt};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use serde_json::json;
use std::io::{Read, Write};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// v5 only: the channel named by the next byte has ended.
const CLOSE: u8 = 255;
/// How much is read from stdin at once, and how many such pieces may wait: 256 KiB in flight.
const PIECE: usize = 32 * 1024;
const PIECES: usize = 8;

/// Which streams a session has.
#[derive(Clone, Copy, Debug)]
pub struct Streams {
    /// Send standard input.
    pub stdin: bool,
    /// Receive standard error apart from standard output.
    pub stderr: bool,
    /// With a terminal.
    pub tty: bool,
}

impl Streams {
    /// The URL with what the server has to know of the streams.
    pub fn query(self, url: Url, container: &str) -> Url {
        let flag = |on: bool| if on { "true" } else { "" };
        url.query("container", container)
            .query("stderr", flag(self.stderr))
            .query("stdin", flag(self.stdin))
            .query("stdout", "true")
            .query("tty", flag(self.tty))
    }
}

/// An open session.
pub struct Session {
    connection: kube::client::Connection,
}

impl Session {
    /// Asks the server to open it.
    pub async fn open(connection: &Connection, url: &Url) -> Result<Session> {
        let request = http::Request::get(url.as_str()).body(Vec::new()).map_err(|e| message(e.to_string()))?;
        let connection = connection.client().connect(request).await.map_err(|e| connection.upgrade_error(e))?;
        Ok(Session { connection })
    }

    /// Carries data between the remote end and this process's own standard streams until the remote end reports how it ended.
    pub async fn run(self, streams: Streams) -> Result<()> {
        self.carry(streams, std::io::stdin(), &mut std::io::stdout(), &mut std::io::stderr()).await
    }

    /// The same with other streams in their place. Input is read by a thread of its own.
    pub async fn carry(self, streams: Streams, stdin: impl Read + Send + 'static, out: &mut dyn Write, err: &mut dyn Write) -> Result<()> {
        let can_close = self.connection.supports_stream_close();
        let (mut sink, mut source) = self.connection.into_stream().split();
        let (sender, mut input) = mpsc::channel::<Vec<u8>>(PIECES);
        if streams.stdin {
            // Standard input cannot be read asynchronously; the thread ends with the process.
            std::thread::spawn(move || read_all(stdin, &sender));
        } else {
            drop(sender);
        }
        let mut resized = signal(SignalKind::window_change())?;
        let broken = |e: &dyn std::fmt::Display| message(format!("error sending to the remote end: {e}"));
        if streams.tty
            && let Some(size) = terminal::size()
        {
            sink.send(resize(size)).await.map_err(|e| broken(&e))?;
        }
        let mut reading = streams.stdin;
        let mut verdict = None;
        loop {
            tokio::select! {
                frame = source.next() => {
                    let data = match frame {
                        Some(Ok(Message::Binary(data))) => data,
                        Some(Ok(Message::Text(text))) => text.into(),
                        Some(Ok(Message::Close(_))) | None => break,
                        Some(Ok(_)) => continue,
                        Some(Err(_)) if verdict.is_some() => break,
                        Some(Err(e)) => return Err(message(format!("error reading from the remote end: {e}"))),
                    };
                    let Some((channel, data)) = data.split_first() else { continue };
                    match *channel {
                        STDOUT => out.write_all(data).and_then(|()| out.flush())?,
                        STDERR => err.write_all(data)?,
                        ERROR => verdict = Some(ended(data)),
                        _ => {}
                    }
                }
                piece = input.recv(), if reading => match piece {
                    Some(piece) => {
                        let mut frame = vec![STDIN];
                        frame.extend(piece);
                        sink.send(Message::Binary(frame.into())).await.map_err(|e| broken(&e))?;
                    }
                    None => {
                        reading = false;
                        // v4 has no way to say that input has ended.
                        if can_close {
                            sink.send(Message::Binary(vec![CLOSE, STDIN].into())).await.map_err(|e| broken(&e))?;
                        }
                    }
                },
                Some(()) = resized.recv(), if streams.tty => {
                    if let Some(size) = terminal::size() {
                        sink.send(resize(size)).await.map_err(|e| broken(&e))?;
                    }
                }
            }
        }
        verdict.unwrap_or(Ok(()))
    }
}

fn read_all(mut stdin: impl Read, sender: &mpsc::Sender<Vec<u8>>) {
    let mut buffer = vec![0; PIECE];
    loop {
        match stdin.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(n) => {
                if sender.blocking_send(buffer[..n].to_vec()).is_err() {
                    return;
                }
            }
        }
    }
}

fn resize((columns, rows): (u16, u16)) -> Message {
    let mut frame = vec![RESIZE];
    frame.extend(json!({"Width": columns, "Height": rows}).to_string().into_bytes());
    Message::Binary(frame.into())
}

/// What the last frame, a `Status`, says: success, an exit code, or why it could not run.
fn ended(data: &[u8]) -> Result<()> {
    let Ok(status) = serde_json::from_slice::<Status>(data) else {
        return Err(message(format!("error stream protocol error: unknown error: {}", String::from_utf8_lossy(data))));
    };
    if status.status.as_deref() == Some("Success") {
        return Ok(());
    }
    if status.reason.as_deref() == Some("NonZeroExitCode") {
        let causes = status.details.as_ref().and_then(|d| d.causes.as_ref());
        let code = causes.and_then(|c| c.iter().find(|c| c.reason.as_deref() == Some("ExitCode"))).and_then(|c| c.message.as_deref());
        return match code.and_then(|c| c.parse().ok()) {
            Some(code) => Err(Error::ExitWithText { code, text: format!("command terminated with exit code {code}\n") }),
            None => Err(message(format!("error stream protocol error: invalid exit code value {:?}", code.unwrap_or("")))),
        };
    }
    Err(message(status.message.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_frame_says_how_it_ended() {
        assert!(ended(br#"{"status":"Success"}"#).is_ok());
        let failed = br#"{"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"3"}]}}"#;
        let error = ended(failed).unwrap_err();
        assert_eq!((error.exit_code(), error.text()), (3, "command terminated with exit code 3\n".to_owned()));
        assert_eq!(ended(br#"{"status":"Failure","message":"no such container"}"#).unwrap_err().text(), "error: no such container\n");
    }
}
