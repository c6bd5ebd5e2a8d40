//! What a stage names: the stage or file its weights come from, its architecture, its tokenizer.
//!
//! A name means a stage above first, then a path. Next: `settings`.

use std::path::{Path, PathBuf};
use std::sync::Once;

use super::machine::Machine;
use super::resolve::{Makes, Resolver, join};
use super::types::*;
use crate::data::tokenizer::builtin::{self, BuiltinTokenizer};
use crate::recipe::Section;
use crate::recipe::faults::nearest;

impl Resolver<'_> {
    pub(super) fn init(&mut self, path: &[String], given: &str) -> Init {
        if given == "scratch" {
            return Init::Scratch;
        }
        if let Some(above) = self.above.iter().find(|a| a.name == given) {
            if !above.trains() {
                let what = match above.makes {
                    Makes::Score => "makes a reward model, which does not speak",
                    _ => "makes no weights",
                };
                self.fault(path, format!("stage `{given}` {what}"), "name a training stage");
            }
            return Init::Stage(given.to_owned());
        }
        let (given, weights_alone) = match given.strip_prefix("weights:") {
            Some(file) => (file, true),
            None => (given, false),
        };
        if let Some(local) = self.on_hub(path, given) {
            return Init::Path(local);
        }
        if !weights_alone && let Some(stem) = resumes(given) {
            self.resume_file(path, given, &stem);
        }
        if !Path::new(given).exists() && !names_a_run(given) {
            let key = path.last().map_or("init", |k| k.as_str()).to_owned();
            let hint = if self.below.iter().any(|name| name == given) {
                format!("stage `{given}` does not stand above this one; move it up")
            } else {
                let known =
                    self.above.iter().filter(|a| a.trains()).map(|a| a.name.as_str()).chain(["scratch"]);
                let list: Vec<&str> = known.clone().collect();
                nearest(given, known).map_or_else(
                    || format!("give a path that exists, or one of: {}", list.join(", ")),
                    |name| format!("did you mean `{name}`?"),
                )
            };
            self.fault(path, format!("`{key}: {given}` is no stage above and no file"), hint);
        }
        Init::Path(PathBuf::from(given))
    }

    /// A file to go on from is no start, or one has to say so.
    fn resume_file(&mut self, path: &[String], given: &str, stem: &str) {
        let name = path.last().map_or("init", String::as_str).to_owned();
        let output = self.top().text("output").unwrap_or("OUTPUT").trim_end_matches('/');
        let prefix = stem.trim_end_matches("_moe").rsplit_once('_').map_or(stem, |(prefix, _)| prefix);
        self.fault(
            path,
            format!("`{given}` is where a run stopped: with its weights, its optimizer and its place"),
            format!(
                "to go on with that run: name the stage `{prefix}`, copy the file to {output}/{stem}_resume.pth, give `{name}` what it started from, and run with --resume must; \
                 to start a new run from its weights: `{name}: weights:{given}`"
            ),
        );
    }

    /// The folder of a tokenizer that the program carries; said once.
    fn standard(&mut self, path: &[String], standard: BuiltinTokenizer) -> PathBuf {
        static SAID: Once = Once::new();
        let name = standard.name();
        SAID.call_once(|| tracing::info!("`tokenizer: {name}` is MiniMind's own, from this program"));
        standard.folder(&Machine::detect().cache_dir).unwrap_or_else(|error| {
            self.fault(
                path,
                format!("the tokenizer {name} cannot be written out: {}", error.what()),
                "see `minimind doctor`",
            );
            PathBuf::from(name)
        })
    }

    /// The architecture of a stage: its own, that of the stage it starts from, or the recipe's.
    pub(super) fn stage_model(&mut self, own: Option<Section<'_>>, init: &Init) -> Option<ModelPlan> {
        if let Some(section) = own {
            return self.model_of(&section);
        }
        if let Init::Stage(name) = init {
            return self.above.iter().find(|a| a.name == *name).and_then(|a| a.model.clone());
        }
        let top = self.section(&["model".to_owned()]);
        (self.top().has("model") || *init == Init::Scratch).then(|| self.model_of(&top)).flatten()
    }

    /// A row must fit the model's positions.
    pub(super) fn fits_positions(&mut self, base: &[String], length: usize, model: Option<&ModelPlan>) {
        if let Some(most) = model.map(|m| m.config.max_position_embeddings)
            && length as i64 > most
        {
            self.fault(
                &join(base, "max_seq_len"),
                format!("`max_seq_len` is {length}, above the model's max_position_embeddings {most}"),
                "lower it, or raise model.max_position_embeddings",
            );
        }
    }

    /// The tokenizer of a stage: its own, the recipe's, or the usual one; `None` where it needs none.
    pub(super) fn tokenizer_of(
        &mut self,
        base: &[String],
        own: Option<&str>,
        init: &Init,
        format: DataFormat,
    ) -> Option<TokenizerSource> {
        let (path, given) = match (own, self.top().text("tokenizer")) {
            (Some(name), _) => (join(base, "tokenizer"), name),
            (None, Some(name)) => (vec!["tokenizer".to_owned()], name),
            (None, None) => return self.usual_tokenizer(base, init, format),
        };
        if self.above.iter().any(|a| a.makes == Makes::Tokenizer && a.name == given) {
            return Some(TokenizerSource::Stage(given.to_owned()));
        }
        if let Some(local) = self.on_hub(&path, given) {
            return Some(TokenizerSource::Folder(local));
        }
        if let Some(standard) = BuiltinTokenizer::named(Path::new(given)) {
            return Some(TokenizerSource::Folder(self.standard(&path, standard)));
        }
        if crate::data::tokenizer::load::file(Path::new(given)).is_none() {
            let known = self.above.iter().filter(|a| a.makes == Makes::Tokenizer).map(|a| a.name.as_str());
            let hint = match nearest(given, known) {
                Some(name) => format!("did you mean `{name}`?"),
                None if self.below.iter().any(|name| name == given) => {
                    format!("stage `{given}` stands below; move it up")
                }
                None => "give a tokenizer stage above, a folder with tokenizer.json, minimind3 or minimind2"
                    .to_owned(),
            };
            self.fault(
                &path,
                format!("`tokenizer: {given}` is no tokenizer stage above and no folder with tokenizer.json"),
                hint,
            );
        }
        Some(TokenizerSource::Folder(PathBuf::from(given)))
    }

    /// The tokenizer of a stage that names none: of the stage it starts from, of the last tokenizer stage, or beside the
    /// weights it starts from.
    fn usual_tokenizer(
        &mut self,
        base: &[String],
        init: &Init,
        format: DataFormat,
    ) -> Option<TokenizerSource> {
        let inherited = match init {
            Init::Stage(name) => {
                self.above.iter().find(|a| a.name == *name).and_then(|a| a.tokenizer.clone())
            }
            _ => None,
        };
        let last = || {
            let last = self.above.iter().rev().find(|a| a.makes == Makes::Tokenizer)?;
            Some(TokenizerSource::Stage(last.name.clone()))
        };
        let beside = || match init {
            Init::Path(path) if format != DataFormat::Tokens && path.exists() => {
                builtin::for_path(&path.to_string_lossy(), &Machine::detect().cache_dir).ok().flatten()
            }
            _ => None,
        };
        let found = inherited.or_else(last).or_else(|| beside().map(TokenizerSource::Folder));
        if found.is_none()
            && format != DataFormat::Tokens
            && !self.recipe.aside.contains(&vec!["tokenizer".to_owned()])
        {
            self.missing(
                base,
                "tokenizer",
                "this stage needs a tokenizer",
                "set `tokenizer:` to a folder with tokenizer.json, minimind3 or minimind2 (MiniMind's own), or add a tokenizer stage above",
            );
        }
        found
    }
}

/// The name before `_resume.pth` of a file that is there.
fn resumes(given: &str) -> Option<String> {
    let path = Path::new(given);
    let stem = path.file_name()?.to_str()?.strip_suffix("_resume.pth")?;
    path.is_file().then(|| stem.to_owned())
}

/// Whether `given` is `RUN:stage` with a run's folder before the colon.
fn names_a_run(given: &str) -> bool {
    given.rsplit_once(':').is_some_and(|(run, stage)| !stage.is_empty() && Path::new(run).is_dir())
}
