//! Sets of completion indexes in the notation of a Job's status, `1,3-5,7` (upstream: `indexed_job_utils.go`). Kept as intervals: a Job may have 100,000 indexes.

use std::collections::BTreeSet;
use std::fmt;

/// Intervals in ascending order that neither touch nor overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Indexes(Vec<(i32, i32)>);

impl Indexes {
    /// Reads the notation. What is not in it, or not below `completions`, is left out: a status is only ever written by controllers.
    pub fn parse(text: &str, completions: i32) -> Self {
        let mut intervals = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            if let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>())
                && first < completions
                && first <= last
            {
                intervals.push((first, last.min(completions - 1)));
            }
        }
        Self::merged(intervals)
    }

    fn merged(mut intervals: Vec<(i32, i32)>) -> Self {
        intervals.sort_unstable();
        let mut merged: Vec<(i32, i32)> = Vec::with_capacity(intervals.len());
        for (first, last) in intervals {
            match merged.last_mut() {
                Some(previous) if first <= previous.1.saturating_add(1) => previous.1 = previous.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        Self(merged)
    }

    /// How many.
    pub fn total(&self) -> i32 {
        self.0.iter().map(|(first, last)| last - first + 1).sum()
    }

    /// Whether an index is among them.
    pub fn has(&self, index: i32) -> bool {
        let after = self.0.partition_point(|(first, _)| *first <= index);
        after > 0 && index <= self.0[after - 1].1
    }

    /// With others.
    pub fn with(&self, others: impl IntoIterator<Item = i32>) -> Self {
        let others = others.into_iter().map(|index| (index, index));
        Self::merged(self.0.iter().copied().chain(others).collect())
    }

    /// All of both.
    pub fn union(&self, other: &Self) -> Self {
        Self::merged(self.0.iter().chain(&other.0).copied().collect())
    }

    /// How many are in both.
    pub fn in_common(&self, other: &Self) -> i32 {
        let overlap = |a: &(i32, i32), b: &(i32, i32)| (a.1.min(b.1) - a.0.max(b.0) + 1).max(0);
        self.0.iter().map(|a| other.0.iter().map(|b| overlap(a, b)).sum::<i32>()).sum()
    }

    /// The first `count` indexes below `completions` that are not among these nor in `others`.
    pub fn first_missing(&self, others: &BTreeSet<i32>, count: usize, completions: i32) -> Vec<i32> {
        let taken = self.with(others.iter().copied());
        let mut missing = Vec::new();
        let mut next = 0;
        for (first, last) in taken.0.iter().copied().chain([(completions, completions)]) {
            let room = count - missing.len();
            missing.extend((next..first.min(completions)).take(room));
            next = last + 1;
        }
        missing
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, (first, last)) in self.0.iter().enumerate() {
            let comma = if position > 0 { "," } else { "" };
            match last - first {
                0 => write!(f, "{comma}{first}")?,
                // Two in a row are written one by one.
                1 => write!(f, "{comma}{first},{last}")?,
                _ => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_adding_and_writing() {
        for (text, added, expected) in [
            ("", vec![], ""),
            ("", vec![0], "0"),
            ("1,3-5,7", vec![], "1,3-5,7"),
            ("1,3-5,7", vec![6, 2], "1-7"),
            ("0,1", vec![], "0,1"),
            ("3-20", vec![], "3-9"),
            ("12", vec![1], "1"),
            ("5,x,1", vec![], "1,5"),
        ] {
            let set = Indexes::parse(text, 10).with(added);
            assert_eq!(set.to_string(), expected, "{text}");
            assert_eq!((0..10).filter(|index| set.has(*index)).count(), usize::try_from(set.total()).unwrap(), "{text}");
        }
    }

    #[test]
    fn what_is_missing_and_what_is_shared() {
        let set = Indexes::parse("0,2,5-7", 10);
        assert_eq!(set.first_missing(&BTreeSet::from([3]), 3, 10), [1, 4, 8]);
        assert_eq!(set.first_missing(&BTreeSet::new(), 9, 10), [1, 3, 4, 8, 9]);
        assert_eq!(Indexes::default().first_missing(&BTreeSet::new(), 2, 10), [0, 1]);
        assert_eq!(set.in_common(&Indexes::parse("1-5,7", 10)), 3);
        assert_eq!(set.union(&Indexes::parse("1,3-4", 10)).to_string(), "0-7");
    }
}
