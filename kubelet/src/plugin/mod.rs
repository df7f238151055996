//! Plugins that make themselves known by a socket in the directory of all plugins (upstream: `pkg/kubelet/pluginmanager`).
//!
//! Whoever puts a socket there is asked what it is ([`registration`]); the [`Kind`] it names takes it or refuses it, and it is told which. What the
//! directory holds is followed by the kernel's notices ([`watcher`]); a plugin is gone when its socket is.

#[allow(missing_docs)] // The names are the interface's.
pub mod registration;
pub mod serving;
pub mod socket;
pub mod watcher;

use futures::future::BoxFuture;
use std::path::PathBuf;

/// A plugin that said what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plugin {
    /// The name, unique among its kind: a driver's.
    pub name: String,
    /// Where it serves.
    pub endpoint: PathBuf,
    /// The versions of its interface that it speaks.
    pub versions: Vec<String>,
}

/// One kind of plugin.
pub trait Kind: Send + Sync {
    /// What plugins of this kind call themselves: `DRAPlugin`.
    fn name(&self) -> &'static str;

    /// Takes a plugin, or says why not; it is told, and asked again later.
    fn register<'a>(&'a self, plugin: &'a Plugin) -> BoxFuture<'a, Result<(), String>>;

    /// A plugin that was taken is gone.
    fn gone(&self, plugin: &Plugin);
}
