//! Taking away what nobody needs any more: images ([`images`]), containers and sandboxes of pods that are gone, their logs and directories ([`containers`]).

pub mod containers;
pub mod images;
