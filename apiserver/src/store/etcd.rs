//! A store in an etcd cluster, for control planes on several machines. The trait was made after etcd, so this is a translation: a write
//! is a transaction that compares a revision, and the promises are etcd's own.
//!
//! etcd tells a watch nothing while nothing happens under its prefix. Where others write to the same etcd, a reader may wait for a
//! revision that was made elsewhere; a watch that stays behind what somebody asked for therefore writes a marker under its prefix, whose event
//! cannot overtake others. (etcd has progress requests for this, but before 3.4.31 and 3.5.13 their answers can overtake events.)
//!
//! Left out: authentication by user and password (upstream's API server has none either), and the reuse of leases.

use super::{Batch, Event, Expect, KeyValue, LeaseId, Listing, Range, Revision, Store, StoreError, StoreResult, VALUE_LIMIT, Watch};
use bytes::Bytes;
use etcd_client::{
    Certificate, Client, Compare, CompareOp, ConnectOptions, Error, EventType, GetOptions, Identity, KvClient, PutOptions, TlsOptions, Txn,
    TxnOp, TxnOpResponse, WatchOptions, WatchStream,
};
use futures::future::{BoxFuture, FutureExt};
use futures::stream::{self, StreamExt};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How many entries are asked for at a time; with the limit on values a page may be large, but is then no larger than what it is read for.
const PAGE: usize = 500;
/// How large an answer may be: a page of the largest values.
const ANSWER_LIMIT: usize = PAGE * VALUE_LIMIT;
/// What follows the prefix in a marker's key. No resource is called so.
const MARKER: &str = "~progress";
/// How long a watch may be behind a revision somebody waits for before it writes a marker.
const PROGRESS_AFTER: Duration = Duration::from_millis(50);
/// How often history is compacted to where it was the time before (upstream's).
const COMPACT_EVERY: Duration = Duration::from_secs(300);
/// How long a probe waits, as upstream (`--etcd-healthcheck-timeout`).
const HEALTH_TIMEOUT: Duration = Duration::from_secs(2);
/// How long to wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Where etcd is, and who we are there: upstream's `--etcd-servers`, `--etcd-cafile`, `--etcd-certfile` and `--etcd-keyfile`, read.
#[derive(Clone, Default)]
pub struct Options {
    /// URLs.
    pub servers: Vec<String>,
    /// The authority (PEM) that etcd's certificate must be of.
    pub ca: Option<Vec<u8>>,
    /// Our certificate and its key (PEM).
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

/// Connects to etcd, and fails if it does not answer.
pub async fn connect(options: Options) -> StoreResult<Arc<dyn Store>> {
    let mut connect = ConnectOptions::new().with_connect_timeout(TIMEOUT).with_keep_alive(Duration::from_secs(30), TIMEOUT);
    if options.ca.is_some() || options.identity.is_some() {
        let mut tls = TlsOptions::new();
        if let Some(ca) = options.ca {
            tls = tls.ca_certificate(Certificate::from_pem(ca));
        }
        if let Some((certificate, key)) = options.identity {
            tls = tls.identity(Identity::from_pem(certificate, key));
        }
        connect = connect.with_tls(tls);
    }
    let client = Client::connect(&options.servers, Some(connect)).await.map_err(unavailable)?;
    let store = Arc::new(Etcd { client, wanted: watch::Sender::new(0), closed: CancellationToken::new() });
    tokio::time::timeout(TIMEOUT, store.revision()).await.map_err(|_| StoreError::Unavailable("etcd does not answer".into()))??;
    tokio::spawn(compact_regularly(Arc::downgrade(&store)));
    Ok(store)
}

struct Etcd {
    client: Client,
    /// The largest revision that somebody was told of and may wait for.
    wanted: watch::Sender<Revision>,
    closed: CancellationToken,
}

async fn compact_regularly(store: std::sync::Weak<Etcd>) {
    let mut before = None;
    loop {
        let Some(closed) = store.upgrade().map(|s| s.closed.clone()) else { return };
        tokio::select! {
            () = closed.cancelled() => return,
            () = tokio::time::sleep(COMPACT_EVERY) => {}
        }
        let Some(store) = store.upgrade() else { return };
        if let Some(revision) = before
            && let Err(error) = store.compact(revision).await
        {
            tracing::warn!(%error, revision, "etcd cannot be compacted");
        }
        before = store.current().await.ok();
    }
}

fn unavailable(error: Error) -> StoreError {
    StoreError::Unavailable(error.to_string())
}

/// What an error of etcd means, told by the texts that are part of its protocol. `Compacted` does not know the revision yet.
fn meaning(error: Error, size: usize) -> StoreError {
    let text = error.to_string();
    match text.as_str() {
        t if t.contains("required revision has been compacted") => StoreError::Compacted(0),
        t if t.contains("required revision is a future revision") => StoreError::Future(0),
        t if t.contains("requested lease not found") => StoreError::NoLease,
        t if t.contains("request is too large") => StoreError::TooLarge(size),
        _ => StoreError::Unavailable(text),
    }
}

fn revision_of(header: Option<&etcd_client::ResponseHeader>) -> StoreResult<Revision> {
    header.map(|h| h.revision() as Revision).ok_or_else(|| StoreError::Unavailable("etcd answered without a revision".into()))
}

fn key_of(kv: &etcd_client::KeyValue) -> StoreResult<String> {
    kv.key_str().map(str::to_owned).map_err(|_| StoreError::Unavailable("a key in etcd is no text".into()))
}

fn entry(kv: &etcd_client::KeyValue) -> StoreResult<KeyValue> {
    Ok(KeyValue {
        key: key_of(kv)?,
        value: Bytes::copy_from_slice(kv.value()),
        create_revision: kv.create_revision() as Revision,
        mod_revision: kv.mod_revision() as Revision,
        lease: kv.lease(),
    })
}

/// The first key after all that start with a prefix; keys are text, so the last byte can always grow.
fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    match end.last_mut() {
        Some(last) => *last += 1,
        None => end.push(0),
    }
    end
}

impl Etcd {
    fn kv(&self) -> StoreResult<KvClient> {
        if self.closed.is_cancelled() {
            return Err(StoreError::Unavailable("the store is closed".into()));
        }
        Ok(self.client.kv_client().max_decoding_message_size(ANSWER_LIMIT))
    }

    /// The current revision. Any linearizable read carries it.
    async fn current(&self) -> StoreResult<Revision> {
        let options = GetOptions::new().with_count_only().with_limit(1);
        let answer = self.kv()?.get("/", Some(options)).await.map_err(unavailable)?;
        revision_of(answer.header())
    }

    /// Runs `write` if `expect` holds for the key; else the error says what stands there.
    async fn write(&self, key: String, write: TxnOp, expect: Expect, deletes: bool, size: usize) -> StoreResult<Revision> {
        let condition = match expect {
            Expect::Any if deletes => vec![Compare::version(key.as_str(), CompareOp::Greater, 0)],
            Expect::Any => Vec::new(),
            Expect::Absent => vec![Compare::version(key.as_str(), CompareOp::Equal, 0)],
            Expect::At(revision) => vec![Compare::mod_revision(key.as_str(), CompareOp::Equal, revision as i64)],
        };
        // A deletion that expects nothing to be there would succeed without a write.
        let write = if deletes && expect == Expect::Absent { TxnOp::get(key.as_str(), None) } else { write };
        let txn = Txn::new().when(condition).and_then([write]).or_else([TxnOp::get(key.as_str(), None)]);
        let answer = self.kv()?.txn(txn).await.map_err(|e| meaning(e, size))?;
        match answer.op_responses().into_iter().next() {
            Some(TxnOpResponse::Get(found)) => Err(StoreError::Conflict(found.kvs().first().map(entry).transpose()?)),
            _ => revision_of(answer.header()),
        }
    }

    /// The oldest revision that can be read: what a watch from the beginning is refused with.
    async fn oldest(&self) -> StoreResult<Revision> {
        let options = WatchOptions::new().with_start_revision(1);
        let mut watch = self.client.watch_client().watch("/", Some(options)).await.map_err(unavailable)?;
        let refused = async {
            while let Some(answer) = watch.message().await.map_err(unavailable)? {
                if answer.compact_revision() > 0 {
                    return Ok(answer.compact_revision() as Revision);
                }
            }
            Err(StoreError::Unavailable("etcd ended a watch".into()))
        };
        tokio::time::timeout(TIMEOUT, refused).await.map_err(|_| StoreError::Unavailable("etcd does not answer".into()))?
    }

    /// Puts in the revisions that etcd's error texts do not carry.
    async fn complete(&self, error: StoreError) -> StoreError {
        let known = match error {
            StoreError::Compacted(0) => self.oldest().await.map(StoreError::Compacted),
            StoreError::Future(0) => self.current().await.map(StoreError::Future),
            other => Ok(other),
        };
        known.unwrap_or_else(|error| error)
    }

    async fn page(&self, range: &Range, start: Vec<u8>, limit: usize, at: Option<Revision>) -> StoreResult<Listing> {
        let mut options = GetOptions::new().with_range(end_of(&range.prefix)).with_limit(limit as i64);
        if let Some(at) = at {
            options = options.with_revision(at as i64);
        }
        let answer = match self.kv()?.get(start, Some(options)).await {
            Ok(answer) => answer,
            Err(error) => return Err(self.complete(meaning(error, 0)).await),
        };
        let items: Vec<KeyValue> = answer.kvs().iter().map(entry).collect::<StoreResult<_>>()?;
        let remaining = (answer.count() as usize).saturating_sub(items.len());
        Ok(Listing { items, revision: at.map_or_else(|| revision_of(answer.header()), Ok)?, remaining })
    }

    async fn list_pages(&self, range: Range) -> StoreResult<Listing> {
        let limit = if range.limit == 0 { usize::MAX } else { range.limit };
        let after = |key: &str| [key.as_bytes(), b"\0"].concat();
        let start = range.after.as_deref().filter(|after| *after >= range.prefix.as_str()).map_or(range.prefix.clone().into_bytes(), after);
        let mut listing = self.page(&range, start, limit.min(PAGE), range.at).await?;
        while listing.remaining > 0 && listing.items.len() < limit {
            let Some(last) = listing.items.last() else { break };
            let more = self.page(&range, after(&last.key), (limit - listing.items.len()).min(PAGE), Some(listing.revision)).await?;
            listing.items.extend(more.items);
            listing.remaining = more.remaining;
        }
        Ok(listing)
    }

    async fn follow(&self, prefix: String, from: Revision) -> StoreResult<Watch> {
        let current = self.current().await?;
        if from > current {
            return Err(StoreError::Future(current));
        }
        let options = WatchOptions::new().with_range(end_of(&prefix)).with_start_revision(from as i64 + 1);
        let mut client = self.client.watch_client().max_decoding_message_size(ANSWER_LIMIT);
        let marker = format!("{prefix}{MARKER}");
        let watch = client.watch(prefix, Some(options)).await.map_err(unavailable)?;
        let (wanted, closed) = (self.wanted.subscribe(), self.closed.clone());
        let follow = Follow { watch, kv: self.client.kv_client(), marker, wanted, closed, reached: from, over: false };
        let stream = stream::unfold(follow, |mut follow| async move {
            let next = follow.next().await?;
            Some((next, follow))
        });
        Ok(stream.boxed())
    }
}

/// A watch of etcd.
struct Follow {
    watch: WatchStream,
    kv: KvClient,
    marker: String,
    wanted: watch::Receiver<Revision>,
    closed: CancellationToken,
    reached: Revision,
    over: bool,
}

impl Follow {
    async fn next(&mut self) -> Option<StoreResult<Batch>> {
        while !self.over {
            let behind = *self.wanted.borrow_and_update() > self.reached;
            let told = tokio::select! {
                () = self.closed.cancelled() => return None,
                message = self.watch.message() => self.read(message),
                // The sender lives as long as the store; when it is gone nobody waits, and etcd's messages go on.
                Ok(()) = self.wanted.changed(), if !behind => None,
                () = tokio::time::sleep(PROGRESS_AFTER), if behind => {
                    self.kv.put(self.marker.as_str(), "", None).await.err().map(|e| Err(unavailable(e)))
                }
            };
            match told {
                None => {}
                Some(Ok(batch)) => {
                    self.reached = batch.revision;
                    return Some(Ok(batch));
                }
                Some(Err(error)) => {
                    self.over = true;
                    return Some(Err(error));
                }
            }
        }
        None
    }

    fn read(&self, message: Result<Option<etcd_client::WatchResponse>, Error>) -> Option<StoreResult<Batch>> {
        let answer = match message {
            Ok(Some(answer)) => answer,
            Ok(None) => return Some(Err(StoreError::Unavailable("etcd ended the watch".into()))),
            Err(error) => return Some(Err(unavailable(error))),
        };
        if answer.compact_revision() > 0 {
            return Some(Err(StoreError::Compacted(answer.compact_revision() as Revision)));
        }
        if answer.canceled() {
            return Some(Err(StoreError::Unavailable(answer.cancel_reason().to_owned())));
        }
        let events: StoreResult<Vec<Event>> = answer.events().iter().filter_map(|e| Some((e.event_type(), e.kv()?))).map(event).collect();
        let mut events = match events {
            Ok(events) => events,
            Err(error) => return Some(Err(error)),
        };
        // Without events it only confirms the watch.
        let revision = events.last()?.revision;
        events.retain(|e| e.key != self.marker);
        Some(Ok(Batch { events, revision }))
    }
}

fn event((kind, kv): (EventType, &etcd_client::KeyValue)) -> StoreResult<Event> {
    let current = if kind == EventType::Put { Some(entry(kv)?) } else { None };
    Ok(Event { revision: kv.mod_revision() as Revision, key: key_of(kv)?, current })
}

impl Store for Etcd {
    fn revision(&self) -> BoxFuture<'_, StoreResult<Revision>> {
        async move {
            let revision = self.current().await?;
            self.wanted.send_if_modified(|wanted| std::mem::replace(wanted, revision.max(*wanted)) < revision);
            Ok(revision)
        }
        .boxed()
    }

    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, StoreResult<(Option<KeyValue>, Revision)>> {
        async move {
            let answer = self.kv()?.get(key, None).await.map_err(unavailable)?;
            Ok((answer.kvs().first().map(entry).transpose()?, revision_of(answer.header())?))
        }
        .boxed()
    }

    fn list(&self, range: Range) -> BoxFuture<'_, StoreResult<Listing>> {
        self.list_pages(range).boxed()
    }

    fn put(&self, key: String, value: Bytes, expect: Expect, lease: LeaseId) -> BoxFuture<'_, StoreResult<Revision>> {
        async move {
            let size = value.len();
            if size > VALUE_LIMIT {
                return Err(StoreError::TooLarge(size));
            }
            let options = (lease != 0).then(|| PutOptions::new().with_lease(lease));
            let put = TxnOp::put(key.as_str(), Vec::from(value), options);
            self.write(key, put, expect, false, size).await
        }
        .boxed()
    }

    fn delete(&self, key: String, expect: Expect) -> BoxFuture<'_, StoreResult<Revision>> {
        async move {
            let delete = TxnOp::delete(key.as_str(), None);
            self.write(key, delete, expect, true, 0).await
        }
        .boxed()
    }

    fn watch(&self, prefix: String, from: Revision) -> BoxFuture<'_, StoreResult<Watch>> {
        self.follow(prefix, from).boxed()
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, StoreResult<()>> {
        async move {
            match self.kv()?.compact(revision as i64, None).await.map_err(|e| meaning(e, 0)) {
                // Another server was faster.
                Ok(_) | Err(StoreError::Compacted(_)) => Ok(()),
                Err(error) => Err(self.complete(error).await),
            }
        }
        .boxed()
    }

    fn grant(&self, ttl: Duration) -> BoxFuture<'_, StoreResult<LeaseId>> {
        async move {
            let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
            let answer = self.client.lease_client().grant(seconds.max(1) as i64, None).await.map_err(unavailable)?;
            Ok(answer.id())
        }
        .boxed()
    }

    fn health(&self) -> BoxFuture<'_, StoreResult<()>> {
        async move {
            let answered = tokio::time::timeout(HEALTH_TIMEOUT, self.current()).await;
            answered.map_err(|_| StoreError::Unavailable("etcd does not answer".into()))?.map(drop)
        }
        .boxed()
    }

    fn close(&self) -> BoxFuture<'_, StoreResult<()>> {
        self.closed.cancel();
        std::future::ready(Ok(())).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command, Stdio};

    /// An etcd that ends with its test.
    struct Server {
        process: Child,
        _data: tempfile::TempDir,
    }

    impl Drop for Server {
        fn drop(&mut self) {
            // It may have ended by itself; then there is nothing to do.
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }

    fn free_port() -> u16 {
        std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
    }

    async fn fresh() -> Option<(Arc<dyn Store>, Server)> {
        let data = tempfile::tempdir().unwrap();
        let [client, peer] = [free_port(), free_port()].map(|port| format!("http://127.0.0.1:{port}"));
        let arguments = ["--data-dir", data.path().to_str().unwrap(), "--listen-client-urls", &client, "--advertise-client-urls", &client];
        let peers = ["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer, "--initial-cluster", &format!("default={peer}")];
        let spawned = Command::new("etcd").args(arguments).args(peers).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let Ok(process) = spawned else {
            eprintln!("left out: etcd is not on PATH");
            return None;
        };
        let server = Server { process, _data: data };
        let start = std::time::Instant::now();
        loop {
            match connect(Options { servers: vec![client.clone()], ..Options::default() }).await {
                Ok(store) => return Some((store, server)),
                Err(error) => assert!(start.elapsed() < Duration::from_secs(60), "etcd does not start: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    crate::store::suite::suite!(fresh);

    #[test]
    fn the_end_of_a_prefix_is_the_first_key_after_it() {
        assert_eq!(end_of("/registry/pods/"), b"/registry/pods0");
        assert_eq!(end_of(""), b"\0");
    }
}
