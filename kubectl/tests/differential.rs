//! The same command lines through our kubectl and upstream's: standard output, standard error and exit code have to be the same.
//!
//! `offline.txt` holds lines that need no server: what generators make, what `config` does to a file, what is refused and in which words. Each
//! line is a shell line, run in a directory that both sides have for themselves. Where upstream's kubectl is not on PATH, the test says so
//! and compares nothing.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Differences on purpose: lines that contain the text, and why they differ.
const ON_PURPOSE: &[(&str, &str)] = &[];

/// What one side did.
#[derive(Debug, PartialEq)]
struct Outcome {
    stdout: String,
    stderr: String,
    code: Option<i32>,
}

fn upstream() -> Option<PathBuf> {
    let ours = Path::new(env!("CARGO_BIN_EXE_kubectl"));
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|d| d.join("kubectl")).find(|f| f.is_file() && f != ours)
}

fn run(binary: &Path, home: &Path, line: &str) -> Outcome {
    let script = format!("kubectl() {{ '{}' \"$@\"; }}; {line}", binary.display());
    let output = Command::new("bash")
        .args(["-c", &script])
        .current_dir(home)
        .env_clear()
        .env("HOME", home)
        .env("PATH", "/usr/bin:/bin")
        .stdin(std::process::Stdio::null())
        .output()
        .expect("bash runs");
    Outcome { stdout: mask(&output.stdout, home), stderr: mask(&output.stderr, home), code: output.status.code() }
}

/// Without the names of temporary directories, and without lines of upstream's logging library, which carry time and process.
fn mask(bytes: &[u8], home: &Path) -> String {
    let text = String::from_utf8_lossy(bytes).replace(&home.display().to_string(), "HOME");
    let is_log = |l: &&str| {
        let b = l.as_bytes();
        b.len() > 5 && matches!(b[0], b'E' | b'W' | b'I') && b[1..5].iter().all(u8::is_ascii_digit)
    };
    text.lines().filter(|l| !is_log(l)).map(|l| format!("{l}\n")).collect()
}

#[test]
fn both_kubectls_do_the_same() {
    let Some(upstream) = upstream() else {
        eprintln!("left out: upstream's kubectl is not on PATH");
        return;
    };
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut differences = Vec::new();
    for line in include_str!("offline.txt").lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
        let a = run(Path::new(env!("CARGO_BIN_EXE_kubectl")), ours.path(), line);
        let b = run(&upstream, theirs.path(), line);
        if a != b && !ON_PURPOSE.iter().any(|(part, _)| line.contains(part)) {
            differences.push(format!("{line}\nours: {a:#?}\nupstream: {b:#?}"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n\n"));
}
