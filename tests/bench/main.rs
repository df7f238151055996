//! Measures what the project promises: rates of the API, its CPU time, memory and bytes written, the start of the server and of a whole
//! cluster, and how long a pod takes. Prints figures and judges none.
//!
//! `tests/bench/run` builds and starts it. `--server URL --token T [--pid P]` measures another apiserver the same way.
//! One machine carries server and load alike, so only ratios taken in one run say something.

mod api;
mod cluster;
mod in_process;
mod process;
mod scale;
mod workloads;

use std::collections::HashMap;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut options: HashMap<String, String> = HashMap::new();
    let mut rest = arguments.iter();
    while let Some(key) = rest.next() {
        match (key.strip_prefix("--"), rest.next()) {
            (Some(key @ ("server" | "token" | "pid" | "pods" | "nodes" | "only")), Some(value)) => {
                drop(options.insert(key.to_owned(), value.clone()))
            }
            _ => {
                eprintln!(
                    "usage: bench [--only api|in-process|cluster|scale|workloads] [--pods N] [--nodes N] [--server URL --token T [--pid P]]"
                );
                std::process::exit(2);
            }
        }
    }
    let number = |key: &str| {
        let parsed = options.get(key).map(|n| n.parse::<usize>()).transpose();
        parsed.unwrap_or_else(|_| {
            eprintln!("--{key} takes a number");
            std::process::exit(2);
        })
    };
    let pods = number("pods").unwrap_or(5000);
    let only = options.get("only").map(String::as_str);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads can be started");
    let wanted = |part: &str| only.is_none_or(|only| only == part);
    if wanted("api") {
        match (options.get("server"), options.get("token")) {
            (Some(server), Some(token)) => {
                let pid = options.get("pid").and_then(|p| p.parse().ok());
                runtime.block_on(api::measure(server, token, pid, pods));
            }
            _ => {
                let server = process::Apiserver::start();
                println!("| start to /readyz | {:.0} ms |", server.ready_after.as_secs_f64() * 1e3);
                println!("| memory of the apiserver, idle | {} |", process::memory(server.pid()));
                runtime.block_on(api::measure(&server.url, "admin", Some(server.pid()), pods));
                println!("| memory of the apiserver after {pods} pods | {} |", process::memory(server.pid()));
            }
        }
    }
    if options.contains_key("server") {
        return;
    }
    if wanted("in-process") {
        runtime.block_on(in_process::measure());
    }
    if wanted("cluster") {
        cluster::measure();
    }
    if wanted("scale") {
        scale::measure(pods, number("nodes"));
    }
    if wanted("workloads") {
        workloads::measure();
    }
}
