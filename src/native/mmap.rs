//! Files as memory.

use std::fs::File;
use std::io;

use memmap2::{Mmap, UncheckedAdvice};

/// Maps a file for reading.
///
/// The callers map files that this program wrote under a temporary name and renamed, or weight files of
/// the user's, which nobody changes in place while they are read.
///
/// # Errors
/// The system cannot map the file.
pub fn map_file(file: &File) -> io::Result<Mmap> {
    // SAFETY: the map is read-only, and the file is not written to while it is mapped (see above); a file
    // cut short by someone else would end the process with SIGBUS, not corrupt our memory.
    unsafe { Mmap::map(file) }
}

/// Gives back the memory that a part of a map occupies; reading it again reads the file again.
///
/// What has been copied out of a map would otherwise count twice against the machine until the map goes.
pub fn release_mapped(map: &Mmap, start: usize, len: usize) {
    if start.checked_add(len).is_none_or(|end| end > map.len()) || len == 0 {
        return;
    }
    // SAFETY: the map is of a file and read-only, so its pages hold nothing but the file's bytes; the system
    // reads them again when they are touched. A refusal changes nothing but the memory in use.
    #[cfg(unix)]
    let _ = unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, start, len) };
}
