//! Files as memory.

use std::fs::File;
use std::io;

use memmap2::Mmap;

/// Maps a file for reading.
///
/// The callers map files that this program wrote under a temporary name and renamed, or weight files of
/// the user's, which nobody changes in place while they are read.
pub fn map_file(file: &File) -> io::Result<Mmap> {
    // SAFETY: the map is read-only, and the file is not written to while it is mapped (see above); a file
    // cut short by someone else would end the process with SIGBUS, not corrupt our memory.
    unsafe { Mmap::map(file) }
}
