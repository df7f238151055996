//! Cgroups as slices of systemd: made, set and stopped over D-Bus (upstream: `opencontainers/cgroups`, `systemd`).

use super::settings::Property;
use crate::systemd::{self, ManagerProxy};
use futures::StreamExt;
use std::{io, path::PathBuf, time::Duration};
use tokio::sync::Mutex;
use zbus::{Connection, Error, OwnedObjectPath, Variant};

/// How long systemd may take to start or stop a slice.
const JOB: Duration = Duration::from_secs(30);

/// A connection to systemd, made when it is first needed and again when it was lost.
#[derive(Debug, Default)]
pub struct Slices {
    connection: Mutex<Option<Connection>>,
}

/// What is done with a slice.
#[derive(Clone, Copy)]
enum Action<'a> {
    /// It is made with these properties, or given them.
    Ensure(&'a [Property]),
    /// A unit that is there is given these properties.
    Set(&'a [Property]),
    /// It is stopped, if it is there.
    Stop,
}

impl Slices {
    /// Makes a slice with these properties, or gives them to one that is there.
    pub async fn ensure(&self, slice: &str, properties: &[Property]) -> io::Result<()> {
        self.act(slice, Action::Ensure(properties)).await
    }

    /// Gives properties to a unit that is there.
    pub async fn set(&self, unit: &str, properties: &[Property]) -> io::Result<()> {
        self.act(unit, Action::Set(properties)).await
    }

    /// Stops a slice with all that is in it. One that is not there is stopped.
    pub async fn stop(&self, slice: &str) -> io::Result<()> {
        self.act(slice, Action::Stop).await
    }

    async fn act(&self, unit: &str, action: Action<'_>) -> io::Result<()> {
        let first = self.try_to(unit, action).await;
        // The bus, or systemd, may have been started anew since.
        let done = match first {
            Err(Error::InputOutput(_)) => {
                *self.connection.lock().await = None;
                self.try_to(unit, action).await
            }
            done => done,
        };
        done.map_err(|error| io::Error::other(format!("systemd: {unit}: {error}")))
    }

    async fn manager(&self) -> zbus::Result<ManagerProxy<'static>> {
        let mut connection = self.connection.lock().await;
        if let Some(connection) = &*connection {
            return ManagerProxy::new(connection).await;
        }
        let made = systemd::connect().await?;
        let manager = ManagerProxy::new(&made).await?;
        manager.subscribe().await?;
        *connection = Some(made);
        Ok(manager)
    }

    async fn try_to(&self, unit: &str, action: Action<'_>) -> zbus::Result<()> {
        let manager = self.manager().await?;
        match action {
            Action::Ensure(properties) => match job(&manager, start(&manager, unit, properties)).await {
                Err(error) if is(&error, "org.freedesktop.systemd1.UnitExists") => {
                    manager.set_unit_properties(unit, true, properties).await
                }
                done => done,
            },
            Action::Set(properties) => manager.set_unit_properties(unit, true, properties).await,
            Action::Stop => match job(&manager, manager.stop_unit(unit, "replace")).await {
                Err(error) if is(&error, "org.freedesktop.systemd1.NoSuchUnit") => Ok(()),
                done => done,
            },
        }
    }
}

fn is(error: &Error, name: &str) -> bool {
    matches!(error, Error::MethodError(own, ..) if own.as_str() == name)
}

async fn start(manager: &ManagerProxy<'_>, slice: &str, properties: &[Property]) -> zbus::Result<OwnedObjectPath> {
    let mut all: Vec<Property> = vec![
        ("Description", Variant::from(format!("pods of kubelet: {slice}"))),
        // It starts and stops at our word alone.
        ("DefaultDependencies", Variant::from(false)),
        ("CPUAccounting", Variant::from(true)),
        ("MemoryAccounting", Variant::from(true)),
        ("TasksAccounting", Variant::from(true)),
        ("IOAccounting", Variant::from(true)),
    ];
    all.extend(properties.iter().cloned());
    manager.start_transient_unit(slice, "replace", &all, &[]).await
}

/// Waits until what was asked for is done.
async fn job(manager: &ManagerProxy<'_>, asked: impl Future<Output = zbus::Result<OwnedObjectPath>>) -> zbus::Result<()> {
    // Listens first: the job can be done before its name is here.
    let mut removed = manager.receive_job_removed().await?;
    let job = asked.await?;
    let done = async {
        while let Some(signal) = removed.next().await {
            let ended = signal.args()?;
            if ended.job == *job {
                return match ended.result {
                    "done" => Ok(()),
                    other => Err(Error::Failure(format!("the job ended with {other}"))),
                };
            }
        }
        Err(Error::InputOutput(std::sync::Arc::new(io::ErrorKind::ConnectionAborted.into())))
    };
    tokio::time::timeout(JOB, done).await.unwrap_or_else(|_| Err(Error::Failure(format!("the job took longer than {} s", JOB.as_secs()))))
}

/// The slice of a cgroup by the parts of its name. A dash in a part would be one level more.
pub fn name(parts: &[String]) -> String {
    let escaped: Vec<String> = parts.iter().map(|part| part.replace('-', "_")).collect();
    format!("{}.slice", escaped.join("-"))
}

/// Where a slice is: each dash in its name is a level (systemd.slice(5)).
pub fn path(slice: &str) -> PathBuf {
    let name = slice.trim_end_matches(".slice");
    let ends = name.match_indices('-').map(|(at, _)| at).chain([name.len()]);
    ends.map(|end| format!("{}.slice", &name[..end])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::os::unix::net::UnixStream;
    use zbus::{DBusError, Guid, OwnedVariant, connection::Builder, interface, object_server::SignalEmitter};

    type Properties = Vec<(String, OwnedVariant)>;

    /// Knows units, and does what it is asked for at once.
    #[derive(Default)]
    struct Systemd {
        units: BTreeMap<String, BTreeMap<String, u64>>,
        jobs: u32,
    }

    #[derive(DBusError, Debug)]
    #[zbus(prefix = "org.freedesktop.systemd1")]
    enum Refused {
        UnitExists(String),
        NoSuchUnit(String),
    }

    impl Systemd {
        fn set(&mut self, name: &str, properties: Properties) {
            let unit = self.units.entry(name.to_owned()).or_default();
            unit.extend(properties.into_iter().filter_map(|(name, value)| Some((name, u64::try_from(value).ok()?))));
        }

        async fn done(&mut self, unit: &str, result: &str, emitter: SignalEmitter<'_>) -> OwnedObjectPath {
            self.jobs += 1;
            let path = |job: u32| OwnedObjectPath::try_from(format!("/org/freedesktop/systemd1/job/{job}")).expect("a path");
            // Others' jobs end, too.
            for (job, result) in [(self.jobs + 1000, "failed"), (self.jobs, result)] {
                Self::job_removed(&emitter, job, path(job), unit, result).await.expect("sent");
            }
            path(self.jobs)
        }
    }

    #[interface(name = "org.freedesktop.systemd1.Manager")]
    impl Systemd {
        async fn start_transient_unit(
            &mut self,
            name: String,
            mode: String,
            properties: Properties,
            _others: Vec<(String, Properties)>,
            #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
        ) -> Result<OwnedObjectPath, Refused> {
            assert_eq!(mode, "replace");
            if self.units.contains_key(&name) {
                return Err(Refused::UnitExists(name));
            }
            let result = if name.contains("broken") { "failed" } else { "done" };
            self.set(&name, properties);
            Ok(self.done(&name, result, emitter).await)
        }

        fn set_unit_properties(&mut self, name: String, runtime: bool, properties: Properties) -> Result<(), Refused> {
            assert!(runtime);
            if !self.units.contains_key(&name) {
                return Err(Refused::NoSuchUnit(name));
            }
            self.set(&name, properties);
            Ok(())
        }

        async fn stop_unit(
            &mut self,
            name: String,
            mode: String,
            #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
        ) -> Result<OwnedObjectPath, Refused> {
            assert_eq!(mode, "replace");
            if self.units.remove(&name).is_none() {
                return Err(Refused::NoSuchUnit(name));
            }
            Ok(self.done(&name, "done", emitter).await)
        }

        #[zbus(signal)]
        async fn job_removed(emitter: &SignalEmitter<'_>, id: u32, job: OwnedObjectPath, unit: &str, result: &str) -> zbus::Result<()>;
    }

    #[tokio::test]
    async fn slices_are_made_changed_and_stopped() {
        let (here, there) = UnixStream::pair().expect("a pair of sockets");
        let guid = Guid::generate();
        let served = Builder::unix_stream(there).server(guid).p2p().serve_at("/org/freedesktop/systemd1", Systemd::default());
        let (served, ours) = tokio::join!(served.build(), Builder::unix_stream(here).p2p().build());
        let (served, slices) = (served.expect("it is served"), Slices { connection: Mutex::new(Some(ours.expect("connected"))) });
        let systemd = served.object_server().interface::<_, Systemd>("/org/freedesktop/systemd1").await.expect("it is there");
        let memory = |bytes: u64| [("MemoryMax", Variant::from(bytes))];
        let kept = async |unit: &str| systemd.get().await.units.get(unit).map(|own| own.get("MemoryMax").copied());

        slices.ensure("a.slice", &memory(1)).await.expect("made");
        assert_eq!(kept("a.slice").await, Some(Some(1)));
        slices.ensure("a.slice", &memory(2)).await.expect("changed");
        assert_eq!(kept("a.slice").await, Some(Some(2)));
        slices.set("a.slice", &memory(3)).await.expect("changed");
        assert_eq!(kept("a.slice").await, Some(Some(3)));
        slices.stop("a.slice").await.expect("stopped");
        assert_eq!(kept("a.slice").await, None);
        slices.stop("a.slice").await.expect("it is stopped");
        for (refused, want) in
            [(slices.set("a.slice", &[]).await, "a.slice"), (slices.ensure("broken.slice", &[]).await, "the job ended with failed")]
        {
            let error = refused.expect_err("refused").to_string();
            assert!(error.contains(want), "{error}");
        }
    }

    #[test]
    fn a_slice_is_a_path_of_slices() {
        let parts = ["x-1", "kubepods", "poda-b"].map(str::to_owned);
        assert_eq!(name(&parts), "x_1-kubepods-poda_b.slice");
        assert_eq!(path(&name(&parts)), std::path::Path::new("x_1.slice/x_1-kubepods.slice/x_1-kubepods-poda_b.slice"));
    }
}
