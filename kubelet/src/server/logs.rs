//! `/containerLogs/NAMESPACE/POD/CONTAINER`: a container's log out of the files the runtime writes, in CRI's format (upstream:
//! `pkg/kubelet/kuberuntime/logs`).

use super::Shared;
use crate::{container::identity, pod::log_rotation::rotated, pod::observed::Observed};
use axum::{
    body::{Body, Bytes},
    extract::{Path, Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use jiff::Timestamp;
use serde::Deserialize;
use std::{
    io,
    path::{Path as FilePath, PathBuf},
    time::Duration,
};
use tokio::{
    fs::File,
    io::{AsyncBufReadExt, AsyncReadExt, AsyncSeekExt, BufReader},
    sync::mpsc,
};

/// How often a followed log is looked at for more. Lines are seldom waited for longer than a reader notices.
const FOLLOW: Duration = Duration::from_millis(100);
/// How many pieces may wait for a slow client.
const WAITING: usize = 16;
/// How much is gathered before it is sent.
const PIECE: usize = 32 * 1024;
/// The longest line kept whole; CRI splits lines at 16 KiB.
const MAX_LINE: u64 = 256 * 1024;

/// What of a log is asked for.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LogOptions {
    follow: Option<String>,
    previous: Option<String>,
    timestamps: Option<String>,
    tail_lines: Option<u64>,
    limit_bytes: Option<u64>,
    since_seconds: Option<i64>,
    since_time: Option<String>,
    stream: Option<String>,
}

fn truth(value: Option<&String>) -> bool {
    value.is_some_and(|v| matches!(v.as_str(), "true" | "1"))
}

/// One line of CRI's format: `TIME STREAM TAGS TEXT`; a `P` tag says that the line goes on in the next.
#[derive(Debug, PartialEq)]
struct Line<'a> {
    time: &'a str,
    stream: &'a str,
    partial: bool,
    text: &'a [u8],
}

fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut parts = line.splitn(4, |b| *b == b' ');
    let mut word = || parts.next().and_then(|w| std::str::from_utf8(w).ok());
    let (time, stream, tags) = (word()?, word()?, word()?);
    let text = parts.next().unwrap_or_default();
    Some(Line { time, stream, partial: tags.split(':').next() == Some("P"), text })
}

/// What goes to the client, cut to what was asked for.
struct Filter {
    since: Option<Timestamp>,
    timestamps: bool,
    stream: Option<String>,
    left: Option<u64>,
    continues: bool,
}

impl Filter {
    fn new(options: &LogOptions, now: Timestamp) -> Result<Self, String> {
        let since = match (&options.since_time, options.since_seconds) {
            (Some(text), _) => Some(text.parse().map_err(|_| format!("invalid sinceTime {text:?}"))?),
            (None, Some(seconds)) => Some(now - jiff::SignedDuration::from_secs(seconds)),
            (None, None) => None,
        };
        let stream = options.stream.as_deref().filter(|s| *s != "All").map(str::to_lowercase);
        Ok(Filter { since, timestamps: truth(options.timestamps.as_ref()), stream, left: options.limit_bytes, continues: false })
    }

    /// Adds a raw line to `out`. Answers whether more may follow.
    fn add(&mut self, raw: &[u8], out: &mut Vec<u8>) -> bool {
        let Some(line) = parse(raw.strip_suffix(b"\n").unwrap_or(raw)) else { return true };
        if self.stream.as_deref().is_some_and(|s| s != line.stream) || !self.recent(line.time) {
            return true;
        }
        let mut text = Vec::new();
        if self.timestamps && !self.continues {
            text.extend_from_slice(line.time.as_bytes());
            text.push(b' ');
        }
        text.extend_from_slice(line.text);
        if !line.partial {
            text.push(b'\n');
        }
        self.continues = line.partial;
        if let Some(left) = &mut self.left {
            text.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= text.len() as u64;
        }
        out.extend_from_slice(&text);
        self.left != Some(0)
    }

    fn recent(&self, time: &str) -> bool {
        let Some(since) = self.since else { return true };
        time.parse::<Timestamp>().is_ok_and(|at| at >= since)
    }
}

/// Answers a request for a log.
pub async fn serve(
    State(shared): State<Shared>,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    Query(options): Query<LogOptions>,
) -> Response {
    match open(&shared, &namespace, &pod, &container, options).await {
        Ok(response) => response,
        Err((status, message)) => (status, message).into_response(),
    }
}

type Refusal = (StatusCode, String);

async fn open(shared: &Shared, namespace: &str, name: &str, container: &str, options: LogOptions) -> Result<Response, Refusal> {
    let pod = shared.workers.pod(namespace, name);
    let pod = pod.ok_or_else(|| (StatusCode::NOT_FOUND, format!("pod {name:?} does not exist")))?;
    let known = crate::pod::kill::definition(&pod, container).is_some();
    if !known {
        return Err((StatusCode::NOT_FOUND, format!("container {container:?} not found in pod {name:?}")));
    }
    let failed = |error: &dyn std::fmt::Display| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
    let runtime = shared.workers.node().runtime.clone();
    let observed = Observed::fetch(runtime.as_ref(), identity::uid(&pod)).await.map_err(|e| failed(&e))?;
    let previous = truth(options.previous.as_ref());
    let mut instances = observed.of(container);
    let instance = if previous { instances.nth(1) } else { instances.next() };
    let Some(instance) = instance else {
        let what = if previous {
            format!("previous terminated container {container:?} in pod {name:?} not found")
        } else {
            format!("container {container:?} in pod {name:?} is waiting to start: {}", waiting_reason(&pod, container))
        };
        return Err((StatusCode::BAD_REQUEST, what));
    };
    let filter = Filter::new(&options, Timestamp::now()).map_err(|e| (StatusCode::BAD_REQUEST, e))?;
    let path = PathBuf::from(&instance.status.log_path);
    let follow = truth(options.follow.as_ref()) && instance.running();
    let (sender, receiver) = mpsc::channel(WAITING);
    let id = instance.status.id.clone();
    let still_runs = move || {
        let (runtime, id) = (runtime.clone(), id.clone());
        async move { runtime.container_status(&id).await.is_ok_and(|s| s.state() == k8s_cri::v1::ContainerState::ContainerRunning) }
    };
    tokio::spawn(async move {
        if let Err(error) = send(&path, options.tail_lines, follow, still_runs, filter, &sender).await {
            tracing::debug!(log = %path.display(), %error, "reading the log ended");
        }
    });
    let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let body = Body::from_stream(futures::StreamExt::map(stream, Ok::<Bytes, io::Error>));
    Ok(([("content-type", "text/plain")], body).into_response())
}

/// Why a container has no log yet, as its status says it.
fn waiting_reason(pod: &k8s_openapi::api::core::v1::Pod, container: &str) -> String {
    let status = pod.status.as_ref();
    let lists = status.into_iter().flat_map(|s| [&s.container_statuses, &s.init_container_statuses]);
    let found = lists.flat_map(|l| l.iter().flatten()).find(|s| s.name == container);
    let waiting = found.and_then(|s| s.state.as_ref()?.waiting.as_ref());
    let reason = waiting.and_then(|w| w.reason.clone()).unwrap_or_else(|| "ContainerCreating".into());
    match reason.as_str() {
        "ErrImagePull" | "ImagePullBackOff" => {
            if reason == "ErrImagePull" {
                "image can't be pulled".into()
            } else {
                "trying and failing to pull image".into()
            }
        }
        _ => reason,
    }
}

async fn send<F: Future<Output = bool>>(
    path: &FilePath,
    tail: Option<u64>,
    follow: bool,
    still_runs: impl Fn() -> F,
    mut filter: Filter,
    sender: &mpsc::Sender<Bytes>,
) -> io::Result<()> {
    let mut file = File::open(path).await?;
    let mut out = Vec::new();
    if let Some(count) = tail {
        let start = tail_start(&mut file, count).await?;
        file.seek(io::SeekFrom::Start(start)).await?;
    } else {
        // What was rotated away comes first.
        for old in rotated(path)? {
            let mut reader = BufReader::new(File::open(old).await?);
            if !copy(&mut reader, &mut filter, &mut out, sender, &mut Vec::new()).await? {
                return Ok(());
            }
        }
    }
    let mut reader = BufReader::new(file);
    let mut rest = Vec::new();
    loop {
        // Asked before reading: what it wrote before it ended is then read.
        let runs = follow && still_runs().await;
        if !copy(&mut reader, &mut filter, &mut out, sender, &mut rest).await? || !runs {
            return Ok(());
        }
        if sender.is_closed() {
            return Ok(());
        }
        tokio::time::sleep(FOLLOW).await;
        // A log that was rotated goes on in a new file.
        let (here, there) = (reader.get_ref().metadata().await?, tokio::fs::metadata(path).await);
        use std::os::unix::fs::MetadataExt;
        if there.is_ok_and(|there| there.ino() != here.ino()) {
            copy(&mut reader, &mut filter, &mut out, sender, &mut rest).await?;
            reader = BufReader::new(File::open(path).await?);
        }
    }
}

/// Copies what is there. `rest` keeps an unfinished line for the next time. Answers whether more is wanted.
async fn copy(
    reader: &mut BufReader<File>,
    filter: &mut Filter,
    out: &mut Vec<u8>,
    sender: &mpsc::Sender<Bytes>,
    rest: &mut Vec<u8>,
) -> io::Result<bool> {
    let mut wanted = true;
    while wanted {
        let read = (&mut *reader).take(MAX_LINE).read_until(b'\n', rest).await?;
        if read == 0 {
            break;
        }
        if !rest.ends_with(b"\n") && (rest.len() as u64) < MAX_LINE {
            break;
        }
        wanted = filter.add(rest, out);
        rest.clear();
        if out.len() >= PIECE && sender.send(Bytes::from(std::mem::take(out))).await.is_err() {
            return Ok(false);
        }
    }
    if !out.is_empty() && sender.send(Bytes::from(std::mem::take(out))).await.is_err() {
        return Ok(false);
    }
    Ok(wanted)
}

/// Where the last `count` lines begin.
async fn tail_start(file: &mut File, count: u64) -> io::Result<u64> {
    const BLOCK: u64 = 16 * 1024;
    let length = file.metadata().await?.len();
    if count == 0 {
        return Ok(length);
    }
    let (mut end, mut seen) = (length, 0);
    while end > 0 {
        let start = end.saturating_sub(BLOCK);
        let mut block = vec![0; usize::try_from(end - start).unwrap_or(0)];
        file.seek(io::SeekFrom::Start(start)).await?;
        file.read_exact(&mut block).await?;
        for (index, byte) in block.iter().enumerate().rev() {
            // The end of the last line is no beginning of another.
            let at = start + index as u64;
            if *byte == b'\n' && at + 1 != length {
                seen += 1;
                if seen == count {
                    return Ok(at + 1);
                }
            }
        }
        end = start;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2026-01-01T00:00:00Z stdout F one\n2026-01-01T00:00:01Z stderr P tw\n2026-01-01T00:00:01Z stderr F o\n2026-01-01T00:00:02Z stdout F three\n";

    async fn read(options: LogOptions) -> String {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("0.log");
        std::fs::write(&path, LOG).expect("written");
        let filter = Filter::new(&options, "2026-01-01T00:00:03Z".parse().expect("a time")).expect("good options");
        let (sender, mut receiver) = mpsc::channel(WAITING);
        send(&path, options.tail_lines, false, || async { false }, filter, &sender).await.expect("read");
        drop(sender);
        let mut out = Vec::new();
        while let Some(piece) = receiver.recv().await {
            out.extend_from_slice(&piece);
        }
        String::from_utf8(out).expect("text")
    }

    #[tokio::test]
    async fn options_cut_the_log() {
        let all = LogOptions::default();
        assert_eq!(read(all.clone()).await, "one\ntwo\nthree\n");
        assert_eq!(read(LogOptions { tail_lines: Some(1), ..all.clone() }).await, "three\n");
        assert_eq!(read(LogOptions { tail_lines: Some(0), ..all.clone() }).await, "");
        assert_eq!(read(LogOptions { limit_bytes: Some(5), ..all.clone() }).await, "one\nt");
        assert_eq!(read(LogOptions { since_seconds: Some(1), ..all.clone() }).await, "three\n");
        assert_eq!(read(LogOptions { stream: Some("Stderr".into()), ..all.clone() }).await, "two\n");
        let stamped = read(LogOptions { timestamps: Some("true".into()), ..all }).await;
        assert_eq!(stamped.lines().nth(1), Some("2026-01-01T00:00:01Z two"));
    }
}
