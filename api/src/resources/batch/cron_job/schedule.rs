//! Cron schedules as the API takes them: five fields, or a descriptor such as `@hourly`. Only whether they can be read is asked here, and answered
//! in the words of the library that upstream reads them with; when they are due is the controller's business.

/// A field: its bounds, and the names that stand for numbers from `first_name` on.
struct Field {
    min: u32,
    max: u32,
    names: &'static [&'static str],
    first_name: u32,
}

const MONTHS: &[&str] = &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
const FIELDS: [Field; 5] = [
    Field { min: 0, max: 59, names: &[], first_name: 0 },
    Field { min: 0, max: 23, names: &[], first_name: 0 },
    Field { min: 1, max: 31, names: &[], first_name: 0 },
    Field { min: 1, max: 12, names: MONTHS, first_name: 1 },
    Field { min: 0, max: 6, names: DAYS, first_name: 0 },
];
const DESCRIPTORS: &[&str] = &["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];

/// What is wrong with a schedule.
pub(super) fn check(schedule: &str) -> Result<(), String> {
    let mut rest = schedule;
    if rest.is_empty() {
        return Err("empty spec string".into());
    }
    if rest.starts_with("TZ=") || rest.starts_with("CRON_TZ=") {
        let (zone, after) = rest.split_once(' ').ok_or_else(|| format!("provided bad location {rest}"))?;
        let zone = zone.split_once('=').map_or("", |(_, zone)| zone);
        if !zone.is_empty() && !super::zone_exists(zone) {
            return Err(format!("provided bad location {zone}: unknown time zone {zone}"));
        }
        rest = after.trim();
    }
    if let Some(after) = rest.strip_prefix('@') {
        return descriptor(rest, after);
    }
    let fields: Vec<&str> = rest.split_whitespace().collect();
    if fields.len() != FIELDS.len() {
        return Err(format!("expected exactly {} fields, found {}: [{}]", FIELDS.len(), fields.len(), fields.join(" ")));
    }
    FIELDS.iter().zip(fields).try_for_each(|(field, text)| text.split(',').filter(|t| !t.is_empty()).try_for_each(|t| range(field, t)))
}

fn descriptor(whole: &str, name: &str) -> Result<(), String> {
    if DESCRIPTORS.contains(&whole) {
        return Ok(());
    }
    match name.strip_prefix("every ") {
        Some(duration) if is_duration(duration) => Ok(()),
        Some(duration) => Err(format!("failed to parse duration {whole}: time: invalid duration {duration:?}")),
        None => Err(format!("unrecognized descriptor: {whole}")),
    }
}

/// `1h30m`: numbers with units, as Go writes durations.
fn is_duration(text: &str) -> bool {
    let mut rest = text.trim_start_matches(['+', '-']);
    if rest == "0" {
        return true;
    }
    while !rest.is_empty() {
        let digits = rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        let unit = ["ns", "us", "µs", "ms", "s", "m", "h"].iter().filter(|u| digits.starts_with(**u)).max_by_key(|u| u.len());
        let Some(unit) = unit.filter(|_| digits.len() < rest.len()) else { return false };
        rest = &digits[unit.len()..];
    }
    !text.is_empty()
}

/// One part of a field: `*`, `5`, `1-5`, `*/15`, `mon-fri`.
fn range(field: &Field, text: &str) -> Result<(), String> {
    let parts: Vec<&str> = text.split('/').collect();
    let ends: Vec<&str> = parts[0].split('-').collect();
    let single = ends.len() == 1;
    let (start, mut end) = match ends.as_slice() {
        ["*" | "?", ..] => (field.min, field.max),
        [one] => {
            let number = number_or_name(field, one)?;
            (number, number)
        }
        [first, last] => (number_or_name(field, first)?, number_or_name(field, last)?),
        _ => return Err(format!("too many hyphens: {text}")),
    };
    let step = match parts.as_slice() {
        [_] => 1,
        [_, step] => {
            // `5/15` runs on to the end of the field.
            if single {
                end = end.max(field.max);
            }
            number(step)?
        }
        _ => return Err(format!("too many slashes: {text}")),
    };
    if start < field.min {
        return Err(format!("beginning of range ({start}) below minimum ({}): {text}", field.min));
    }
    if end > field.max {
        return Err(format!("end of range ({end}) above maximum ({}): {text}", field.max));
    }
    if start > end {
        return Err(format!("beginning of range ({start}) beyond end of range ({end}): {text}"));
    }
    if step == 0 {
        return Err(format!("step of range should be a positive number: {text}"));
    }
    Ok(())
}

fn number_or_name(field: &Field, text: &str) -> Result<u32, String> {
    let lower = text.to_lowercase();
    match field.names.iter().position(|n| *n == lower) {
        Some(at) => Ok(field.first_name + at as u32),
        None => number(text),
    }
}

fn number(text: &str) -> Result<u32, String> {
    let failed = |why: &str| format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: {why}");
    match text.parse::<i64>() {
        Ok(n) if n < 0 => Err(format!("negative number ({n}) not allowed: {text}")),
        Ok(n) => u32::try_from(n).map_err(|_| failed("value out of range")),
        Err(_) => Err(failed("invalid syntax")),
    }
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn schedules_are_read_or_refused_in_the_librarys_words() {
        for good in ["* * * * *", "*/5 1,2 1-15 jan-mar MON", "0 0 ? * *", "5/15 * * * *", "@hourly", "@every 1h30m", "TZ=UTC * * * * *"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for (bad, why) in [
            ("", "empty spec string"),
            ("nope", "expected exactly 5 fields, found 1: [nope]"),
            ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
            ("a * * * *", "failed to parse int from a: strconv.Atoi: parsing \"a\": invalid syntax"),
            ("@never", "unrecognized descriptor: @never"),
        ] {
            assert_eq!(check(bad), Err(why.to_owned()), "{bad}");
        }
    }
}
