//! A data file as a stream of UTF-8: opened, unpacked by what its first bytes say, and decoded.
//!
//! gzip, zstd, xz and bzip2, with several members too. Memory stays bounded: what asks for larger tables than common tools
//! write is refused, and so is an archive that unpacks to far more than its size. Next: `json`, `text` and `table`.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read, Seek};
use std::path::Path;

use encoding_rs::{Decoder, DecoderResult, Encoding, UTF_8};

use super::super::jsonl;
use super::super::progress::Counted;
use crate::error::{Error, Place, Result};

/// An archive may unpack to this many bytes, or to [`MOST_TIMES`] its size, whichever is more.
const FREE_BYTES: u64 = 1 << 30;
const MOST_TIMES: u64 = 1000;
/// The window of `zstd -19` and of `--ultra`; `--long=28` and more need to be packed anew.
const ZSTD_WINDOW_LOG: u32 = 27;
/// `xz -9` needs 65 MiB.
const XZ_MEMORY: u64 = 256 << 20;
const BUFFER: usize = 256 << 10;

/// The bytes of a file, unpacked.
pub type Bytes = Box<dyn BufRead + Send>;

/// What is wrong with the bytes of a file, within an [`io::Error`].
#[derive(Debug)]
struct Wrong {
    what: String,
    hint: &'static str,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Wrong {}

/// An error of reading that is the file's own fault.
pub(super) fn wrong(what: impl Into<String>, hint: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, Wrong { what: what.into(), hint })
}

/// What reading said, as an error at its place.
pub fn fault(place: Place, error: io::Error) -> Error {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Wrong>()) {
        Some(wrong) => Error::input(wrong.what.clone()).at(place).hint(wrong.hint),
        None => Error::io("read", &place.file, error),
    }
}

/// An encoding by one of its names in the Encoding Standard.
///
/// # Errors
/// There is none of that name.
pub fn encoding(name: &str) -> Result<&'static Encoding> {
    let found = Encoding::for_label(name.as_bytes()).filter(|found| *found != encoding_rs::REPLACEMENT);
    found.ok_or_else(|| {
        Error::input(format!("no encoding is named `{name}`"))
            .hint("for example utf-8, utf-16le, gbk, gb18030, big5, shift_jis, euc-kr, windows-1252")
    })
}

/// Opens a file as UTF-8 text: unpacked, its byte order mark taken off, and decoded where it is in UTF-16 by its mark or in
/// the encoding that is named.
///
/// # Errors
/// There is no such file, it is a folder or no such encoding (input); or it cannot be opened.
pub fn open(path: &Path, encoding_name: Option<&str>) -> Result<Bytes> {
    let named = encoding_name.map(encoding).transpose().map_err(|e| e.at(Place::file(path)))?;
    let (head, reader) = peek(unpacked(path)?.0, 3).map_err(|e| fault(Place::file(path), e))?;
    let by_mark = Encoding::for_bom(&head);
    match (by_mark, named) {
        (Some((found, length)), _) if found == UTF_8 => {
            let mut reader = reader;
            reader.consume(length);
            Ok(Box::new(reader))
        }
        (Some((found, _)), _) => Ok(Box::new(Decoded::new(reader, found))),
        (None, Some(named)) if named != UTF_8 => Ok(Box::new(Decoded::new(reader, named))),
        (None, _) => Ok(Box::new(reader)),
    }
}

/// Opens a file that is read from several places: itself, or what it unpacks to as a temporary file.
///
/// # Errors
/// As [`open`], and the temporary file cannot be written.
pub fn open_seekable(path: &Path) -> Result<File> {
    let (mut reader, packed) = unpacked(path)?;
    if !packed {
        return crate::files::open(path).map_err(|e| jsonl::missing(path, e));
    }
    let write = |e| Error::failed("cannot write a temporary file").because(e).hint("set TMPDIR");
    let mut file = tempfile::tempfile().map_err(write)?;
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = reader.read(&mut buffer).map_err(|e| fault(Place::file(path), e))?;
        if read == 0 {
            break;
        }
        io::Write::write_all(&mut file, &buffer[..read]).map_err(write)?;
    }
    file.rewind().map_err(write)?;
    Ok(file)
}

/// The unpacked bytes of a file, and whether it was packed.
fn unpacked(path: &Path) -> Result<(Bytes, bool)> {
    let file = crate::files::open(path).map_err(|e| jsonl::missing(path, e))?;
    let about = file.metadata().map_err(|e| Error::io("read", path, e))?;
    if about.is_dir() {
        return Err(Error::input("a folder, not a file")
            .at(Place::file(path))
            .hint("name the .jsonl file in it"));
    }
    let failed = |e| fault(Place::file(path), e);
    let (head, reader) = peek(BufReader::with_capacity(1 << 20, Counted(file)), 10).map_err(failed)?;
    let Some(packing) = Packing::by_bytes(&head) else { return Ok((Box::new(reader), false)) };
    let inner = packing.reader(reader).map_err(failed)?;
    let unpacked = Unpacked { inner, packing, made: 0, most: FREE_BYTES.max(about.len() * MOST_TIMES) };
    Ok((Box::new(BufReader::with_capacity(BUFFER, unpacked)), true))
}

/// The first bytes of a reader, at most `count`, and the reader as it was.
fn peek<R: BufRead>(mut reader: R, count: usize) -> io::Result<(Vec<u8>, impl BufRead + use<R>)> {
    let mut head = Vec::new();
    (&mut reader).take(count as u64).read_to_end(&mut head)?;
    Ok((head.clone(), Cursor::new(head).chain(reader)))
}

/// How a file is packed.
#[derive(Debug, Clone, Copy)]
enum Packing {
    Gzip,
    Zstd,
    Xz,
    Bzip2,
}

impl Packing {
    fn by_bytes(head: &[u8]) -> Option<Self> {
        match head {
            [0x1f, 0x8b, 8, ..] => Some(Self::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Self::Zstd),
            // A frame that a reader skips, which some tools write first.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Self::Zstd),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Self::Xz),
            // "BZh" alone may begin a text: the mark of a block, or of the end of an empty file, follows.
            [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, 0x59, 0x26, 0x53, 0x59] => Some(Self::Bzip2),
            [b'B', b'Z', b'h', b'1'..=b'9', 0x17, 0x72, 0x45, 0x38, 0x50, 0x90] => Some(Self::Bzip2),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Xz => "xz",
            Self::Bzip2 => "bzip2",
        }
    }

    fn reader(self, packed: impl BufRead + Send + 'static) -> io::Result<Box<dyn Read + Send>> {
        Ok(match self {
            Self::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(packed)),
            Self::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(packed)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG)?;
                Box::new(decoder)
            }
            Self::Xz => {
                let flags = liblzma::stream::CONCATENATED;
                let stream = liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, flags)?;
                Box::new(liblzma::bufread::XzDecoder::new_stream(packed, stream))
            }
            Self::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(packed)),
        })
    }
}

/// Unpacks, counting what comes out.
struct Unpacked {
    inner: Box<dyn Read + Send>,
    packing: Packing,
    made: u64,
    most: u64,
}

impl Read for Unpacked {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = match self.inner.read(buffer) {
            Ok(read) => read,
            // The disk's own errors have a number of the system.
            Err(e) if e.raw_os_error().is_some() || e.kind() == io::ErrorKind::Interrupted => return Err(e),
            Err(e) => {
                let what = format!("the {} archive is damaged or cut off: {e}", self.packing.name());
                return Err(wrong(what, "fetch or pack the file again, without `--long` of zstd"));
            }
        };
        self.made += read as u64;
        if self.made > self.most {
            let what = format!("the archive unpacks to more than {MOST_TIMES} times its size");
            return Err(wrong(what, "unpack it yourself and name the file, if it is what you want"));
        }
        Ok(read)
    }
}

/// Bytes of another encoding as UTF-8.
struct Decoded<R> {
    inner: R,
    decoder: Decoder,
    encoding: &'static Encoding,
    out: Vec<u8>,
    /// What of `out` is filled and not yet read.
    ready: std::ops::Range<usize>,
    /// Bytes that mean nothing in the encoding come after what is ready.
    malformed: bool,
    done: bool,
}

impl<R: BufRead> Decoded<R> {
    fn new(inner: R, encoding: &'static Encoding) -> Self {
        let (decoder, out) = (encoding.new_decoder_with_bom_removal(), vec![0; BUFFER]);
        Self { inner, decoder, encoding, out, ready: 0..0, malformed: false, done: false }
    }
}

impl<R: BufRead> BufRead for Decoded<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.ready.is_empty() && !self.done {
            if self.malformed {
                let what = format!("the bytes that come here mean nothing in {}", self.encoding.name());
                return Err(wrong(
                    what,
                    "name the encoding that the file was written in, or save it as UTF-8",
                ));
            }
            let input = self.inner.fill_buf()?;
            let last = input.is_empty();
            let (result, read, made) =
                self.decoder.decode_to_utf8_without_replacement(input, &mut self.out, last);
            self.inner.consume(read);
            self.ready = 0..made;
            self.malformed = matches!(result, DecoderResult::Malformed(..));
            self.done = last && result == DecoderResult::InputEmpty;
        }
        Ok(&self.out[self.ready.clone()])
    }

    fn consume(&mut self, count: usize) {
        self.ready.start = (self.ready.start + count).min(self.ready.end);
    }
}

impl<R: BufRead> Read for Decoded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut ready = self.fill_buf()?;
        let read = ready.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}
