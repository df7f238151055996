//! `kubectl cp`: files and directories between this machine and a container, as a tar stream through `exec` (upstream: `kubectl/pkg/cmd/cp`).
//!
//! The container needs `tar`. Links out of a container are not followed and not made, since they could lead anywhere here. Left out: patterns in local paths,
//! which shells expand.

use crate::cli::{Args, Command, Flag};
use crate::connection::Url;
use crate::context::Context;
use crate::error::{Result, message};
use crate::remote::{self, Session, Streams};
use std::io::{PipeReader, Read, Write};
use std::path::{Component, Path, PathBuf};

/// The command.
pub fn cli() -> Command {
    Command::new("cp", "Copy files and directories to and from containers")
        .usage("<file-spec-src> <file-spec-dest>")
        .flags([
            Flag::string("container", "", "In this container.").short('c'),
            Flag::switch("no-preserve", "Leave the owner and the permissions of files to the container."),
            Flag::int("retries", "0", "How often to go on after a broken copy from a container; any number of times when below 0."),
        ])
        .exec(exec)
}

/// One side of a copy: `[[namespace/]pod:]path`.
#[derive(Clone, Debug, Default, PartialEq)]
struct Spec {
    namespace: String,
    pod: String,
    path: String,
}

impl Spec {
    fn parse(text: &str) -> Result<Spec> {
        let Some((place, path)) = text.split_once(':') else { return Ok(Spec { path: text.to_owned(), ..Spec::default() }) };
        let malformed = || message("filespec must match the canonical format: [[namespace/]pod:]file/path");
        let (namespace, pod) = match place.split_once('/') {
            _ if place.is_empty() => return Err(malformed()),
            Some((_, pod)) if pod.contains('/') => return Err(malformed()),
            Some((namespace, pod)) => (namespace, pod),
            None => ("", place),
        };
        Ok(Spec { namespace: namespace.to_owned(), pod: pod.to_owned(), path: path.to_owned() })
    }
}

fn exec(ctx: &mut Context, args: &Args) -> Result<()> {
    let [source, target] = args.positional.as_slice() else { return Err(args.usage("source and destination are required")) };
    let (source, target) = (Spec::parse(source)?, Spec::parse(target)?);
    if !source.pod.is_empty() && !target.pod.is_empty() {
        return Err(message("one of src or dest must be a local file specification"));
    }
    if source.path.is_empty() || target.path.is_empty() {
        return Err(message("filepath can not be empty"));
    }
    if !source.pod.is_empty() {
        let there = Container::find(ctx, args, &source)?;
        return from_container(ctx, &there, &source.path, &ctx.path(&target.path), args.int("retries"));
    }
    if target.pod.is_empty() {
        return Err(message("one of src or dest must be a remote file specification"));
    }
    let local = ctx.path(&source.path);
    if local.symlink_metadata().is_err() {
        return Err(message(format!("{} doesn't exist in local filesystem", source.path)));
    }
    let there = Container::find(ctx, args, &target)?;
    to_container(ctx, &there, &local, &target.path, args.bool("no-preserve"))
}

/// Where commands run.
struct Container {
    namespace: String,
    pod: String,
    name: String,
}

impl Container {
    fn find(ctx: &mut Context, args: &Args, spec: &Spec) -> Result<Container> {
        let namespace = if spec.namespace.is_empty() { ctx.namespace()? } else { spec.namespace.clone() };
        let pod = ctx.connection()?.get(&Url::new(format!("/api/v1/namespaces/{namespace}/pods/{}", spec.pod)))?;
        let phase = pod["status"]["phase"].as_str().unwrap_or("");
        if ["Succeeded", "Failed"].contains(&phase) {
            return Err(message(format!("cannot exec into a container in a completed pod; current phase is {phase}")));
        }
        let (name, note) = remote::default_container(&pod, args.str("container"))?;
        if let Some(note) = note {
            ctx.complain(&note);
        }
        Ok(Container { namespace, pod: spec.pod.clone(), name })
    }

    /// Runs a command with these streams.
    fn run(&self, ctx: &mut Context, command: &[&str], stdin: Option<PipeReader>, out: &mut dyn Write, err: &mut dyn Write) -> Result<()> {
        let mut url = Url::new(format!("/api/v1/namespaces/{}/pods/{}/exec", self.namespace, self.pod));
        for word in command {
            url = url.query_even_empty("command", word);
        }
        let streams = Streams { stdin: stdin.is_some(), stderr: true, tty: false };
        let url = streams.query(url, &self.name);
        let connection = ctx.connection()?;
        ctx.flush();
        connection.block_on(async {
            let session = Session::open(&connection, &url).await?;
            match stdin {
                Some(pipe) => session.carry(streams, pipe, out, err).await,
                None => session.carry(streams, std::io::empty(), out, err).await,
            }
        })
    }
}

fn to_container(ctx: &mut Context, there: &Container, local: &Path, target: &str, no_preserve: bool) -> Result<()> {
    let mut target = clean(target);
    if there.run(ctx, &["test", "-d", &target], None, &mut std::io::sink(), &mut std::io::sink()).is_ok() {
        let name = local.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        target = clean(&format!("{target}/{name}"));
    }
    let (directory, name) = match target.rsplit_once('/') {
        Some(("", name)) => ("/", name),
        Some(parts) => parts,
        None => ("", target.as_str()),
    };
    let mut command = vec!["tar"];
    if no_preserve {
        command.extend(["--no-same-permissions", "--no-same-owner"]);
    }
    command.extend(["-xmf", "-"]);
    if !directory.is_empty() {
        command.extend(["-C", directory]);
    }
    let (reader, writer) = std::io::pipe()?;
    let (from, name) = (local.to_owned(), name.to_owned());
    let packing = std::thread::spawn(move || pack(&from, &name, writer));
    let ran = there.run(ctx, &command, Some(reader), &mut std::io::stdout(), &mut std::io::stderr());
    let packed = packing.join().map_err(|_| message("packing failed"))?;
    // What the container says explains a broken pipe, and not the other way round.
    ran?;
    packed.map_err(|error| message(format!("{}: {error}", local.display())))
}

/// A file or directory as a tar stream, under another name. Links stay links.
fn pack(local: &Path, name: &str, out: impl Write) -> std::io::Result<()> {
    let mut archive = tar::Builder::new(out);
    archive.follow_symlinks(false);
    if local.symlink_metadata()?.is_dir() {
        archive.append_dir_all(name, local)?;
    } else {
        archive.append_path_with_name(local, name)?;
    }
    archive.into_inner()?.flush()
}

/// Counts what passes, so that a broken copy can be gone on with.
struct Counted<W> {
    inner: W,
    bytes: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        let n = self.inner.write(data)?;
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

fn from_container(ctx: &mut Context, there: &Container, source: &str, local: &Path, retries: i64) -> Result<()> {
    let (reader, writer) = std::io::pipe()?;
    let (prefix, target) = (inside(source), local.to_owned());
    let unpacking = std::thread::spawn(move || unpack(reader, &prefix, &target));
    let mut out = Counted { inner: writer, bytes: 0 };
    let mut tries = 0;
    let ran = loop {
        let resumed = format!("tar cf - {} | tail -c+{}", quoted(source), out.bytes + 1);
        let command = if out.bytes == 0 { vec!["tar", "cf", "-", source] } else { vec!["sh", "-c", &resumed] };
        match there.run(ctx, &command, None, &mut out, &mut std::io::stderr()) {
            Err(error) if retries != 0 && !unpacking.is_finished() => {
                if retries > 0 && tries == retries {
                    ctx.complain(&format!("Dropping out copy after {retries} retries\n"));
                    break Err(error);
                }
                tries += 1;
                let of = if retries > 0 { format!("/{retries}") } else { String::new() };
                ctx.complain(&format!("Resuming copy at {} bytes, retry {tries}{of} - {}", out.bytes, error.text()));
            }
            done => break done,
        }
    };
    drop(out);
    let unpacked = unpacking.join().map_err(|_| message("unpacking failed"))?;
    match unpacked {
        Ok(warnings) => warnings.iter().for_each(|text| ctx.complain(text)),
        // One that stopped reading broke the pipe.
        Err(error) => return Err(message(error.to_string())),
    }
    ran
}

/// Writes what comes as tar below `target`; answers what was left out and why.
fn unpack(archive: impl Read, prefix: &str, target: &Path) -> std::io::Result<Vec<String>> {
    let mut warnings = Vec::new();
    let mut archive = tar::Archive::new(archive);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = entry.path()?.to_string_lossy().into_owned();
        let Some(rest) = name.strip_prefix(prefix) else { return Err(std::io::Error::other("tar contents corrupted")) };
        let path = match below(target, rest) {
            Some(path) => path,
            None => {
                warnings.push(format!("warning: file {:?} is outside target destination, skipping\n", target.join(rest)));
                continue;
            }
        };
        let kind = entry.header().entry_type();
        if kind.is_dir() {
            std::fs::create_dir_all(&path)?;
            continue;
        }
        if kind.is_symlink() || kind.is_hard_link() {
            let link = entry.link_name()?.map(|link| link.to_string_lossy().into_owned()).unwrap_or_default();
            warnings.push(format!("warning: skipping symlink: {path:?} -> {link:?}\n"));
            continue;
        }
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let mut file = std::fs::File::create(&path).map_err(|error| at(&path, &error))?;
        std::io::copy(&mut entry, &mut file)?;
    }
    Ok(warnings)
}

fn at(path: &Path, error: &std::io::Error) -> std::io::Error {
    std::io::Error::new(error.kind(), format!("open {}: {}", path.display(), text_of(error)))
}

/// What the system says, in the words of Go programs.
fn text_of(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

/// The place of a member below the target: nowhere if its name leads out.
fn below(target: &Path, rest: &str) -> Option<PathBuf> {
    let mut path = target.to_owned();
    for component in Path::new(rest.trim_start_matches('/')).components() {
        match component {
            Component::Normal(part) => path.push(part),
            Component::CurDir => {}
            _ => return None,
        }
    }
    // Nor through a link that is there already.
    let parents = path.ancestors().skip(1).take_while(|parent| *parent != target && parent.starts_with(target));
    parents.into_iter().all(|parent| !parent.is_symlink()).then_some(path)
}

/// A path of the container with `.` and doubled slashes taken out, and `..` where it leads into a named part.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let rooted = path.starts_with('/');
    for part in path.split('/').filter(|part| !part.is_empty() && *part != ".") {
        match (part, parts.last()) {
            ("..", Some(&last)) if last != ".." => drop(parts.pop()),
            ("..", None) if rooted => {}
            _ => parts.push(part),
        }
    }
    match (rooted, parts.is_empty()) {
        (true, _) => format!("/{}", parts.join("/")),
        (false, true) => ".".to_owned(),
        (false, false) => parts.join("/"),
    }
}

/// What tar calls the path within its archive: without the root, and without what leads up.
fn inside(path: &str) -> String {
    let cleaned = clean(path);
    let mut rest = cleaned.trim_start_matches('/');
    while let Some(next) = rest.strip_prefix("../") {
        rest = next;
    }
    if [".", ".."].contains(&rest) { String::new() } else { rest.to_owned() }
}

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_side_is_read_as_upstream_reads_it() {
        let spec = |namespace: &str, pod: &str, path: &str| Spec { namespace: namespace.into(), pod: pod.into(), path: path.into() };
        for (text, wanted) in [
            ("/tmp/a", Some(spec("", "", "/tmp/a"))),
            ("p:/tmp/a", Some(spec("", "p", "/tmp/a"))),
            ("n/p:a:b", Some(spec("n", "p", "a:b"))),
            ("p:", Some(spec("", "p", ""))),
            (":/tmp", None),
            ("a/b/c:/tmp", None),
        ] {
            assert_eq!(Spec::parse(text).ok(), wanted, "{text}");
        }
    }

    #[test]
    fn paths_of_containers_are_cleaned() {
        for (path, cleaned, member) in [
            ("/tmp//a/", "/tmp/a", "tmp/a"),
            ("./a/../b", "b", "b"),
            ("../../etc", "../../etc", "etc"),
            ("/..", "/", ""),
            (".", ".", ""),
            ("", ".", ""),
        ] {
            assert_eq!((clean(path).as_str(), inside(path).as_str()), (cleaned, member), "{path}");
        }
    }

    #[test]
    fn what_is_packed_is_unpacked_under_its_new_name() {
        let here = tempfile::tempdir().unwrap();
        let (from, to) = (here.path().join("from"), here.path().join("to"));
        std::fs::create_dir_all(from.join("empty")).unwrap();
        std::fs::create_dir_all(from.join("deep/er")).unwrap();
        std::fs::write(from.join("deep/er/file"), "text").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", from.join("link")).unwrap();
        let mut archive = Vec::new();
        pack(&from, "renamed", &mut archive).unwrap();
        let warnings = unpack(archive.as_slice(), "renamed", &to).unwrap();
        assert_eq!(std::fs::read_to_string(to.join("deep/er/file")).unwrap(), "text");
        assert!(to.join("empty").is_dir() && !to.join("link").exists());
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].contains("skipping symlink") && warnings[0].contains("/etc/passwd"), "{warnings:?}");

        let mut archive = Vec::new();
        pack(&from.join("deep/er/file"), "file", &mut archive).unwrap();
        let refused = unpack(archive.as_slice(), "file", &to).unwrap_err();
        assert!(refused.to_string().ends_with("is a directory"), "{refused}");
        assert!(unpack(archive.as_slice(), "another", &to).unwrap_err().to_string().contains("corrupted"));
    }

    #[test]
    fn members_do_not_lead_out() {
        let here = tempfile::tempdir().unwrap();
        let target = here.path().join("to");
        std::fs::create_dir(&target).unwrap();
        std::os::unix::fs::symlink("/tmp", target.join("out")).unwrap();
        assert_eq!(below(&target, "/a/./b"), Some(target.join("a/b")));
        assert_eq!(below(&target, "/../a"), None);
        assert_eq!(below(&target, "/out/a"), None);
    }
}
