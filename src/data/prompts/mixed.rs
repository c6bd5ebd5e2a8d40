//! Prompts of several sources, mixed by weight.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::{PromptOptions, PromptRow, Prompts};
use crate::data::config::{DataConfig, DataSource, Validation};
use crate::data::mixture::order::{MixtureOrder, PartSize, quotas};
use crate::data::mixture::{MixturePart, PartFacts};
use crate::data::tokenizer::Tokenizer;
use crate::error::Result;

/// Where a part's place begins in the numbers of rows.
const PART_SHIFT: u32 = 52;

impl Prompts {
    /// The prompts of every part; weights are shares of prompts. Validation rows of all parts, each once, stand apart.
    pub(super) fn mixed(
        parts: &[MixturePart],
        config: &DataConfig,
        tokenizer: &Tokenizer,
        options: &PromptOptions,
    ) -> Result<(Self, Option<Self>)> {
        let (mut all, mut held, mut sizes) = (Vec::new(), Vec::new(), Vec::new());
        for (i, part) in parts.iter().enumerate() {
            let mut own = part.config(config);
            if let Validation::Share(_) = config.validation {
                own.validation = config.validation.clone();
            }
            let (train, validation) = Self::load(&own, tokenizer, options)?;
            let (units, weight, epochs) = (train.len(), part.weight, part.epochs);
            sizes.push((part.name.clone(), PartSize { units, tokens: units as u64, weight, epochs }));
            all.push(train.of_part(i));
            held.extend(validation.map(|rows| rows.of_part(i)));
        }
        for facts in PartFacts::of(&sizes) {
            tracing::info!("{}", facts.in_words("prompts"));
        }
        let quotas = quotas(&sizes.iter().map(|(_, size)| *size).collect::<Vec<_>>());
        let units = sizes.iter().map(|(_, size)| vec![1; size.units]);
        let order = MixtureOrder::new(units.zip(quotas).collect(), options.seed, config.shuffle);
        let whole = Self { mixture: Some(Arc::new(order)), ..Self::concat(all, options) };
        let validation = match &config.validation {
            Validation::Path(path) => {
                Some(Self::read(&DataSource::Paths(vec![path.clone()]), config, tokenizer, options)?)
            }
            _ => (!held.is_empty()).then(|| Self::concat(held, options)),
        };
        Ok((whole, validation))
    }

    /// The rows with numbers of no other part.
    fn of_part(self, part: usize) -> Self {
        let row = |row: Arc<PromptRow>| {
            let number = row.number | part << PART_SHIFT;
            Arc::new(PromptRow { number, ..Arc::unwrap_or_clone(row) })
        };
        Self { rows: self.rows.into_iter().map(row).collect(), ..self }
    }

    fn concat(parts: Vec<Self>, options: &PromptOptions) -> Self {
        let hashes: Vec<&str> = parts.iter().map(|part| part.content_hash.as_str()).collect();
        let content_hash = crate::hash::hex(&Sha256::digest(hashes.concat()));
        let skipped = parts.iter().map(|part| part.skipped).sum();
        let rows = parts.into_iter().flat_map(|part| part.rows).collect();
        Self { rows, options: options.clone(), skipped, content_hash, mixture: None }
    }
}
