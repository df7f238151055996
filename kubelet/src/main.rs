//! The kubelet's process; everything is in the library.

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> anyhow::Result<()> {
    kubelet::run_process(client::command_line::parse(std::env::args_os()))
}
