//! What a column of parquet and arrow holds, found over all rows.
//!
//! Whole numbers and fractions together are fractions. Values of several kinds, objects without keys and objects with very many
//! different keys have no type of their own: each value is the text of its JSON, and the column says so (Arrow's extension
//! type `arrow.json`).

use std::sync::Arc;

use arrow_array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, ListArray, RecordBatch, StringArray, StructArray,
};
use arrow_buffer::OffsetBuffer;
use arrow_schema::{ArrowError, DataType, Field, Fields, SchemaRef};
use serde_json::{Map, Value};

/// An object with more keys over all rows is a table of its own: it is written as JSON text.
const MOST_KEYS: usize = 256;
/// The key by which a field says what its text is.
const EXTENSION: &str = "ARROW:extension:name";
/// Whole numbers up to here are the same as fractions.
const EXACT: u64 = 1 << 53;

/// What values are.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum ColumnType {
    /// No value yet but null.
    Null,
    /// True or false.
    Bool,
    /// Whole numbers of 64 bits; `large` where one is not exact as a fraction.
    Int { large: bool },
    /// Fractions.
    Float,
    /// Strings.
    Text,
    /// Lists of one type.
    List(Box<ColumnType>),
    /// Objects, by their keys.
    Object(Vec<(String, ColumnType)>),
    /// Of several kinds.
    Json,
}

impl ColumnType {
    /// An object of which no key is known.
    pub(super) const fn empty() -> Self {
        Self::Object(Vec::new())
    }

    /// Takes a row into account: an object with as many keys as there are.
    pub(super) fn add_row(&mut self, row: &Value) {
        if let (Self::Object(keys), Value::Object(row)) = (self, row) {
            add_keys(keys, row);
        }
    }

    /// Takes a value into account.
    pub(super) fn add(&mut self, value: &Value) {
        match (&mut *self, value) {
            (_, Value::Null) | (Self::Json, _) => {}
            (Self::Null, _) => *self = Self::first(value),
            (Self::Bool, Value::Bool(_)) | (Self::Text, Value::String(_)) => {}
            (Self::Int { large }, Value::Number(_)) => match Self::first(value) {
                Self::Int { large: also } => *large |= also,
                Self::Float if !*large => *self = Self::Float,
                _ => *self = Self::Json,
            },
            (Self::Float, Value::Number(_)) => match Self::first(value) {
                Self::Float | Self::Int { large: false } => {}
                _ => *self = Self::Json,
            },
            (Self::List(item), Value::Array(items)) => items.iter().for_each(|value| item.add(value)),
            (Self::Object(keys), Value::Object(object)) => {
                add_keys(keys, object);
                if keys.len() > MOST_KEYS {
                    *self = Self::Json;
                }
            }
            _ => *self = Self::Json,
        }
    }

    fn first(value: &Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(_) => Self::Bool,
            Value::String(_) => Self::Text,
            Value::Number(number) => match (number.as_i64(), number.is_f64()) {
                (Some(whole), _) => Self::Int { large: whole.unsigned_abs() > EXACT },
                (None, true) => Self::Float,
                // Above what 64 bits with a sign hold.
                (None, false) => Self::Json,
            },
            Value::Array(_) => {
                let mut list = Self::List(Box::new(Self::Null));
                list.add(value);
                list
            }
            Value::Object(_) => {
                let mut object = Self::empty();
                object.add(value);
                object
            }
        }
    }

    /// Settles what is no column of its own; the names of columns that became JSON text go into `mixed`. The rows themselves
    /// are an object too and stay one.
    pub(super) fn settle(&mut self, name: &str, mixed: &mut Vec<String>) {
        match self {
            Self::Object(keys) if !name.is_empty() && keys.is_empty() => *self = Self::Json,
            Self::Object(keys) => {
                let dot = if name.is_empty() { "" } else { "." };
                keys.iter_mut().for_each(|(key, column)| column.settle(&format!("{name}{dot}{key}"), mixed));
            }
            Self::List(item) => item.settle(&format!("{name}[]"), mixed),
            _ => {}
        }
        if *self == Self::Json && mixed.len() < 20 {
            mixed.push(format!("`{name}`"));
        }
    }

    /// The name of the type, for Arrow.
    fn data_type(&self) -> DataType {
        match self {
            Self::Bool => DataType::Boolean,
            Self::Int { .. } => DataType::Int64,
            Self::Float => DataType::Float64,
            // A column without a value may be anything; text joins with most.
            Self::Null | Self::Text | Self::Json => DataType::Utf8,
            Self::List(item) => DataType::List(Arc::new(item.field(Field::LIST_FIELD_DEFAULT_NAME))),
            Self::Object(_) => DataType::Struct(self.fields()),
        }
    }

    /// A column of this type; one of JSON says so, and is read as the values that it holds.
    fn field(&self, name: &str) -> Field {
        let field = Field::new(name, self.data_type(), true);
        match self {
            Self::Json => field.with_metadata([(EXTENSION.to_owned(), "arrow.json".to_owned())]),
            _ => field,
        }
    }

    /// How many keys an object has.
    pub(super) fn keys(&self) -> usize {
        if let Self::Object(keys) = self { keys.len() } else { 0 }
    }

    /// The columns of an object.
    pub(super) fn fields(&self) -> Fields {
        let Self::Object(keys) = self else { return Fields::empty() };
        keys.iter().map(|(key, column)| column.field(key)).collect()
    }

    /// Values as a column; an absent one is null.
    ///
    /// # Errors
    /// What Arrow says, as of texts of more than 2 GiB together.
    pub(super) fn column(&self, values: &[Option<&Value>]) -> Result<ArrayRef, ArrowError> {
        let each = || values.iter().map(|value| value.filter(|value| !value.is_null()));
        Ok(match self {
            Self::Bool => Arc::new(each().map(|value| value?.as_bool()).collect::<BooleanArray>()),
            Self::Int { .. } => Arc::new(each().map(|value| value?.as_i64()).collect::<Int64Array>()),
            Self::Float => Arc::new(each().map(|value| value?.as_f64()).collect::<Float64Array>()),
            Self::Json => Arc::new(each().map(|value| Some(value?.to_string())).collect::<StringArray>()),
            Self::Null | Self::Text => Arc::new(each().map(|value| value?.as_str()).collect::<StringArray>()),
            Self::List(item) => {
                let lists: Vec<_> = each().map(|value| value.and_then(Value::as_array)).collect();
                let lengths = lists.iter().map(|list| list.map_or(0, Vec::len));
                let items: Vec<_> = lists.iter().copied().flatten().flatten().map(Some).collect();
                let field = Arc::new(item.field(Field::LIST_FIELD_DEFAULT_NAME));
                let nulls = lists.iter().map(Option::is_some).collect::<Vec<_>>().into();
                let offsets = OffsetBuffer::from_lengths(lengths);
                Arc::new(ListArray::try_new(field, offsets, item.column(&items)?, Some(nulls))?)
            }
            Self::Object(keys) => {
                let nulls = each().map(|value| value.is_some()).collect::<Vec<_>>().into();
                Arc::new(StructArray::try_new(self.fields(), columns(keys, values)?, Some(nulls))?)
            }
        })
    }

    /// Rows as a batch.
    ///
    /// # Errors
    /// As [`Self::column`].
    pub(super) fn batch(&self, schema: &SchemaRef, rows: &[Value]) -> Result<RecordBatch, ArrowError> {
        let Self::Object(keys) = self else { return Ok(RecordBatch::new_empty(Arc::clone(schema))) };
        let rows: Vec<_> = rows.iter().map(Some).collect();
        RecordBatch::try_new(Arc::clone(schema), columns(keys, &rows)?)
    }
}

/// The columns of objects.
fn columns(keys: &[(String, ColumnType)], objects: &[Option<&Value>]) -> Result<Vec<ArrayRef>, ArrowError> {
    let of_key = |(key, column): &(String, ColumnType)| {
        let values: Vec<_> = objects.iter().map(|object| object.and_then(|object| object.get(key))).collect();
        column.column(&values)
    };
    keys.iter().map(of_key).collect()
}

fn add_keys(keys: &mut Vec<(String, ColumnType)>, object: &Map<String, Value>) {
    for (i, (key, value)) in object.iter().enumerate() {
        // Rows have their keys in the same order as a rule.
        let at = match keys.get(i).is_some_and(|(known, _)| known == key) {
            true => Some(i),
            false => keys.iter().position(|(known, _)| known == key),
        };
        let at = at.unwrap_or_else(|| {
            keys.push((key.clone(), ColumnType::Null));
            keys.len() - 1
        });
        keys[at].1.add(value);
    }
}
