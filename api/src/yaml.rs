//! YAML as go-yaml (v2, the version behind `sigs.k8s.io/yaml`) writes it: sorted keys, lists not indented under their key, its own rules for
//! which texts need quotes, lines of plain text folded after 80 columns.

use serde_json::{Number, Value};

/// Where a line of text may break (go-yaml's `best_width`).
const WIDTH: usize = 80;

/// The document, with its last newline.
pub fn to_string(value: &Value) -> String {
    let mut e = Emitter { out: String::new(), column: 0 };
    e.node(value, 0, Place::Top);
    e.newline();
    e.out
}

#[derive(Clone, Copy, PartialEq)]
enum Place {
    Top,
    Key,
    Item,
}

struct Emitter {
    out: String,
    column: usize,
}

impl Emitter {
    fn text(&mut self, s: &str) {
        self.out.push_str(s);
        self.column += s.chars().count();
    }

    fn newline(&mut self) {
        self.out.push('\n');
        self.column = 0;
    }

    fn indent(&mut self, n: usize) {
        self.newline();
        (0..n).for_each(|_| self.out.push(' '));
        self.column = n;
    }

    /// Writes a value after what introduces it (`key:` or `-`), at `indent`.
    fn node(&mut self, value: &Value, indent: usize, place: Place) {
        let lead = if place == Place::Top { "" } else { " " };
        match value {
            Value::Object(map) if map.is_empty() => self.text(&format!("{lead}{{}}")),
            Value::Array(items) if items.is_empty() => self.text(&format!("{lead}[]")),
            Value::Object(map) => {
                let mut keys: Vec<&String> = map.keys().collect();
                keys.sort_by(|a, b| natural(a, b));
                for (i, key) in keys.into_iter().enumerate() {
                    match (i, place) {
                        (0, Place::Top) => {}
                        (0, Place::Item) => self.text(" "),
                        _ => self.indent(indent),
                    }
                    self.scalar(key, indent, true);
                    self.text(":");
                    let below = if matches!(map[key], Value::Array(_)) { indent } else { indent + 2 };
                    self.node(&map[key], below, Place::Key);
                }
            }
            Value::Array(items) => {
                for (i, item) in items.iter().enumerate() {
                    match (i, place) {
                        (0, Place::Top) => {}
                        (0, Place::Item) => self.text(" "),
                        _ => self.indent(indent),
                    }
                    self.text("-");
                    self.node(item, indent + 2, Place::Item);
                }
            }
            Value::String(s) => {
                self.text(lead);
                self.scalar(s, indent, false);
            }
            Value::Null => self.text(&format!("{lead}null")),
            Value::Bool(b) => self.text(&format!("{lead}{b}")),
            Value::Number(n) => self.text(&format!("{lead}{}", number(n))),
        }
    }

    fn scalar(&mut self, s: &str, indent: usize, key: bool) {
        let a = Analysis::of(s);
        let wanted = if s.contains('\n') {
            Style::Literal
        } else if resolves_to_text(s) {
            Style::Plain
        } else {
            Style::Double
        };
        // In key position an indentation of the mapping itself is meant; in value position `indent` is already the content's.
        match a.allowed(wanted, s, key) {
            Style::Plain => self.folded(s, indent, key, false),
            Style::Single => {
                self.text("'");
                self.folded(s, indent, key, true);
                self.text("'");
            }
            Style::Double => self.double(s, indent, key),
            Style::Literal => self.literal(s, indent),
        }
    }

    /// Plain and single-quoted text break at single spaces once the line is long.
    fn folded(&mut self, s: &str, indent: usize, key: bool, quoted: bool) {
        let chars: Vec<char> = s.chars().collect();
        let mut spaces = false;
        for (i, &c) in chars.iter().enumerate() {
            let inside = !quoted || (i > 0 && i + 1 < chars.len());
            if c == ' ' && !key && !spaces && self.column > WIDTH && inside && chars.get(i + 1) != Some(&' ') {
                self.indent(indent);
                spaces = true;
                continue;
            }
            if quoted && c == '\'' {
                self.text("''");
            } else {
                self.out.push(c);
                self.column += 1;
            }
            spaces = c == ' ';
        }
    }

    fn double(&mut self, s: &str, indent: usize, key: bool) {
        self.text("\"");
        let chars: Vec<char> = s.chars().collect();
        let mut spaces = false;
        for (i, &c) in chars.iter().enumerate() {
            if !printable(c) || c == '\n' || matches!(c, '"' | '\\' | '\u{feff}' | '\u{85}' | '\u{2028}' | '\u{2029}') {
                self.text(&escape(c));
                spaces = false;
            } else if c == ' ' {
                if !key && !spaces && self.column > WIDTH && i > 0 && i + 1 < chars.len() {
                    self.indent(indent);
                    if chars[i + 1] == ' ' {
                        self.text("\\");
                    }
                } else {
                    self.text(" ");
                }
                spaces = true;
            } else {
                self.out.push(c);
                self.column += 1;
                spaces = false;
            }
        }
        self.text("\"");
    }

    fn literal(&mut self, s: &str, indent: usize) {
        self.text("|");
        if s.starts_with([' ', '\n']) {
            self.text("2");
        }
        if !s.ends_with('\n') {
            self.text("-");
        } else if s == "\n" || s.ends_with("\n\n") {
            self.text("+");
        }
        let body = s.strip_suffix('\n').unwrap_or(s);
        for line in body.split('\n') {
            if line.is_empty() {
                self.newline();
            } else {
                self.indent(indent);
                self.text(line);
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Style {
    Plain,
    Single,
    Double,
    Literal,
}

/// Which styles can hold a text.
struct Analysis {
    multiline: bool,
    plain: bool,
    single: bool,
    block: bool,
}

impl Analysis {
    fn of(s: &str) -> Analysis {
        if s.is_empty() {
            return Analysis { multiline: false, plain: false, single: true, block: false };
        }
        let chars: Vec<char> = s.chars().collect();
        let blank = |c: Option<&char>| c.is_none_or(|c| matches!(c, ' ' | '\t' | '\n' | '\r' | '\u{85}' | '\u{2028}' | '\u{2029}'));
        let (mut indicators, mut breaks, mut special) = (s.starts_with("---") || s.starts_with("..."), false, false);
        let (mut leading, mut trailing_space, mut trailing_break, mut break_space, mut space_break) = (false, false, false, false, false);
        let (mut after_blank, mut previous_space, mut previous_break) = (true, false, false);
        for (i, &c) in chars.iter().enumerate() {
            let before_blank = blank(chars.get(i + 1));
            indicators |= match c {
                '#' | ',' | '[' | ']' | '{' | '}' | '&' | '*' | '!' | '|' | '>' | '\'' | '"' | '%' | '@' | '`' if i == 0 => true,
                '?' | ':' | '-' if i == 0 => before_blank,
                ':' => before_blank,
                '#' => after_blank,
                _ => false,
            };
            let is_break = matches!(c, '\n' | '\r' | '\u{85}' | '\u{2028}' | '\u{2029}');
            if !printable(c) {
                special = true;
            }
            breaks |= is_break;
            if c == ' ' {
                leading |= i == 0;
                trailing_space |= i + 1 == chars.len();
                break_space |= previous_break;
                (previous_space, previous_break) = (true, false);
            } else if is_break {
                leading |= i == 0;
                trailing_break |= i + 1 == chars.len();
                space_break |= previous_space;
                (previous_space, previous_break) = (false, true);
            } else {
                (previous_space, previous_break) = (false, false);
            }
            after_blank = blank(Some(&c));
        }
        let hopeless = space_break || special;
        Analysis {
            multiline: breaks,
            plain: !(indicators || leading || trailing_space || trailing_break || break_space || hopeless || breaks),
            single: !(break_space || hopeless),
            block: !(trailing_space || hopeless),
        }
    }

    /// The wanted style, or the next that can hold the text.
    fn allowed(&self, wanted: Style, s: &str, key: bool) -> Style {
        let mut style = if key && self.multiline { Style::Double } else { wanted };
        if style == Style::Plain && (!self.plain || (s.is_empty() && key)) {
            style = Style::Single;
        }
        if style == Style::Single && !self.single {
            style = Style::Double;
        }
        if style == Style::Literal && (!self.block || key) {
            style = Style::Double;
        }
        style
    }
}

/// What go-yaml writes as it is; characters beyond the basic plane are not.
fn printable(c: char) -> bool {
    matches!(c, '\n' | ' '..='~' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}') && c != '\u{feff}'
}

fn escape(c: char) -> String {
    match c {
        '\0' => "\\0".into(),
        '\u{7}' => "\\a".into(),
        '\u{8}' => "\\b".into(),
        '\t' => "\\t".into(),
        '\n' => "\\n".into(),
        '\u{b}' => "\\v".into(),
        '\u{c}' => "\\f".into(),
        '\r' => "\\r".into(),
        '\u{1b}' => "\\e".into(),
        '"' => "\\\"".into(),
        '\\' => "\\\\".into(),
        '\u{85}' => "\\N".into(),
        '\u{a0}' => "\\_".into(),
        '\u{2028}' => "\\L".into(),
        '\u{2029}' => "\\P".into(),
        c if (c as u32) < 0x100 => format!("\\x{:02X}", c as u32),
        c if (c as u32) < 0x10000 => format!("\\u{:04X}", c as u32),
        c => format!("\\U{:08X}", c as u32),
    }
}

/// Words that YAML 1.1 reads as something else than text.
const WORDS: [&str; 39] = [
    "y", "Y", "yes", "Yes", "YES", "on", "On", "ON", "n", "N", "no", "No", "NO", "off", "Off", "OFF", "true", "True", "TRUE", "false",
    "False", "FALSE", "", "~", "null", "Null", "NULL", ".nan", ".NaN", ".NAN", ".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF", "-.inf",
    "-.Inf", "-.INF",
];

/// Whether a reader takes the bare text for text, and not for a number, a boolean, a date.
fn resolves_to_text(s: &str) -> bool {
    if WORDS.contains(&s) {
        return false;
    }
    let Some(first) = s.chars().next() else { return false };
    if !matches!(first, '0'..='9' | '+' | '-' | '.') {
        return true;
    }
    !(is_integer(s) || is_float(s) || is_base60(s) || is_timestamp(s))
}

fn is_integer(s: &str) -> bool {
    let plain = s.replace('_', "");
    let digits = plain.strip_prefix(['+', '-']).unwrap_or(&plain);
    let radix = |prefixes: [&str; 2], radix: u32| {
        let rest = prefixes.iter().find_map(|p| digits.strip_prefix(p));
        rest.is_some_and(|r| !r.is_empty() && r.chars().all(|c| c.is_digit(radix)))
    };
    if radix(["0x", "0X"], 16) || radix(["0b", "0B"], 2) || radix(["0o", "0O"], 8) {
        return true;
    }
    // A leading zero means octal; other digits behind it make it no integer, but is_float still accepts it.
    !digits.is_empty()
        && digits.chars().all(|c| c.is_ascii_digit())
        && (digits.len() == 1 || !digits.starts_with('0') || digits.chars().all(|c| c < '8'))
}

fn is_float(s: &str) -> bool {
    let plain = s.replace('_', "");
    let digits = plain.strip_prefix(['+', '-']).unwrap_or(&plain);
    let (mantissa, exponent) = match digits.find(['e', 'E']) {
        Some(i) => (&digits[..i], Some(&digits[i + 1..])),
        None => (digits, None),
    };
    let all_digits = |t: &str| t.chars().all(|c| c.is_ascii_digit());
    let good_exponent = exponent.is_none_or(|e| {
        let e = e.strip_prefix(['+', '-']).unwrap_or(e);
        !e.is_empty() && all_digits(e)
    });
    let good_mantissa = match mantissa.split_once('.') {
        Some((whole, part)) => all_digits(whole) && all_digits(part) && !(whole.is_empty() && part.is_empty()),
        None => !mantissa.is_empty() && all_digits(mantissa),
    };
    good_mantissa && good_exponent
}

/// YAML 1.1's base-60 numbers, `12:30`.
fn is_base60(s: &str) -> bool {
    let s = s.strip_prefix(['+', '-']).unwrap_or(s);
    let mut parts = s.split(':');
    let head = parts.next().unwrap_or("");
    if !head.starts_with(|c: char| c.is_ascii_digit()) || !head.chars().all(|c| c.is_ascii_digit() || c == '_') {
        return false;
    }
    let rest: Vec<&str> = parts.collect();
    let sixty = |p: &str| matches!(p.len(), 1 | 2) && p.chars().all(|c| c.is_ascii_digit()) && p.parse::<u8>().is_ok_and(|n| n < 60);
    match rest.split_last() {
        None => false,
        Some((last, middle)) => {
            let (whole, part) = last.split_once('.').unwrap_or((last, ""));
            middle.iter().all(|p| sixty(p)) && sixty(whole) && part.chars().all(|c| c.is_ascii_digit() || c == '_')
        }
    }
}

/// `2006-1-2`, with or without a time behind it.
fn is_timestamp(s: &str) -> bool {
    let number = |t: &str, least: usize, most: usize| {
        let n = t.chars().take_while(char::is_ascii_digit).count();
        (least..=most).contains(&n).then(|| (t[..n].parse::<u32>().unwrap_or(u32::MAX), t[n..].to_owned()))
    };
    let date = || {
        let (_, rest) = number(s, 4, 4)?;
        let (month, rest) = number(rest.strip_prefix('-')?, 1, 2)?;
        let (day, rest) = number(rest.strip_prefix('-')?, 1, 2)?;
        ((1..=12).contains(&month) && (1..=31).contains(&day)).then_some(rest)
    };
    let Some(rest) = date() else { return false };
    if rest.is_empty() {
        return true;
    }
    let time = || {
        let (zoned, t) = match rest.chars().next()? {
            'T' | 't' => (true, &rest[1..]),
            ' ' => (false, rest[1..].trim_start()),
            _ => return None,
        };
        let (hour, t) = number(t, 1, 2)?;
        let (minute, t) = number(t.strip_prefix(':')?, 1, 2)?;
        let (second, t) = number(t.strip_prefix(':')?, 1, 2)?;
        let t = match t.strip_prefix('.') {
            Some(f) => f.trim_start_matches(|c: char| c.is_ascii_digit()).to_owned(),
            None => t,
        };
        let zone_ok = if zoned { t == "Z" || (t.len() == 6 && t.starts_with(['+', '-']) && t.as_bytes()[3] == b':') } else { t.is_empty() };
        (hour < 24 && minute < 60 && second < 60 && zone_ok).then_some(())
    };
    time().is_some()
}

/// go-yaml's order of keys: digits inside compare as numbers, and letters come after everything else.
fn natural(a: &str, b: &str) -> std::cmp::Ordering {
    let (x, y): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut digits = false;
    for i in 0..x.len().min(y.len()) {
        if x[i] == y[i] {
            digits = x[i].is_numeric();
            continue;
        }
        let (al, bl) = (x[i].is_alphabetic(), y[i].is_alphabetic());
        if al && bl {
            return x[i].cmp(&y[i]);
        }
        if al || bl {
            return if digits { bl.cmp(&al) } else { al.cmp(&bl) };
        }
        let number = |from: &[char]| -> (usize, u64) {
            let n = from.iter().take_while(|c| c.is_numeric()).count();
            (n, from[..n].iter().filter_map(|c| c.to_digit(10)).fold(0u64, |acc, d| acc.wrapping_mul(10).wrapping_add(u64::from(d))))
        };
        let (mut an, mut bn) = (0u64, 0u64);
        if x[i] == '0' || y[i] == '0' {
            let mut j = i;
            while j > 0 && x[j - 1].is_numeric() {
                j -= 1;
                if x[j] != '0' {
                    (an, bn) = (1, 1);
                    break;
                }
            }
        }
        let (ai, av) = number(&x[i..]);
        let (bi, bv) = number(&y[i..]);
        let fold = |head: u64, n: usize, v: u64| head.wrapping_mul(10u64.wrapping_pow(u32::try_from(n).unwrap_or(19))).wrapping_add(v);
        (an, bn) = (fold(an, ai, av), fold(bn, bi, bv));
        if an != bn {
            return an.cmp(&bn);
        }
        if ai != bi {
            return ai.cmp(&bi);
        }
        return x[i].cmp(&y[i]);
    }
    x.len().cmp(&y.len())
}

/// A number as Go writes it: integers plain, floats without exponent between 1e-6 and 1e21.
pub fn number(n: &Number) -> String {
    let Some(f) = n.as_f64().filter(|_| n.is_f64()) else { return n.to_string() };
    let magnitude = f.abs();
    if magnitude == 0.0 || (1e-6..1e21).contains(&magnitude) {
        return format!("{f}");
    }
    let text = format!("{f:e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    match exponent.strip_prefix('-') {
        Some(e) => format!("{mantissa}e-{e:0>2}"),
        None => format!("{mantissa}e+{exponent:0>2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn texts_are_quoted_as_go_yaml_does() {
        let long = "word ".repeat(20);
        let cases = [
            ("a", "a"),
            ("yes", "\"yes\""),
            ("12", "\"12\""),
            ("", "\"\""),
            ("1e3", "\"1e3\""),
            ("- x", "'- x'"),
            ("it's", "it's"),
            ("\"x", "'\"x'"),
            ("a\r\n", "\"a\\r\\n\""),
            ("a\tb", "\"a\\tb\""),
            ("2001-01-01", "\"2001-01-01\""),
            ("~", "\"~\""),
            ("0x1f", "\"0x1f\""),
            ("1_000", "\"1_000\""),
            ("12:30", "\"12:30\""),
            ("<<", "<<"),
            ("=", "="),
            ("a #b", "'a #b'"),
            ("a:", "'a:'"),
            ("@x", "'@x'"),
            ("x, y", "x, y"),
            ("0o7", "\"0o7\""),
            (" x", "' x'"),
            ("?x", "?x"),
            ("-", "'-'"),
            ("---", "'---'"),
            ("a\nb\n", "|\n  a\n  b"),
            ("a\nb", "|-\n  a\n  b"),
            ("  a\nb\t", "\"  a\\nb\\t\""),
            ("2024-01-01T00:00:00Z", "\"2024-01-01T00:00:00Z\""),
            ("1.2.3", "1.2.3"),
            ("10m", "10m"),
            ("\u{1f600}", "\"\\U0001F600\""),
            ("é", "é"),
        ];
        for (text, expected) in cases {
            assert_eq!(to_string(&json!({"k": text})), format!("k: {expected}\n"), "{text:?}");
        }
        let folded = to_string(&json!({ "k": long }));
        assert!(folded.lines().all(|l| l.len() < 90) && folded.lines().count() == 2, "{folded}");
    }

    #[test]
    fn structure_is_go_yamls() {
        let v = json!({"list": [{"a": 1, "b": [2, [3]]}, "x", []], "map": {}, "none": null, "key2": 1, "key10": 2, "n": true});
        assert_eq!(to_string(&v), "key2: 1\nkey10: 2\nlist:\n- a: 1\n  b:\n  - 2\n  - - 3\n- x\n- []\nmap: {}\n\"n\": true\nnone: null\n");
    }
}
