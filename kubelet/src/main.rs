//! The kubelet's process; everything is in the library.

use clap::Parser;

fn main() -> anyhow::Result<()> {
    kubelet::run_process(kubelet::flags::Flags::parse())
}
