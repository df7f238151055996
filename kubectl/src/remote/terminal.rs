//! The local terminal: raw mode while a remote one is shown, and its size.

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// Raw mode for as long as it lives.
pub struct RawMode {
    before: Termios,
}

impl RawMode {
    /// Puts standard input's terminal into raw mode; nothing when it is none.
    pub fn enter() -> Option<RawMode> {
        let stdin = std::io::stdin();
        let before = tcgetattr(&stdin).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Now, &raw).ok()?;
        Some(RawMode { before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // A terminal that went away needs no restoring.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.before);
    }
}

/// Columns and rows of the terminal on standard output.
pub fn size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(std::io::stdout()).ok()?;
    Some((size.ws_col, size.ws_row)).filter(|(c, r)| *c > 0 && *r > 0)
}
