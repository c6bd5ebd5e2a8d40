//! Which tokenizer goes with a model: the one named, its own, or MiniMind's, which the program carries.
//!
//! Next: `data::tokenizer::standard`, `checkpoint::about`.

use std::path::{Path, PathBuf};

use crate::checkpoint::about;
use crate::data::Tokenizer;
use crate::data::tokenizer::standard::Standard;
use crate::error::Result;
use crate::model::{Era, ModelConfig};
use crate::plan::machine::Machine;

/// The folder of a tokenizer that the user names: a folder, or minimind2 or minimind3 where no such folder is.
pub fn named(given: &Path) -> Result<PathBuf> {
    match Standard::named(given) {
        Some(standard) => {
            tracing::info!("{} is MiniMind's own tokenizer, from this program", standard.name());
            standard.folder(&Machine::detect().cache_dir)
        }
        None => Ok(given.to_owned()),
    }
}

/// The tokenizer that the user names, as [`named`].
///
/// # Errors
/// There is none in that folder, or it cannot be used.
pub fn load(given: impl AsRef<Path>) -> Result<Tokenizer> {
    Tokenizer::load(&named(given.as_ref())?)
}

/// The folder of the tokenizer that goes with weights: named in them, beside them, in upstream's layout; and where
/// there is none, MiniMind's if the vocabulary is of its size.
pub fn of(path: &Path, config: &ModelConfig) -> Result<Option<PathBuf>> {
    if let Some(folder) = about::tokenizer(path)? {
        return Ok(Some(folder));
    }
    let standard = Standard::of_weights(path, config.vocab_size, config.era == Era::MiniMind3)?;
    standard.map(|standard| standard.folder(&Machine::detect().cache_dir)).transpose()
}
