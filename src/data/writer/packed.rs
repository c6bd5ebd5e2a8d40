//! Compression on the way into a file.

use std::io::{Result, Write};

use bzip2::write::BzEncoder;
use flate2::write::GzEncoder;
use liblzma::stream::{Check, Stream};
use liblzma::write::XzEncoder;

use super::Packing;

/// Each program's own default.
const ZSTD_LEVEL: i32 = 3;
const XZ_LEVEL: u32 = 6;
const BZIP2_LEVEL: u32 = 9;

/// Compresses what is written into it; [`Packer::finish`] must be called at the end.
pub(super) enum Packer<W: Write> {
    /// As it is.
    Plain(W),
    /// `.gz`.
    Gzip(GzEncoder<W>),
    /// `.zst`.
    Zstd(zstd::stream::write::Encoder<'static, W>),
    /// `.xz`.
    Xz(Box<XzEncoder<W>>),
    /// `.bz2`.
    Bzip2(BzEncoder<W>),
}

impl<W: Write> Packer<W> {
    /// A compressor in front of `out`.
    pub(super) fn new(packing: Packing, out: W) -> Result<Self> {
        Ok(match packing {
            Packing::None => Self::Plain(out),
            Packing::Gzip => Self::Gzip(GzEncoder::new(out, flate2::Compression::default())),
            Packing::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(out, ZSTD_LEVEL)?;
                encoder.include_checksum(true)?;
                Self::Zstd(encoder)
            }
            Packing::Xz => {
                let stream = Stream::new_easy_encoder(XZ_LEVEL, Check::Crc64)?;
                Self::Xz(Box::new(XzEncoder::new_stream(out, stream)))
            }
            Packing::Bzip2 => Self::Bzip2(BzEncoder::new(out, bzip2::Compression::new(BZIP2_LEVEL))),
        })
    }

    /// Writes the end of the compressed file.
    pub(super) fn finish(self) -> Result<()> {
        match self {
            Self::Plain(mut out) => out.flush(),
            Self::Gzip(out) => out.finish()?.flush(),
            Self::Zstd(out) => out.finish()?.flush(),
            Self::Xz(out) => out.finish()?.flush(),
            Self::Bzip2(out) => out.finish()?.flush(),
        }
    }
}

impl<W: Write> Write for Packer<W> {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        match self {
            Self::Plain(out) => out.write(bytes),
            Self::Gzip(out) => out.write(bytes),
            Self::Zstd(out) => out.write(bytes),
            Self::Xz(out) => out.write(bytes),
            Self::Bzip2(out) => out.write(bytes),
        }
    }

    /// Does nothing: every flush of a compressor would cost space.
    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}
