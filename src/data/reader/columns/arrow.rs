//! Arrow's messages, one after another, in the stream form and in the file form, which is a stream between two marks.
//!
//! Messages are cut here and handed to the crate whole, so that a length that lies is met before anything is reserved for it.

use std::io::{BufRead, BufReader, Read};

use arrow_array::RecordBatch;
use arrow_buffer::Buffer;
use arrow_ipc::reader::StreamDecoder;
use arrow_ipc::{Message, RecordBatch as BatchHeader, root_as_message};

use super::{Batches, Wrong};

/// The file form's mark, padded to eight bytes.
const MAGIC: &[u8] = b"ARROW1\0\0";
/// The most bytes of the mark with its padding.
const PADDING: usize = 64;
/// What comes before a message's length since version 0.15.
const CONTINUATION: [u8; 4] = [0xff; 4];
/// The largest description of a message: a schema, or a batch's columns.
const MOST_HEADER: u64 = 64 << 20;
/// The largest batch, as it stands in the file and unpacked.
const MOST_BODY: u64 = 4 << 30;
/// Columns may unpack to this many bytes, or to so many times their size, as archives may.
const FREE_BYTES: u64 = 1 << 30;
const MOST_TIMES: u64 = 1000;

pub(super) fn batches(reader: impl Read + Send + 'static) -> Result<Batches, Wrong> {
    let mut stream = Stream { reader: BufReader::new(reader), decoder: StreamDecoder::new(), is_file: false };
    stream.is_file = stream.begin()?;
    // The schema comes first: what is no stream shows at once.
    let mut first = Some(stream.batch());
    if let Some(Err(why)) = first {
        return Err(why);
    }
    Ok(Box::new(std::iter::from_fn(move || first.take().unwrap_or_else(|| stream.batch()).transpose())))
}

struct Stream<R> {
    reader: BufReader<R>,
    decoder: StreamDecoder,
    is_file: bool,
}

impl<R: Read> Stream<R> {
    /// Takes the file form's mark, where there is one.
    fn begin(&mut self) -> Result<bool, Wrong> {
        let mut head = Vec::new();
        (&mut self.reader).take(MAGIC.len() as u64).read_to_end(&mut head).map_err(|e| e.to_string())?;
        if head == MAGIC {
            // The mark is padded to 8 bytes, by arrow-rs to 64.
            for _ in 0..PADDING / MAGIC.len() {
                head.clear();
                let mut next = (&mut self.reader).take(MAGIC.len() as u64);
                next.read_to_end(&mut head).map_err(|e| e.to_string())?;
                if head.iter().any(|byte| *byte != 0) {
                    break;
                }
            }
            if head.len() < MAGIC.len() {
                return Err("it is cut off: the mark of its end is missing".to_owned());
            }
            return self.message(&head).map(|_| true);
        }
        if head.starts_with(b"FEA1") {
            return Err("Feather's first version is not read: write it as Arrow".to_owned());
        }
        if head.len() < MAGIC.len() {
            return Err(format!("it has {} bytes", head.len()));
        }
        // A stream's first eight bytes are its first message's continuation mark and length, or in old files the length and
        // the beginning of the message: one of them, then the rest.
        self.message(&head).map(|_| false)
    }

    /// The next batch; `None` at the end.
    fn batch(&mut self) -> Result<Option<RecordBatch>, Wrong> {
        loop {
            match self.message(&[])? {
                Next::Batch(batch) => return Ok(Some(batch)),
                Next::Other => {}
                Next::End if self.decoder.schema().is_none() => return Err("it holds no schema".to_owned()),
                Next::End => return Ok(None),
            }
        }
    }

    /// The next message, of which `head` is read already.
    fn message(&mut self, head: &[u8]) -> Result<Next, Wrong> {
        let at_end = head.is_empty() && self.reader_is_empty()?;
        if at_end && self.is_file {
            return Err("it is cut off: the mark of its end is missing".to_owned());
        }
        if at_end {
            return Ok(Next::End);
        }
        let mut reader = head.chain(&mut self.reader);
        let mut start = word(&mut reader)?.to_vec();
        if start == CONTINUATION {
            start.extend(word(&mut reader)?);
        }
        let length = start.last_chunk().map_or(0, |bytes| u64::from(u32::from_le_bytes(*bytes)));
        if length == 0 {
            return Ok(Next::End);
        }
        if length > MOST_HEADER {
            return Err(format!("a message's description claims {length} bytes"));
        }
        let header = exactly(&mut reader, length)?;
        let message = root_as_message(&header).map_err(|e| e.to_string())?;
        let body_length = u64::try_from(message.bodyLength()).ok().filter(|length| *length <= MOST_BODY);
        let Some(body_length) = body_length else {
            let why = "a batch claims {} bytes: write it in smaller batches";
            return Err(why.replace("{}", &message.bodyLength().to_string()));
        };
        let body = exactly(&mut reader, body_length)?;
        check_packed(&message, &body)?;
        start.extend(header);
        let mut batch = None;
        for bytes in [start, body] {
            let mut buffer = Buffer::from_vec(bytes);
            batch = batch.or(self.decoder.decode(&mut buffer).map_err(|e| e.to_string())?);
        }
        Ok(batch.map_or(Next::Other, Next::Batch))
    }

    fn reader_is_empty(&mut self) -> Result<bool, Wrong> {
        self.reader.fill_buf().map(<[u8]>::is_empty).map_err(|e| e.to_string())
    }
}

/// What a message was.
enum Next {
    Batch(RecordBatch),
    Other,
    End,
}

fn word(reader: &mut impl Read) -> Result<[u8; 4], Wrong> {
    let mut word = [0; 4];
    reader.read_exact(&mut word).map_err(|e| cut_off(&e))?;
    Ok(word)
}

/// So many bytes, reserved as they come.
fn exactly(reader: &mut impl Read, length: u64) -> Result<Vec<u8>, Wrong> {
    let mut bytes = Vec::new();
    reader.take(length).read_to_end(&mut bytes).map_err(|e| cut_off(&e))?;
    if (bytes.len() as u64) < length {
        return Err(format!("it is cut off: {length} bytes are promised where {} are left", bytes.len()));
    }
    Ok(bytes)
}

fn cut_off(error: &std::io::Error) -> Wrong {
    if error.kind() == std::io::ErrorKind::UnexpectedEof {
        "it is cut off".to_owned()
    } else {
        error.to_string()
    }
}

/// What the packed columns of a message claim to unpack to, before anything is reserved for it.
fn check_packed(message: &Message<'_>, body: &[u8]) -> Result<(), Wrong> {
    let dictionary = message.header_as_dictionary_batch().and_then(|dictionary| dictionary.data());
    let Some(batch) = message.header_as_record_batch().or(dictionary) else { return Ok(()) };
    if batch.compression().is_none() {
        return Ok(());
    }
    let claimed = unpacked_bytes(&batch, body).ok_or("a packed column reaches past its batch")?;
    if claimed > MOST_BODY || claimed > FREE_BYTES && claimed / MOST_TIMES > body.len() as u64 {
        return Err(format!("{} packed bytes claim to be {claimed}", body.len()));
    }
    Ok(())
}

/// The sum of the lengths that stand before each packed buffer; -1 stands before one that is not packed.
fn unpacked_bytes(batch: &BatchHeader<'_>, body: &[u8]) -> Option<u64> {
    let mut sum = 0u64;
    for buffer in batch.buffers().into_iter().flatten() {
        let (start, length) =
            (usize::try_from(buffer.offset()).ok()?, usize::try_from(buffer.length()).ok()?);
        let bytes = body.get(start..start.checked_add(length)?)?;
        if let Some(prefix) = bytes.first_chunk() {
            let claimed = i64::from_le_bytes(*prefix);
            sum =
                sum.checked_add(if claimed == -1 { length as u64 } else { u64::try_from(claimed).ok()? })?;
        }
    }
    Some(sum)
}
