//! Text to ids and back.

/// A tokenizer with its chat template.
#[derive(Debug)]
pub struct Tokenizer {}
