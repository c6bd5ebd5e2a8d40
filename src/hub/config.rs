//! Addresses, tokens and caches of the hubs.

use std::fmt;
use std::path::PathBuf;

/// Addresses, tokens and caches of the hubs: plain values that `plan::machine` reads from the environment.
#[derive(Clone, Default)]
pub struct HubConfig {
    /// `https://huggingface.co` or a mirror.
    pub hf_endpoint: String,
    /// Token for private and gated repositories there.
    pub hf_token: Option<String>,
    /// The cache, which Hugging Face's own tools share.
    pub hf_cache: PathBuf,
    /// `https://www.modelscope.cn`.
    pub ms_endpoint: String,
    /// Token for private repositories there.
    pub ms_token: Option<String>,
    /// The cache for ModelScope.
    pub ms_cache: PathBuf,
    /// No hub is asked: only the cache is used.
    pub offline: bool,
}

impl fmt::Debug for HubConfig {
    /// Without the tokens: they are secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubConfig")
            .field("hf_endpoint", &self.hf_endpoint)
            .field("hf_cache", &self.hf_cache)
            .field("ms_endpoint", &self.ms_endpoint)
            .field("ms_cache", &self.ms_cache)
            .field("offline", &self.offline)
            .finish_non_exhaustive()
    }
}
