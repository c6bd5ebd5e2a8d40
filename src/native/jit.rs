//! TorchScript modules built from source text; libtorch's `Module::define`, which tch does not bind.

use std::ffi::{CString, c_char, c_void};
use std::path::Path;

use tch::Tensor;

use super::ffi::{self, check};
use crate::error::{Error, Result};

/// Modules under construction; each is known by the number it was given.
#[derive(Debug)]
pub struct Script(*mut c_void);

fn text(value: &str) -> Result<CString> {
    CString::new(value).map_err(|e| Error::failed("a text for TorchScript holds a NUL byte").because(e))
}

impl Script {
    /// None yet.
    ///
    /// # Errors
    /// Memory cannot be allocated.
    pub fn new() -> Result<Self> {
        let mut out = std::ptr::null_mut();
        // SAFETY: `out` receives a new builder on success.
        check(unsafe { ffi::mm_script_new(&mut out) }, "begin a TorchScript module")?;
        Ok(Self(out))
    }

    /// A module of a new class, named `class`; its number.
    ///
    /// # Errors
    /// TorchScript refuses it; a text with a NUL byte.
    pub fn module(&mut self, class: &str) -> Result<i64> {
        self.make(class, -1)
    }

    /// A module of an earlier one's class; it wants the same parameters and children.
    ///
    /// # Errors
    /// No such module; TorchScript refuses it.
    pub fn module_like(&mut self, like: i64) -> Result<i64> {
        self.make("", like)
    }

    fn make(&mut self, class: &str, like: i64) -> Result<i64> {
        let (class, mut out) = (text(class)?, 0);
        // SAFETY: the builder is live, the text ends in NUL; C++ checks the number.
        check(
            unsafe { ffi::mm_script_module(self.0, class.as_ptr(), like, &mut out) },
            "make a TorchScript module",
        )?;
        Ok(out)
    }

    /// Registers a parameter, which shares the tensor's memory.
    ///
    /// # Errors
    /// TorchScript refuses it; a text with a NUL byte.
    pub fn parameter(&mut self, module: i64, name: &str, value: &Tensor) -> Result<()> {
        let name = text(name)?;
        // SAFETY: the builder and the tensor are live; C++ copies the tensor's handle and checks the number.
        let message =
            unsafe { ffi::mm_script_parameter(self.0, module, name.as_ptr(), value.as_ptr() as *mut c_void) };
        check(message, "register a TorchScript parameter")
    }

    /// Registers a module inside another.
    ///
    /// # Errors
    /// TorchScript refuses it; a text with a NUL byte.
    pub fn child(&mut self, module: i64, name: &str, child: i64) -> Result<()> {
        let name = text(name)?;
        // SAFETY: as above.
        let message = unsafe { ffi::mm_script_child(self.0, module, name.as_ptr(), child) };
        check(message, "register a TorchScript module")
    }

    /// Compiles methods; modules and parameters that they name must be registered.
    ///
    /// # Errors
    /// The source does not compile, or names a method that is not there yet.
    pub fn define(&mut self, module: i64, source: &str) -> Result<()> {
        let source = text(source)?;
        // SAFETY: as above.
        check(unsafe { ffi::mm_script_define(self.0, module, source.as_ptr()) }, "compile TorchScript")
    }

    /// Writes a module with a text beside it; frozen where `keep` names the methods that stay beside forward.
    ///
    /// # Errors
    /// The file cannot be written; a method of `keep` that is not there.
    pub fn save(&self, module: i64, path: &Path, keep: &[&str], extra: (&str, &str)) -> Result<()> {
        let path = text(&path.to_string_lossy())?;
        let keep = keep.iter().map(|name| text(name)).collect::<Result<Vec<_>>>()?;
        let pointers: Vec<*const c_char> = keep.iter().map(|name| name.as_ptr()).collect();
        let (name, about) = (text(extra.0)?, text(extra.1)?);
        // SAFETY: every pointer is to a NUL-terminated text that lives to the end of the call; `pointers`
        // has as many entries as is said.
        let message = unsafe {
            ffi::mm_script_save(
                self.0,
                module,
                path.as_ptr(),
                pointers.as_ptr(),
                pointers.len(),
                name.as_ptr(),
                about.as_ptr(),
            )
        };
        check(message, "write a TorchScript module")
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        // SAFETY: the builder was made by mm_script_new and is freed once.
        unsafe { ffi::mm_script_free(self.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{CModule, Device, Kind};

    #[test]
    fn a_module_is_built_saved_and_read_and_faults_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.pt");
        let mut script = Script::new().unwrap();
        let weight = Tensor::ones([3, 2], (Kind::Float, Device::Cpu));
        let mut leaves = Vec::new();
        for _ in 0..2 {
            let leaf = match leaves.first() {
                None => script.module("Leaf").unwrap(),
                Some(first) => script.module_like(*first).unwrap(),
            };
            script.parameter(leaf, "weight", &weight).unwrap();
            leaves.push(leaf);
        }
        script
            .define(leaves[0], "def forward(self, x: Tensor):\n    return torch.linear(x, self.weight)\n")
            .unwrap();
        let root = script.module("Root").unwrap();
        script.child(root, "a", leaves[0]).unwrap();
        script.child(root, "b", leaves[1]).unwrap();
        let source = "def forward(self, x: Tensor):\n    return self.a.forward(x) + self.b.forward(x)\n";
        script.define(root, source).unwrap();
        for keep in [&[][..], &["forward"]] {
            script.save(root, &path, keep, ("about.json", "{}")).unwrap();
            let module = CModule::load(&path).unwrap();
            let y = module.forward_ts(&[Tensor::ones([1, 2], (Kind::Float, Device::Cpu))]).unwrap();
            assert_eq!(Vec::<Vec<f64>>::try_from(y).unwrap(), [[4.0, 4.0, 4.0]]);
        }
        assert!(
            script
                .define(root, "def f(self):\n    return torch.nosuch(1)\n")
                .unwrap_err()
                .to_string()
                .contains("compile")
        );
        assert!(script.child(root, "c", 99).is_err() && script.module_like(99).is_err());
        assert!(script.parameter(99, "w", &weight).is_err());
        assert!(script.save(root, Path::new("/nonexistent/a.pt"), &[], ("a", "")).is_err());
    }
}
