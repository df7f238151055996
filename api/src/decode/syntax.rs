//! What Go's `encoding/json` says about a text that is no JSON. Only called once another parser has refused the text, so it need not be fast;
//! it has to name the same character and the same expectation as Go's scanner, since clients show that sentence to people.

/// Go's message, or `None` if Go would take the text.
pub fn error(text: &[u8]) -> Option<String> {
    let mut scanner = Scanner { text, at: 0 };
    scanner.document().err().map(|e| match e {
        Stop::End => "unexpected end of JSON input".to_owned(),
        Stop::Char(c, expectation) => format!("invalid character {} {expectation}", quote(c)),
        Stop::Deep => "exceeded max depth".to_owned(),
    })
}

enum Stop {
    End,
    Char(u8, &'static str),
    Deep,
}

type Step = Result<(), Stop>;

/// How deep Go's decoder follows; ours stops earlier (see `decode`), so this bounds the recursion here.
const MAX_DEPTH: usize = 512;

struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
}

/// A character as Go quotes it in these messages.
fn quote(c: u8) -> String {
    match c {
        b'\'' => "'\\''".into(),
        b'"' => "'\"'".into(),
        b'\n' => "'\\n'".into(),
        b'\r' => "'\\r'".into(),
        b'\t' => "'\\t'".into(),
        b'\\' => "'\\\\'".into(),
        0x20..=0x7e => format!("'{}'", c as char),
        0xa1..=0xff if c != 0xad => format!("'{}'", c as char),
        0x80..=0xff => format!("'\\u{c:04x}'"),
        _ => format!("'\\x{c:02x}'"),
    }
}

impl Scanner<'_> {
    fn document(&mut self) -> Step {
        self.value(0)?;
        match self.peek() {
            Ok(c) => Err(Stop::Char(c, "after top-level value")),
            Err(_) => Ok(()),
        }
    }

    /// The next character that is no space, which stays.
    fn peek(&mut self) -> Result<u8, Stop> {
        while self.text.get(self.at).is_some_and(|c| b" \t\r\n".contains(c)) {
            self.at += 1;
        }
        self.text.get(self.at).copied().ok_or(Stop::End)
    }

    fn next(&mut self) -> Result<u8, Stop> {
        let c = self.text.get(self.at).copied().ok_or(Stop::End)?;
        self.at += 1;
        Ok(c)
    }

    fn value(&mut self, depth: usize) -> Step {
        if depth > MAX_DEPTH {
            return Err(Stop::Deep);
        }
        let c = self.peek()?;
        self.at += 1;
        match c {
            b'{' => self.object(depth),
            b'[' => self.array(depth),
            b'"' => self.string(),
            b'-' => match self.next()? {
                b'0' => self.fraction(),
                b'1'..=b'9' => self.digits_then_fraction(),
                c => Err(Stop::Char(c, "in numeric literal")),
            },
            b'0' => self.fraction(),
            b'1'..=b'9' => self.digits_then_fraction(),
            b't' => self.literal(&[
                (b'r', "in literal true (expecting 'r')"),
                (b'u', "in literal true (expecting 'u')"),
                (b'e', "in literal true (expecting 'e')"),
            ]),
            b'f' => self.literal(&[
                (b'a', "in literal false (expecting 'a')"),
                (b'l', "in literal false (expecting 'l')"),
                (b's', "in literal false (expecting 's')"),
                (b'e', "in literal false (expecting 'e')"),
            ]),
            b'n' => self.literal(&[
                (b'u', "in literal null (expecting 'u')"),
                (b'l', "in literal null (expecting 'l')"),
                (b'l', "in literal null (expecting 'l')"),
            ]),
            c => Err(Stop::Char(c, "looking for beginning of value")),
        }
    }

    fn literal(&mut self, expected: &[(u8, &'static str)]) -> Step {
        for (wanted, expectation) in expected {
            let c = self.next()?;
            if c != *wanted {
                return Err(Stop::Char(c, expectation));
            }
        }
        Ok(())
    }

    fn object(&mut self, depth: usize) -> Step {
        if self.peek()? == b'}' {
            self.at += 1;
            return Ok(());
        }
        loop {
            match self.peek()? {
                b'"' => self.at += 1,
                c => return Err(Stop::Char(c, "looking for beginning of object key string")),
            }
            self.string()?;
            match self.peek()? {
                b':' => self.at += 1,
                c => return Err(Stop::Char(c, "after object key")),
            }
            self.value(depth + 1)?;
            match self.peek()? {
                b',' => self.at += 1,
                b'}' => {
                    self.at += 1;
                    return Ok(());
                }
                c => return Err(Stop::Char(c, "after object key:value pair")),
            }
        }
    }

    fn array(&mut self, depth: usize) -> Step {
        if self.peek()? == b']' {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.value(depth + 1)?;
            match self.peek()? {
                b',' => self.at += 1,
                b']' => {
                    self.at += 1;
                    return Ok(());
                }
                c => return Err(Stop::Char(c, "after array element")),
            }
        }
    }

    fn string(&mut self) -> Step {
        loop {
            match self.next()? {
                b'"' => return Ok(()),
                b'\\' => match self.next()? {
                    b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"' => {}
                    b'u' => {
                        for _ in 0..4 {
                            let c = self.next()?;
                            if !c.is_ascii_hexdigit() {
                                return Err(Stop::Char(c, "in \\u hexadecimal character escape"));
                            }
                        }
                    }
                    c => return Err(Stop::Char(c, "in string escape code")),
                },
                c if c < 0x20 => return Err(Stop::Char(c, "in string literal")),
                _ => {}
            }
        }
    }

    fn digits(&mut self) {
        while self.text.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
    }

    fn digits_then_fraction(&mut self) -> Step {
        self.digits();
        self.fraction()
    }

    fn fraction(&mut self) -> Step {
        if self.text.get(self.at) == Some(&b'.') {
            self.at += 1;
            let c = self.next()?;
            if !c.is_ascii_digit() {
                return Err(Stop::Char(c, "after decimal point in numeric literal"));
            }
            self.digits();
        }
        if matches!(self.text.get(self.at), Some(b'e' | b'E')) {
            self.at += 1;
            let mut c = self.next()?;
            if matches!(c, b'+' | b'-') {
                c = self.next()?;
            }
            if !c.is_ascii_digit() {
                return Err(Stop::Char(c, "in exponent of numeric literal"));
            }
            self.digits();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn messages() {
        for (text, message) in [
            ("{not json", "invalid character 'n' looking for beginning of object key string"),
            ("", "unexpected end of JSON input"),
            ("{\"a\":", "unexpected end of JSON input"),
            ("{\"a\":1,}", "invalid character '}' looking for beginning of object key string"),
            ("[1,]", "invalid character ']' looking for beginning of value"),
            ("[1 2]", "invalid character '2' after array element"),
            ("{\"a\" 1}", "invalid character '1' after object key"),
            ("{\"a\":1 \"b\"}", "invalid character '\"' after object key:value pair"),
            ("{} x", "invalid character 'x' after top-level value"),
            ("trux", "invalid character 'x' in literal true (expecting 'e')"),
            ("-a", "invalid character 'a' in numeric literal"),
            ("1.x", "invalid character 'x' after decimal point in numeric literal"),
            ("01", "invalid character '1' after top-level value"),
            ("\"\\x\"", "invalid character 'x' in string escape code"),
            ("\"\n\"", "invalid character '\\n' in string literal"),
            ("kind: Pod", "invalid character 'k' looking for beginning of value"),
        ] {
            assert_eq!(super::error(text.as_bytes()).as_deref(), Some(message), "{text}");
        }
        assert_eq!(super::error(b" {\"a\": [1, -0.5e+3, \"\\u00e9\", null, true, false, {}]} "), None);
    }
}
