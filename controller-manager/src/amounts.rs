//! Numbers that may be given as a share: `maxSurge: 25%`.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// The number, or that share of `total`, rounded up or down. Nothing is 0, as is what is no number.
pub fn scaled(value: Option<&IntOrString>, total: i32, up: bool) -> i32 {
    match value {
        None => 0,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(text)) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            let hundredths = percent * i64::from(total);
            i32::try_from(if up { (hundredths + 99).div_euclid(100) } else { hundredths / 100 }).unwrap_or(i32::MAX)
        }
    }
}
