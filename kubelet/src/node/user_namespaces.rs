//! User namespaces of pods (`hostUsers: false`): every such pod gets a range of the node's user and group ids for itself (upstream:
//! `pkg/kubelet/userns`).
//!
//! The ranges are cut from the ids that `getsubids` names for the user `kubelet`, or else from all but the first. What a pod was given is written down in
//! its directory in upstream's format, so that the next kubelet, whoever's it is, gives it to nobody else while the pod runs. The ids in volumes are not
//! changed: the runtime maps them where it mounts.

use crate::{lookup::LookupError, runtime::RuntimeError, volume::setup};
use anyhow::{Context, bail, ensure};
use k8s_cri::v1::{self as cri, NamespaceMode};
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    process::Command,
};

/// What the length of a range is a multiple of, and what it is unless somebody says otherwise.
pub const UNIT: u32 = 65_536;
/// The user whose subordinate ids pods get.
const USER: &str = "kubelet";
/// The tool that tells them.
const TOOL: &str = "getsubids";
/// The file in a pod's directory.
const RECORD: &str = "userns";

/// Ids in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ids {
    /// The first.
    pub first: u32,
    /// How many.
    pub length: u32,
}

impl Ids {
    /// All but those of the first range, which are the machine's own.
    pub fn all_but_the_first(per_pod: u32) -> Self {
        Ids { first: per_pod, length: 0u32.wrapping_sub(per_pod) }
    }

    /// What the machine says is for pods.
    pub fn of_machine(per_pod: u32) -> anyhow::Result<Self> {
        // The tool may ask somebody far away, so that no answer is not the same as no ids: without the user it is not asked.
        if nix::unistd::User::from_name(USER)?.is_none() {
            return Ok(Ids::all_but_the_first(per_pod));
        }
        let ask = |arguments: &[&str]| match Command::new(TOOL).args(arguments).output() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
            Ok(said) if said.status.success() => Ok(Some(String::from_utf8_lossy(&said.stdout).into_owned())),
            Ok(said) => Err(anyhow::anyhow!("{TOOL}: {}", said.status)),
        };
        let Some(users) = ask(&[USER]).with_context(|| format!("error retrieving additional uids for user {USER:?}"))? else {
            return Ok(Ids::all_but_the_first(per_pod));
        };
        let groups = ask(&["-g", USER]).with_context(|| format!("error retrieving additional gids for user {USER:?}"))?;
        ensure!(groups.as_ref() == Some(&users), "mismatched subuids and subgids for user {USER:?}");
        Ids::parse(&users)
    }

    /// What the tool prints: `0: kubelet 65536 2147483648`.
    fn parse(printed: &str) -> anyhow::Result<Self> {
        let mut lines = printed.trim_matches('\n').lines();
        let (Some(line), None) = (lines.next(), lines.next()) else {
            bail!("error parsing line {printed:?}: it must contain only one line");
        };
        let [_, _, first, length] = line.split_whitespace().collect::<Vec<_>>()[..] else { bail!("invalid line {line:?}") };
        let number = |text: &str| text.parse().with_context(|| format!("error parsing line {line:?}"));
        Ok(Ids { first: number(first)?, length: number(length)? })
    }
}

/// A pod's record, as upstream writes it.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    uid_mappings: Vec<Mapping>,
    gid_mappings: Vec<Mapping>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mapping {
    host_id: u32,
    container_id: u32,
    length: u32,
}

impl Record {
    fn of(ids: Ids) -> Self {
        let mapping = Mapping { host_id: ids.first, container_id: 0, length: ids.length };
        Record { uid_mappings: vec![mapping], gid_mappings: vec![mapping] }
    }

    fn ids(&self) -> Result<Ids, String> {
        let wrong = |what: &str| Err(format!("invalid user namespace configuration: {what}"));
        match (self.uid_mappings.as_slice(), self.gid_mappings.as_slice()) {
            ([users], [groups]) if users != groups => wrong("GID and UID mapping should be identical"),
            ([users], [_]) if users.container_id != 0 => wrong("UID 0 must be mapped"),
            ([users], [_]) => Ok(Ids { first: users.host_id, length: users.length }),
            ([_], _) => wrong("GID and UID mappings should be identical."),
            _ => wrong("no more than one mapping allowed."),
        }
    }
}

/// Who has which ids.
#[derive(Debug)]
pub struct UserNamespaces {
    per_pod: u32,
    /// The number of the first range, counted from id 0.
    offset: u32,
    ranges: u32,
    /// The kubelet's root directory. A simulated node keeps no records.
    root: Option<PathBuf>,
    /// By pod: the number of its range, counted from the first that may be given.
    given: Mutex<HashMap<String, u32>>,
}

impl Default for UserNamespaces {
    fn default() -> Self {
        let ids = Ids::all_but_the_first(UNIT);
        UserNamespaces { per_pod: UNIT, offset: 1, ranges: ids.length / UNIT, root: None, given: Mutex::default() }
    }
}

impl UserNamespaces {
    /// Ranges of `per_pod` of these ids, which have to do for `max_pods`.
    pub fn new(ids: Ids, per_pod: u32, max_pods: i64) -> anyhow::Result<Self> {
        let Ids { first, length } = ids;
        ensure!(per_pod != 0 && per_pod.is_multiple_of(UNIT), "kubelet user namespace length {per_pod} is not a multiple of {UNIT}");
        ensure!(first.is_multiple_of(per_pod), "kubelet user assigned ID {first} is not a multiple of {per_pod}");
        ensure!(first >= per_pod, "kubelet user assigned ID {first} must be greater or equal to {per_pod}");
        ensure!(length.is_multiple_of(per_pod), "kubelet user assigned IDs length {length} is not a multiple of {per_pod}");
        ensure!(i64::from(length / per_pod) >= max_pods, "kubelet user assigned IDs are not enough to support {max_pods} pods");
        Ok(UserNamespaces { per_pod, offset: first / per_pod, ranges: length / per_pod, ..Default::default() })
    }

    /// The same with the records of the pods below the kubelet's root directory.
    pub fn recorded(mut self, root: &Path) -> anyhow::Result<Self> {
        self.root = Some(root.to_owned());
        let pods = match fs::read_dir(root.join("pods")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(self),
            found => found.context("read pods from disk")?,
        };
        for pod in pods.flatten() {
            let uid = pod.file_name().to_string_lossy().into_owned();
            self.read(&uid, &mut self.given.lock())
                .map_err(anyhow::Error::msg)
                .with_context(|| format!("record pod mappings for existing pod {uid:?}"))?;
        }
        Ok(self)
    }

    /// The pod's range as it was written down, if it was; it counts as given then.
    fn read(&self, uid: &str, given: &mut HashMap<String, u32>) -> Result<Option<Ids>, String> {
        let Some(root) = &self.root else { return Ok(given.get(uid).map(|range| self.ids(*range))) };
        let text = match fs::read(setup::pod_dir(root, uid).join(RECORD)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(|error| error.to_string())?,
        };
        let record: Record = serde_json::from_slice(&text).map_err(|error| format!("invalid user namespace mappings file: {error}"))?;
        let ids = record.ids()?;
        if ids.length != self.per_pod {
            return Err(format!("wrong user namespace length {}", ids.length));
        }
        if !ids.first.is_multiple_of(self.per_pod) {
            return Err(format!("wrong user namespace offset specified {}", ids.first));
        }
        let range = (ids.first / self.per_pod).checked_sub(self.offset).filter(|range| *range < self.ranges);
        let range = range.ok_or_else(|| format!("id {} is out of range", ids.first))?;
        match given.get(uid) {
            Some(before) if *before != range => return Err(format!("different user namespace range already used by pod {uid:?}")),
            None if given.values().any(|taken| *taken == range) => return Err(format!("range picked for pod {uid:?} already taken")),
            _ => {}
        }
        given.insert(uid.to_owned(), range);
        Ok(Some(ids))
    }

    fn ids(&self, range: u32) -> Ids {
        Ids { first: (self.offset + range) * self.per_pod, length: self.per_pod }
    }

    /// The pod's ids: those it has, or new ones, found from the `start`-th range on.
    fn give(&self, uid: &str, start: u32) -> Result<Ids, String> {
        let mut given = self.given.lock();
        if let Some(ids) = self.read(uid, &mut given).map_err(|error| format!("user namespace: {error}"))? {
            return Ok(ids);
        }
        let taken: HashSet<u32> = given.values().copied().collect();
        let range = (start..self.ranges).chain(0..start.min(self.ranges)).find(|range| !taken.contains(range));
        let range = range.ok_or("create user namespace: could not find an empty slot to allocate a user namespace")?;
        let ids = self.ids(range);
        if let Some(root) = &self.root {
            write(&setup::pod_dir(root, uid), &Record::of(ids)).map_err(|error| format!("create user namespace: {error}"))?;
        }
        given.insert(uid.to_owned(), range);
        Ok(ids)
    }

    /// Nothing of the pod runs any more.
    pub fn release(&self, uid: &str) {
        if self.given.lock().remove(uid).is_some()
            && let Some(root) = &self.root
        {
            // It may have gone with the pod's directory.
            drop(fs::remove_file(setup::pod_dir(root, uid).join(RECORD)));
        }
    }

    /// Nothing runs but these pods.
    pub fn retain(&self, known: &HashSet<String>) {
        let orphans: Vec<String> = self.given.lock().keys().filter(|uid| !known.contains(*uid)).cloned().collect();
        orphans.iter().for_each(|uid| self.release(uid));
    }
}

/// Writes a record so that it is there whole or not at all, also after a loss of power.
fn write(dir: &Path, record: &Record) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let fresh = dir.join(format!(".{RECORD}"));
    let mut file = File::create(&fresh)?;
    file.write_all(&serde_json::to_vec(record)?)?;
    file.sync_all()?;
    fs::rename(&fresh, dir.join(RECORD))?;
    File::open(dir)?.sync_all()
}

/// The namespace of the node's own users.
pub fn of_node() -> cri::UserNamespace {
    cri::UserNamespace { mode: NamespaceMode::Node as i32, ..Default::default() }
}

fn of_pod(ids: Ids) -> cri::UserNamespace {
    let mapping = vec![cri::IdMapping { host_id: ids.first, container_id: 0, length: ids.length }];
    cri::UserNamespace { mode: NamespaceMode::Pod as i32, uids: mapping.clone(), gids: mapping }
}

/// Why the runtime cannot give a pod users of its own, if it cannot. `handler` is its runtime class's.
fn lacking(said: &cri::StatusResponse, handler: &str) -> Option<String> {
    let who = if handler.is_empty() { "runtime does".to_owned() } else { format!("RuntimeClass handler {handler:?} does") };
    let text = format!("can't set `spec.hostUsers: false`, {who} not support user namespaces");
    match said.runtime_handlers.iter().find(|known| known.name == handler) {
        None => Some(format!("{text}: the handler {handler:?} is not known")),
        Some(known) => (!known.features.unwrap_or_default().user_namespaces).then_some(text),
    }
}

impl super::Node {
    /// The users of the pod's processes: the node's, or ids of their own.
    pub async fn user_namespace(&self, pod: &Pod) -> Result<cri::UserNamespace, RuntimeError> {
        if pod.spec.as_ref().and_then(|spec| spec.host_users) != Some(false) {
            return Ok(of_node());
        }
        let failed = |error: LookupError| RuntimeError::Failed(format!("failed to get sandbox runtime: {error}"));
        let handler = self.lookup.runtime_handler(pod).await.map_err(failed)?;
        if let Some(why) = lacking(&self.runtime.status().await?, &handler) {
            return Err(RuntimeError::Failed(why));
        }
        let uid = crate::container::identity::uid(pod);
        let start = rand::random_range(0..self.users.ranges);
        self.users.give(uid, start).map(of_pod).map_err(RuntimeError::Failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users(per_pod: u32, ranges: u32) -> UserNamespaces {
        UserNamespaces::new(Ids { first: per_pod, length: per_pod * ranges }, per_pod, i64::from(ranges)).expect("good ids")
    }

    #[test]
    fn the_tools_answer_is_one_line_of_four_words() {
        assert_eq!(Ids::parse("0: kubelet 65536 2147483648\n").expect("good"), Ids { first: UNIT, length: 1 << 31 });
        for bad in ["", "0: kubelet 65536", "0: kubelet 1 2\n1: kubelet 3 4\n", "0: kubelet x 1", "0: kubelet 1 4294967296"] {
            assert!(Ids::parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(Ids::all_but_the_first(UNIT), Ids { first: UNIT, length: u32::MAX - UNIT + 1 });
    }

    #[test]
    fn ids_that_do_not_divide_or_do_not_suffice_are_refused() {
        for (first, length, per_pod, pods, want) in [
            (UNIT, UNIT, 1000, 1, "length 1000 is not a multiple of 65536"),
            (UNIT + 1, UNIT, UNIT, 1, "ID 65537 is not a multiple of 65536"),
            (0, UNIT, UNIT, 1, "ID 0 must be greater or equal to 65536"),
            (UNIT, UNIT + 1, UNIT, 1, "length 65537 is not a multiple of 65536"),
            (UNIT, UNIT * 2, UNIT, 3, "not enough to support 3 pods"),
        ] {
            let error = UserNamespaces::new(Ids { first, length }, per_pod, pods).expect_err("bad ids").to_string();
            assert!(error.contains(want), "{error:?} should say {want:?}");
        }
        assert!(UserNamespaces::new(Ids::all_but_the_first(2 * UNIT), 2 * UNIT, 110).is_ok());
    }

    #[test]
    fn every_pod_has_a_range_of_its_own_until_it_is_released() {
        let users = users(UNIT, 2);
        let a = users.give("a", 1).expect("room");
        assert_eq!(a, Ids { first: 2 * UNIT, length: UNIT });
        assert_eq!(users.give("b", 1).expect("room").first, UNIT, "the search goes round");
        assert_eq!(users.give("a", 0), Ok(a), "who has one keeps it");
        assert!(users.give("c", 0).expect_err("full").contains("could not find an empty slot"));
        users.retain(&HashSet::from(["b".to_owned()]));
        assert_eq!(users.give("c", 0), Ok(a));
    }

    #[test]
    fn the_next_kubelet_knows_who_has_what() {
        let root = tempfile::tempdir().expect("a directory");
        let first = users(UNIT, 4).recorded(root.path()).expect("nothing is there");
        let ids = first.give("a", 3).expect("room");
        let text = fs::read_to_string(root.path().join("pods/a/userns")).expect("written");
        let mapping = format!("[{{\"hostId\":{},\"containerId\":0,\"length\":65536}}]", ids.first);
        assert_eq!(text, format!("{{\"uidMappings\":{mapping},\"gidMappings\":{mapping}}}"), "as upstream writes it");
        let next = users(UNIT, 4).recorded(root.path()).expect("a good record");
        assert_eq!(next.give("b", 3).expect("room").first, UNIT, "the other is taken");
        assert_eq!(next.give("a", 0), Ok(ids));
        let error = users(2 * UNIT, 2).recorded(root.path()).expect_err("records of another length");
        assert!(format!("{error:#}").contains("wrong user namespace length 65536"), "{error:#}");
        next.release("a");
        assert!(!root.path().join("pods/a/userns").exists());
    }

    #[test]
    fn what_the_runtime_lacks_is_said_in_upstreams_words() {
        let mut said = cri::StatusResponse::default();
        let text = "can't set `spec.hostUsers: false`, runtime does not support user namespaces";
        assert_eq!(lacking(&said, ""), Some(format!("{text}: the handler \"\" is not known")));
        let handler = |name: &str, able| cri::RuntimeHandler {
            name: name.into(),
            features: Some(cri::RuntimeHandlerFeatures { user_namespaces: able, ..Default::default() }),
        };
        said.runtime_handlers = vec![handler("", true), handler("old", false)];
        assert_eq!(lacking(&said, ""), None);
        let want = "can't set `spec.hostUsers: false`, RuntimeClass handler \"old\" does not support user namespaces";
        assert_eq!(lacking(&said, "old").as_deref(), Some(want));
    }
}
