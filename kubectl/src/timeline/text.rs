//! Moments and phases as text.

use super::{Moment, Phase};
use crate::encoding::tabwriter::{TABLE, TabWriter};

/// How wide the bars of all phases of a pod are together, in characters.
const BAR: f64 = 40.0;
/// What phases are drawn with, in turn, so that neighbours differ without colours.
const SHADES: [char; 4] = ['░', '▒', '▓', '█'];

/// The moments as a table: time of day (UTC), time since the one before, object, what, who. `before` is the last moment printed earlier.
pub fn render(moments: &[Moment], before: Option<&Moment>, header: bool, writer: &mut TabWriter) -> String {
    let mut text = if header { "TIME\tSTEP\tOBJECT\tWHAT\tWHO\n".to_owned() } else { String::new() };
    let mut last = before;
    for moment in moments {
        let who = if moment.who.is_empty() { String::new() } else { format!("\t{}", moment.who) };
        text += &format!("{}\t{}\t{}\t{}{who}\n", clock(moment, last), since(moment, last), moment.object, one_line(&moment.what));
        last = Some(moment);
    }
    writer.align(&text)
}

/// A fresh writer for [`render`].
pub fn writer() -> TabWriter {
    TabWriter::remembering(TABLE)
}

/// The phases of a pod on one line, with a bar when somebody looks at it.
pub fn bar(object: &str, phases: &[Phase], drawn: bool) -> String {
    let lengths: Vec<String> = phases.iter().map(|p| format!("{} {}", p.name, seconds(p.seconds))).collect();
    let mut line = object.to_owned();
    if drawn {
        // Lengths differ by thousands: the logarithm keeps the short ones visible.
        let weight = |p: &Phase| (1.0 + p.seconds * 1e3).ln();
        let whole: f64 = phases.iter().map(weight).sum();
        let part = |p: &Phase| if whole > 0.0 { (weight(p) / whole * BAR).round() as usize } else { 0 };
        let bars: String = phases.iter().zip(SHADES.iter().cycle()).flat_map(|(p, shade)| std::iter::repeat_n(*shade, part(p))).collect();
        line += &format!("  {bars}");
    }
    format!("{line}  {}\n", lengths.join(", "))
}

/// Messages may have several lines; a table's row has one.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The time of day, with the date where it is another one than before.
fn clock(moment: &Moment, last: Option<&Moment>) -> String {
    let date = |m: &Moment| m.at.strftime("%Y-%m-%d").to_string();
    let time = moment.at.strftime(if moment.exact { "%H:%M:%S%.3f" } else { "%H:%M:%S" });
    if last.is_some_and(|last| date(last) == date(moment)) { time.to_string() } else { format!("{} {time}", date(moment)) }
}

/// The time since the moment before, as exactly as both are known.
fn since(moment: &Moment, last: Option<&Moment>) -> String {
    let Some(last) = last else { return String::new() };
    let passed = moment.at.duration_since(last.at).as_secs_f64().max(0.0);
    if moment.exact && last.exact { format!("+{}", seconds(passed)) } else { format!("+~{:.0}s", (passed).round()) }
}

/// `12ms`, `1.20s`, `3m5s`.
fn seconds(value: f64) -> String {
    match value {
        v if v < 1.0 => format!("{:.0}ms", v * 1e3),
        v if v < 60.0 => format!("{v:.2}s"),
        v => crate::duration::human(v as i64),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Step;
    use super::*;
    use jiff::Timestamp;

    #[test]
    fn a_table_says_how_exactly_it_knows() {
        let moment = |at: &str, what: &str, who: &str| Moment {
            at: at.parse().unwrap(),
            exact: at.contains('.'),
            object: "pod/a".into(),
            step: Step::Other,
            what: what.into(),
            who: who.into(),
            warning: false,
        };
        let all = [
            moment("2026-01-01T23:59:59Z", "created", "kubectl"),
            moment("2026-01-01T23:59:59.25Z", "Scheduled", ""),
            moment("2026-01-01T23:59:59.2625Z", "two\nlines", "kubelet"),
            moment("2026-01-02T00:02:59.5Z", "Ready", ""),
        ];
        let text = render(&all, None, true, &mut writer());
        let lines: Vec<_> = text.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(
            lines,
            [
                "TIME STEP OBJECT WHAT WHO",
                "2026-01-01 23:59:59 pod/a created kubectl",
                "23:59:59.250 +~0s pod/a Scheduled",
                "23:59:59.262 +12ms pod/a two lines kubelet",
                "2026-01-02 00:02:59.500 +3m pod/a Ready",
            ]
        );
    }

    #[test]
    fn a_bar_shows_each_phase() {
        let phase = |name, seconds| Phase { name, from: Timestamp::UNIX_EPOCH, seconds };
        let line = bar("pod/a", &[phase("scheduling", 0.012), phase("ready", 200.0)], true);
        assert!(line.contains('░') && line.contains('▒'), "{line}");
        assert!(line.ends_with("scheduling 12ms, ready 3m20s\n"), "{line}");
        assert_eq!(bar("pod/a", &[phase("ready", 2.0)], false), "pod/a  ready 2.00s\n");
    }
}
