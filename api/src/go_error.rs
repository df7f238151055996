//! Errors of the system in the words of Go's `syscall` package, which people and scripts know: `no such file or directory`.

use std::io;

/// The error's text as Go has it; an error that is not the system's says what it says.
pub fn go_io_error(error: &io::Error) -> String {
    let text = error.to_string();
    match error.raw_os_error() {
        Some(_) => text.split(" (os error").next().unwrap_or_default().to_lowercase(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        // ENOENT, ENOSPC
        for (code, text) in [(2, "no such file or directory"), (28, "no space left on device")] {
            assert_eq!(go_io_error(&io::Error::from_raw_os_error(code)), text);
        }
        assert_eq!(go_io_error(&io::Error::other("It is Tuesday")), "It is Tuesday");
    }
}
