//! What is wrong with rows that can all be read: repeats, overlap with held-out files, odd characters, lengths.
//!
//! In reading order: `units` (a text as words and characters), `passages` (what a row says), `exact` and `near` (repeats),
//! `overlap`, `odd`, `lengths`, `survey` (all of it over a file). Nothing here holds texts: a row leaves a few hundred bytes
//! behind, so that millions of rows fit into memory. Next: `cli::data::check` and `cli::data::clean`, the users.

pub mod exact;
pub mod lengths;
pub mod near;
pub mod odd;
pub mod overlap;
pub mod passages;
pub mod survey;
pub mod units;

#[cfg(test)]
mod tests;

pub use exact::ExactIndex;
pub use near::{NearIndex, Signature};
pub use odd::{OddCharacters, OddKind};
pub use overlap::HeldOut;
pub use passages::Passages;
pub use survey::{Survey, SurveyOptions};
