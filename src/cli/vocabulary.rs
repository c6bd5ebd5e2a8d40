//! Which tokenizer goes with a model: the one named, its own, or MiniMind's, which the program carries.
//!
//! Next: `data::tokenizer::standard`, `checkpoint::about`.

use std::path::{Path, PathBuf};

use crate::checkpoint::about;
use crate::data::tokenizer::standard::{Standard, VOCAB_SIZE};
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

/// The folder of the tokenizer that goes with weights: named in them, beside them, in upstream's layout; and where
/// there is none, MiniMind's if the vocabulary is of its size.
pub fn of(path: &Path, config: &ModelConfig) -> Result<Option<PathBuf>> {
    if let Some(folder) = about::tokenizer(path)? {
        return Ok(Some(folder));
    }
    if config.vocab_size != VOCAB_SIZE as i64 {
        return Ok(None);
    }
    let standard = match about::tokenizer_named(path)? {
        // A tokenizer of its own that is not there any more: MiniMind's would read it as other text.
        Some(named) => match Standard::ALL.into_iter().find(|s| Path::new(&named).ends_with(s.name())) {
            Some(standard) => standard,
            None => return Ok(None),
        },
        None if config.era == Era::MiniMind2 => Standard::MiniMind2,
        None => Standard::MiniMind3,
    };
    tracing::info!(
        "no tokenizer lies beside {}; its {VOCAB_SIZE} rows are taken for {}'s: the tokenizer is the one this program carries (--tokenizer DIR names another)",
        path.display(),
        standard.name()
    );
    standard.folder(&Machine::detect().cache_dir).map(Some)
}
