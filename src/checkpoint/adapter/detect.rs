//! Distinguishes adapters from models: by tensor names, and PEFT's folders by their config.

use std::collections::HashMap;
use std::path::Path;

use crate::checkpoint::host_tensor::HostTensor;
use crate::checkpoint::weights::folder_weights;
use crate::error::{Error, Place};

/// Name of PEFT's config in a folder.
pub const PEFT_CONFIG: &str = "adapter_config.json";

/// Whether these tensors are an adapter's of upstream's names (`{module}.lora.A.weight`) and nothing else.
pub fn is_adapter(tensors: &HashMap<String, HostTensor>) -> bool {
    !tensors.is_empty() && tensors.keys().all(|name| name.contains(".lora."))
}

/// Whether a folder holds PEFT's adapter config.
pub fn is_peft_folder(folder: &Path) -> bool {
    folder.join(PEFT_CONFIG).is_file()
}

/// Whether a folder holds PEFT's adapter config and no model.
pub fn is_peft_folder_alone(folder: &Path) -> bool {
    is_peft_folder(folder) && folder_weights(folder).is_none()
}

/// The error for a PEFT folder where a model is wanted.
pub fn adapter_without_model(folder: &Path) -> Error {
    Error::input("this folder holds an adapter, not a model")
        .at(Place::file(folder))
        .hint("name its model: --model M --adapter FOLDER, or make one file of both: minimind adapter merge")
}
