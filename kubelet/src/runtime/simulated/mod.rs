//! A runtime that only pretends: sandboxes and containers are entries in a map that change state as asked. It stands behind
//! `--hollow-nodes` and behind tests of everything above the runtime, and is never chosen without being asked for.
//!
//! Unless [`behaviour`] says otherwise, everything takes no time and works: containers run until they are stopped, images are there once
//! pulled, commands succeed. A test says what a container's process does ([`Simulated::process`]), which calls fail or hang
//! ([`Simulated::fault`]), and reads afterwards what was asked for and when ([`Simulated::told`]).

pub mod behaviour;
mod calls;

use super::{Result, RuntimeError, RuntimeEvent};
use crate::clock::Clock;
use behaviour::{Behaviour, Call, Command, DEADLINE, Distortion, Fault, Process};
use jiff::Timestamp;
use k8s_cri::v1 as api;
use parking_lot::Mutex;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::{mpsc, watch};

/// One simulated node's runtime. Clones are the same runtime.
#[derive(Clone)]
pub struct Simulated(Arc<State>);

struct State {
    node: u32,
    clock: Clock,
    behaviour: Behaviour,
    next: AtomicU64,
    sandboxes: Mutex<HashMap<String, api::PodSandboxStatus>>,
    containers: Mutex<HashMap<String, Container>>,
    events: Mutex<Option<mpsc::Sender<RuntimeEvent>>>,
    dice: Mutex<SmallRng>,
    script: Mutex<Script>,
    /// What was asked for, when; kept only where a test reads it.
    told: Option<Mutex<Vec<(Timestamp, String)>>>,
    /// The user namespaces of what was made; kept only with that.
    users: Mutex<Vec<api::UserNamespace>>,
}

/// What a test says about single containers, commands, images and calls.
#[derive(Default)]
struct Script {
    processes: HashMap<String, Process>,
    runs: HashMap<String, usize>,
    commands: HashMap<String, Command>,
    missing: HashSet<String>,
    faults: HashMap<Call, VecDeque<Fault>>,
    distortion: Distortion,
    /// Pods can have users of their own.
    user_namespaces: bool,
}

struct Container {
    sandbox: String,
    status: api::ContainerStatus,
    process: Process,
    /// SIGTERM was sent.
    asked: bool,
    ended: watch::Sender<bool>,
}

fn running(container: &Container) -> bool {
    container.status.state == api::ContainerState::ContainerRunning as i32
}

fn name_of(container: &Container) -> &str {
    container.status.metadata.as_ref().map_or("", |m| m.name.as_str())
}

impl Simulated {
    /// `node` numbers the simulated nodes of a process, so that their pods' addresses differ.
    pub fn new(node: u32, clock: Clock, behaviour: Behaviour) -> Self {
        Self::with(node, clock, behaviour, None)
    }

    /// One that keeps account of what it was asked for.
    pub fn recorded(clock: Clock) -> Self {
        Self::with(0, clock, Behaviour::default(), Some(Mutex::default()))
    }

    fn with(node: u32, clock: Clock, behaviour: Behaviour, told: Option<Mutex<Vec<(Timestamp, String)>>>) -> Self {
        let dice = Mutex::new(SmallRng::seed_from_u64(behaviour.seed ^ u64::from(node)));
        Simulated(Arc::new(State {
            node,
            clock,
            behaviour,
            next: AtomicU64::default(),
            sandboxes: Mutex::default(),
            containers: Mutex::default(),
            events: Mutex::default(),
            dice,
            script: Mutex::default(),
            told,
            users: Mutex::default(),
        }))
    }

    /// What the process of the containers of that name does, from their next start on.
    pub fn process(&self, container: &str, process: Process) {
        self.0.script.lock().processes.insert(container.into(), process);
    }

    /// What a command line does from now on.
    pub fn command(&self, line: &str, command: Command) {
        self.0.script.lock().commands.insert(line.into(), command);
    }

    /// The image is not there, and cannot be pulled, or it is there again.
    pub fn image_missing(&self, image: &str, missing: bool) {
        let mut script = self.0.script.lock();
        if missing {
            script.missing.insert(image.into());
        } else {
            script.missing.remove(image);
        }
    }

    /// Has the next `times` calls of this kind go wrong.
    pub fn fault(&self, call: Call, times: usize, fault: Fault) {
        self.0.script.lock().faults.entry(call).or_default().extend(std::iter::repeat_n(fault, times));
    }

    /// Has what it answers be distorted from now on.
    pub fn distort(&self, distortion: Distortion) {
        self.0.script.lock().distortion = distortion;
    }

    fn distorted<T>(&self, mut answer: T, how: impl FnOnce(Distortion) -> fn(&mut T)) -> T {
        how(self.0.script.lock().distortion)(&mut answer);
        answer
    }

    /// What was asked for so far, in order: `sandbox p`, `create c`, `start c`, `exec c LINE`, `term c`, `kill c`, `exit c CODE`, `pull i`.
    pub fn told(&self) -> Vec<(Timestamp, String)> {
        self.0.told.as_ref().map(|told| told.lock().clone()).unwrap_or_default()
    }

    /// The runtime can give pods users of their own.
    pub fn has_user_namespaces(&self) {
        self.0.script.lock().user_namespaces = true;
    }

    /// The user namespaces of the sandboxes and containers that were made so far, in order.
    pub fn user_namespaces(&self) -> Vec<api::UserNamespace> {
        self.0.users.lock().clone()
    }

    fn made_with(&self, options: Option<api::NamespaceOption>) {
        if self.0.told.is_some() {
            self.0.users.lock().extend(options.and_then(|options| options.userns_options));
        }
    }

    /// Lets the container of that name end by itself with an exit code, as its process would.
    pub fn exit(&self, name: &str, exit_code: i32) {
        let found = self.0.containers.lock().values().find(|c| running(c) && name_of(c) == name).map(|c| c.status.id.clone());
        if let Some(id) = found {
            self.end(&id, exit_code);
        }
    }

    /// How many sandboxes and containers there are.
    pub fn held(&self) -> (usize, usize) {
        (self.0.sandboxes.lock().len(), self.0.containers.lock().len())
    }

    fn tell(&self, what: impl FnOnce() -> String) {
        if let Some(told) = &self.0.told {
            told.lock().push((self.0.clock.now(), what()));
        }
    }

    fn nanos(&self) -> i64 {
        i64::try_from(self.0.clock.now().as_nanosecond()).unwrap_or(i64::MAX)
    }

    /// A number, an id made of it, and a time of creation: what is made later was created later, also while the clock stands still.
    fn id(&self) -> (u64, String, i64) {
        let n = self.0.next.fetch_add(1, Ordering::Relaxed);
        (n, format!("{:016x}{:016x}{:032x}", self.0.node, n, 0), self.nanos().saturating_add(i64::try_from(n).unwrap_or(0)))
    }

    /// Does what every call does first: takes its time, and goes wrong where that is its lot.
    async fn enter(&self, call: Call, takes: Duration) -> Result<()> {
        let fault = self.0.script.lock().faults.get_mut(&call).and_then(VecDeque::pop_front);
        match fault {
            Some(Fault::Fails(error)) => return Err(error),
            Some(Fault::Hangs) => {
                tokio::time::sleep(DEADLINE).await;
                return Err(RuntimeError::DeadlineExceeded("context deadline exceeded".into()));
            }
            None => {}
        }
        if !takes.is_zero() {
            tokio::time::sleep(takes).await;
        }
        let chancy = matches!(call, Call::RunSandbox | Call::Pull | Call::Start) && self.0.behaviour.failures > 0.0;
        if chancy && self.0.dice.lock().random_bool(self.0.behaviour.failures) {
            return Err(RuntimeError::Failed("a simulated failure".into()));
        }
        Ok(())
    }

    /// The process has ended.
    fn end(&self, id: &str, exit_code: i32) {
        let finished_at = self.nanos();
        {
            let mut containers = self.0.containers.lock();
            let Some(container) = containers.get_mut(id).filter(|c| running(c)) else { return };
            let status = &mut container.status;
            status.state = api::ContainerState::ContainerExited as i32;
            status.exit_code = exit_code;
            status.finished_at = finished_at;
            status.reason = if exit_code == 0 { "Completed" } else { "Error" }.into();
            container.ended.send_replace(true);
            self.tell(|| format!("exit {} {exit_code}", name_of(container)));
        }
        if let Some(sender) = self.0.events.lock().as_ref() {
            // A full channel is what a busy kubelet's relist is for, a closed one has no reader.
            drop(sender.try_send(RuntimeEvent { container_id: id.to_owned() }));
        }
    }

    /// Ends the process after a while, unless it ends before.
    fn end_after(&self, id: &str, wait: Duration, exit_code: i32) {
        if wait.is_zero() {
            return self.end(id, exit_code);
        }
        let (this, id) = (self.clone(), id.to_owned());
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            this.end(&id, exit_code);
        });
    }
}
