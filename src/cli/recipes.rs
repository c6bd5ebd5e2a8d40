//! `minimind recipes`: the recipes inside this binary, so that one file is enough to begin.
//!
//! The build script lists whatever lies in `recipes/`.

use std::path::PathBuf;

use crate::atomic;
use crate::error::{Error, Place, Result};
use crate::recipe::faults::hint;

include!(concat!(env!("OUT_DIR"), "/recipes.rs"));

/// What to do with the built-in recipes; without an action they are listed.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to do (list).
    #[command(subcommand)]
    pub action: Option<Action>,
}

/// What to do with the built-in recipes.
#[derive(Debug, clap::Subcommand)]
pub enum Action {
    /// Name each, with its first line.
    List,
    /// Print one.
    Show {
        /// Its name, as `list` prints it.
        name: String,
    },
    /// Write one to a file or into a folder.
    Copy {
        /// Its name, as `list` prints it.
        name: String,
        /// A new file, or a folder.
        dest: PathBuf,
    },
}

/// A built-in recipe's text.
///
/// # Errors
/// Where there is none of this name; the hint names the nearest.
pub fn find(name: &str) -> Result<&'static str> {
    let bare = name.strip_suffix(".yaml").unwrap_or(name);
    let bare = bare.strip_prefix("recipes/").unwrap_or(bare);
    RECIPES.iter().find(|(n, _)| *n == bare).map(|(_, text)| *text).ok_or_else(|| {
        let names: Vec<&str> = RECIPES.iter().map(|(n, _)| *n).collect();
        Error::input(format!("no built-in recipe `{name}`")).hint(hint(bare, &names, "recipes"))
    })
}

/// Lists, prints or copies built-in recipes.
///
/// # Errors
/// There is no recipe of that name, or the copy's file exists already or cannot be written.
pub fn run(args: Args) -> Result<()> {
    match args.action.unwrap_or(Action::List) {
        Action::List => {
            let width = RECIPES.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
            for (name, text) in RECIPES {
                let first = text.lines().next().unwrap_or_default().trim_start_matches(['#', ' ']);
                println!("{name:<width$}  {first}");
            }
        }
        Action::Show { name } => print!("{}", find(&name)?),
        Action::Copy { name, dest } => {
            let text = find(&name)?;
            let bare = name.rsplit('/').next().unwrap_or(&name);
            let bare = bare.strip_suffix(".yaml").unwrap_or(bare);
            let folder = dest.is_dir() || dest.to_string_lossy().ends_with(std::path::MAIN_SEPARATOR);
            let path = if folder { dest.join(format!("{bare}.yaml")) } else { dest };
            if let Some(above) = path.parent() {
                std::fs::create_dir_all(above).map_err(|error| Error::io("make the folder", above, error))?;
            }
            if path.symlink_metadata().is_ok() {
                return Err(Error::input("the file exists already")
                    .at(Place::file(&path))
                    .hint("choose another name, or remove it first"));
            }
            atomic::write_bytes(&path, text.as_bytes())?;
            println!("{}", path.display());
        }
    }
    Ok(())
}
