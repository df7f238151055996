//! Follows the directory of all plugins: every socket in it, at any depth, is a plugin that wants to be registered (upstream:
//! `pkg/kubelet/pluginmanager/{pluginwatcher,reconciler}`).
//!
//! Level-triggered: whatever the kernel notices, the directory is read again and compared with what is known. A socket that was replaced under the
//! same name is another plugin. One that cannot be registered is asked again, ever more rarely, for as long as it is there.

use super::{Kind, Plugin, registration};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

/// The directory's name below the kubelet's root.
pub const DIRECTORY: &str = "plugins_registry";
/// The waits between attempts to register a plugin (upstream: 500 ms to 2 min 2 s).
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(122));
/// The directory is read again this often when the kernel cannot tell of changes in it.
const BLIND: Duration = Duration::from_secs(10);
/// How deep sockets may be, and how many of them there may be: drivers have one each.
const DEPTH: usize = 4;
const SOCKETS: usize = 1024;

/// Which socket it is: another one under the same name has another number or was made at another time.
type Identity = (u64, i64, i64);

enum State {
    Registered(Arc<dyn Kind>, Plugin),
    /// When to ask again, and how long to wait after that.
    Failed(Instant, Duration),
}

struct Known {
    identity: Identity,
    state: State,
}

/// The directories and sockets below a directory. Hidden ones are left out.
fn scan(dir: &Path, depth: usize, found: &mut BTreeMap<PathBuf, Identity>, directories: &mut Vec<PathBuf>) -> io::Result<()> {
    directories.push(dir.to_owned());
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let path = entry.path();
        // What is gone by now is not there.
        let Ok(metadata) = entry.metadata() else { continue };
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        if metadata.is_dir() && depth > 1 {
            scan(&path, depth - 1, found, directories)?;
        } else if metadata.file_type().is_socket() && found.len() < SOCKETS {
            found.insert(path, (metadata.ino(), metadata.ctime(), metadata.ctime_nsec()));
        }
    }
    Ok(())
}

/// The kernel's notices of changes in some directories, from a thread that waits for them.
struct Notices {
    inotify: Arc<Inotify>,
    noticed: mpsc::Receiver<()>,
}

impl Notices {
    fn new() -> io::Result<Self> {
        let inotify = Arc::new(Inotify::init(InitFlags::IN_CLOEXEC)?);
        // One notice that waits says as much as many.
        let (sender, noticed) = mpsc::channel(1);
        let source = inotify.clone();
        std::thread::Builder::new().name("plugins".into()).spawn(move || {
            while source.read_events().is_ok() && !matches!(sender.try_send(()), Err(mpsc::error::TrySendError::Closed(()))) {}
        })?;
        Ok(Notices { inotify, noticed })
    }

    /// Those of these directories too.
    fn watch(&self, directories: &[PathBuf]) {
        let what = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_MOVED_FROM;
        for directory in directories {
            // One that is gone meanwhile has been noticed where it was.
            if let Err(error) = self.inotify.add_watch(directory, what) {
                tracing::debug!(directory = %directory.display(), %error, "changes of this directory are not noticed");
            }
        }
    }
}

/// Follows the directory below `root` until told to stop.
pub async fn follow(root: PathBuf, kinds: Vec<Arc<dyn Kind>>, stop: CancellationToken) {
    let dir = root.join(DIRECTORY);
    if let Err(error) = fs::DirBuilder::new().recursive(true).mode(0o750).create(&dir) {
        tracing::error!(directory = %dir.display(), %error, "plugins cannot register");
        return;
    }
    let mut notices = Notices::new().inspect_err(|error| tracing::warn!(%error, "plugins are looked for now and then")).ok();
    let mut known: BTreeMap<PathBuf, Known> = BTreeMap::new();
    loop {
        let (mut found, mut directories) = (BTreeMap::new(), Vec::new());
        if let Err(error) = scan(&dir, DEPTH, &mut found, &mut directories) {
            tracing::debug!(directory = %dir.display(), %error, "the directory of plugins could not be read");
        }
        if let Some(notices) = &notices {
            let before = directories.len();
            notices.watch(&directories);
            // What came between reading and watching is found by reading once more.
            (found, directories) = (BTreeMap::new(), Vec::new());
            if scan(&dir, DEPTH, &mut found, &mut directories).is_ok() && directories.len() != before {
                continue;
            }
        }
        drop_gone(&mut known, &found);
        tokio::select! {
            () = stop.cancelled() => return,
            () = register_due(&mut known, &found, &kinds) => {}
        }
        let again = known.values().filter_map(|k| if let State::Failed(at, _) = k.state { Some(at) } else { None }).min();
        let blind = notices.is_none().then(|| Instant::now() + BLIND);
        let noticed = async {
            match &mut notices {
                Some(notices) => drop(notices.noticed.recv().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = noticed => {}
            () = until(again.into_iter().chain(blind).min()) => {}
        }
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Forgets plugins whose sockets are gone or are other ones now.
fn drop_gone(known: &mut BTreeMap<PathBuf, Known>, found: &BTreeMap<PathBuf, Identity>) {
    known.retain(|path, plugin| {
        let there = found.get(path) == Some(&plugin.identity);
        if let (false, State::Registered(kind, plugin)) = (there, &plugin.state) {
            tracing::info!(kind = kind.name(), plugin = %plugin.name, "a plugin is gone");
            kind.gone(plugin);
        }
        there
    });
}

/// Registers the plugins that are new, or whose time to be asked again has come; one that hangs holds up no other.
async fn register_due(known: &mut BTreeMap<PathBuf, Known>, found: &BTreeMap<PathBuf, Identity>, kinds: &[Arc<dyn Kind>]) {
    let now = Instant::now();
    let due = found.iter().filter_map(|(path, identity)| match known.get(path).map(|k| &k.state) {
        None => Some((path.clone(), *identity, RETRY.0)),
        Some(State::Failed(at, wait)) if *at <= now => Some((path.clone(), *identity, *wait)),
        Some(_) => None,
    });
    let asked = due.map(|(path, identity, wait)| async move {
        let state = match register(&path, kinds).await {
            Ok((kind, plugin)) => State::Registered(kind, plugin),
            Err(error) => {
                tracing::warn!(socket = %path.display(), error, "a plugin could not be registered");
                State::Failed(Instant::now() + wait, (wait * 2).min(RETRY.1))
            }
        };
        (path, Known { identity, state })
    });
    known.extend(futures::future::join_all(asked).await);
}

async fn register(path: &Path, kinds: &[Arc<dyn Kind>]) -> Result<(Arc<dyn Kind>, Plugin), String> {
    let (channel, kind, plugin) = registration::ask(path).await.map_err(|status| status.to_string())?;
    let Some(taker) = kinds.iter().find(|k| k.name() == kind) else {
        let why = format!("no handler registered for plugin type: {kind} at socket {}", path.display());
        // Whether it hears of it or not: it is refused.
        drop(registration::tell(&channel, &Err(why.clone())).await);
        return Err(why);
    };
    let outcome = taker.register(&plugin).await;
    let told = registration::tell(&channel, &outcome).await;
    if outcome.is_ok() {
        tracing::info!(kind, plugin = %plugin.name, "a plugin registered");
        if let Err(status) = told {
            taker.gone(&plugin);
            return Err(format!("it could not be told that it is registered: {status}"));
        }
    }
    outcome.map(|()| (taker.clone(), plugin))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_found_at_any_depth_and_told_apart() {
        let root = tempfile::tempdir().expect("a directory");
        let nested = root.path().join("a/b");
        fs::create_dir_all(&nested).expect("directories");
        for name in ["one.sock", "a/b/two.sock", ".hidden.sock"] {
            std::os::unix::net::UnixListener::bind(root.path().join(name)).expect("a socket");
        }
        fs::write(root.path().join("no-socket"), "").expect("a file");
        let look = || {
            let (mut found, mut directories) = (BTreeMap::new(), Vec::new());
            scan(root.path(), DEPTH, &mut found, &mut directories).expect("it can be read");
            (found, directories.len())
        };
        let (found, directories) = look();
        let names: Vec<_> = found.keys().map(|p| p.strip_prefix(root.path()).expect("below it").display().to_string()).collect();
        assert_eq!((names, directories), (vec!["a/b/two.sock".to_owned(), "one.sock".to_owned()], 3));
        fs::remove_file(nested.join("two.sock")).expect("it is there");
        std::os::unix::net::UnixListener::bind(nested.join("two.sock")).expect("a socket");
        let (again, _) = look();
        let (kept, replaced) = (root.path().join("one.sock"), nested.join("two.sock"));
        assert_eq!((again[&kept] == found[&kept], again[&replaced] == found[&replaced]), (true, false));
    }
}
