//! Values packed small for the disk. Objects are JSON that says the same words over and over, so they are compressed with zstd against a
//! dictionary: some objects as they are stored. A pod of 3 to 5 KB takes 0.5 to 1 KB then, and what sled writes shrinks with it.
//!
//! The dictionary belongs to the format: what was packed with one cannot be unpacked with another, so the file is never edited. A better one
//! would be a format of its own.

use parking_lot::Mutex;
use std::io;
use zstd::bulk::{Compressor, Decompressor};

static DICTIONARY: &[u8] = include_bytes!("dictionary.txt");
/// Higher levels make values a tenth smaller for more time and more memory.
const LEVEL: i32 = 1;
/// What a packed value begins with: its own length, big-endian.
const LENGTH: usize = 4;
/// No value is longer; the length of one that is damaged is not allocated.
const LONGEST: usize = 64 << 20;

/// Packs and unpacks, one value at a time: there is one committer, and what is read is mostly read from the watch cache.
pub(super) struct Packing {
    compressor: Mutex<Compressor<'static>>,
    decompressor: Mutex<Decompressor<'static>>,
}

impl Packing {
    pub(super) fn new() -> io::Result<Packing> {
        Ok(Packing {
            compressor: Mutex::new(Compressor::with_dictionary(LEVEL, DICTIONARY)?),
            decompressor: Mutex::new(Decompressor::with_dictionary(DICTIONARY)?),
        })
    }

    /// The value packed; `None` where it would not be smaller, as one that is encrypted.
    pub(super) fn pack(&self, value: &[u8]) -> Option<Vec<u8>> {
        let length = u32::try_from(value.len()).ok().filter(|_| value.len() <= LONGEST)?;
        // Room for what is worth having: one that needs more fails.
        let mut packed = vec![0; value.len().checked_sub(1)?.max(LENGTH)];
        packed[..LENGTH].copy_from_slice(&length.to_be_bytes());
        let used = self.compressor.lock().compress_to_buffer(value, &mut packed[LENGTH..]).ok()?;
        packed.truncate(LENGTH + used);
        packed.shrink_to_fit();
        Some(packed)
    }

    /// What [`pack`](Self::pack) made smaller; `None` where it is damaged.
    pub(super) fn unpack(&self, packed: &[u8]) -> Option<Vec<u8>> {
        let (length, packed) = packed.split_first_chunk::<LENGTH>()?;
        let length = usize::try_from(u32::from_be_bytes(*length)).ok().filter(|length| *length <= LONGEST)?;
        self.decompressor.lock().decompress(packed, length).ok().filter(|value| value.len() == length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A lease, packed when the format was made. If this fails the dictionary, or what reads it, has changed: stores that exist could not be
    /// read any more.
    #[test]
    fn what_was_packed_before_is_read() {
        let lease = r#"{"apiVersion":"coordination.k8s.io/v1","kind":"Lease","metadata":{"name":"vm"},"spec":{"leaseDurationSeconds":40}}"#;
        let packed = [
            0x00, 0x00, 0x00, 0x72, 0x28, 0xb5, 0x2f, 0xfd, 0x20, 0x72, 0x15, 0x01, 0x00, 0x30, 0x76, 0x6d, 0x34, 0x30, 0x7d, 0x7d, 0x07,
            0x00, 0xa2, 0x20, 0x53, 0x80, 0x3f, 0x1f, 0x8e, 0x1f, 0x83, 0x59, 0xcc, 0x86, 0x8c, 0xc2, 0x48, 0xa9, 0x2e, 0xd4, 0x84, 0x6c,
            0x81, 0x09, 0xba, 0x0c, 0x04,
        ];
        assert_eq!(Packing::new().unwrap().unpack(&packed).map(|value| String::from_utf8(value).unwrap()).as_deref(), Some(lease));
    }

    #[test]
    fn objects_are_packed_small() {
        let answers: serde_json::Value =
            serde_json::from_str(include_str!("../../../tests/oracle/answers/kinds/pod-guaranteed.json")).unwrap();
        let pod = answers[0]["body"].to_string();
        let packed = Packing::new().unwrap().pack(pod.as_bytes()).unwrap();
        assert!(packed.len() * 4 < pod.len(), "{} bytes of {}", packed.len(), pod.len());
    }

    #[test]
    fn what_does_not_get_smaller_stays_as_it_is() {
        let packing = Packing::new().unwrap();
        for value in [&b""[..], b"x", b"k8s:enc:aesgcm:v1:\x8f\x02\xd4\x77\x1c"] {
            assert_eq!(packing.pack(value), None);
        }
    }

    proptest! {
        #[test]
        fn a_value_comes_back_as_it_was(text in "[a-z\":{}]{0,2000}", noise in prop::collection::vec(any::<u8>(), 0..300)) {
            let packing = Packing::new().unwrap();
            for value in [text.as_bytes(), &noise] {
                if let Some(packed) = packing.pack(value) {
                    prop_assert!(packed.len() < value.len());
                    let unpacked = packing.unpack(&packed);
                    prop_assert_eq!(unpacked.as_deref(), Some(value));
                }
            }
        }

        #[test]
        fn bytes_from_outside_are_refused_or_read(damaged in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Packing::new().unwrap().unpack(&damaged);
        }
    }
}
