//! What a command may touch of the world: environment, working directory, terminal, kubeconfig, server. Tests give their own.

use crate::cli::Args;
use crate::connection::Connection;
use crate::discovery::Mapper;
use crate::error::{Error, Result, message};
use crate::kubeconfig::{self, Kubeconfig};
use std::collections::HashMap;
use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Everything outside a command that it may read or write.
pub struct Context {
    /// Environment variables.
    pub env: HashMap<String, String>,
    /// The working directory.
    pub cwd: PathBuf,
    /// Standard input.
    pub stdin: Box<dyn Read>,
    /// Whether standard output is a terminal.
    pub stdout_is_terminal: bool,
    /// Whether standard input is a terminal.
    pub stdin_is_terminal: bool,
    stdout: Box<dyn Write>,
    stderr: Box<dyn Write>,
    /// The global flags, as given.
    global: Args,
    runtime: Rc<tokio::runtime::Runtime>,
    connection: Option<Rc<Connection>>,
    mapper: Option<Rc<Mapper>>,
}

impl Context {
    /// The process's own surroundings.
    pub fn from_process() -> Context {
        let out = std::io::stdout();
        Context {
            env: std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))).collect(),
            cwd: std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
            stdin: Box::new(std::io::stdin()),
            stdin_is_terminal: std::io::stdin().is_terminal(),
            stdout_is_terminal: std::io::stdout().is_terminal(),
            stdout: Box::new(std::io::BufWriter::with_capacity(64 * 1024, out)),
            stderr: Box::new(std::io::stderr()),
            global: Args::default(),
            runtime: Rc::new(
                tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("a runtime needs only memory and an epoll descriptor"),
            ),
            connection: None,
            mapper: None,
        }
    }

    /// Takes the global flags of this command line.
    pub fn configure(&mut self, args: &Args) -> Result<()> {
        self.global = args.clone();
        Ok(())
    }

    /// Writes to standard output.
    pub fn print(&mut self, text: &str) {
        // A reader that went away (`| head`) ends the command as SIGPIPE would.
        if self.stdout.write_all(text.as_bytes()).is_err() {
            std::process::exit(141);
        }
    }

    /// Writes bytes to standard output.
    pub fn print_bytes(&mut self, bytes: &[u8]) {
        if self.stdout.write_all(bytes).is_err() {
            std::process::exit(141);
        }
    }

    /// Makes what was printed visible now.
    pub fn flush(&mut self) {
        if self.stdout.flush().is_err() {
            std::process::exit(141);
        }
    }

    /// Writes to standard error, after everything printed so far.
    pub fn complain(&mut self, text: &str) {
        self.flush();
        // There is nowhere left to report a broken stderr.
        let _ = self.stderr.write_all(text.as_bytes());
    }

    /// A warning, as upstream prints those of the server and its own.
    pub fn warn(&mut self, text: &str) {
        self.complain(&format!("Warning: {text}\n"));
    }

    /// The end of a successful command.
    pub fn finish(&mut self) -> i32 {
        self.drain_warnings();
        self.flush();
        0
    }

    /// An environment variable, when set and not empty.
    pub fn var(&self, name: &str) -> Option<&str> {
        self.env.get(name).map(String::as_str).filter(|v| !v.is_empty())
    }

    /// A path as typed, seen from the working directory.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.cwd.join(path)
    }

    /// All of standard input, up to `manifest::MAX_BYTES`.
    pub fn read_stdin(&mut self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.stdin.by_ref().take(crate::manifest::MAX_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// The files the kubeconfig is made of, as flags and environment name them.
    pub fn kubeconfig_paths(&self) -> kubeconfig::Paths {
        kubeconfig::Paths::find(self.global.text("kubeconfig"), self.var("KUBECONFIG"), self.var("HOME"), &self.cwd)
    }

    /// The merged kubeconfig.
    pub fn kubeconfig(&mut self) -> Result<Kubeconfig> {
        let (config, warnings) = Kubeconfig::load(&self.kubeconfig_paths())?;
        for w in warnings {
            self.complain(&w);
        }
        Ok(config)
    }

    /// The namespace of this command: the flag, else the context's, else `default`. A context that is asked for has to be there.
    pub fn namespace(&mut self) -> Result<String> {
        if let Some(ns) = self.global.text("namespace") {
            return Ok(ns.to_owned());
        }
        let config = self.kubeconfig()?;
        if let Some(name) = self.global.text("context").filter(|name| !config.has_context(name)) {
            return Err(crate::kubeconfig::missing("context", name));
        }
        Ok(config.namespace(self.global.text("context")).unwrap_or_else(|| "default".to_owned()))
    }

    /// Whether `--namespace` was given.
    pub fn namespace_given(&self) -> bool {
        self.global.text("namespace").is_some()
    }

    /// The connection to the server, made on first use.
    pub fn connection(&mut self) -> Result<Rc<Connection>> {
        if let Some(c) = &self.connection {
            return Ok(c.clone());
        }
        let config = self.kubeconfig()?;
        let connection = Rc::new(Connection::open(&config, &self.global, self.runtime.clone())?);
        self.connection = Some(connection.clone());
        Ok(connection)
    }

    /// What the server offers, discovered on first use.
    pub fn mapper(&mut self) -> Result<Rc<Mapper>> {
        if let Some(m) = &self.mapper {
            return Ok(m.clone());
        }
        let connection = self.connection()?;
        let mapper = Rc::new(Mapper::new(connection, self.cache_dir()));
        self.mapper = Some(mapper.clone());
        Ok(mapper)
    }

    fn cache_dir(&self) -> PathBuf {
        match (self.global.text("cache-dir"), self.var("KUBECACHEDIR"), self.var("HOME")) {
            (Some(d), _, _) | (None, Some(d), _) => self.path(d),
            (None, None, home) => self.path(home.unwrap_or("/")).join(".kube/cache"),
        }
    }

    /// Prints the warnings the server has sent with its answers so far.
    pub fn drain_warnings(&mut self) {
        let warnings = self.connection.as_ref().map(|c| c.take_warnings()).unwrap_or_default();
        for w in &warnings {
            self.warn(w);
        }
    }

    /// Waits for a future on the command's one thread.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    /// Reads a local file, with upstream's error text.
    pub fn read_file(&self, path: &str) -> Result<Vec<u8>> {
        std::fs::read(self.path(path)).map_err(|e| message(format!("open {path}: {}", crate::error::go_io_error(&e))))
    }

    /// An error unless `--dry-run` has one of its values.
    pub fn dry_run(&mut self, args: &Args) -> Result<DryRun> {
        match args.str("dry-run") {
            "none" | "" => Ok(DryRun::None),
            "client" => Ok(DryRun::Client),
            "server" => Ok(DryRun::Server),
            "unchanged" => {
                self.complain("W0000 --dry-run is deprecated and can be replaced with --dry-run=client.\n");
                Ok(DryRun::Client)
            }
            other => match Some(other)
                .filter(|o| matches!(*o, "true" | "false" | "1" | "0" | "t" | "f" | "T" | "F" | "True" | "False" | "TRUE" | "FALSE"))
            {
                Some("true" | "1" | "t" | "T" | "True" | "TRUE") => {
                    self.complain(&format!(
                        "W0000 --dry-run={other} is deprecated (boolean value) and can be replaced with --dry-run=client.\n"
                    ));
                    Ok(DryRun::Client)
                }
                Some(_) => {
                    self.complain(&format!(
                        "W0000 --dry-run={other} is deprecated (boolean value) and can be replaced with --dry-run=none.\n"
                    ));
                    Ok(DryRun::None)
                }
                None => Err(Error::Message(format!("Invalid dry-run value ({other}). Must be \"none\", \"server\", or \"client\"."))),
            },
        }
    }
}

/// Where a change stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DryRun {
    /// It is made.
    None,
    /// It is only printed.
    Client,
    /// The server does everything but store it.
    Server,
}

impl DryRun {
    /// What is added to lines about the change.
    pub fn suffix(self) -> &'static str {
        match self {
            DryRun::None => "",
            DryRun::Client => " (dry run)",
            DryRun::Server => " (server dry run)",
        }
    }
}
