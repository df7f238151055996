//! Control planes inside this process: how long one takes to start, and what each costs in memory.

use crate::process::resident;
use skiff_testing::ControlPlane;
use std::time::Instant;

const COUNT: usize = 20;

/// Prints the rows.
pub async fn measure() {
    for nodes in [0, 3] {
        let before = resident(std::process::id());
        let mut times = Vec::new();
        let mut running = Vec::new();
        for _ in 0..COUNT {
            let begun = Instant::now();
            running.push(ControlPlane::builder().nodes(nodes).start().await.expect("it starts"));
            times.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        let each = (resident(std::process::id()) - before) / COUNT as f64;
        times.sort_by(f64::total_cmp);
        println!(
            "| control plane in the test's process, {nodes} simulated nodes, start to ready | p50 {:.0} ms, max {:.0} ms; {each:.1} MB each |",
            times[COUNT / 2],
            times[COUNT - 1]
        );
    }
}
