//! systemd's and logind's words, over D-Bus.

use zbus::{Connection, ObjectPath, OwnedFd, OwnedObjectPath, Result, Variant, connection, proxy};

/// Where systemd hears root on a machine without a bus.
const PRIVATE: &str = "unix:path=/run/systemd/private";

/// Connects to the system bus, or to systemd itself where there is none.
///
/// # Errors
/// That of the bus, if neither answers.
pub async fn connect() -> Result<Connection> {
    match Connection::system().await {
        Ok(connection) => Ok(connection),
        Err(error) => connection::Builder::address(PRIVATE).p2p().build().await.map_err(|_| error),
    }
}

/// What systemd does with units (org.freedesktop.systemd1(5)).
#[proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
pub trait Manager {
    /// Asks for signals.
    async fn subscribe(&self) -> Result<()>;
    /// Makes a unit that no file describes. Answers the job that starts it.
    async fn start_transient_unit(
        &self,
        name: &str,
        mode: &str,
        properties: &[(&str, Variant<'_>)],
        others: &[(&str, &[(&str, Variant<'_>)])],
    ) -> Result<OwnedObjectPath>;
    /// Changes a unit until the machine starts again (`runtime`) or for good.
    async fn set_unit_properties(&self, name: &str, runtime: bool, properties: &[(&str, Variant<'_>)]) -> Result<()>;
    /// Stops a unit and, if it is a slice, all in it. Answers the job that does.
    async fn stop_unit(&self, name: &str, mode: &str) -> Result<OwnedObjectPath>;
    /// Sends a signal to a unit's processes.
    async fn kill_unit(&self, name: &str, whom: &str, signal: i32) -> Result<()>;
    /// A job has ended.
    #[zbus(signal)]
    fn job_removed(&self, id: u32, job: ObjectPath<'_>, unit: &str, result: &str) -> Result<()>;
}

/// What logind tells of the machine's end (org.freedesktop.login1(5)).
#[proxy(interface = "org.freedesktop.login1.Manager", default_service = "org.freedesktop.login1", default_path = "/org/freedesktop/login1")]
pub trait Logind {
    /// Delays what is named for as long as the answer is open.
    async fn inhibit(&self, what: &str, who: &str, why: &str, mode: &str) -> Result<OwnedFd>;
    /// The shutdown begins, or was called off.
    #[zbus(signal)]
    fn prepare_for_shutdown(&self, start: bool) -> Result<()>;
    /// How long a lock may delay a shutdown, in microseconds.
    #[zbus(property(emits_changed_signal = "false"), name = "InhibitDelayMaxUSec")]
    fn inhibit_delay_max(&self) -> Result<u64>;
}
