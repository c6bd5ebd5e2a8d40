//! References to what is on a hub: `hf:OWNER/NAME`, `hf:OWNER/NAME/FILE`, `hf:datasets/OWNER/NAME/FILE`, the
//! same with `ms:`; `NAME@REVISION` for a certain version, `?subset=NAME&split=NAME` for a part of a data set.

use std::fmt;

use super::repo::RepoFile;
pub use super::repo::RepoType;
use crate::error::{Error, Result};

/// Which hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Site {
    /// huggingface.co or a mirror.
    HuggingFace,
    /// modelscope.cn.
    ModelScope,
}

/// A repository, or one file of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// The hub: Hugging Face or ModelScope.
    pub site: Site,
    /// Model or data set, where it is stated.
    pub repo_type: Option<RepoType>,
    /// `OWNER/NAME`, or a `NAME` alone (old models of Hugging Face).
    pub repo: String,
    /// Branch, tag or commit, where one is stated.
    pub revision: Option<String>,
    /// A file in it; of a data set also a folder.
    pub file: Option<String>,
    /// A subset of a data set.
    pub subset: Option<String>,
    /// A split of a data set.
    pub split: Option<String>,
}

/// Whether a text claims to be a reference to a hub.
pub fn is_reference(text: &str) -> bool {
    text.starts_with("hf:") || text.starts_with("ms:")
}

fn wrong(text: &str) -> Error {
    Error::input(format!("`{text}` names nothing on a hub"))
        .hint("write hf:OWNER/NAME, hf:OWNER/NAME/FILE or hf:datasets/OWNER/NAME/FILE; ms: for ModelScope")
}

impl Reference {
    /// Reads a reference; without `hf:` or `ms:` it is one of Hugging Face's.
    ///
    /// # Errors
    /// A part is missing, or has characters that no name on a hub has.
    pub fn parse(text: &str) -> Result<Self> {
        let (site, rest) = match text.split_once(':') {
            Some(("hf", rest)) => (Site::HuggingFace, rest),
            Some(("ms", rest)) => (Site::ModelScope, rest),
            Some(_) => return Err(wrong(text)),
            None => (Site::HuggingFace, text),
        };
        let (rest, part) = rest.split_once('?').map_or((rest, None), |(rest, part)| (rest, Some(part)));
        let (mut subset, mut split) = (None, None);
        for pair in part.into_iter().flat_map(|part| part.split('&')) {
            match pair.split_once('=') {
                Some(("subset", name)) if !name.is_empty() => subset = Some(name.to_owned()),
                Some(("split", name)) if !name.is_empty() => split = Some(name.to_owned()),
                _ => return Err(wrong(text)),
            }
        }
        let (repo_type, rest) = match rest.split_once('/') {
            Some(("datasets", rest)) => (Some(RepoType::Dataset), rest),
            Some(("models", rest)) => (Some(RepoType::Model), rest),
            _ => (None, rest),
        };
        let plain = |part: &str| {
            !part.is_empty()
                && !part.starts_with('.')
                && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        };
        let mut parts = rest.splitn(3, '/');
        let (first, second, file) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
        let (name, revision) = match second.unwrap_or(first).split_once('@') {
            Some((name, revision)) => (name, Some(revision.to_owned())),
            None => (second.unwrap_or(first), None),
        };
        let repo = if second.is_some() { format!("{first}/{name}") } else { name.to_owned() };
        let alone = second.is_none() && (site == Site::ModelScope || !text.contains(':'));
        let good_revision = revision.as_deref().is_none_or(plain);
        let good_file = file.is_none_or(|f| f.split('/').all(|p| !p.is_empty() && p != "." && p != ".."));
        if alone || !plain(name) || second.is_some() && !plain(first) || !good_revision || !good_file {
            return Err(wrong(text));
        }
        Ok(Self { site, repo_type, repo, revision, file: file.map(str::to_owned), subset, split })
    }

    /// The same as a data set, where a kind is not stated and no file is named.
    pub fn of_data(mut self) -> Self {
        if self.file.is_none() || self.subset.is_some() || self.split.is_some() {
            self.repo_type = self.repo_type.or(Some(RepoType::Dataset));
        }
        self
    }

    /// The branch, tag or commit to ask for.
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or(match self.site {
            Site::HuggingFace => "main",
            Site::ModelScope => "master",
        })
    }

    /// Kinds to look for, in order: a data set may be named without `datasets/`.
    pub(super) fn repo_types(&self) -> Vec<RepoType> {
        match self.repo_type {
            Some(repo_type) => vec![repo_type],
            None => vec![RepoType::Model, RepoType::Dataset],
        }
    }

    /// The files to download: the named one; of a model all that it takes to run it, weights last.
    ///
    /// # Errors
    /// The named file does not exist; a data set without a file; a repository without a model's weights.
    pub(super) fn select_files<'a>(
        &self,
        repo_type: RepoType,
        files: &'a [RepoFile],
    ) -> Result<Vec<&'a RepoFile>> {
        let list = || {
            let names: Vec<&str> =
                files.iter().map(|f| f.path.as_str()).filter(|p| !p.starts_with('.')).take(12).collect();
            format!("it holds {}{}", names.join(", "), if files.len() > 12 { ", ..." } else { "" })
        };
        if let Some(file) = &self.file {
            return match files.iter().find(|entry| entry.path == *file) {
                Some(entry) => Ok(vec![entry]),
                None => Err(Error::input(format!("{} has no file `{file}`", self.repository())).hint(list())),
            };
        }
        if repo_type == RepoType::Dataset {
            return Err(
                Error::input(format!("{} is a data set: name a file of it", self.repository())).hint(list())
            );
        }
        // Of the same weights in several forms the first is taken.
        let top = |entry: &RepoFile| !entry.path.contains('/');
        let fits = |entry: &RepoFile, form: (&str, &str)| {
            top(entry) && entry.path.starts_with(form.0) && entry.path.ends_with(form.1)
        };
        let forms = [("model", ".safetensors"), ("pytorch_model", ".bin")];
        let Some(form) = forms.into_iter().find(|form| files.iter().any(|e| fits(e, *form))) else {
            return self.name_a_file(files, list());
        };
        let small = [".json", ".jinja", ".model", "merges.txt", "vocab.txt"];
        let aside = |entry: &RepoFile| {
            (top(entry) || entry.path.starts_with("additional_chat_templates/"))
                && small.iter().any(|ending| entry.path.ends_with(ending))
                && !entry.path.ends_with(".index.json")
        };
        let index = format!("{}{}.index.json", form.0, form.1);
        let mut wanted: Vec<&RepoFile> = files.iter().filter(|e| aside(e)).collect();
        wanted.extend(files.iter().filter(|e| e.path == index));
        wanted.extend(files.iter().filter(|e| fits(e, form)));
        Ok(wanted)
    }

    /// A repository of upstream's `.pth` or of GGUF files: one of several has to be named.
    fn name_a_file<'a>(&self, files: &'a [RepoFile], list: String) -> Result<Vec<&'a RepoFile>> {
        let weights: Vec<&RepoFile> =
            files.iter().filter(|e| e.path.ends_with(".pth") || e.path.ends_with(".gguf")).collect();
        match weights[..] {
            [] => {
                Err(Error::input(format!("{} holds no weights that can be read", self.repository()))
                    .hint(list))
            }
            _ => {
                let names: Vec<&str> = weights.iter().map(|e| e.path.as_str()).take(12).collect();
                Err(Error::input(format!("{} holds weight files, not a model's folder", self.repository()))
                    .hint(format!("name one: {}/{{{}}}", self.repository(), names.join(","))))
            }
        }
    }

    fn repository(&self) -> String {
        let site = if self.site == Site::HuggingFace { "hf" } else { "ms" };
        format!("{site}:{}", self.repo)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", if self.site == Site::HuggingFace { "hf" } else { "ms" })?;
        match self.repo_type {
            Some(RepoType::Dataset) => write!(f, "datasets/")?,
            Some(RepoType::Model) => write!(f, "models/")?,
            None => {}
        }
        write!(f, "{}", self.repo)?;
        if let Some(revision) = &self.revision {
            write!(f, "@{revision}")?;
        }
        if let Some(file) = &self.file {
            write!(f, "/{file}")?;
        }
        let named = [("subset", &self.subset), ("split", &self.split)];
        let parts = named.iter().filter_map(|(key, name)| Some(format!("{key}={}", name.as_ref()?)));
        let parts = parts.collect::<Vec<_>>().join("&");
        if parts.is_empty() { Ok(()) } else { write!(f, "?{parts}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_read_and_written() {
        for text in [
            "hf:a/b",
            "hf:gpt2",
            "hf:a/b@v1.0",
            "hf:a/b/c.jsonl",
            "hf:datasets/a/b/d/c.jsonl",
            "ms:a/b@master/c.pth",
            "ms:datasets/a/b/c",
            "hf:a/b?split=test",
            "hf:datasets/a/b@v1/c?subset=d&split=test",
        ] {
            assert_eq!(Reference::parse(text).unwrap().to_string(), text);
        }
        let bare = Reference::parse("jingyaogong/minimind-3").unwrap();
        assert_eq!((bare.to_string().as_str(), bare.revision()), ("hf:jingyaogong/minimind-3", "main"));
        for text in [
            "",
            "hf:",
            "hf:a/",
            "hf:/b",
            "ms:a",
            "a",
            "xx:a/b",
            "hf:a/../c",
            "hf:a/b/../c",
            "hf:a/b//c",
            "hf:a/b@",
            "hf:a b/c",
            "hf:../a",
            "hf:.a/b",
            "hf:a/b?",
            "hf:a/b?split=",
            "hf:a/b?c=d",
        ] {
            assert!(Reference::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn of_several_forms_one_is_chosen_with_the_weights_last() {
        let files = |names: &[&str]| -> Vec<RepoFile> {
            names.iter().map(|n| RepoFile { path: (*n).to_owned(), size: None, digest: None }).collect()
        };
        let chosen = |text: &str, repo_type, names: &[&str]| -> Result<Vec<String>> {
            let files = files(names);
            let chosen = Reference::parse(text)?.select_files(repo_type, &files)?;
            Ok(chosen.into_iter().map(|e| e.path.clone()).collect())
        };
        let all = [
            "model-1.safetensors",
            "README.md",
            "config.json",
            "model.safetensors.index.json",
            "pytorch_model.bin",
            "tokenizer.json",
            "onnx/model.safetensors",
            "model-2.safetensors",
            "x.pth",
        ];
        assert_eq!(
            chosen("hf:a/b", RepoType::Model, &all).unwrap(),
            [
                "config.json",
                "tokenizer.json",
                "model.safetensors.index.json",
                "model-1.safetensors",
                "model-2.safetensors"
            ]
        );
        assert_eq!(chosen("hf:a/b/x.pth", RepoType::Model, &all).unwrap(), ["x.pth"]);
        let several = chosen("hf:a/b", RepoType::Model, &["a.pth", "b.pth"]).unwrap_err().to_string();
        assert!(several.contains("hf:a/b/{a.pth,b.pth}"), "{several}");
        assert!(chosen("hf:a/b", RepoType::Model, &["README.md"]).is_err());
        assert!(
            chosen("hf:a/b", RepoType::Dataset, &["a.jsonl"]).unwrap_err().to_string().contains("a.jsonl")
        );
        assert!(chosen("hf:a/b/z", RepoType::Dataset, &["a.jsonl"]).is_err());
    }
}
