//! `kubectl plugin list`, and running `kubectl-foo-bar` as `kubectl foo bar` (upstream: `kubectl/pkg/cmd/plugin`).

use crate::cli::{Args, Command, Flag};
use crate::context::Context;
use crate::error::{Result, message};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const PREFIX: &str = "kubectl-";

/// The command.
pub fn cli() -> Command {
    Command::new("plugin", "Provides utilities for interacting with plugins").usage("[flags]").command(
        Command::new("list", "List all visible plugin executables on a user's PATH")
            .flags([Flag::switch("name-only", "Only the names, without directories.")])
            .exec(list),
    )
}

fn executable(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

fn directories(ctx: &Context) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = Vec::new();
    for dir in ctx.var("PATH").into_iter().flat_map(std::env::split_paths) {
        if !dir.as_os_str().is_empty() && !all.contains(&dir) {
            all.push(dir);
        }
    }
    all
}

fn list(ctx: &mut Context, args: &Args) -> Result<()> {
    let mut found: Vec<PathBuf> = Vec::new();
    let mut warnings = 0;
    let mut text = String::new();
    for dir in directories(ctx) {
        let mut files: Vec<PathBuf> = std::fs::read_dir(&dir).into_iter().flatten().flatten().map(|e| e.path()).collect();
        files.sort();
        for file in files {
            let Some(name) = file.file_name().and_then(|n| n.to_str()).filter(|n| n.starts_with(PREFIX)) else { continue };
            text += &format!("{}\n", if args.bool("name-only") { name.to_owned() } else { file.display().to_string() });
            if !executable(&file) {
                text += &format!("  - warning: {} identified as a kubectl plugin, but it is not executable\n", file.display());
                warnings += 1;
            } else if let Some(first) = found.iter().find(|f| f.file_name() == file.file_name()) {
                text += &format!("  - warning: {} is overshadowed by a similarly named plugin: {}\n", file.display(), first.display());
                warnings += 1;
            }
            found.push(file);
        }
    }
    if found.is_empty() {
        return Err(message("unable to find any kubectl plugins in your PATH"));
    }
    ctx.print(&format!("The following compatible plugins are available:\n\n{text}"));
    match warnings {
        0 => Ok(()),
        1 => Err(message("one plugin warning was found")),
        n => Err(message(format!("{n} plugin warnings were found"))),
    }
}

/// The plugin that words call, the longest name first, and how many of the words are its name.
pub fn find(ctx: &Context, words: &[String]) -> Option<(PathBuf, usize)> {
    let named = words.iter().take_while(|w| !w.starts_with('-')).count();
    (1..=named).rev().find_map(|n| {
        let name = format!("{PREFIX}{}", words[..n].iter().map(|w| w.replace('-', "_")).collect::<Vec<_>>().join("-"));
        directories(ctx).into_iter().map(|d| d.join(&name)).find(|f| executable(f)).map(|file| (file, n))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_name_wins() {
        let dir = tempfile::tempdir().unwrap();
        for (name, mode) in [("kubectl-foo", 0o755), ("kubectl-foo-my_bar", 0o755), ("kubectl-foo-my_bar-baz", 0o644)] {
            let path = dir.path().join(name);
            std::fs::write(&path, "").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        let mut ctx = Context::from_process();
        ctx.env.insert("PATH".into(), dir.path().display().to_string());
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let found = |line| find(&ctx, &words(line)).map(|(p, n)| (p.file_name().unwrap().to_str().unwrap().to_owned(), n));
        assert_eq!(found("foo my-bar baz"), Some(("kubectl-foo-my_bar".into(), 2)));
        assert_eq!(found("foo --x"), Some(("kubectl-foo".into(), 1)));
        assert_eq!(found("bar"), None);
    }
}
