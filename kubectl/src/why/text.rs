//! Answers in plain words.

use super::{Answer, Refusal};
use crate::encoding::tabwriter::{DESCRIBE, TabWriter};

/// The whole answer: what is the matter, what is known about it, each node's refusal, the causes below it, and what would help.
pub fn render(answer: &Answer) -> String {
    let mut out = String::new();
    write(answer, 0, &mut out);
    let remedies = remedies(answer);
    if !remedies.is_empty() {
        out += "\nWhat would change it:\n";
        remedies.iter().for_each(|r| out += &format!("- {r}\n"));
    }
    out
}

fn write(answer: &Answer, depth: usize, out: &mut String) {
    let indent = "  ".repeat(depth);
    let alike = if answer.alike > 0 { format!(" (and {} more alike)", answer.alike) } else { String::new() };
    *out += &format!("{indent}{}{alike} {}\n", answer.object, answer.state);
    for detail in &answer.details {
        *out += &format!("{indent}  {}\n", detail.split_whitespace().collect::<Vec<_>>().join(" "));
    }
    if !answer.nodes.is_empty() {
        let rows: String = answer.nodes.iter().map(|Refusal { node, check, why }| format!("{indent}  {node}\t{check}\t{why}\n")).collect();
        *out += &TabWriter::new(DESCRIBE).align(&format!("{indent}  NODE\tCHECK\tWHY\n{rows}"));
    }
    answer.because.iter().for_each(|cause| write(cause, depth + 1, out));
}

/// What would change it, from the answer down, each once.
fn remedies(answer: &Answer) -> Vec<&str> {
    let mut all: Vec<&str> = answer.remedies.iter().map(String::as_str).collect();
    for cause in answer.because.iter().flat_map(remedies) {
        if !all.contains(&cause) {
            all.push(cause);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_is_indented_and_the_remedies_come_last() {
        let pod = Answer {
            object: "pod/a".into(),
            state: "is not scheduled".into(),
            nodes: vec![Refusal { node: "n1".into(), check: "Fit".into(), why: "no cpu".into() }],
            remedies: vec!["more cpu".into()],
            alike: 2,
            ..Answer::default()
        };
        let answer = Answer {
            object: "replicaset/r".into(),
            state: "wants 3".into(),
            details: vec!["two\nlines".into()],
            because: vec![pod],
            ..Answer::default()
        };
        let expected = "replicaset/r wants 3\n  two lines\n  pod/a (and 2 more alike) is not scheduled\n    NODE  CHECK  WHY\n    n1    Fit    no cpu\n\nWhat would change it:\n- more cpu\n";
        assert_eq!(render(&answer), expected);
    }
}
