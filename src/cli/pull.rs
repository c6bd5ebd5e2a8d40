//! `minimind pull`, and what every command does where a model is named on a hub.

use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressStyle};

use crate::checkpoint::resolve_model_path;
use crate::checkpoint::tokenizer_folder::TOKENIZER_FILES;
use crate::data::reader::{self, FileKind};
use crate::error::Result;
use crate::hub::{Hub, Progress, Reference, reference::is_reference};
use crate::plan::machine;

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Files lie in Hugging Face's own cache (HF_HOME), ModelScope's in the program's.
HF_ENDPOINT names a mirror, HF_TOKEN opens private repositories, HF_HUB_OFFLINE=1 asks no hub;
MODELSCOPE_DOMAIN and MODELSCOPE_API_TOKEN do the same for ModelScope.")]
/// What to download.
pub struct Args {
    /// OWNER/NAME of a model, OWNER/NAME/FILE of any repository, datasets/OWNER/NAME/FILE; hf: (or nothing) for
    /// Hugging Face, ms: for ModelScope; NAME@REVISION for a certain version. A data set without a FILE: a split of it.
    #[arg(value_name = "hf:OWNER/NAME")]
    name: String,
    /// A data set's subset (the only one, or its default)
    #[arg(long, value_name = "NAME")]
    subset: Option<String>,
    /// A data set's split (train)
    #[arg(long, value_name = "NAME")]
    split: Option<String>,
}

/// Downloads the model, the file or a split of the data set into the cache and prints its path, or its files' paths.
///
/// # Errors
/// The name is no reference, the hub refuses it or cannot be reached, or a hash differs.
pub fn run(args: Args) -> Result<()> {
    let mut reference = Reference::parse(&args.name)?;
    if args.subset.is_some() || args.split.is_some() {
        reference.subset = args.subset.or(reference.subset);
        reference.split = args.split.or(reference.split);
        reference = reference.of_data();
    }
    for path in with_bar(|hub| hub.pull_data(&reference, is_data))? {
        println!("{}", path.display());
    }
    Ok(())
}

/// The files of a data set's split that the user named, on a hub (which are downloaded first, unless they are in the cache) or
/// in a folder of `save_to_disk`; subset and split stand in the name (`hf:OWNER/NAME?subset=A&split=test`). `None` where `name` is neither.
///
/// # Errors
/// There is no such subset or split, or it cannot be downloaded.
pub fn data_set(name: &Path) -> Result<Option<Vec<PathBuf>>> {
    if reader::is_saved(name) {
        return reader::saved(name, None).map(Some);
    }
    let Some(text) = name.to_str().filter(|text| is_reference(text) && !name.exists()) else {
        return Ok(None);
    };
    let reference = Reference::parse(text)?.of_data();
    with_bar(|hub| hub.get_data(&reference, is_data)).map(Some)
}

/// Whether a file's name is one of data.
fn is_data(name: &str) -> bool {
    FileKind::by_name(Path::new(name)).is_some()
}

/// Runs `work` with a hub whose transfers are shown on stderr.
fn with_bar<T>(work: impl FnOnce(&mut Hub<'_>) -> Result<T>) -> Result<T> {
    let settings = machine::hubs();
    let bar = ProgressBar::new(0);
    if let Ok(style) =
        ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}")
    {
        bar.set_style(style);
    }
    let mut current = String::new();
    let mut watch = |progress: Progress<'_>| {
        if current != progress.file {
            progress.file.clone_into(&mut current);
            bar.reset();
            bar.set_message(current.clone());
            tracing::info!("bringing {current}");
        }
        bar.set_length(progress.total.unwrap_or(progress.done));
        bar.set_position(progress.done);
    };
    let done = work(&mut Hub::new(&settings, &mut watch));
    bar.finish_and_clear();
    done
}

/// The path of a model that the user named; one on a hub is downloaded first, unless it is in the cache.
///
/// # Errors
/// There is no such model, or it cannot be downloaded.
pub fn locate(spec: &str) -> Result<PathBuf> {
    if !is_reference(spec) || std::path::Path::new(spec).exists() {
        return resolve_model_path(spec);
    }
    let reference = Reference::parse(spec)?;
    let path = with_bar(|hub| hub.get(&reference))?;
    resolve_model_path(&path.to_string_lossy())
}

/// The folder of a tokenizer on a hub, without the weights beside it.
///
/// # Errors
/// There is none, or it cannot be downloaded.
pub fn tokenizer(spec: &str) -> Result<PathBuf> {
    let model = Reference::parse(spec)?;
    let settings = machine::hubs();
    if let Some(folder) = crate::hub::cached(&settings, &model) {
        return Ok(folder);
    }
    let get =
        |file: &str| with_bar(|hub| hub.get(&Reference { file: Some(file.to_owned()), ..model.clone() }));
    let file = get(TOKENIZER_FILES[0]).or_else(|first| get(TOKENIZER_FILES[1]).map_err(|_| first))?;
    for beside in
        ["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja"]
    {
        if let Err(error) = get(beside) {
            tracing::debug!("{beside} is not brought: {error}");
        }
    }
    Ok(file.parent().map(Path::to_owned).unwrap_or_default())
}

/// Downloads every reference that is not in the cache yet.
///
/// # Errors
/// The first that cannot be downloaded.
pub fn bring(references: &[Reference]) -> Result<()> {
    for reference in references {
        with_bar(|hub| hub.get_data(reference, is_data))?;
    }
    Ok(())
}
