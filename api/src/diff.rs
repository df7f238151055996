//! How two objects differ, for messages: what they look like, line by line, in the unified format with three lines of context.

/// Lines of context around a change, as `diff -u` shows.
const CONTEXT: usize = 3;

#[derive(Clone, Copy, PartialEq)]
enum Line {
    Same,
    Removed,
    Added,
}

/// The difference between two texts of many lines; empty if there is none.
pub fn of_texts(old: &str, new: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let script = script(&old, &new);
    let mut out = String::new();
    let mut at = 0;
    while let Some(offset) = script[at..].iter().position(|(line, _)| *line != Line::Same) {
        let start = (at + offset).saturating_sub(CONTEXT).max(at);
        // A hunk goes on for as long as the next change is near enough for their contexts to meet.
        let (mut end, mut quiet) = (at + offset, 0);
        while end < script.len() && quiet <= 2 * CONTEXT {
            quiet = if script[end].0 == Line::Same { quiet + 1 } else { 0 };
            end += 1;
        }
        end = if quiet > CONTEXT { end - quiet + CONTEXT } else { end };
        hunk(&mut out, &script, start, end);
        at = end;
    }
    out
}

fn hunk(out: &mut String, script: &[(Line, &str)], start: usize, end: usize) {
    let count = |part: &[(Line, &str)], not: Line| part.iter().filter(|(line, _)| *line != not).count();
    let (before, part) = (&script[..start], &script[start..end]);
    out.push_str(&format!(
        "@@ -{},{} +{},{} @@\n",
        count(before, Line::Added) + 1,
        count(part, Line::Added),
        count(before, Line::Removed) + 1,
        count(part, Line::Removed)
    ));
    for (line, text) in part {
        out.push(match line {
            Line::Same => ' ',
            Line::Removed => '-',
            Line::Added => '+',
        });
        out.push_str(text);
        out.push('\n');
    }
}

/// The longest common subsequence, as lines kept, removed and added. Equal ends are cut off first, since that is most of two versions of an object; what is left
/// is compared in full, bounded by the size of a request.
fn script<'a>(old: &[&'a str], new: &[&'a str]) -> Vec<(Line, &'a str)> {
    let head = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let tail = old[head..].iter().rev().zip(new[head..].iter().rev()).take_while(|(a, b)| a == b).count();
    let (a, b) = (&old[head..old.len() - tail], &new[head..new.len() - tail]);
    let mut out: Vec<_> = old[..head].iter().map(|l| (Line::Same, *l)).collect();
    // Beyond this many comparisons the middle is shown as replaced as a whole: a message is no place for a minute of work.
    const COMPARISONS_MAX: usize = 4_000_000;
    if a.len().saturating_mul(b.len()) > COMPARISONS_MAX {
        out.extend(a.iter().map(|l| (Line::Removed, *l)));
        out.extend(b.iter().map(|l| (Line::Added, *l)));
    } else {
        let width = b.len() + 1;
        let mut common = vec![0u32; (a.len() + 1) * width];
        for i in (0..a.len()).rev() {
            for j in (0..b.len()).rev() {
                common[i * width + j] = if a[i] == b[j] {
                    common[(i + 1) * width + j + 1] + 1
                } else {
                    common[(i + 1) * width + j].max(common[i * width + j + 1])
                };
            }
        }
        let (mut i, mut j) = (0, 0);
        while i < a.len() || j < b.len() {
            if i < a.len() && j < b.len() && a[i] == b[j] {
                out.push((Line::Same, a[i]));
                (i, j) = (i + 1, j + 1);
            } else if i < a.len() && (j == b.len() || common[(i + 1) * width + j] >= common[i * width + j + 1]) {
                out.push((Line::Removed, a[i]));
                i += 1;
            } else {
                out.push((Line::Added, b[j]));
                j += 1;
            }
        }
    }
    out.extend(old[old.len() - tail..].iter().map(|l| (Line::Same, *l)));
    out
}

#[cfg(test)]
mod tests {
    use super::of_texts;

    #[test]
    fn changes_are_shown_in_hunks_with_context() {
        let old = "1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n11\n12\n13\n14\n15\n16";
        let new = "1\n2\n3\n4\nfive\n6\n7\n8\n9\n10\n11\n12\n13\n14\n16\n17";
        let want = "@@ -2,7 +2,7 @@\n 2\n 3\n 4\n-5\n+five\n 6\n 7\n 8\n@@ -12,5 +12,5 @@\n 12\n 13\n 14\n-15\n 16\n+17\n";
        assert_eq!(of_texts(old, new), want);
        assert_eq!(of_texts(old, old), "");
    }
}
