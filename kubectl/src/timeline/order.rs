//! The order of moments, some of which are known to the second only.

use super::Moment;

/// Sorts by time. Within a second the exact ones come by their fractions, and each other one behind the last exact one that it follows in a
/// pod's life, for the same object: a container that started at :05 and a pod that was ready at :05 were ready after that start, whenever in that second it was.
pub fn sort(moments: &mut Vec<Moment>) {
    let mut all = std::mem::take(moments);
    all.sort_by_key(|m| (m.at.as_second(), !m.exact, m.at, m.step));
    for moment in all {
        let second = moment.at.as_second();
        let group = moments.iter().rposition(|m| m.at.as_second() != second).map_or(0, |i| i + 1);
        let place = if moment.exact {
            moments.len()
        } else {
            let before = |m: &Moment| m.step <= moment.step && (m.object == moment.object || !m.exact);
            moments[group..].iter().rposition(before).map_or(group, |i| group + i + 1)
        };
        moments.insert(place, moment);
    }
}

#[cfg(test)]
mod tests {
    use super::super::Step;
    use super::*;

    fn moment(at: &str, step: Step) -> Moment {
        let exact = at.contains('.');
        Moment {
            at: format!("2026-01-01T00:00:{at}Z").parse().unwrap(),
            exact,
            object: "pod/a".into(),
            step,
            what: String::new(),
            who: String::new(),
            warning: false,
        }
    }

    #[test]
    fn coarse_moments_stand_where_they_must_have_been() {
        let mut all = vec![
            moment("06", Step::Ready),
            moment("05", Step::Created),
            moment("06.9", Step::Started),
            moment("05.4", Step::Scheduled),
            moment("06.1", Step::Pulled),
            moment("07", Step::Ending),
        ];
        sort(&mut all);
        let steps: Vec<_> = all.iter().map(|m| m.step).collect();
        assert_eq!(steps, [Step::Created, Step::Scheduled, Step::Pulled, Step::Started, Step::Ready, Step::Ending]);
    }

    #[test]
    fn exact_moments_keep_their_order_whatever_they_are() {
        let mut all = vec![moment("05.3", Step::Started), moment("05.1", Step::Ending), moment("05", Step::Exited)];
        sort(&mut all);
        assert_eq!(all.iter().map(|m| m.step).collect::<Vec<_>>(), [Step::Ending, Step::Started, Step::Exited]);
    }
}
