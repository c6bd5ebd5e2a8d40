//! A model in several files, as llama.cpp's `llama-gguf-split` writes them: `NAME-00001-of-00003.gguf`.
//!
//! The first holds the metadata, each some of the tensors. Naming any part opens the whole model. Next: `reader`.

use std::path::{Path, PathBuf};

use super::reader::{Gguf, damaged};
use crate::error::{Error, Place, Result};

/// Most files that a model may be split into.
const MAX_PARTS: i64 = 1000;

/// `NAME-` of `NAME-00001-of-00003.gguf`, and the two numbers.
fn named(path: &Path) -> Option<(String, i64, i64)> {
    let stem = path.file_name()?.to_str()?.strip_suffix(".gguf")?;
    let (before, count) = stem.rsplit_once("-of-")?;
    let (name, number) = before.rsplit_once('-')?;
    let five =
        |text: &str| (text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok());
    Some((name.to_owned(), five(number)??, five(count)??))
}

fn sibling(path: &Path, name: &str, number: i64, count: i64) -> PathBuf {
    path.with_file_name(format!("{name}-{number:05}-of-{count:05}.gguf"))
}

/// Opens a file and, where it is a part of a split model, all other parts.
///
/// # Errors
/// A part is missing, has another name, or states another part number; a part is damaged.
pub fn open_model(path: &Path) -> Result<Gguf> {
    let file = Gguf::open_file(path)?;
    let count = file.int("split.count").unwrap_or(1);
    if count <= 1 {
        return Ok(file);
    }
    if count > MAX_PARTS {
        return Err(damaged(format!("it claims to be one of {count} files")));
    }
    let (name, _, _) = named(path).filter(|(_, _, stated)| *stated == count).ok_or_else(|| {
        Error::failed(format!("this is one of {count} files of a model, but is not named so"))
            .hint(format!("call the files NAME-00001-of-{count:05}.gguf and so on"))
    })?;
    let open = |number: i64| -> Result<Gguf> {
        let part = sibling(path, &name, number, count);
        if !part.is_file() {
            return Err(Error::failed(format!("a part of this model is missing: {}", part.display()))
                .hint("all files of a model must be in one folder"));
        }
        let read = Gguf::open_file(&part).map_err(|e| e.at(Place::file(&part)))?;
        match (read.int("split.no"), read.int("split.count")) {
            (Some(at), Some(stated)) if at == number - 1 && stated == count => Ok(read),
            (at, stated) => {
                Err(damaged(format!("{} states that it is part {at:?} of {stated:?}", part.display())))
            }
        }
    };
    let mut all = open(1)?;
    for number in 2..=count {
        all.add(open(number)?)?;
    }
    match all.int("split.tensors.count") {
        Some(stated) if stated != all.tensors().len() as i64 => {
            Err(damaged(format!("its files hold {} tensors, expected {stated}", all.tensors().len())))
        }
        _ => Ok(all),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_parts() {
        let read = |name: &str| named(Path::new(name));
        assert_eq!(read("a/b-c-00002-of-00003.gguf"), Some(("b-c".into(), 2, 3)));
        assert_eq!(read("b-2-of-3.gguf"), None);
        assert_eq!(sibling(Path::new("a/x"), "b-c", 2, 3), Path::new("a/b-c-00002-of-00003.gguf"));
    }
}
