//! The program `kubectl`: hands the process's surroundings to the library and exits with its code.

fn main() {
    let context = kubectl::Context::from_process();
    std::process::exit(kubectl::run(context, std::env::args().skip(1).collect()));
}
