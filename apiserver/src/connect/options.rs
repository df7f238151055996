//! The query parameters of logs, exec, attach and port-forward: read, validated, and written as the kubelet wants them.

use api::{
    field::{ErrorList, Path},
    status::{Result, StatusError},
};
use form_urlencoded::Serializer;

/// The first value under `name`, or empty.
pub fn first<'a>(query: &'a [(String, String)], name: &str) -> &'a str {
    query.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
}

/// A flag: absent, `false` and `0` are false, anything else is true.
fn flag(query: &[(String, String)], name: &str) -> bool {
    query.iter().find(|(key, _)| key == name).is_some_and(|(_, value)| value != "false" && value != "0")
}

fn number(query: &[(String, String)], name: &str) -> Result<Option<i64>> {
    let text = first(query, name);
    if text.is_empty() {
        return Ok(None);
    }
    let bad =
        |_| StatusError::bad_request(format!("unable to decode query parameters: strconv.ParseInt: parsing {text:?}: invalid syntax"));
    text.parse().map(Some).map_err(bad)
}

/// `PodLogOptions`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    pub container: String,
    follow: bool,
    previous: bool,
    timestamps: bool,
    since_seconds: Option<i64>,
    since_time: String,
    tail_lines: Option<i64>,
    limit_bytes: Option<i64>,
    stream: String,
}

impl Log {
    /// Reads the query.
    pub fn parse(query: &[(String, String)]) -> Result<Self> {
        let since_time = first(query, "sinceTime").to_owned();
        if !since_time.is_empty() && since_time.parse::<jiff::Timestamp>().is_err() {
            let layout = "2006-01-02T15:04:05Z07:00";
            let why = format!(
                "unable to decode query parameters: parsing time {since_time:?} as {layout:?}: cannot parse {since_time:?} as \"2006\""
            );
            return Err(StatusError::bad_request(why));
        }
        Ok(Log {
            container: first(query, "container").to_owned(),
            follow: flag(query, "follow"),
            previous: flag(query, "previous"),
            timestamps: flag(query, "timestamps"),
            since_seconds: number(query, "sinceSeconds")?,
            since_time,
            tail_lines: number(query, "tailLines")?,
            limit_bytes: number(query, "limitBytes")?,
            stream: first(query, "stream").to_owned(),
        })
    }

    /// What is wrong with them.
    pub fn validate(&self, pod: &str) -> Result<()> {
        let mut errors = ErrorList::new();
        if let Some(lines) = self.tail_lines.filter(|n| *n < 0) {
            errors.invalid(&Path::new("tailLines"), lines, "must be greater than or equal to 0");
        }
        if let Some(bytes) = self.limit_bytes.filter(|n| *n < 1) {
            errors.invalid(&Path::new("limitBytes"), bytes, "must be greater than 0");
        }
        match self.since_seconds {
            Some(_) if !self.since_time.is_empty() => {
                errors.forbidden(&Path::new(""), "at most one of `sinceTime` or `sinceSeconds` may be specified");
            }
            Some(seconds) if seconds < 1 => errors.invalid(&Path::new("sinceSeconds"), seconds, "must be greater than 0"),
            _ => {}
        }
        if !matches!(self.stream.as_str(), "" | "All" | "Stdout" | "Stderr") {
            errors.not_supported(&Path::new("stream"), self.stream.as_str(), &["All", "Stdout", "Stderr"]);
        }
        if matches!(self.stream.as_str(), "Stdout" | "Stderr") && self.tail_lines.is_some() {
            errors.forbidden(&Path::new(""), "`tailLines` and specific `stream` are mutually exclusive for now");
        }
        if errors.is_empty() { Ok(()) } else { Err(StatusError::invalid("", "PodLogOptions", pod, errors)) }
    }

    /// As the kubelet wants them.
    pub fn query(&self) -> String {
        let mut query = Serializer::new(String::new());
        for (name, set) in [("follow", self.follow), ("previous", self.previous), ("timestamps", self.timestamps)] {
            if set {
                query.append_pair(name, "true");
            }
        }
        for (name, number) in [("sinceSeconds", self.since_seconds), ("tailLines", self.tail_lines), ("limitBytes", self.limit_bytes)] {
            if let Some(number) = number {
                query.append_pair(name, &number.to_string());
            }
        }
        for (name, text) in [("sinceTime", &self.since_time), ("stream", &self.stream)] {
            if !text.is_empty() {
                query.append_pair(name, text);
            }
        }
        query.finish()
    }
}

/// Exec's and attach's streams and command.
pub fn streams(query: &[(String, String)]) -> Result<String> {
    let mut out = Serializer::new(String::new());
    for (from, to) in [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")] {
        if flag(query, from) {
            out.append_pair(to, "1");
        }
    }
    for (_, argument) in query.iter().filter(|(key, _)| key == "command") {
        out.append_pair("command", argument);
    }
    Ok(out.finish())
}

/// Port-forward's ports, which only WebSocket clients give.
pub fn ports(query: &[(String, String)]) -> Result<String> {
    let mut out = Serializer::new(String::new());
    for (_, value) in query.iter().filter(|(key, _)| key == "ports") {
        for port in value.split(',') {
            let valid = port.parse::<u16>().is_ok_and(|p| p > 0);
            if !valid {
                return Err(StatusError::bad_request(format!("unable to parse {port:?} as a port")));
            }
            out.append_pair("port", port);
        }
    }
    Ok(out.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Vec<(String, String)> {
        form_urlencoded::parse(text.as_bytes()).into_owned().collect()
    }

    #[test]
    fn log_options() {
        for (given, want) in [
            ("", Ok("")),
            ("container=c&follow=true&tailLines=5&pretty=true", Ok("follow=true&tailLines=5")),
            ("follow=false&previous=1&timestamps=true", Ok("previous=true&timestamps=true")),
            ("sinceTime=2026-01-01T00:00:00Z&limitBytes=10", Ok("limitBytes=10&sinceTime=2026-01-01T00%3A00%3A00Z")),
            ("tailLines=-1", Err("PodLogOptions \"p\" is invalid: tailLines: Invalid value: -1: must be greater than or equal to 0")),
            ("limitBytes=0", Err("PodLogOptions \"p\" is invalid: limitBytes: Invalid value: 0: must be greater than 0")),
            (
                "sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z",
                Err("PodLogOptions \"p\" is invalid: Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified"),
            ),
            ("tailLines=x", Err("unable to decode query parameters: strconv.ParseInt: parsing \"x\": invalid syntax")),
        ] {
            let got = Log::parse(&query(given)).and_then(|o| o.validate("p").map(|()| o.query()));
            assert_eq!(got.map_err(|e| e.to_string()), want.map(str::to_owned).map_err(str::to_owned), "{given}");
        }
    }

    #[test]
    fn stream_options() {
        let given = query("stdin=true&stdout=1&stderr=false&tty=0&command=sh&command=-c&command=echo%20a");
        assert_eq!(streams(&given).unwrap(), "input=1&output=1&command=sh&command=-c&command=echo+a");
        assert_eq!(ports(&query("ports=80,443&ports=8080")).unwrap(), "port=80&port=443&port=8080");
        assert!(ports(&query("ports=x")).is_err());
    }
}
