//! The kubeconfig as upstream's `clientcmd` sees it: several files merged into one view, changes written back to the file that
//! defines the changed stanza.
//!
//! Kept as a JSON value and not as a struct, so that fields unknown here survive an edit. Turning it into a connection is kube-rs' work.

use crate::encoding::yaml;
use crate::error::{Error, Result, go_io_error, message};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// The three lists of a kubeconfig: its key, and the key of the content beside each entry's `name`.
pub const CLUSTERS: (&str, &str) = ("clusters", "cluster");
/// See [`CLUSTERS`].
pub const CONTEXTS: (&str, &str) = ("contexts", "context");
/// See [`CLUSTERS`].
pub const USERS: (&str, &str) = ("users", "user");

/// Fields that name files, which are relative to the kubeconfig they stand in.
const FILE_FIELDS: [(&str, &str, &str); 4] = [
    ("clusters", "cluster", "certificate-authority"),
    ("users", "user", "client-certificate"),
    ("users", "user", "client-key"),
    ("users", "user", "tokenFile"),
];

/// Fields that `config view` hides, and what it shows in their place.
const SECRET_FIELDS: [(&str, &str, &str, &str); 6] = [
    ("clusters", "cluster", "certificate-authority-data", "DATA+OMITTED"),
    ("users", "user", "client-certificate-data", "DATA+OMITTED"),
    ("users", "user", "client-key-data", "DATA+OMITTED"),
    ("users", "user", "token", "REDACTED"),
    ("users", "user", "password", "REDACTED"),
    ("users", "user", "auth-provider", ""),
];

/// The files a kubeconfig is read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// In order of precedence.
    pub files: Vec<PathBuf>,
    /// `--kubeconfig` was given: the file has to exist.
    pub explicit: bool,
}

impl Paths {
    /// Upstream's rule: the flag, else `$KUBECONFIG` (a list), else `~/.kube/config`.
    pub fn find(flag: Option<&str>, env: Option<&str>, home: Option<&str>, cwd: &Path) -> Paths {
        if let Some(file) = flag {
            return Paths { files: vec![cwd.join(file)], explicit: true };
        }
        if let Some(list) = env {
            let mut files: Vec<PathBuf> = Vec::new();
            for f in list.split(':').filter(|f| !f.is_empty()).map(|f| cwd.join(f)) {
                if !files.contains(&f) {
                    files.push(f);
                }
            }
            return Paths { files, explicit: false };
        }
        Paths { files: vec![Path::new(home.unwrap_or("/")).join(".kube/config")], explicit: false }
    }

    /// The file that messages name: where a new stanza would go.
    pub fn default_file(&self) -> PathBuf {
        self.files.iter().find(|f| f.exists()).or(self.files.last()).cloned().unwrap_or_default()
    }
}

/// One kubeconfig, merged or of a single file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Kubeconfig(pub Map<String, Value>);

fn read(path: &Path) -> Result<Option<Kubeconfig>> {
    let text = match std::fs::read(path) {
        Ok(t) => t,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => {
            return Err(message(format!("error loading config file \"{}\": open {}: {}", path.display(), path.display(), go_io_error(&e))));
        }
    };
    let value = crate::manifest::parse_document(&String::from_utf8_lossy(&text))
        .map_err(|why| message(format!("error loading config file \"{}\": {why}", path.display())))?;
    match value {
        Value::Object(map) => Ok(Some(Kubeconfig(map))),
        Value::Null => Ok(Some(Kubeconfig::default())),
        _ => Err(message(format!(
            "error loading config file \"{}\": couldn't get version/kind; json parse error: json: cannot unmarshal string into Go value of type struct {{ APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }}",
            path.display()
        ))),
    }
}

impl Kubeconfig {
    /// Reads and merges all files: the first to name a stanza, or to set `current-context`, wins. Paths inside become absolute.
    /// The second answer is warnings for stderr.
    pub fn load(paths: &Paths) -> Result<(Kubeconfig, Vec<String>)> {
        let (mut merged, mut warnings, mut missing) = (Kubeconfig::default(), Vec::new(), Vec::new());
        for path in &paths.files {
            let Some(mut file) = read(path)? else {
                if paths.explicit {
                    return Err(message(format!("stat {}: no such file or directory", path.display())));
                }
                missing.push(path.display().to_string());
                continue;
            };
            file.absolute_paths(path.parent().unwrap_or(Path::new("/")));
            merged.merge(file);
        }
        if !missing.is_empty() && missing.len() == paths.files.len() && missing.len() > 1 {
            warnings.push(format!("W0000 Config not found: {}\n", missing.join(", ")));
        }
        Ok((merged, warnings))
    }

    fn absolute_paths(&mut self, dir: &Path) {
        for (list, key, field) in FILE_FIELDS {
            self.each(list, key, |entry| {
                if let Some(Value::String(path)) = entry.get_mut(field)
                    && !path.is_empty()
                {
                    *path = dir.join(&*path).display().to_string();
                }
            });
        }
    }

    fn each(&mut self, list: &str, key: &str, mut change: impl FnMut(&mut Map<String, Value>)) {
        for item in self.0.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(Value::Object(entry)) = item.get_mut(key) {
                change(entry);
            }
        }
    }

    fn merge(&mut self, other: Kubeconfig) {
        for (list, _) in [CLUSTERS, CONTEXTS, USERS] {
            for item in other.0.get(list).and_then(Value::as_array).into_iter().flatten() {
                let known = self.names(list).iter().any(|n| item["name"] == **n);
                if !known {
                    self.list_mut(list).push(item.clone());
                }
            }
        }
        for (key, value) in other.0 {
            let empty = self.0.get(&key).is_none_or(|v| v == "" || v.is_null());
            if empty && ![CLUSTERS.0, CONTEXTS.0, USERS.0].contains(&key.as_str()) {
                self.0.insert(key, value);
            }
        }
    }

    fn list_mut(&mut self, list: &str) -> &mut Vec<Value> {
        let slot = self.0.entry(list).or_insert_with(|| json!([]));
        if !slot.is_array() {
            *slot = json!([]);
        }
        slot.as_array_mut().expect("made an array just above")
    }

    /// The names in a list, in order of the file.
    pub fn names(&self, list: &str) -> Vec<String> {
        let items = self.0.get(list).and_then(Value::as_array).into_iter().flatten();
        items.filter_map(|i| i["name"].as_str().map(str::to_owned)).collect()
    }

    /// The content of an entry.
    pub fn entry(&self, (list, key): (&str, &str), name: &str) -> Option<&Value> {
        let items = self.0.get(list).and_then(Value::as_array).into_iter().flatten();
        items.filter(|i| i["name"] == name).map(|i| &i[key]).next()
    }

    /// Sets the content of an entry, which is made if it is not there.
    pub fn set_entry(&mut self, (list, key): (&str, &str), name: &str, content: Value) {
        let items = self.list_mut(list);
        match items.iter_mut().find(|i| i["name"] == name) {
            Some(item) => item[key] = content,
            None => items.push(json!({"name": name, key: content})),
        }
        items.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
    }

    /// Removes an entry; says whether it was there.
    pub fn remove_entry(&mut self, list: &str, name: &str) -> bool {
        let items = self.list_mut(list);
        let before = items.len();
        items.retain(|i| i["name"] != name);
        items.len() != before
    }

    /// The name of the current context, empty if none is set.
    pub fn current_context(&self) -> &str {
        self.0.get("current-context").and_then(Value::as_str).unwrap_or("")
    }

    /// Whether there is a context of that name.
    pub fn has_context(&self, name: &str) -> bool {
        self.entry(CONTEXTS, name).is_some()
    }

    /// The namespace that a context (or the current one) names.
    pub fn namespace(&self, context: Option<&str>) -> Option<String> {
        let entry = self.entry(CONTEXTS, context.unwrap_or(self.current_context()))?;
        entry["namespace"].as_str().filter(|n| !n.is_empty()).map(str::to_owned)
    }

    /// Only the current context and what it needs.
    pub fn minified(&self, context: Option<&str>) -> Result<Kubeconfig> {
        let name = context.unwrap_or(self.current_context()).to_owned();
        if self.0.is_empty() || (name.is_empty() && context.is_none()) {
            return Err(message("current-context must exist in order to minify"));
        }
        let entry = self.entry(CONTEXTS, &name).ok_or_else(|| message(format!("cannot locate context {name}")))?.clone();
        let mut small = self.clone();
        small.0.insert("current-context".into(), json!(name));
        small.list_mut("contexts").retain(|i| i["name"] == name);
        small.list_mut("clusters").retain(|i| i["name"] == entry["cluster"]);
        small.list_mut("users").retain(|i| i["name"] == entry["user"]);
        Ok(small)
    }

    /// Without keys, passwords and tokens.
    pub fn redacted(&self) -> Kubeconfig {
        let mut copy = self.clone();
        for (list, key, field, instead) in SECRET_FIELDS {
            copy.each(list, key, |entry| {
                if instead.is_empty() {
                    return;
                }
                if let Some(v) = entry.get_mut(field)
                    && v.as_str().is_some_and(|s| !s.is_empty())
                {
                    *v = json!(instead);
                }
            });
        }
        copy
    }

    /// With the files it names put inside.
    pub fn flattened(&self) -> Result<Kubeconfig> {
        let mut copy = self.clone();
        let mut failed = None;
        for (list, key, field) in &FILE_FIELDS[..3] {
            copy.each(list, key, |entry| {
                let Some(path) = entry.get(*field).and_then(Value::as_str).filter(|p| !p.is_empty()).map(str::to_owned) else { return };
                match std::fs::read(&path) {
                    Ok(bytes) => {
                        entry.remove(*field);
                        entry.insert(format!("{field}-data"), json!(crate::encoding::base64(&bytes)));
                    }
                    Err(e) => failed = Some(message(format!("open {path}: {}", go_io_error(&e)))),
                }
            });
        }
        failed.map_or(Ok(copy), Err)
    }

    /// The document as it is written and shown: every list there, `kind` and `apiVersion` set.
    pub fn document(&self) -> Value {
        let mut map = self.0.clone();
        for (list, _) in [CLUSTERS, CONTEXTS, USERS] {
            let empty = map.get(list).and_then(Value::as_array).is_none_or(Vec::is_empty);
            if empty {
                map.insert(list.to_owned(), Value::Null);
            }
        }
        if let Some(Value::Array(items)) = map.get_mut("contexts") {
            for item in items {
                for field in ["cluster", "user"] {
                    if item["context"][field].is_null() {
                        item["context"][field] = json!("");
                    }
                }
            }
        }
        for item in map.get_mut("clusters").and_then(Value::as_array_mut).into_iter().flatten() {
            if item["cluster"]["server"].is_null() {
                item["cluster"]["server"] = json!("");
            }
        }
        if let Some(Value::Array(items)) = map.get_mut("users") {
            for item in items {
                if item["user"].is_null() {
                    item["user"] = json!({});
                }
            }
        }
        for (key, default) in
            [("apiVersion", json!("v1")), ("kind", json!("Config")), ("current-context", json!("")), ("preferences", json!({}))]
        {
            map.entry(key).or_insert(default);
        }
        Value::Object(map)
    }
}

/// Changes one stanza in the file that holds it: the first file for which `holds` says so, else the first that exists, else the last.
pub fn edit(paths: &Paths, holds: impl Fn(&Kubeconfig) -> bool, change: impl FnOnce(&mut Kubeconfig)) -> Result<PathBuf> {
    let mut target = None;
    for path in &paths.files {
        if read(path)?.is_some_and(|c| holds(&c)) {
            target = Some(path.clone());
            break;
        }
    }
    let target = target.unwrap_or_else(|| paths.default_file());
    let mut config = read(&target)?.unwrap_or_default();
    change(&mut config);
    write(&target, &config)?;
    Ok(target)
}

/// Writes a file only its owner may read, by renaming, so that a reader never sees half of it.
fn write(path: &Path, config: &Kubeconfig) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let fail = |e: std::io::Error| message(format!("open {}: {}", path.display(), go_io_error(&e)));
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(fail)?;
    }
    let temporary = path.with_extension(format!("tmp{}", std::process::id()));
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary).map_err(fail)?;
    file.write_all(yaml::to_string(&config.document()).as_bytes()).map_err(fail)?;
    std::fs::rename(&temporary, path).map_err(fail)
}

/// The configuration error for a name that is not in the file.
pub fn missing(what: &str, name: &str) -> Error {
    Error::Verbatim(format!("Error in configuration: {what} was not found for specified context: {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(v: Value) -> Kubeconfig {
        Kubeconfig(v.as_object().unwrap().clone())
    }

    #[test]
    fn the_first_file_wins() {
        let mut a = config(json!({"current-context": "x", "clusters": [{"name": "c", "cluster": {"server": "1"}}]}));
        a.merge(config(
            json!({"current-context": "y", "clusters": [{"name": "c", "cluster": {"server": "2"}}, {"name": "d", "cluster": {}}]}),
        ));
        assert_eq!(a.current_context(), "x");
        assert_eq!(a.entry(CLUSTERS, "c").unwrap()["server"], "1");
        assert_eq!(a.names("clusters"), ["c", "d"]);
    }

    #[test]
    fn a_change_goes_to_the_file_that_holds_the_stanza() {
        let dir = tempfile::tempdir().unwrap();
        let file = |n: &str| dir.path().join(n);
        let paths = Paths { files: vec![file("a"), file("b")], explicit: false };
        write(&file("a"), &config(json!({}))).unwrap();
        write(&file("b"), &config(json!({"contexts": [{"name": "x", "context": {"cluster": "c"}}]}))).unwrap();
        let at = edit(&paths, |c| c.entry(CONTEXTS, "x").is_some(), |c| c.set_entry(CONTEXTS, "x", json!({"cluster": "d"}))).unwrap();
        assert_eq!(at, file("b"));
        let at = edit(&paths, |c| c.entry(CONTEXTS, "new").is_some(), |c| c.set_entry(CONTEXTS, "new", json!({}))).unwrap();
        assert_eq!(at, file("a"));
        assert_eq!(Kubeconfig::load(&paths).unwrap().0.names("contexts"), ["new", "x"]);
    }

    #[test]
    fn secrets_are_hidden() {
        let c = config(json!({"users": [{"name": "u", "user": {"token": "abc", "client-key-data": "x", "username": "me"}}]})).redacted();
        assert_eq!(c.entry(USERS, "u").unwrap(), &json!({"token": "REDACTED", "client-key-data": "DATA+OMITTED", "username": "me"}));
    }
}
