//! The text forms kubectl prints: YAML as go-yaml writes it, JSON as Go's encoder writes it, columns as `text/tabwriter` aligns them.
//! Scripts compare these bytes, and no crate produces them, so they are written here.

pub mod govalue;
pub mod json;
pub mod tabwriter;
pub mod typed_order;
pub use api::yaml;

/// Standard base64 with padding, as `[]byte` fields carry it.
pub fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// The bytes of standard base64, if it is that.
pub fn unbase64(text: &str) -> Option<Vec<u8>> {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.decode(text.trim()).ok()
}
