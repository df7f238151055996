//! Amounts of resources: `500m`, `1Gi`, `1e3` (upstream: `apimachinery/pkg/api/resource`).
//!
//! A quantity is an integer count of nanos plus the family of suffixes it is written in. That covers everything the API can hold: upstream rounds up
//! to nanos as well, and caps amounts far below what an `i128` of nanos reaches. Arithmetic saturates, since no caller can do anything about an overflow.

use std::cmp::Ordering;
use std::fmt;
use std::ops::{Add, AddAssign, Neg, Sub, SubAssign};
use std::str::FromStr;

/// The family of suffixes a quantity is written in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `n u m k M G T P E`.
    #[default]
    DecimalSi,
    /// `Ki Mi Gi Ti Pi Ei`.
    BinarySi,
    /// `e3`, `E-3`.
    DecimalExponent,
}

/// An amount. Equality and order compare the amount alone.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

/// Why a text is no quantity; the texts are upstream's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// It is nothing like one.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// The part before the suffix is no number.
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    /// The suffix is unknown.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

const NANOS: i128 = 1_000_000_000;
/// What amounts written with a fraction or a large suffix are capped at, as upstream caps them: the largest `i64`.
const CAP: i128 = i64::MAX as i128 * NANOS;
const DECIMAL: [(&str, i32); 10] =
    [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];
const BINARY: [(&str, u32); 6] = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60)];

impl Quantity {
    /// Nothing.
    pub const ZERO: Quantity = Quantity { nanos: 0, format: Format::DecimalSi };

    /// A whole amount, written in `format`.
    pub fn new(units: i64, format: Format) -> Self {
        Quantity { nanos: i128::from(units) * NANOS, format }
    }

    /// A whole amount.
    pub fn from_units(units: i64) -> Self {
        Self::new(units, Format::DecimalSi)
    }

    /// An amount in thousandths, as CPU is counted.
    pub fn from_milli(milli: i64) -> Self {
        Quantity { nanos: i128::from(milli) * (NANOS / 1000), format: Format::DecimalSi }
    }

    /// What the API type holds. A text that is no quantity passes for none of it: decoding has refused such a text before.
    pub fn of(quantity: &k8s_openapi::apimachinery::pkg::api::resource::Quantity) -> Result<Self, ParseError> {
        quantity.0.parse()
    }

    /// The amount in whole units, rounded away from zero.
    pub fn value(self) -> i64 {
        clamp(div_up(self.nanos, NANOS))
    }

    /// The amount in thousandths, rounded away from zero.
    pub fn milli_value(self) -> i64 {
        clamp(div_up(self.nanos, NANOS / 1000))
    }

    /// The amount in billionths.
    pub fn nanos(self) -> i128 {
        self.nanos
    }

    /// As a floating-point number of units.
    pub fn to_f64(self) -> f64 {
        self.nanos as f64 / NANOS as f64
    }

    /// The family of suffixes it is written in.
    pub fn format(self) -> Format {
        self.format
    }

    /// Whether it is zero.
    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }

    /// -1, 0 or 1.
    pub fn sign(self) -> i32 {
        self.nanos.signum() as i32
    }

    /// The amount times a whole number, as 3 pods take 3 times what one does.
    pub fn times(self, n: i64) -> Self {
        Quantity { nanos: self.nanos.saturating_mul(i128::from(n)), ..self }
    }
}

impl From<Quantity> for k8s_openapi::apimachinery::pkg::api::resource::Quantity {
    fn from(q: Quantity) -> Self {
        k8s_openapi::apimachinery::pkg::api::resource::Quantity(q.to_string())
    }
}

fn div_up(n: i128, d: i128) -> i128 {
    let q = n / d;
    if n % d == 0 { q } else { q + n.signum() }
}

fn clamp(n: i128) -> i64 {
    i64::try_from(n).unwrap_or(if n < 0 { i64::MIN } else { i64::MAX })
}

impl FromStr for Quantity {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let (negative, rest) = match text.as_bytes().first() {
            None => return Err(ParseError::Format),
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            Some(_) => (false, text),
        };
        let whole = leading(rest, |b| b.is_ascii_digit());
        let mut tail = &rest[whole.len()..];
        let mut fraction = "";
        if let Some(after) = tail.strip_prefix('.') {
            fraction = leading(after, |b| b.is_ascii_digit());
            tail = &after[fraction.len()..];
        }
        let letters = leading(tail, |b| b"eEinumkKMGTP".contains(&b));
        let exponent = &tail[letters.len()..];
        let digits = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
        if !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(ParseError::Format);
        }
        if whole.is_empty() && fraction.is_empty() {
            return Err(if tail.is_empty() { ParseError::Format } else { ParseError::Numeric });
        }
        let (scale, format) = suffix(letters, exponent)?;
        let nanos = scaled(whole, fraction, scale);
        let format = if format == Format::BinarySi && nanos > 0 && nanos < NANOS { Format::DecimalSi } else { format };
        Ok(Quantity { nanos: if negative { -nanos } else { nanos }, format })
    }
}

fn leading(text: &str, belongs: impl Fn(u8) -> bool) -> &str {
    &text[..text.bytes().position(|b| !belongs(b)).unwrap_or(text.len())]
}

/// What a suffix multiplies with: a power of ten or of two.
enum Scale {
    Ten(i32),
    Two(u32),
}

fn suffix(letters: &str, exponent: &str) -> Result<(Scale, Format), ParseError> {
    if !exponent.is_empty() {
        if !matches!(letters, "e" | "E") {
            return Err(ParseError::Suffix);
        }
        let power = exponent.parse::<i32>().map_err(|_| ParseError::Suffix)?;
        return Ok((Scale::Ten(power), Format::DecimalExponent));
    }
    if let Some((_, power)) = DECIMAL.iter().find(|(s, _)| *s == letters) {
        return Ok((Scale::Ten(*power), Format::DecimalSi));
    }
    let (_, power) = BINARY.iter().find(|(s, _)| *s == letters).ok_or(ParseError::Suffix)?;
    Ok((Scale::Two(*power), Format::BinarySi))
}

/// The number in nanos, rounded up, saturating at the cap.
fn scaled(whole: &str, fraction: &str, scale: Scale) -> i128 {
    let whole = whole.trim_start_matches('0');
    // 27 digits before and 18 behind the point keep every product below inside an i128 where it is not capped anyway.
    if whole.len() > 27 {
        return CAP;
    }
    let mut mantissa: i128 = whole.parse().unwrap_or(0);
    let mut places = 0;
    let mut rest = false;
    for b in fraction.bytes() {
        if places < 10 && mantissa < i128::MAX / 100 {
            mantissa = mantissa * 10 + i128::from(b - b'0');
            places += 1;
        } else {
            rest |= b != b'0';
        }
    }
    if mantissa == 0 {
        return i128::from(rest);
    }
    let mut power = 9 - places;
    match scale {
        Scale::Ten(p) => power = p.saturating_add(power),
        Scale::Two(p) => match mantissa.checked_mul(1i128 << p) {
            Some(m) => mantissa = m,
            None => return CAP,
        },
    }
    if power >= 0 {
        let nanos = u32::try_from(power).ok().and_then(|p| 10i128.checked_pow(p)).and_then(|f| mantissa.checked_mul(f));
        nanos.unwrap_or(CAP)
    } else {
        let nanos = u32::try_from(-power).ok().and_then(|p| 10i128.checked_pow(p)).map_or(1, |f| div_up(mantissa, f));
        if fraction.is_empty() { nanos } else { nanos.min(CAP) }
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        // Parts of a byte would be lost: they are written with a decimal suffix.
        if self.format == Format::BinarySi && self.nanos.abs() >= 1024 * NANOS && self.nanos % NANOS == 0 {
            let mut number = self.nanos / NANOS;
            let mut at = 0;
            while number % 1024 == 0 && at < BINARY.len() {
                number /= 1024;
                at += 1;
            }
            return write!(f, "{number}{}", if at == 0 { "" } else { BINARY[at - 1].0 });
        }
        let (mut number, mut exponent) = (self.nanos, -9);
        while number % 1000 == 0 && (exponent < 18 || self.format == Format::DecimalExponent) {
            number /= 1000;
            exponent += 3;
        }
        match (self.format, exponent) {
            (Format::DecimalExponent, 0) => write!(f, "{number}"),
            (Format::DecimalExponent, e) => write!(f, "{number}e{e}"),
            (_, e) => {
                let suffix = DECIMAL.iter().find(|(_, p)| *p == e).map_or("", |(s, _)| s);
                write!(f, "{number}{suffix}")
            }
        }
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}
impl Eq for Quantity {}
impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}
impl Add for Quantity {
    type Output = Self;
    /// The sum, written as the left side is unless that is zero.
    fn add(self, other: Self) -> Self {
        Quantity { nanos: self.nanos.saturating_add(other.nanos), format: if self.is_zero() { other.format } else { self.format } }
    }
}
impl Sub for Quantity {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        self + -other
    }
}
impl Neg for Quantity {
    type Output = Self;
    fn neg(self) -> Self {
        Quantity { nanos: -self.nanos, ..self }
    }
}
impl AddAssign for Quantity {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}
impl SubAssign for Quantity {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}
impl std::iter::Sum for Quantity {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::ZERO, Add::add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn q(text: &str) -> Quantity {
        text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    #[test]
    fn canonical_forms() {
        for (given, canonical) in [
            ("0", "0"),
            ("0Gi", "0"),
            ("0.5", "500m"),
            ("1", "1"),
            ("1.0", "1"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("0.1", "100m"),
            ("100m", "100m"),
            ("1e3", "1e3"),
            ("1000", "1k"),
            ("1500", "1500"),
            ("100000", "100k"),
            ("1Ki", "1Ki"),
            ("1024Ki", "1Mi"),
            ("1.5Gi", "1536Mi"),
            ("0.5Gi", "512Mi"),
            ("1000Ki", "1000Ki"),
            ("512", "512"),
            ("12e6", "12e6"),
            ("12E6", "12e6"),
            ("1E", "1E"),
            ("0.0001", "100u"),
            ("1n", "1n"),
            ("0.1n", "1n"),
            ("-1", "-1"),
            ("+1", "1"),
            ("5.", "5"),
            (".5", "500m"),
            ("0.5Ki", "512"),
            ("0.001Ki", "1024m"),
            ("1e-3", "1e-3"),
            ("1000e3", "1e6"),
            ("128974848", "128974848"),
            ("129e6", "129e6"),
            ("123Mi", "123Mi"),
            ("1023Ki", "1023Ki"),
            ("100Mi", "100Mi"),
            ("3.3", "3300m"),
            ("10E", "10E"),
            ("007", "7"),
        ] {
            assert_eq!(q(given).to_string(), canonical, "{given}");
            assert_eq!(q(canonical), q(given), "{given}");
            assert_eq!(q(canonical).to_string(), canonical, "canonical form of {given} is stable");
        }
    }

    #[test]
    fn refused() {
        for (given, error) in [
            ("", ParseError::Format),
            ("abc", ParseError::Format),
            ("1.2.3", ParseError::Format),
            ("1 Gi", ParseError::Format),
            ("1GB", ParseError::Format),
            ("1Gii", ParseError::Suffix),
            ("1KI", ParseError::Format),
            ("1K", ParseError::Suffix),
            ("1m5", ParseError::Suffix),
            ("Gi", ParseError::Numeric),
            ("1ee3", ParseError::Suffix),
            ("--1", ParseError::Numeric),
        ] {
            assert_eq!(given.parse::<Quantity>(), Err(error), "{given}");
        }
    }

    #[test]
    fn numbers() {
        assert_eq!((q("1m").value(), q("1500m").value(), q("-1500m").value()), (1, 2, -2));
        assert_eq!((q("1u").milli_value(), q("2").milli_value()), (1, 2000));
        assert!(q("1Gi") > q("1G") && q("1000m") == q("1"));
        assert_eq!((q("1Gi") + q("512Mi")).to_string(), "1536Mi");
        assert_eq!((q("1") - q("250m")).to_string(), "750m");
        assert_eq!([q("100m"), q("200m")].into_iter().sum::<Quantity>(), q("0.3"));
        assert_eq!(q("99999999999999999999999999999999").value(), i64::MAX);
        assert_eq!((Quantity::ZERO + q("1Gi")).to_string(), "1Gi");
        assert_eq!((q(".1Ti").to_string(), q("-0.05Gi").to_string()), ("109951162777600m".to_owned(), "-53687091200m".to_owned()));
    }

    proptest::proptest! {
        #[test]
        fn never_panics_and_is_stable(text in "[-+]?[0-9]{0,30}\\.?[0-9]{0,30}[numkMGTPEeKi]{0,2}[-+]?[0-9]{0,3}") {
            if let Ok(parsed) = text.parse::<Quantity>() {
                let canonical = parsed.to_string();
                if parsed.nanos().abs() < 1_000_000_000_000_000_000_000_000_000 {
                    proptest::prop_assert_eq!(q(&canonical), parsed, "{} as {}", text, canonical);
                }
            }
        }
    }
}
