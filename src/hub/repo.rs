//! A repository's files as its hub lists them.

use super::digest::Digest;

/// What a repository holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepoType {
    /// Weights.
    Model,
    /// Rows.
    Dataset,
}

/// A file of a repository as its hub describes it.
#[derive(Debug, Clone)]
pub(super) struct RepoFile {
    pub(super) path: String,
    pub(super) size: Option<u64>,
    pub(super) digest: Option<Digest>,
}

/// A repository at one revision.
#[derive(Debug, Clone)]
pub(super) struct Listing {
    /// Model or data set.
    pub(super) repo_type: RepoType,
    /// The commit; on ModelScope, which lists none, the revision itself.
    pub(super) commit: String,
    pub(super) files: Vec<RepoFile>,
}
