//! One flag: its names, what values it takes, its default, its help line.

/// What a flag's value must look like, as pflag names the types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A switch: takes a value only after `=`.
    Bool,
    /// Any text; the last one given counts.
    String,
    /// A 32-bit integer.
    Int,
    /// A 64-bit integer.
    Int64,
    /// Texts split at commas; repeating the flag appends.
    Strings,
    /// Whole texts; repeating the flag appends.
    StringArray,
    /// Go's duration syntax, `1m30s`.
    Duration,
}

impl Kind {
    /// The word pflag's help shows for the type.
    pub fn label(self) -> &'static str {
        match self {
            Kind::Bool => "bool",
            Kind::String => "string",
            Kind::Int => "int",
            Kind::Int64 => "int64",
            Kind::Strings => "strings",
            Kind::StringArray => "stringArray",
            Kind::Duration => "duration",
        }
    }

    /// Whether repeating the flag appends.
    pub fn is_list(self) -> bool {
        matches!(self, Kind::Strings | Kind::StringArray)
    }

    /// The Go error for a value of the wrong type, or nothing when it fits.
    pub fn check(self, value: &str) -> Option<String> {
        let integer = |parsed: Result<(), std::num::ParseIntError>, func: &str| {
            parsed.err().map(|e| {
                let why = match e.kind() {
                    std::num::IntErrorKind::PosOverflow | std::num::IntErrorKind::NegOverflow => "value out of range",
                    _ => "invalid syntax",
                };
                format!("strconv.{func}: parsing {value:?}: {why}")
            })
        };
        match self {
            Kind::Bool => {
                let ok = matches!(value, "1" | "t" | "T" | "true" | "TRUE" | "True" | "0" | "f" | "F" | "false" | "FALSE" | "False");
                (!ok).then(|| format!("strconv.ParseBool: parsing {value:?}: invalid syntax"))
            }
            Kind::Int => integer(value.parse::<i32>().map(drop), "ParseInt"),
            Kind::Int64 => integer(value.parse::<i64>().map(drop), "ParseInt"),
            Kind::Duration => crate::duration::parse(value).err(),
            Kind::String | Kind::Strings | Kind::StringArray => None,
        }
    }
}

/// A flag as commands declare it.
#[derive(Clone, Debug)]
pub struct Flag {
    /// The long name, without dashes.
    pub name: &'static str,
    /// The one-letter name.
    pub short: Option<char>,
    /// The type of its value.
    pub kind: Kind,
    /// The value when it is not given; empty for none.
    pub default: &'static str,
    /// The value when it is given without one (`--dry-run`, `--cascade`); switches have `true`.
    pub bare: Option<&'static str>,
    /// One line of help.
    pub help: &'static str,
    /// Not shown in help.
    pub hidden: bool,
    /// The command cannot run without it.
    pub required: bool,
}

impl Flag {
    fn new(name: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Flag {
        let bare = (kind == Kind::Bool).then_some("true");
        Flag { name, short: None, kind, default, bare, help, hidden: false, required: false }
    }
    /// A switch that is off unless given.
    pub fn switch(name: &'static str, help: &'static str) -> Flag {
        Flag::new(name, Kind::Bool, "false", help)
    }
    /// A switch that is on unless given as `=false`.
    pub fn switch_on(name: &'static str, help: &'static str) -> Flag {
        Flag::new(name, Kind::Bool, "true", help)
    }
    /// A text.
    pub fn string(name: &'static str, default: &'static str, help: &'static str) -> Flag {
        Flag::new(name, Kind::String, default, help)
    }
    /// A 32-bit integer.
    pub fn int(name: &'static str, default: &'static str, help: &'static str) -> Flag {
        Flag::new(name, Kind::Int, default, help)
    }
    /// A 64-bit integer.
    pub fn int64(name: &'static str, default: &'static str, help: &'static str) -> Flag {
        Flag::new(name, Kind::Int64, default, help)
    }
    /// Texts split at commas.
    pub fn strings(name: &'static str, help: &'static str) -> Flag {
        Flag::new(name, Kind::Strings, "", help)
    }
    /// Whole texts.
    pub fn array(name: &'static str, help: &'static str) -> Flag {
        Flag::new(name, Kind::StringArray, "", help)
    }
    /// A duration.
    pub fn duration(name: &'static str, default: &'static str, help: &'static str) -> Flag {
        Flag::new(name, Kind::Duration, default, help)
    }
    /// With a one-letter name.
    pub fn short(mut self, c: char) -> Flag {
        self.short = Some(c);
        self
    }
    /// With a value for when it is given bare.
    pub fn bare(mut self, value: &'static str) -> Flag {
        self.bare = Some(value);
        self
    }
    /// Not shown in help.
    pub fn hidden(mut self) -> Flag {
        self.hidden = true;
        self
    }
    /// Without which the command cannot run.
    pub fn required(mut self) -> Flag {
        self.required = true;
        self
    }

    /// The flag as error texts name it: `-o, --output`.
    pub fn spelled(&self) -> String {
        match self.short {
            Some(c) => format!("-{c}, --{}", self.name),
            None => format!("--{}", self.name),
        }
    }

    /// Its two lines in help, as cobra lays them out.
    pub fn help_lines(&self) -> String {
        let default = match self.kind {
            Kind::String => format!("'{}'", self.default),
            Kind::Strings | Kind::StringArray => "[]".to_owned(),
            _ => self.default.to_owned(),
        };
        let lead = match self.short {
            Some(c) => format!("    -{c}, --{}={default}:", self.name),
            None => format!("    --{}={default}:", self.name),
        };
        format!("{lead}\n\t{}\n", self.help)
    }
}
