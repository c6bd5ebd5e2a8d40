//! How a model writes tool calls: the text around a call's name and arguments.
//!
//! Three kinds cover the families: one JSON object a call (Hermes and Qwen between tags, Llama 3 alone, Mistral in a list),
//! a name and then its arguments as JSON (newer Mistral, DeepSeek), and arguments one by one between tags (Qwen3-Coder,
//! GLM). Next: `call_format_probe`, which finds a model's format from its chat template, and `calls`, which parses a
//! model's text by it.

/// What stands around a call's parts, as the template writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// `{"name": NAME, "arguments": {...}}`.
    Json {
        /// Before the name.
        head: String,
        /// Between the name and the arguments.
        middle: String,
        /// Behind the arguments; an id in it is [`ID_MARK`].
        tail: String,
    },
    /// NAME, then its arguments as JSON.
    Named {
        /// Between the two.
        middle: String,
    },
    /// NAME, then KEY and VALUE of each argument as text.
    Pairs {
        /// Behind the name.
        after_name: String,
        /// Before a key.
        before_key: String,
        /// Between key and value.
        middle: String,
        /// Behind a value.
        after_value: String,
    },
}

/// Stands for a call's id in [`Body::Json`]'s tail.
pub const ID_MARK: &str = "\u{1}id\u{1}";

/// How a model writes its calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolCallFormat {
    /// Written before the first call.
    pub open: String,
    /// Written between two calls; `None` where the template takes one a turn.
    pub between: Option<String>,
    /// Written behind the last.
    pub close: String,
    /// How name and arguments are written between the markers.
    pub body: Body,
    /// What begins a call in a model's text; empty where the call is the whole text.
    pub start_marker: String,
    /// What ends it; empty where the next start marker or the end of the text does.
    pub end_marker: String,
    /// Whether the template takes ids of nine letters and digits alone.
    pub short_ids: bool,
}

impl Default for ToolCallFormat {
    /// Hermes's form, which upstream's templates write.
    fn default() -> Self {
        let body = Body::Json {
            head: "{\"name\": \"".into(),
            middle: "\", \"arguments\": ".into(),
            tail: "}".into(),
        };
        Self::new("<tool_call>\n", Some("\n</tool_call>\n<tool_call>\n"), "\n</tool_call>", body)
    }
}

impl ToolCallFormat {
    pub(super) fn new(open: &str, between: Option<&str>, close: &str, body: Body) -> Self {
        let mut form = Self {
            open: open.into(),
            between: between.map(str::to_owned),
            close: close.into(),
            body,
            start_marker: String::new(),
            end_marker: String::new(),
            short_ids: false,
        };
        (form.start_marker, form.end_marker) = form.markers();
        form
    }

    /// Qwen3-Coder's form.
    pub(super) fn tagged() -> Self {
        let body = Body::Pairs {
            after_name: ">".into(),
            before_key: "\n<parameter=".into(),
            middle: ">\n".into(),
            after_value: "\n</parameter>".into(),
        };
        let (open, close) = ("<tool_call>\n<function=", "\n</function>\n</tool_call>");
        Self::new(open, Some(&format!("{close}\n{open}")), close, body)
    }

    /// Every text that the form writes around names and arguments.
    pub fn literals(&self) -> Vec<&str> {
        let inner: Vec<&String> = match &self.body {
            Body::Json { head, middle, tail } => vec![head, middle, tail],
            Body::Named { middle } => vec![middle],
            Body::Pairs { after_name, before_key, middle, after_value } => {
                vec![after_name, before_key, middle, after_value]
            }
        };
        let outer = [self.open.as_str(), self.close.as_str(), self.between.as_deref().unwrap_or_default()];
        outer.into_iter().chain(inner.into_iter().map(String::as_str)).collect()
    }

    /// The text after a turn's last argument, up to the end of its last call; `id` is that call's.
    pub fn closing_text(&self, id: &str) -> String {
        let inner = match &self.body {
            Body::Json { tail, .. } => tail.replace(ID_MARK, id),
            Body::Named { .. } => String::new(),
            Body::Pairs { after_value, .. } => after_value.clone(),
        };
        inner + &self.close
    }

    /// The first tag before a call and the last one behind it.
    fn markers(&self) -> (String, String) {
        let open = self.open.trim();
        // A list's bracket belongs to the JSON.
        let open =
            if matches!(self.body, Body::Json { .. }) { open.trim_end_matches('[').trim_end() } else { open };
        let mark = match open.find(['<', '[']) {
            Some(at) => first_tag(&open[at..]),
            None => open,
        };
        let close = self.close.trim();
        let end = if close.ends_with('>') { close.rfind('<').map_or("", |at| &close[at..]) } else { "" };
        (mark.to_owned(), if mark.is_empty() { String::new() } else { end.to_owned() })
    }
}

/// `<a>` of `<a><b`; the whole where nothing closes it.
fn first_tag(text: &str) -> &str {
    let close = if text.starts_with('<') { '>' } else { ']' };
    text.find(close).map_or(text, |at| &text[..=at])
}
