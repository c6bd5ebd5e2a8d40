//! Which tokenizer goes with a model: the one named, its own, or MiniMind's, which the program carries.
//!
//! Next: `data::tokenizer::builtin`, `checkpoint::tokenizer_folder`.

use std::path::{Path, PathBuf};

use crate::checkpoint::tokenizer_folder;
use crate::data::Tokenizer;
use crate::data::tokenizer::builtin::BuiltinTokenizer;
use crate::error::Result;
use crate::model::{Era, ModelConfig};
use crate::plan::machine::Machine;

/// The folder that `--tokenizer` names: a folder, or the built-in `minimind2` or `minimind3` where no such folder exists.
///
/// # Errors
/// There is neither a folder nor a built-in tokenizer of this name, or the built-in one cannot be written to the cache.
pub fn named(given: &Path) -> Result<PathBuf> {
    match BuiltinTokenizer::named(given) {
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

/// The folder of the tokenizer that belongs to the weights at `path`: the one that they name, the one beside them, or
/// upstream's `../model`; else MiniMind's own where the vocabulary has its 6400 entries. `None` where nothing fits.
///
/// # Errors
/// The weights' metadata cannot be read, or the built-in tokenizer cannot be written to the cache.
pub fn of(path: &Path, config: &ModelConfig) -> Result<Option<PathBuf>> {
    if let Some(folder) = tokenizer_folder::find(path)? {
        return Ok(Some(folder));
    }
    let standard = BuiltinTokenizer::for_weights(path, config.vocab_size, config.era == Era::MiniMind3)?;
    standard.map(|standard| standard.folder(&Machine::detect().cache_dir)).transpose()
}
