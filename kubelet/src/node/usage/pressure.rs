//! How long processes of a cgroup waited for the CPU, for memory and for the disk: pressure stall information, which cgroup v2 has
//! (Documentation/accounting/psi.rst of the kernel; upstream: `KubeletPSI`).

use serde::Serialize;

/// Stalls of one kind.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[allow(missing_docs)] // The names are upstream's.
pub struct Psi {
    /// All processes waited at once.
    pub full: Stall,
    /// Some did.
    pub some: Stall,
}

/// How long.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct Stall {
    /// Microseconds since the start.
    pub total: u64,
    /// Percent of the last ten seconds, and of the last minute and five.
    pub avg10: f64,
    pub avg60: f64,
    pub avg300: f64,
}

/// Reads a file of the kernel's.
pub fn parse(text: &str) -> Option<Psi> {
    let stall = |which: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(which)?.strip_prefix(' '))?;
        let value = |key: &str| line.split(' ').find_map(|part| part.strip_prefix(key)?.strip_prefix('='));
        let average = |key| value(key)?.parse().ok();
        Some(Stall {
            total: value("total")?.trim().parse().ok()?,
            avg10: average("avg10")?,
            avg60: average("avg60")?,
            avg300: average("avg300")?,
        })
    };
    // Kernels before 5.13 have no full stalls of the CPU.
    Some(Psi { some: stall("some")?, full: stall("full").unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_file_is_read() {
        let text = "some avg10=1.50 avg60=0.25 avg300=0.00 total=22579789960\nfull avg10=0.00 avg60=0.00 avg300=0.10 total=7\n";
        let psi = parse(text).expect("it is whole");
        assert_eq!(psi.some, Stall { total: 22_579_789_960, avg10: 1.5, avg60: 0.25, avg300: 0.0 });
        assert_eq!((psi.full.total, psi.full.avg300), (7, 0.1));
        let old = parse("some avg10=1.50 avg60=0.25 avg300=0.00 total=5\n").expect("an older kernel's");
        assert_eq!((old.some.total, old.full), (5, Stall::default()));
        assert_eq!(parse(""), None);
    }
}
