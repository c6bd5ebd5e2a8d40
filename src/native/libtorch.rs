//! libtorch's C++ that tch does not bind: fused AdamW, random state, autocast's type, CUDA on demand.

use std::ffi::{CStr, CString, c_int};
use std::path::{Path, PathBuf};

use tch::{Device, Kind, Tensor};

use super::ffi::{self, check, handle, own, pointers};
use crate::error::{Error, Result};

/// The numbers of one AdamW update (arXiv 1711.05101).
#[derive(Debug, Clone, Copy)]
pub struct AdamWStep {
    /// Learning rate.
    pub lr: f64,
    /// Decay rates of the two moments.
    pub betas: (f64, f64),
    /// Decoupled decay.
    pub weight_decay: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
}

/// One AdamW update in place (PyTorch's `_fused_adamw_`): the lists run in parallel, `steps` are fp32
/// scalars counting updates and are raised by one.
///
/// # Errors
/// Shapes or dtypes that do not fit.
pub fn adamw_step(
    params: &[Tensor],
    grads: &[Tensor],
    moments: (&[Tensor], &[Tensor]),
    steps: &[Tensor],
    step: AdamWStep,
) -> Result<()> {
    let n = params.len();
    assert!([grads.len(), moments.0.len(), moments.1.len(), steps.len()] == [n; 4], "lists run in parallel");
    let (mut p, mut g) = (pointers(params), pointers(grads));
    let (mut m, mut v, mut s) = (pointers(moments.0), pointers(moments.1), pointers(steps));
    // SAFETY: every pointer is a live at::Tensor borrowed from a tch::Tensor for the length of the call;
    // C++ only copies the handles. The lists have n entries each (asserted above).
    let message = unsafe {
        ffi::mm_adamw(
            p.as_mut_ptr(),
            g.as_mut_ptr(),
            m.as_mut_ptr(),
            v.as_mut_ptr(),
            s.as_mut_ptr(),
            n,
            step.lr,
            step.betas.0,
            step.betas.1,
            step.weight_decay,
            step.eps,
        )
    };
    check(message, "step AdamW")
}

/// The 2-norm of all numbers of all tensors, a scalar in fp32.
///
/// # Errors
/// Tensors on several devices; no memory.
pub fn foreach_norm(tensors: &[Tensor]) -> Result<Tensor> {
    let mut all = pointers(tensors);
    let mut out = std::ptr::null_mut();
    // SAFETY: live tensors for the length of the call; `out` receives a new one on success.
    check(unsafe { ffi::mm_global_norm(all.as_mut_ptr(), all.len(), &mut out) }, "take a norm")?;
    Ok(own(out))
}

/// Multiplies all numbers of all tensors, of any shapes, in place.
///
/// # Errors
/// Tensors on several devices.
pub fn foreach_scale(tensors: &[Tensor], factor: f64) -> Result<()> {
    let mut all = pointers(tensors);
    // SAFETY: live tensors for the length of the call.
    check(unsafe { ffi::mm_scale_all(all.as_mut_ptr(), all.len(), factor) }, "scale")
}

/// Fills all tensors, of any shapes, with zeros in place.
///
/// # Errors
/// Tensors on several devices.
pub fn foreach_zero(tensors: &[Tensor]) -> Result<()> {
    let mut all = pointers(tensors);
    // SAFETY: live tensors for the length of the call.
    check(unsafe { ffi::mm_zero_all(all.as_mut_ptr(), all.len()) }, "fill with zeros")
}

/// Leaves parameters, of any shapes, without gradients (`grad` is undefined); the memory goes to what comes next.
///
/// # Errors
/// Never on parameters that are leaves.
pub fn clear_grads(params: &[Tensor]) -> Result<()> {
    let mut all = pointers(params);
    // SAFETY: live tensors for the length of the call.
    check(unsafe { ffi::mm_clear_grads(all.as_mut_ptr(), all.len()) }, "forget gradients")
}

fn cuda_index(device: Device) -> i64 {
    match device {
        Device::Cuda(index) => index as i64,
        _ => -1,
    }
}

/// The random state of a device's default generator, as bytes `[n]`.
///
/// # Errors
/// No such device.
pub fn rng_state(device: Device) -> Result<Tensor> {
    let mut out = std::ptr::null_mut();
    // SAFETY: `out` receives a new at::Tensor on success.
    check(unsafe { ffi::mm_rng_get(cuda_index(device), &mut out) }, "read the random state")?;
    Ok(own(out))
}

/// Puts a random state, bytes `[n]` of [`rng_state`], back.
///
/// # Errors
/// A state that is not one of that device.
pub fn set_rng_state(device: Device, state: &Tensor) -> Result<()> {
    // SAFETY: the pointer is a live at::Tensor for the length of the call.
    check(unsafe { ffi::mm_rng_set(cuda_index(device), handle(state)) }, "restore the random state")
}

/// Bytes that tensors on a GPU took at most since [`reset_cuda_peak_memory`].
///
/// # Errors
/// No such GPU.
pub fn cuda_peak_memory(device: Device) -> Result<u64> {
    let mut bytes = 0;
    // SAFETY: `bytes` is written once, on success.
    check(unsafe { ffi::mm_cuda_peak_memory(cuda_index(device), &mut bytes) }, "read the GPU's peak memory")?;
    Ok(bytes.max(0) as u64)
}

/// Resets the peak that [`cuda_peak_memory`] gives.
///
/// # Errors
/// No such GPU.
pub fn reset_cuda_peak_memory(device: Device) -> Result<()> {
    // SAFETY: sets counters of libtorch's allocator, under its own lock.
    check(unsafe { ffi::mm_cuda_reset_peak_memory(cuda_index(device)) }, "start over the GPU's peak memory")
}

/// Autocast on this thread while it lives.
#[derive(Debug)]
pub struct AutocastGuard {
    device: c_int,
}

impl AutocastGuard {
    /// Turns autocast on for `device` with `kind` (bf16 or fp16).
    ///
    /// # Errors
    /// libtorch refuses the device.
    pub fn new(device: Device, kind: Kind) -> Result<Self> {
        let index = if matches!(device, Device::Cuda(_)) { 1 } else { 0 };
        // c10::ScalarType's numbers; tch keeps its own mapping to itself.
        let scalar_type = match kind {
            Kind::Half => 5,
            Kind::BFloat16 => 15,
            other => panic!("autocast takes bf16 or fp16, not {other:?}"),
        };
        // SAFETY: sets two thread-local values of libtorch.
        check(unsafe { ffi::mm_autocast(index, 1, scalar_type) }, "turn autocast on")?;
        Ok(Self { device: index })
    }
}

impl Drop for AutocastGuard {
    fn drop(&mut self) {
        // SAFETY: as above; a message, if any, is freed by check.
        let _ = check(unsafe { ffi::mm_autocast(self.device, 0, 0) }, "turn autocast off");
    }
}

/// The folder of the libtorch that this process runs on, which may be another than it was built with (`LD_LIBRARY_PATH`).
pub fn libtorch_dir() -> PathBuf {
    let built_with = PathBuf::from(env!("MINIMIND_LIBTORCH_LIB"));
    // SAFETY: asks the linker where a function of libtorch_cpu lies, and which file that is; `info` is a plain struct that
    // dladdr fills, and the name it gives lives as long as the library.
    #[cfg(unix)]
    unsafe {
        use std::os::unix::ffi::OsStrExt;
        let at = libc::dlsym(libc::RTLD_DEFAULT, c"_ZN2at13globalContextEv".as_ptr());
        let mut info: libc::Dl_info = std::mem::zeroed();
        if !at.is_null() && libc::dladdr(at, &mut info) != 0 && !info.dli_fname.is_null() {
            let file = PathBuf::from(std::ffi::OsStr::from_bytes(CStr::from_ptr(info.dli_fname).to_bytes()));
            return file.parent().map_or(built_with, Path::to_path_buf);
        }
    }
    built_with
}

/// Loads libtorch's CUDA half beside `libtorch_cpu`, which the linker leaves out because nothing refers to it.
/// Without a GPU this succeeds and CUDA stays unavailable.
///
/// # Errors
/// This libtorch has no CUDA half, or it cannot be loaded.
pub fn load_cuda(lib_dir: &Path) -> Result<()> {
    let path = lib_dir.join("libtorch_cuda.so");
    if !path.exists() {
        return Err(Error::failed("this libtorch has no CUDA").hint(
            "install the CUDA build of PyTorch 2.11.0 and run scripts/setup again, or use device: cpu",
        ));
    }
    let name = CString::new(path.to_string_lossy().as_bytes())
        .map_err(|e| Error::failed("libtorch's path holds a NUL byte").because(e))?;
    // SAFETY: runs the library's initialisers, which are libtorch's own; the handle is kept for ever on purpose.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    if handle.is_null() {
        // SAFETY: dlerror returns a C string that stays valid until the next dl call on this thread.
        let cause = unsafe { CStr::from_ptr(libc::dlerror()).to_string_lossy().into_owned() };
        return Err(Error::failed("cannot load libtorch's CUDA half").because(cause).hint(
            "scripts/setup fetches what it needs on a machine where nvidia-smi answers; or put LD_LIBRARY_PATH at the lib of a \
             PyTorch 2.11.0 with CUDA",
        ));
    }
    if let Err(fault) = super::cuda_ops::load(lib_dir) {
        tracing::warn!("the GPU runs without fused kernels: {fault}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_random_state_comes_back() {
        // Other tests draw from the same state at any time: once is enough.
        let comes_back = || {
            let state = rng_state(Device::Cpu).unwrap();
            let first = Tensor::rand([8], (Kind::Float, Device::Cpu));
            set_rng_state(Device::Cpu, &state).unwrap();
            first == Tensor::rand([8], (Kind::Float, Device::Cpu))
        };
        assert!((0..20).any(|_| comes_back()));
        let bad = Tensor::zeros([3], (Kind::Uint8, Device::Cpu));
        assert!(set_rng_state(Device::Cpu, &bad).unwrap_err().to_string().contains("random state"));
    }

    #[test]
    fn adamw_follows_its_formula_and_reports_bad_shapes() {
        let one = |v: f32| Tensor::from_slice(&[v]);
        let (p, g, m, v, s) = (one(1.0), one(0.5), one(0.0), one(0.0), Tensor::from(0f32));
        let step = AdamWStep { lr: 0.1, betas: (0.9, 0.999), weight_decay: 0.01, eps: 1e-8 };
        let list = |t: &Tensor| vec![t.shallow_clone()];
        adamw_step(&list(&p), &list(&g), (&list(&m), &list(&v)), &list(&s), step).unwrap();
        // First step: bias-corrected moments are g and g^2, so the step is lr * sign(g), after the decay.
        let expected = 1.0 * (1.0 - 0.1 * 0.01) - 0.1;
        assert!((p.double_value(&[0]) - expected).abs() < 1e-6, "{}", p.double_value(&[0]));
        assert_eq!(s.double_value(&[]), 1.0);
        let wrong = Tensor::zeros([3], (Kind::Double, Device::Cpu));
        let fault = adamw_step(&list(&p), &list(&wrong), (&list(&m), &list(&v)), &list(&s), step);
        assert!(fault.unwrap_err().to_string().contains("AdamW"));
    }

    #[test]
    fn many_tensors_are_one_work() {
        let all = [Tensor::from_slice(&[3f32, 0.0]), Tensor::from_slice(&[4f32])];
        assert_eq!(foreach_norm(&all).unwrap().double_value(&[]), 5.0);
        foreach_scale(&all, 0.5).unwrap();
        assert_eq!((all[0].double_value(&[0]), all[1].double_value(&[0])), (1.5, 2.0));
        foreach_zero(&all).unwrap();
        assert_eq!(foreach_norm(&all).unwrap().double_value(&[]), 0.0);
    }

    #[test]
    fn the_first_gradient_after_forgetting_is_taken_as_it_is() {
        let w = Tensor::from_slice(&[1f32, 2.0]).set_requires_grad(true);
        for _ in 0..2 {
            (&w * 3.0).sum(tch::Kind::Float).backward();
        }
        assert_eq!(Vec::<f32>::try_from(w.grad()).unwrap(), [6.0, 6.0]);
        clear_grads(std::slice::from_ref(&w)).unwrap();
        assert!(!w.grad().defined());
        (&w * 3.0).sum(tch::Kind::Float).backward();
        assert_eq!(Vec::<f32>::try_from(w.grad()).unwrap(), [3.0, 3.0]);
    }

    #[test]
    fn libtorch_is_found_where_it_was_loaded_from() {
        let files = std::fs::read_dir(libtorch_dir()).expect("the folder is there");
        let mut names = files.flatten().map(|file| file.file_name().to_string_lossy().into_owned());
        assert!(names.any(|name| name.starts_with("libtorch_cpu.")));
    }

    #[test]
    fn a_missing_cuda_half_is_said() {
        let fault = load_cuda(Path::new("/nonexistent")).unwrap_err();
        assert!(fault.to_string().contains("no CUDA"));
    }
}
