//! A value of a column as JSON, as Python's `datasets` gives it; a field that is null is left out.
//!
//! arrow's own JSON writer is not used: it holds no row to a size (a dictionary's text may be named a million times in one
//! row), writes bytes in hexadecimal, and knows neither named time zones nor columns of JSON.
//! Dates and times are text in ISO 8601, times with a zone in UTC; durations are seconds; bytes are text where they are UTF-8,
//! else base64; a number that is none (NaN) is null.

use std::io::Write;

use arrow_array::cast::AsArray;
use arrow_array::temporal_conversions::{as_datetime, as_time};
use arrow_array::types::*;
use arrow_array::{Array, ArrowPrimitiveType, RecordBatch, RunArray};
use arrow_schema::{DataType, Field, IntervalUnit, TimeUnit};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::Wrong;
use crate::data::jsonl::MAX_LINE_BYTES;

/// Levels of values in values, types and dictionaries together.
const MOST_DEPTH: usize = 128;

/// A row as the text of a JSON object.
pub(super) fn row(batch: &RecordBatch, at: usize) -> Result<Vec<u8>, Wrong> {
    let mut writer = Writer { out: Vec::new(), depth: 0 };
    let columns = batch.columns().iter().map(AsRef::as_ref);
    writer.object(batch.schema_ref().fields().iter().map(AsRef::as_ref).zip(columns), at)?;
    Ok(writer.out)
}

struct Writer {
    out: Vec<u8>,
    depth: usize,
}

impl Writer {
    fn object<'a>(
        &mut self,
        fields: impl Iterator<Item = (&'a Field, &'a dyn Array)>,
        at: usize,
    ) -> Result<(), Wrong> {
        self.out.push(b'{');
        let start = self.out.len();
        for (field, values) in fields.filter(|(_, values)| !is_null(*values, at)) {
            if self.out.len() > start {
                self.out.push(b',');
            }
            self.text(field.name());
            self.out.push(b':');
            self.value(field, values, at).map_err(|why| {
                if self.depth == 0 { format!("column {}: {why}", field.name()) } else { why }
            })?;
        }
        self.out.push(b'}');
        Ok(())
    }

    fn text(&mut self, text: &str) {
        // Writing into memory cannot fail.
        let _ = serde_json::to_writer(&mut self.out, text);
    }

    fn print(&mut self, value: impl std::fmt::Display) {
        let _ = write!(self.out, "{value}");
    }

    fn bytes(&mut self, bytes: &[u8]) {
        match std::str::from_utf8(bytes) {
            Ok(text) => self.text(text),
            Err(_) => self.text(&STANDARD.encode(bytes)),
        }
    }

    /// Text of a column; one of JSON is the value that it writes.
    fn text_of(&mut self, field: &Field, text: &str) {
        let is_json = field.metadata().get("ARROW:extension:name").is_some_and(|name| name == "arrow.json");
        match serde_json::from_str::<serde_json::Value>(text) {
            // Written anew, so that it is one line.
            Ok(value) if is_json => self.print(value),
            _ => self.text(text),
        }
    }

    fn list(&mut self, item: &Field, values: &dyn Array, range: std::ops::Range<usize>) -> Result<(), Wrong> {
        self.out.push(b'[');
        for place in range.clone() {
            if place > range.start {
                self.out.push(b',');
            }
            self.value(item, values, place)?;
        }
        self.out.push(b']');
        Ok(())
    }

    fn map(&mut self, entries: &dyn Array, range: std::ops::Range<usize>) -> Result<(), Wrong> {
        let entries = entries.as_struct();
        let (DataType::Struct(fields), [keys, values]) = (entries.data_type(), entries.columns()) else {
            return Err("a map has other than keys and values".to_owned());
        };
        self.out.push(b'{');
        let start = self.out.len();
        for place in range.filter(|place| !is_null(values, *place)) {
            if self.out.len() > start {
                self.out.push(b',');
            }
            let mut key = Writer { out: Vec::new(), depth: self.depth };
            key.value(&fields[0], keys, place)?;
            // JSON's keys are texts: a number is written as one.
            match key.out.first() {
                Some(b'"') => self.out.extend(key.out),
                _ => self.text(&String::from_utf8_lossy(&key.out)),
            }
            self.out.push(b':');
            self.value(&fields[1], values, place)?;
        }
        self.out.push(b'}');
        Ok(())
    }

    fn value(&mut self, field: &Field, values: &dyn Array, at: usize) -> Result<(), Wrong> {
        if self.out.len() as u64 > MAX_LINE_BYTES {
            return Err(format!("a row longer than {} MiB", MAX_LINE_BYTES >> 20));
        }
        if is_null(values, at) {
            self.out.extend_from_slice(b"null");
            return Ok(());
        }
        self.depth += 1;
        if self.depth > MOST_DEPTH {
            return Err(format!("more than {MOST_DEPTH} levels"));
        }
        let done = self.nested(field, values, at).unwrap_or_else(|| self.scalar(field, values, at));
        self.depth -= 1;
        done
    }

    /// A value that holds others; `None` for the rest.
    fn nested(&mut self, field: &Field, values: &dyn Array, at: usize) -> Option<Result<(), Wrong>> {
        Some(match values.data_type() {
            DataType::Struct(fields) => {
                let columns = values.as_struct().columns().iter().map(AsRef::as_ref);
                self.object(fields.iter().map(AsRef::as_ref).zip(columns), at)
            }
            DataType::List(item) => {
                let list = values.as_list::<i32>();
                let range = list.value_offsets()[at] as usize..list.value_offsets()[at + 1] as usize;
                self.list(item, list.values(), range)
            }
            DataType::LargeList(item) => {
                let list = values.as_list::<i64>();
                let range = list.value_offsets()[at] as usize..list.value_offsets()[at + 1] as usize;
                self.list(item, list.values(), range)
            }
            DataType::FixedSizeList(item, size) => {
                let (list, size) = (values.as_fixed_size_list(), *size as usize);
                let start = list.value_offset_at(at);
                self.list(item, list.values(), start..start + size)
            }
            DataType::ListView(item) => {
                let list = values.as_list_view::<i32>();
                let (start, size) = (list.value_offset(at) as usize, list.value_size(at) as usize);
                self.list(item, list.values(), start..start + size)
            }
            DataType::LargeListView(item) => {
                let list = values.as_list_view::<i64>();
                let (start, size) = (list.value_offset(at) as usize, list.value_size(at) as usize);
                self.list(item, list.values(), start..start + size)
            }
            DataType::Map(..) => {
                let map = values.as_map();
                self.map(map.entries(), map.offsets()[at] as usize..map.offsets()[at + 1] as usize)
            }
            DataType::Dictionary(..) | DataType::RunEndEncoded(..) => {
                let (values, at) = behind(values, at)?;
                self.value(field, values, at)
            }
            _ => return None,
        })
    }

    fn scalar(&mut self, field: &Field, values: &dyn Array, at: usize) -> Result<(), Wrong> {
        match values.data_type() {
            DataType::Boolean => self.print(values.as_boolean().value(at)),
            DataType::Int8 => self.print(number::<Int8Type>(values, at)),
            DataType::Int16 => self.print(number::<Int16Type>(values, at)),
            DataType::Int32 => self.print(number::<Int32Type>(values, at)),
            DataType::Int64 => self.print(number::<Int64Type>(values, at)),
            DataType::UInt8 => self.print(number::<UInt8Type>(values, at)),
            DataType::UInt16 => self.print(number::<UInt16Type>(values, at)),
            DataType::UInt32 => self.print(number::<UInt32Type>(values, at)),
            DataType::UInt64 => self.print(number::<UInt64Type>(values, at)),
            DataType::Float16 => self.float(number::<Float16Type>(values, at).to_f32()),
            DataType::Float32 => self.float(number::<Float32Type>(values, at)),
            DataType::Float64 => self.float(number::<Float64Type>(values, at)),
            DataType::Utf8 => self.text_of(field, values.as_string::<i32>().value(at)),
            DataType::LargeUtf8 => self.text_of(field, values.as_string::<i64>().value(at)),
            DataType::Utf8View => self.text_of(field, values.as_string_view().value(at)),
            DataType::Binary => self.bytes(values.as_binary::<i32>().value(at)),
            DataType::LargeBinary => self.bytes(values.as_binary::<i64>().value(at)),
            DataType::BinaryView => self.bytes(values.as_binary_view().value(at)),
            DataType::FixedSizeBinary(_) => self.bytes(values.as_fixed_size_binary().value(at)),
            DataType::Decimal32(..) => self.print(values.as_primitive::<Decimal32Type>().value_as_string(at)),
            DataType::Decimal64(..) => self.print(values.as_primitive::<Decimal64Type>().value_as_string(at)),
            DataType::Decimal128(..) => {
                self.print(values.as_primitive::<Decimal128Type>().value_as_string(at))
            }
            DataType::Decimal256(..) => {
                self.print(values.as_primitive::<Decimal256Type>().value_as_string(at))
            }
            _ => return self.moment(values, at),
        }
        Ok(())
    }

    fn float(&mut self, value: impl serde::Serialize) {
        // What is no number is written as null.
        let _ = serde_json::to_writer(&mut self.out, &value);
    }

    /// Dates, times and durations.
    fn moment(&mut self, values: &dyn Array, at: usize) -> Result<(), Wrong> {
        use TimeUnit::{Microsecond, Millisecond, Nanosecond, Second};
        match values.data_type() {
            DataType::Date32 => self.date::<Date32Type>(i64::from(number::<Date32Type>(values, at))),
            DataType::Date64 => self.date::<Date64Type>(number::<Date64Type>(values, at)),
            DataType::Time32(Second) => {
                self.time::<Time32SecondType>(i64::from(number::<Time32SecondType>(values, at)))
            }
            DataType::Time32(_) => {
                self.time::<Time32MillisecondType>(i64::from(number::<Time32MillisecondType>(values, at)));
            }
            DataType::Time64(Microsecond) => {
                self.time::<Time64MicrosecondType>(number::<Time64MicrosecondType>(values, at))
            }
            DataType::Time64(_) => {
                self.time::<Time64NanosecondType>(number::<Time64NanosecondType>(values, at))
            }
            DataType::Timestamp(unit, zone) => {
                let zone = if zone.is_some() { "+00:00" } else { "" };
                match unit {
                    Second => self.datetime::<TimestampSecondType>(values, at, zone),
                    Millisecond => self.datetime::<TimestampMillisecondType>(values, at, zone),
                    Microsecond => self.datetime::<TimestampMicrosecondType>(values, at, zone),
                    Nanosecond => self.datetime::<TimestampNanosecondType>(values, at, zone),
                }
            }
            DataType::Duration(unit) => {
                let (count, a_second) = match unit {
                    Second => (number::<DurationSecondType>(values, at), 1.0),
                    Millisecond => (number::<DurationMillisecondType>(values, at), 1e3),
                    Microsecond => (number::<DurationMicrosecondType>(values, at), 1e6),
                    Nanosecond => (number::<DurationNanosecondType>(values, at), 1e9),
                };
                self.float(count as f64 / a_second);
            }
            DataType::Interval(IntervalUnit::YearMonth) => {
                self.print(number::<IntervalYearMonthType>(values, at))
            }
            other => return Err(format!("the type {other} has no form in JSON")),
        }
        Ok(())
    }

    fn date<T: ArrowPrimitiveType>(&mut self, count: i64) {
        match as_datetime::<T>(count) {
            Some(time) => self.text(&time.date().to_string()),
            None => self.print(count),
        }
    }

    fn time<T: ArrowPrimitiveType>(&mut self, count: i64) {
        match as_time::<T>(count) {
            Some(time) => self.text(&time.to_string()),
            None => self.print(count),
        }
    }

    fn datetime<T: ArrowPrimitiveType<Native = i64>>(&mut self, values: &dyn Array, at: usize, zone: &str) {
        let count = number::<T>(values, at);
        match as_datetime::<T>(count) {
            Some(time) => self.text(&format!("{time:?}{zone}")),
            None => self.print(count),
        }
    }
}

fn number<T: ArrowPrimitiveType>(values: &dyn Array, at: usize) -> T::Native {
    values.as_primitive::<T>().value(at)
}

/// Whether a value is null, also where a dictionary's entry or a run is.
fn is_null(values: &dyn Array, at: usize) -> bool {
    match values.data_type() {
        DataType::Null => true,
        DataType::Dictionary(..) | DataType::RunEndEncoded(..) => {
            behind(values, at).is_none_or(|(values, at)| is_null(values, at))
        }
        _ => values.is_null(at),
    }
}

/// The value of a dictionary's key, or of the run that a row is in; `None` where the key is null.
fn behind(values: &dyn Array, at: usize) -> Option<(&dyn Array, usize)> {
    if let Some(dictionary) = values.as_any_dictionary_opt() {
        let keys = dictionary.keys();
        if keys.is_null(at) {
            return None;
        }
        let key = match keys.data_type() {
            DataType::Int8 => usize::try_from(number::<Int8Type>(keys, at)).ok(),
            DataType::Int16 => usize::try_from(number::<Int16Type>(keys, at)).ok(),
            DataType::Int32 => usize::try_from(number::<Int32Type>(keys, at)).ok(),
            DataType::Int64 => usize::try_from(number::<Int64Type>(keys, at)).ok(),
            DataType::UInt8 => Some(usize::from(number::<UInt8Type>(keys, at))),
            DataType::UInt16 => Some(usize::from(number::<UInt16Type>(keys, at))),
            DataType::UInt32 => usize::try_from(number::<UInt32Type>(keys, at)).ok(),
            _ => usize::try_from(number::<UInt64Type>(keys, at)).ok(),
        };
        return Some((dictionary.values().as_ref(), key?));
    }
    fn run<T: RunEndIndexType>(values: &dyn Array, at: usize) -> Option<(&dyn Array, usize)> {
        let runs: &RunArray<T> = values.as_run_opt::<T>()?;
        Some((runs.values().as_ref(), runs.get_physical_index(at)))
    }
    run::<Int16Type>(values, at)
        .or_else(|| run::<Int32Type>(values, at))
        .or_else(|| run::<Int64Type>(values, at))
}
