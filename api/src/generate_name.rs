//! Names for `metadata.generateName` and for what controllers create (upstream: `apiserver/pkg/storage/names`, `apimachinery/pkg/util/rand`).

use crate::validation::names::LABEL_MAX;
use rand::Rng;

/// What random suffixes are made of: no vowels and nothing that looks like them, so that no words come about.
pub const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// How long a random suffix is.
pub const SUFFIX_LENGTH: usize = 5;

/// `length` random characters of the alphabet.
pub fn random_suffix(length: usize, random: &mut impl Rng) -> String {
    (0..length).map(|_| char::from(ALPHABET[random.random_range(0..ALPHABET.len())])).collect()
}

/// The base, cut so that the whole is as long as a label may be, and a random suffix.
pub fn generate_name(base: &str, random: &mut impl Rng) -> String {
    let end = (0..=base.len().min(LABEL_MAX - SUFFIX_LENGTH)).rev().find(|i| base.is_char_boundary(*i)).unwrap_or(0);
    format!("{}{}", &base[..end], random_suffix(SUFFIX_LENGTH, random))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_are_labels() {
        let mut random = rand::rng();
        for base in ["a-", &"b".repeat(80)] {
            let name = generate_name(base, &mut random);
            assert_eq!(name.len(), base.len().min(58) + 5);
            assert!(crate::validation::names::dns1123_label(&name).is_empty(), "{name}");
        }
    }
}
