//! `--token-auth-file`: a CSV file of static tokens, `token,user,uid` and optionally `"group1,group2"`. Read once, at start.

use super::{Authenticator, Credentials, Recognised, UserInfo, for_own_audiences};
use futures::future::BoxFuture;
use std::{collections::HashMap, time::SystemTime};

/// The file's tokens.
pub struct TokenFile {
    users: HashMap<String, UserInfo>,
    audiences: Vec<String>,
}

/// A line that cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TokenFileError {
    /// Fewer than three columns.
    #[error("token file line {0}: at least three columns are needed: token, user name, user uid")]
    Columns(usize),
    /// An empty user name.
    #[error("token file line {0}: the user name is empty")]
    NoUser(usize),
}

/// The fields of one CSV line: separated by commas, quoted where they hold one, `""` for a quote inside.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        let field = fields.last_mut().expect("there is always a field");
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            c => field.push(c),
        }
    }
    fields
}

impl TokenFile {
    /// Reads the file's text. A line with an empty token is skipped, and of two lines with one token the later counts, as upstream. `audiences`: this server's own.
    pub fn parse(text: &str, audiences: Vec<String>) -> Result<Self, TokenFileError> {
        let mut users = HashMap::new();
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let fields = fields(line.trim_end_matches('\r'));
            let [token, name, uid, rest @ ..] = fields.as_slice() else { return Err(TokenFileError::Columns(number + 1)) };
            if name.trim().is_empty() {
                return Err(TokenFileError::NoUser(number + 1));
            }
            if token.trim().is_empty() {
                tracing::warn!(line = number + 1, "an empty token in the token file is skipped");
                continue;
            }
            let groups = rest.first().map(String::as_str).unwrap_or_default();
            let groups = groups.split(',').map(str::trim).filter(|g| !g.is_empty()).map(str::to_owned).collect();
            let user = UserInfo { name: name.trim().to_owned(), uid: uid.trim().to_owned(), groups, extra: Default::default() };
            if users.insert(token.trim().to_owned(), user).is_some() {
                tracing::warn!(line = number + 1, "a token stands twice in the token file; the later line counts");
            }
        }
        Ok(TokenFile { users, audiences })
    }
}

impl Authenticator for TokenFile {
    fn authenticate<'a>(
        &'a self,
        credentials: &'a Credentials,
        audiences: &'a [String],
        _now: SystemTime,
    ) -> BoxFuture<'a, Result<Option<Recognised>, String>> {
        let user = credentials.bearer.as_ref().and_then(|token| self.users.get(token));
        let answer = user.map_or(Ok(None), |user| for_own_audiences(user.clone(), &self.audiences, audiences));
        Box::pin(async move { answer })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_users() {
        let file =
            TokenFile::parse("a,bob,2\n\nb,amy,1,\"system:masters, devs\"\r\n,nobody,3\nc,eve,4,\"one \"\"x\"\"\"\n", vec![]).unwrap();
        let seen = |token: &str| file.users.get(token).map(|u| (u.name.as_str(), u.uid.as_str(), u.groups.join("|")));
        assert_eq!(seen("a"), Some(("bob", "2", String::new())));
        assert_eq!(seen("b"), Some(("amy", "1", "system:masters|devs".into())));
        assert_eq!(seen("c"), Some(("eve", "4", "one \"x\"".into())));
        assert_eq!(seen(""), None);
    }

    #[test]
    fn bad_lines_are_named() {
        assert_eq!(TokenFile::parse("a,b,c\na,b", vec![]).err(), Some(TokenFileError::Columns(2)));
        assert_eq!(TokenFile::parse("a,,c", vec![]).err(), Some(TokenFileError::NoUser(1)));
    }
}
