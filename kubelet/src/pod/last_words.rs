//! What a container left behind when it ended: its termination message, or the end of its log (upstream: `getTerminationMessage`).

use crate::container::identity::{TERMINATION_PATH, TERMINATION_POLICY};
use k8s_cri::v1::ContainerStatus;
use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
};

/// The longest message (upstream: `MaxContainerTerminationMessageLength`).
const MAX_MESSAGE: u64 = 4096;
/// How much of a log may stand in for one, in bytes and lines.
const MAX_LOG: usize = 2048;
const MAX_LOG_LINES: usize = 80;

/// The message of an ended container, if it left any.
pub fn of(status: &ContainerStatus) -> Option<String> {
    let path = status.annotations.get(TERMINATION_PATH).filter(|p| !p.is_empty())?;
    let mounted = status.mounts.iter().find(|m| m.container_path == *path);
    let said = mounted.and_then(|mount| read_start(Path::new(&mount.host_path)));
    let fall_back = status.annotations.get(TERMINATION_POLICY).is_some_and(|p| p == "FallbackToLogsOnError");
    match said.filter(|text| !text.is_empty()) {
        Some(text) => Some(text),
        None if fall_back && status.exit_code != 0 => read_log(Path::new(&status.log_path)),
        None => None,
    }
}

fn read_start(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(MAX_MESSAGE).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn read_log(path: &Path) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    // A line of CRI's log has at most some 50 bytes besides its text.
    file.seek(SeekFrom::Start(length.saturating_sub(MAX_LOG as u64 + 50 * MAX_LOG_LINES as u64))).ok()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).ok()?;
    Some(end_of_log(&String::from_utf8_lossy(&bytes)))
}

/// The texts of the last lines, cut to the limits. What is tagged as a part of a line has no end of its own.
fn end_of_log(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    let mut out = String::new();
    for line in lines.iter().skip(lines.len().saturating_sub(MAX_LOG_LINES)) {
        let mut parts = line.splitn(4, ' ').skip(2);
        let (Some(tags), Some(text)) = (parts.next(), parts.next()) else { continue };
        out.push_str(text);
        if !tags.split(':').any(|tag| tag == "P") {
            out.push('\n');
        }
    }
    let mut cut = out.len().saturating_sub(MAX_LOG);
    while !out.is_char_boundary(cut) {
        cut += 1;
    }
    out[cut..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_cri::v1::Mount;
    use std::collections::HashMap;

    #[test]
    fn the_message_comes_from_the_file_or_the_log() {
        let dir = tempfile::tempdir().expect("a directory");
        let (file, log) = (dir.path().join("m"), dir.path().join("l"));
        std::fs::write(&file, "").expect("written");
        std::fs::write(&log, "2026-01-01T00:00:00Z stderr F boom\n2026-01-01T00:00:01Z stderr F bang\n").expect("written");
        let mut status = ContainerStatus {
            exit_code: 1,
            log_path: log.to_string_lossy().into_owned(),
            mounts: vec![Mount {
                container_path: "/dev/termination-log".into(),
                host_path: file.to_string_lossy().into_owned(),
                ..Default::default()
            }],
            annotations: HashMap::from([
                (TERMINATION_PATH.to_owned(), "/dev/termination-log".to_owned()),
                (TERMINATION_POLICY.to_owned(), "File".to_owned()),
            ]),
            ..Default::default()
        };
        assert_eq!(of(&status), None);
        status.annotations.insert(TERMINATION_POLICY.to_owned(), "FallbackToLogsOnError".to_owned());
        assert_eq!(of(&status).as_deref(), Some("boom\nbang\n"));
        // What has no newline at its end is a part of a line.
        std::fs::write(&log, "2026-01-01T00:00:00Z stderr F boom\n2026-01-01T00:00:01Z stdout P do\n2026-01-01T00:00:01Z stdout P ne\n")
            .expect("written");
        assert_eq!(of(&status).as_deref(), Some("boom\ndone"));
        std::fs::write(&file, "last words").expect("written");
        assert_eq!(of(&status).as_deref(), Some("last words"));
    }
}
