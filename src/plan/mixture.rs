//! What a recipe says about which rows are taken (`sample`, `limit`, `filter`) and about mixtures of several sources.
//!
//! Next: `data::mixture`, `data::selection`.

use std::path::Path;

use super::resolve::{Resolver, join};
use super::schema::*;
use crate::data::mixture::MixturePart;
use crate::data::selection::{Filter, Sample};
use crate::data::{DataFormat, DataSource, RowFilter, RowSelection, language};

impl Resolver<'_> {
    /// The sources of a mixture at `base`, what `data` says beside it under each part's own keys.
    pub(super) fn mixture(&mut self, base: &[String], d: &DataSection, kind: &str, seed: u64) -> DataSource {
        let base = join(base, "mixture");
        let written = d.mixture.clone().unwrap_or_default();
        if kind == "eval" {
            self.fault(&base, "a mixture is for training", "name what is measured with path or paths");
        }
        if written.is_empty() && !self.recipe.aside.iter().any(|path| path.starts_with(&base)) {
            self.fault(&base, "`mixture` has no parts", "give parts: [{path: FILE, weight: 0.7}, ...]");
        }
        let mut parts: Vec<MixturePart> = Vec::new();
        for (index, part) in written.iter().enumerate() {
            let Some(part) = part else { continue }; // set aside, its fault is told
            let at = join(&base, &index.to_string());
            let name = self.part_name(&at, part, &parts);
            let rows = part.rows.clone().or(&d.rows);
            self.one_source(&at, &part.rows, false);
            let (source, format) = self.source(&at, &rows, kind, seed);
            if format == DataFormat::Tokens {
                let what = "a part of a mixture is text, not tokens";
                self.fault(&at, what, "give the rows as text, or the token file alone with path");
            }
            let epochs = part.epochs.unwrap_or(1.0);
            for (key, value) in [("weight", part.weight), ("epochs", part.epochs)] {
                if value.is_some_and(|value| !(value > 0.0 && value.is_finite())) {
                    self.fault(
                        &join(&at, key),
                        format!("`{key}` is not above 0"),
                        "take the part out, or give a number above 0",
                    );
                }
            }
            let select = self.selection(&at, &rows, kind, seed);
            let read = self.read_options(&at, &rows);
            parts.push(MixturePart { name, weight: part.weight, epochs, source, format, read, select });
        }
        self.normalise(&base, &mut parts);
        DataSource::Mixture(parts)
    }

    /// Makes the weights shares of 1; all parts have one, or none.
    fn normalise(&mut self, base: &[String], parts: &mut [MixturePart]) {
        let total: f64 = parts.iter().filter_map(|part| part.weight).sum();
        let without = parts.iter().find(|part| part.weight.is_none()).map(|part| part.name.clone());
        if let (Some(name), true) = (without, parts.iter().any(|part| part.weight.is_some())) {
            let hint = "give every part a weight, or none: then each counts by its own tokens";
            self.fault(base, format!("part `{name}` has no weight and others have"), hint);
        }
        if total > 0.0 {
            parts.iter_mut().for_each(|part| part.weight = part.weight.map(|weight| weight / total));
        }
    }

    /// A part's name: as stated, else its file's without endings, with a number where that is another part's.
    fn part_name(&mut self, at: &[String], part: &PartSection, others: &[MixturePart]) -> String {
        let taken = |name: &str| others.iter().any(|other| other.name == name);
        if let Some(name) = &part.name {
            if name.trim().is_empty() || taken(name) {
                let what = format!("the part's name is `{name}`, which is empty or another part's");
                self.fault(&join(at, "name"), what, "give each part a name of its own");
            }
            return name.clone();
        }
        let first = part.rows.path.as_ref().or_else(|| part.rows.paths.iter().flatten().flatten().next());
        let stem = first.map_or("synthetic".to_owned(), |path| MixturePart::name_of(Path::new(path)));
        let numbered = (2..).map(|n| format!("{stem}-{n}"));
        std::iter::once(stem.clone()).chain(numbered).find(|name| !taken(name)).unwrap_or_default()
    }

    /// Which rows of the section at `base` are taken.
    pub(super) fn selection(
        &mut self,
        base: &[String],
        rows: &RowsSection,
        kind: &str,
        seed: u64,
    ) -> RowSelection {
        if let Some(sample) =
            rows.sample.filter(|s| s.is_nan() || *s <= 0.0 || (*s >= 1.0 && s.fract() != 0.0))
        {
            let what = format!("`sample` is {sample}");
            self.fault(&join(base, "sample"), what, "give a share below 1, or a whole number of rows");
        }
        let sample = rows.sample.map(|rows| Sample { rows, seed });
        let at = join(base, "filter");
        let filter = rows.filter.as_ref().map(|filter| self.filter(&at, filter)).unwrap_or_default();
        if filter.counts_tokens() && kind == "tokenizer" {
            let what = "a tokenizer stage has no tokenizer yet to count tokens with";
            self.fault(&at, what, "leave min_tokens and max_tokens out here");
        }
        RowSelection { limit: rows.limit, filter, sample }
    }

    fn filter(&mut self, at: &[String], written: &FilterSection) -> RowFilter {
        let mut language = Vec::new();
        for name in written.language.iter().flat_map(|names| &names.0) {
            match language::code_of(name) {
                Some(code) => language.push(code.to_owned()),
                None => {
                    let what = format!("no language `{name}` is known");
                    let hint = "give ISO 639 codes, such as en, zh, ko, ja, or eng, cmn, kor, jpn";
                    self.fault(&join(at, "language"), what, hint);
                }
            }
        }
        language.sort_unstable();
        language.dedup();
        let FilterSection { min_tokens, max_tokens, regex, .. } = written.clone();
        if let (Some(least), Some(most)) = (min_tokens, max_tokens)
            && least > most
        {
            let what = format!("`min_tokens` {least} is above `max_tokens` {most}");
            self.fault(&join(at, "min_tokens"), what, "no row could pass: lower it");
        }
        let filter = RowFilter { min_tokens, max_tokens, regex, language };
        if let Err(fault) = Filter::new(&filter) {
            self.faults.push(fault.at(self.recipe.places.value(&join(at, "regex"))));
        }
        filter
    }
}
