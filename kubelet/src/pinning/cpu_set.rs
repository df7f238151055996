//! Sets of logical CPUs, as the kernel and upstream write them: `0-3,8`.

use std::collections::BTreeSet;

/// A set.
pub type CpuSet = BTreeSet<u32>;

/// More CPUs than any machine has: what a range may not exceed.
const MOST: u32 = 65_536;

/// Reads a set.
pub fn parse(text: &str) -> Result<CpuSet, String> {
    let number = |word: &str| word.parse::<u32>().ok().filter(|n| *n < MOST).ok_or_else(|| format!("invalid CPU {word:?} in {text:?}"));
    let mut out = CpuSet::new();
    for range in text.trim().split(',').filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return Err(format!("invalid range {range:?} ({first} > {last})"));
        }
        out.extend(first..=last);
    }
    Ok(out)
}

/// Writes a set.
pub fn shown(set: &CpuSet) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for cpu in set {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *cpu => *last = *cpu,
            _ => ranges.push((*cpu, *cpu)),
        }
    }
    let words = ranges.into_iter().map(|(first, last)| if first == last { first.to_string() } else { format!("{first}-{last}") });
    words.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_read_and_written_as_the_kernel_does() {
        for (text, want, again) in
            [("", vec![], ""), ("0-1\n", vec![0, 1], "0-1"), ("8,0-2,3", vec![0, 1, 2, 3, 8], "0-3,8"), ("5", vec![5], "5")]
        {
            let set = parse(text).expect("a good set");
            assert_eq!(set, CpuSet::from_iter(want), "{text}");
            assert_eq!(shown(&set), again);
        }
        for bad in ["x", "3-1", "0-", "-1", "0-99999999"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
