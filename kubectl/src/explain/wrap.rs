//! Words into lines, as the library does that upstream's kubectl uses: a break takes the place of the white space before the word that
//! would not fit, a word longer than a line stays whole on a line of its own, and what white space there is within a line stays.

/// The text with breaks, so that lines of more than one word have `width` characters at the most.
pub fn wrap(text: &str, width: usize) -> String {
    text.split('\n').map(|line| wrap_line(line, width)).collect::<Vec<_>>().join("\n")
}

fn wrap_line(line: &str, width: usize) -> String {
    let mut out = String::new();
    let (mut used, mut rest) = (0, line);
    while !rest.is_empty() {
        let gap = rest.len() - rest.trim_start_matches(is_space).len();
        let (space, after) = rest.split_at(gap);
        let word_end = after.find(is_space).unwrap_or(after.len());
        let (word, after) = after.split_at(word_end);
        let (blank, length) = (space.chars().count(), word.chars().count());
        if word.is_empty() {
            // White space at the end of a line stays where it fits.
            if used + blank <= width {
                out += space;
            }
        } else if used + blank > 1 && used + blank + length > width {
            out.push('\n');
            out += word;
            used = length;
        } else {
            out += space;
            out += word;
            used += blank + length;
        }
        rest = after;
    }
    out
}

fn is_space(c: char) -> bool {
    c.is_whitespace() && c != '\u{a0}'
}

/// The text with `by` spaces before every line, empty ones too.
pub fn indent(text: &str, by: usize) -> String {
    let margin = " ".repeat(by);
    text.split('\n').map(|line| format!("{margin}{line}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_break_before_the_word_that_does_not_fit() {
        for (text, width, expected) in [
            ("one two three", 7, "one two\nthree"),
            ("one two three", 20, "one two three"),
            ("a-word-longer-than-the-line x", 5, "a-word-longer-than-the-line\nx"),
            ("x a-word-longer-than-the-line", 5, "x\na-word-longer-than-the-line"),
            ("kept\n\nempty  gaps", 20, "kept\n\nempty  gaps"),
            ("", 5, ""),
        ] {
            assert_eq!(wrap(text, width), expected, "{text:?} in {width}");
        }
        assert_eq!(indent("a\n\nb", 2), "  a\n  \n  b");
    }
}
