//! The kubelet's process; everything is in the library.

fn main() -> anyhow::Result<()> {
    kubelet::run_process(client::command_line::parse(std::env::args_os()))
}
