//! The tree of commands: how a word finds its command, and the help text, which is derived from the tree.

use super::flag::Flag;
use super::parse::{Args, takes_next};
use crate::context::Context;
use crate::error::{Error, Result};

/// What a command does with its arguments.
pub type Exec = fn(&mut Context, &Args) -> Result<()>;

/// A command and its subcommands.
pub struct Command {
    /// The word that calls it.
    pub name: &'static str,
    /// Other words that call it.
    pub aliases: &'static [&'static str],
    /// The heading under which the root help lists it; empty where there are no headings.
    pub group: &'static str,
    /// One line of help.
    pub about: &'static str,
    /// The arguments in the usage line, `NAME [--type=string]`.
    pub usage: &'static str,
    /// Its flags, without the global ones.
    pub flags: Vec<Flag>,
    /// Its subcommands.
    pub commands: Vec<Command>,
    /// What it does; a command without shows its help.
    pub exec: Option<Exec>,
    /// False for a command whose later words belong to somebody else (none of upstream's but plugins).
    pub interspersed: bool,
    /// Whether it asks the kubeconfig for its namespace before anything else, so that a context which is not there is told in those words.
    pub namespace_first: bool,
}

impl Command {
    /// A command with nothing but a name and a line of help.
    pub fn new(name: &'static str, about: &'static str) -> Command {
        Command {
            name,
            aliases: &[],
            group: "",
            about,
            usage: "",
            flags: Vec::new(),
            commands: Vec::new(),
            exec: None,
            interspersed: true,
            namespace_first: false,
        }
    }
    /// With other words that call it.
    pub fn aliases(mut self, aliases: &'static [&'static str]) -> Command {
        self.aliases = aliases;
        self
    }
    /// With the arguments shown in its usage line.
    pub fn usage(mut self, usage: &'static str) -> Command {
        self.usage = usage;
        self
    }
    /// With flags.
    pub fn flags(mut self, flags: impl IntoIterator<Item = Flag>) -> Command {
        self.flags.extend(flags);
        self
    }
    /// With a subcommand.
    pub fn command(mut self, command: Command) -> Command {
        self.commands.push(command);
        self
    }
    /// With what it does.
    pub fn exec(mut self, exec: Exec) -> Command {
        self.exec = Some(exec);
        self
    }
    /// The same, asking for its namespace before anything else, as do its subcommands.
    pub fn in_namespace(mut self) -> Command {
        self.namespace_first = true;
        self.commands = self.commands.into_iter().map(Command::in_namespace).collect();
        self
    }

    fn answers_to(&self, word: &str) -> bool {
        self.name == word || self.aliases.contains(&word)
    }

    /// Help as cobra lays it out under kubectl's template.
    pub fn help(&self, path: &str) -> String {
        let mut out = format!("{}.\n", self.about);
        let width = self.commands.iter().map(|c| c.name.len()).max().unwrap_or(0);
        let mut groups: Vec<&str> = Vec::new();
        for c in &self.commands {
            if !groups.contains(&c.group) {
                groups.push(c.group);
            }
        }
        for group in groups {
            out += &format!("\n{}:\n", if group.is_empty() { "Available Commands" } else { group });
            for c in self.commands.iter().filter(|c| c.group == group) {
                out += &format!("  {:width$}   {}\n", c.name, c.about);
            }
        }
        let mut flags: Vec<&Flag> = self.flags.iter().filter(|f| !f.hidden).collect();
        flags.sort_by_key(|f| f.name);
        if !flags.is_empty() {
            let lines: Vec<String> = flags.iter().map(|f| f.help_lines()).collect();
            out += &format!("\nOptions:\n{}", lines.join("\n"));
        }
        let usage = if self.usage.is_empty() { String::new() } else { format!(" {}", self.usage) };
        out += &format!("\nUsage:\n  {path}{usage} [options]\n");
        if !self.commands.is_empty() {
            out += &format!("\nUse \"{path} <command> --help\" for more information about a given command.\n");
        }
        out + "Use \"kubectl options\" for a list of global command-line options (applies to all commands).\n"
    }
}

/// The command that `words` call, the path to it and the words left over for it.
pub fn find<'a>(root: &'a Command, global: &[Flag], words: &[String]) -> Result<(&'a Command, String, Vec<String>)> {
    let (mut at, mut path, mut left) = (root, root.name.to_owned(), words.to_vec());
    loop {
        let flags: Vec<Flag> = at.flags.iter().chain(global).cloned().collect();
        let Some(index) = first_argument(&flags, &left) else { break };
        match at.commands.iter().find(|c| c.answers_to(&left[index])) {
            Some(next) => {
                left.remove(index);
                path = format!("{path} {}", next.name);
                at = next;
            }
            None if std::ptr::eq(at, root) => return Err(unknown(root, &left[index])),
            None => break,
        }
    }
    Ok((at, path, left))
}

fn first_argument(flags: &[Flag], words: &[String]) -> Option<usize> {
    let mut i = 0;
    while i < words.len() {
        match words[i].as_str() {
            "--" => return None,
            w if w.len() > 1 && w.starts_with('-') => i += 1 + usize::from(takes_next(flags, w)),
            _ => return Some(i),
        }
    }
    None
}

fn unknown(root: &Command, word: &str) -> Error {
    // Cobra suggests what is at most two edits away, or begins with what was typed.
    let near = |c: &&Command| edits(word, c.name) <= 2 || c.name.to_lowercase().starts_with(&word.to_lowercase());
    let near: Vec<&str> = root.commands.iter().filter(near).map(|c| c.name).collect();
    let mut text = format!("Error: unknown command {word:?} for {:?}\n", root.name);
    if !near.is_empty() {
        text += &format!("\nDid you mean this?\n{}\n", near.iter().map(|n| format!("\t{n}\n")).collect::<String>());
    }
    Error::UnknownCommand(text)
}

/// Levenshtein's distance without regard to case.
fn edits(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.to_lowercase().chars().collect(), b.to_lowercase().chars().collect());
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.iter().enumerate() {
        let mut previous = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let cost = if ca == cb { previous } else { 1 + previous.min(row[j]).min(row[j + 1]) };
            previous = row[j + 1];
            row[j + 1] = cost;
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn a_command_is_found_behind_flags() {
        let root = crate::commands::root();
        let global = crate::commands::global_flags();
        for (line, path) in [
            ("get pods", "kubectl get"),
            ("-n x get pods", "kubectl get"),
            ("--namespace=x config view", "kubectl config view"),
            ("create secret generic x", "kubectl create secret generic"),
            ("create cm x", "kubectl create configmap"),
        ] {
            assert_eq!(find(&root, &global, &words(line)).unwrap().1, path, "{line}");
        }
        let text = find(&root, &global, &words("gett")).err().unwrap().text();
        assert!(text.starts_with("Error: unknown command \"gett\" for \"kubectl\"\n\nDid you mean this?\n"), "{text}");
    }

    #[test]
    fn the_table_has_no_name_twice() {
        fn check(command: &Command, global: &[Flag]) {
            let mut names: Vec<&str> =
                command.commands.iter().flat_map(|c| std::iter::once(c.name).chain(c.aliases.iter().copied())).collect();
            names.sort_unstable();
            assert!(names.windows(2).all(|w| w[0] != w[1]), "{names:?}");
            // A command's own flag may stand in front of a global one.
            let own = |f: &&Flag| !command.flags.iter().any(|o| o.name == f.name);
            let all = || command.flags.iter().chain(global.iter().filter(own));
            let mut flags: Vec<&str> = all().map(|f| f.name).collect();
            flags.sort_unstable();
            assert!(flags.windows(2).all(|w| w[0] != w[1]), "{}: {flags:?}", command.name);
            let mut shorts: Vec<char> = all().filter_map(|f| f.short).collect();
            shorts.sort_unstable();
            assert!(shorts.windows(2).all(|w| w[0] != w[1]), "{}: {shorts:?}", command.name);
            for f in all() {
                assert!(f.default.is_empty() || f.kind.check(f.default).is_none(), "{}: --{}", command.name, f.name);
            }
            command.commands.iter().for_each(|c| check(c, global));
        }
        check(&crate::commands::root(), &crate::commands::global_flags());
    }
}
