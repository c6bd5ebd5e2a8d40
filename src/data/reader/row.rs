//! The JSON text of a row that a file holds in another form.

/// An object, member by member.
pub(super) struct RowText(Vec<u8>);

impl RowText {
    pub(super) fn new() -> Self {
        Self(vec![b'{'])
    }

    fn key(&mut self, key: &str) {
        if self.0.len() > 1 {
            self.0.extend_from_slice(b", ");
        }
        self.quoted(key.as_bytes());
        self.0.extend_from_slice(b": ");
    }

    /// A string; bytes that are no UTF-8 stay as they are, for the row's parser to name.
    pub(super) fn string(&mut self, key: &str, text: &[u8]) {
        self.key(key);
        self.quoted(text);
    }

    /// A value that is JSON already, without line ends.
    pub(super) fn json(&mut self, key: &str, value: &str) {
        self.key(key);
        self.0.extend_from_slice(value.as_bytes());
    }

    fn quoted(&mut self, text: &[u8]) {
        self.0.push(b'"');
        let mut rest = text;
        while let Some(at) = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f)) {
            self.0.extend_from_slice(&rest[..at]);
            match rest[at] {
                b'\n' => self.0.extend_from_slice(b"\\n"),
                b'\r' => self.0.extend_from_slice(b"\\r"),
                b'\t' => self.0.extend_from_slice(b"\\t"),
                byte @ (b'"' | b'\\') => self.0.extend_from_slice(&[b'\\', byte]),
                byte => self.0.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
            }
            rest = &rest[at + 1..];
        }
        self.0.extend_from_slice(rest);
        self.0.push(b'"');
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.0.push(b'}');
        self.0
    }
}
