//! Data parallel training: the process group and its collectives. Each rank holds the whole model and takes its share of
//! every update's micro-batches; gradients are summed over the ranks, so that all make the same update.
//!
//! Rank 0 alone writes files and logs. Started by `torchrun` or `minimind run --nproc`, which set
//! PyTorch's environment variables. In a single process every collective is a no-op.

use std::rc::Rc;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use super::launch_env::LaunchEnv;
use crate::error::{Error, Result};
use crate::native::{ProcessGroup, Reduce, Reducer, Rendezvous, gpu_uuid, nccl_version};

/// Gradients travel in pieces of about this many bytes, PyTorch's 25 MB.
const BUCKET_BYTES: usize = 25 << 20;

/// How the error begins that a rank reports when another rank has ended.
pub const LOST: &str = "lost the other ranks";

/// What adds up over the ranks what their GPUs hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DdpBackend {
    /// NCCL where each rank has a GPU of its own.
    #[default]
    Auto,
    /// From GPU to GPU.
    Nccl,
    /// Through the host.
    Gloo,
}

/// The process group of a run, and this process's rank in it.
#[derive(Debug, Clone)]
pub struct Ranks {
    rank: usize,
    world: usize,
    /// On this machine: this process's number and how many there are.
    local: (usize, usize),
    group: Option<Rc<ProcessGroup>>,
}

impl Ranks {
    /// Rank 0 of 1, without a process group.
    pub fn single() -> Self {
        Self { rank: 0, world: 1, local: (0, 1), group: None }
    }

    /// Joins the process group that PyTorch's environment variables describe (`RANK`, `WORLD_SIZE`, `MASTER_ADDR`,
    /// `MASTER_PORT`), and waits for all its processes; `variable` reads a variable by its name. Without `RANK` and
    /// `WORLD_SIZE` this is [`Self::single`].
    ///
    /// # Errors
    /// A variable is missing or wrong; the other processes do not come within five minutes.
    pub fn init(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        let Some(found) = LaunchEnv::read(variable)? else { return Ok(Self::single()) };
        let Rendezvous { rank, world, .. } = found.meeting;
        let group = ProcessGroup::open(&found.meeting).map_err(|e| {
            e.hint("every rank must reach MASTER_ADDR:MASTER_PORT; minimind doctor tells whether ranks can be used")
        })?;
        Ok(Self { rank, world, local: found.local, group: Some(Rc::new(group)) })
    }

    /// This process's rank, from 0.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// The number of ranks.
    pub fn world(&self) -> usize {
        self.world
    }

    /// The rank on this machine, and the number of ranks on it.
    pub fn local(&self) -> (usize, usize) {
        self.local
    }

    /// Whether this is the only process.
    pub fn is_single(&self) -> bool {
        self.world == 1
    }

    /// Whether this is rank 0, which writes files and logs.
    pub fn is_rank0(&self) -> bool {
        self.rank == 0
    }

    /// Whether NCCL reduces, without the host.
    pub fn uses_nccl(&self) -> bool {
        self.group.as_ref().is_some_and(|group| group.has_nccl())
    }

    /// The error of a collective over GPU tensors: with NCCL it is this rank's own, else a peer was lost.
    fn collective_fault(&self, error: Error) -> Error {
        if !self.uses_nccl() {
            return self.lost_peer(error);
        }
        Error::failed(format!("rank {} of {} cannot reduce gradients with the others", self.rank, self.world))
            .because(error)
            .hint("NCCL_DEBUG=INFO tells more; runtime.ddp_backend: gloo goes through the host; the same command resumes from the last checkpoint")
    }

    fn lost_peer(&self, error: Error) -> Error {
        Error::failed(format!("rank {} of {} {LOST}", self.rank, self.world)).because(error).hint(
            "the rank that ended first says why; the same command resumes from the last checkpoint, with the same number of ranks or another",
        )
    }

    /// This rank's part of the indices `0..count`: every `world`-th, so that long and short rows mix.
    pub fn own_indices(&self, count: u64) -> impl Iterator<Item = u64> + use<> {
        (self.rank as u64..count).step_by(self.world)
    }

    /// Sums `values` over the ranks, in place.
    ///
    /// # Errors
    /// A rank is lost.
    pub fn all_reduce(&self, values: &mut [f64]) -> Result<()> {
        let Some(group) = &self.group else { return Ok(()) };
        let tensor = Tensor::from_slice(values);
        group.all_reduce(&tensor, Reduce::Sum).map_err(|e| self.lost_peer(e))?;
        values.copy_from_slice(&Vec::<f64>::try_from(&tensor)?);
        Ok(())
    }

    /// Whether `flag` is true on any rank.
    ///
    /// # Errors
    /// A rank is lost.
    pub fn any(&self, flag: bool) -> Result<bool> {
        let mut count = [f64::from(u8::from(flag))];
        self.all_reduce(&mut count)?;
        Ok(count[0] > 0.0)
    }

    /// Chooses between NCCL and gloo, all ranks together; `device` is this rank's.
    ///
    /// # Errors
    /// NCCL is asked for and not available, or fails to start; a rank is lost.
    pub fn select_backend(&self, device: Device, wanted: DdpBackend) -> Result<()> {
        let Some(group) = &self.group else { return Ok(()) };
        let own = match device {
            Device::Cuda(_) if wanted == DdpBackend::Gloo => Err("is to use gloo".to_owned()),
            Device::Cuda(_) if nccl_version().is_none() => Err("has a libtorch without NCCL".to_owned()),
            Device::Cuda(index) => {
                gpu_uuid(index).map_err(|fault| format!("cannot identify its GPU ({fault})"))
            }
            _ => Err("has no GPU".to_owned()),
        };
        let all = self.all_gather(&own)?;
        let Some(reason) = nccl_obstacle(&all) else {
            let Device::Cuda(index) = device else { return Ok(()) };
            return group
                .use_nccl(index)
                .map_err(|e| e.hint("runtime.ddp_backend: gloo sums gradients through the host"));
        };
        if wanted == DdpBackend::Nccl {
            return Err(Error::input(format!("ddp_backend is nccl, but {reason}")).hint(
                "NCCL wants a GPU of its own for each process; ddp_backend: auto takes gloo elsewhere",
            ));
        }
        if device.is_cuda() && wanted == DdpBackend::Auto && self.is_rank0() {
            tracing::warn!("gradients go through the host: {reason}");
        }
        Ok(())
    }

    /// Shuts the process group down at the end of a run that went well; called by all ranks.
    ///
    /// # Errors
    /// A rank is lost.
    pub fn close(&self) -> Result<()> {
        let Some(group) = self.group.as_ref().filter(|group| group.has_nccl()) else { return Ok(()) };
        // A rank that failed until now is noticed here.
        self.barrier()?;
        group.close()
    }

    /// Waits until all ranks are here.
    ///
    /// # Errors
    /// A rank is lost.
    pub fn barrier(&self) -> Result<()> {
        self.any(false).map(|_| ())
    }

    /// Rank 0's value, on every rank; the others pass `None`. Sent as JSON.
    ///
    /// # Errors
    /// A rank is lost; a value that JSON cannot hold.
    pub fn broadcast<T: Serialize + DeserializeOwned>(&self, value: Option<T>) -> Result<T> {
        if self.is_single() {
            return value.ok_or_else(|| Error::failed("rank 0 has no value to broadcast"));
        }
        let bytes = match &value {
            Some(value) => {
                serde_json::to_vec(value).map_err(|e| Error::failed("cannot encode a message").because(e))?
            }
            None => Vec::new(),
        };
        let received = self.broadcast_bytes(0, &bytes)?;
        serde_json::from_slice(&received)
            .map_err(|e| Error::failed("cannot decode rank 0's message").because(e))
    }

    /// The bytes of every rank, by rank.
    ///
    /// # Errors
    /// A rank is lost.
    pub fn all_gather_bytes(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        if self.is_single() {
            return Ok(vec![bytes.to_vec()]);
        }
        (0..self.world).map(|rank| self.broadcast_bytes(rank, bytes)).collect()
    }

    /// The value of every rank, by rank. Sent as JSON.
    ///
    /// # Errors
    /// A rank is lost; a value that JSON cannot hold.
    pub fn all_gather<T: Serialize + DeserializeOwned>(&self, value: &T) -> Result<Vec<T>> {
        let bytes =
            serde_json::to_vec(value).map_err(|e| Error::failed("cannot encode a message").because(e))?;
        let read = |bytes: &Vec<u8>| {
            serde_json::from_slice(bytes)
                .map_err(|e| Error::failed("cannot decode a rank's message").because(e))
        };
        self.all_gather_bytes(&bytes)?.iter().map(read).collect()
    }

    fn broadcast_bytes(&self, root: usize, bytes: &[u8]) -> Result<Vec<u8>> {
        let Some(group) = &self.group else { return Ok(bytes.to_vec()) };
        let length = Tensor::from_slice(&[bytes.len() as i64]);
        group.broadcast(&length, root).map_err(|e| self.lost_peer(e))?;
        let length = length.int64_value(&[0]);
        let tensor = match root == self.rank {
            true => Tensor::from_slice(bytes),
            false => Tensor::f_zeros([length], (Kind::Uint8, tch::Device::Cpu))?,
        };
        if length > 0 {
            group.broadcast(&tensor, root).map_err(|e| self.lost_peer(e))?;
        }
        Ok(Vec::<u8>::try_from(&tensor)?)
    }

    /// Overwrites `tensor`, of the same shape on every rank, with that of rank `root`.
    ///
    /// # Errors
    /// A rank is lost; a fault of the device.
    pub fn broadcast_tensor(&self, root: usize, tensor: &Tensor) -> Result<()> {
        match &self.group {
            Some(group) => group.broadcast(tensor, root).map_err(|e| self.collective_fault(e)),
            None => Ok(()),
        }
    }

    /// Runs `work` on rank 0 first, then on the others, which find its result (a cache, a download).
    ///
    /// # Errors
    /// Those of `work`; a rank is lost.
    pub fn rank0_first<T>(&self, mut work: impl FnMut() -> Result<T>) -> Result<T> {
        if !self.is_rank0() {
            self.barrier()?;
            return work();
        }
        let done = work()?;
        self.barrier()?;
        Ok(done)
    }

    /// Sums the gradients of `params`, of any shapes, over the ranks; `None` in a single process.
    ///
    /// # Errors
    /// Hooks cannot be placed on the parameters.
    pub fn gradient_reducer(&self, params: &[Tensor]) -> Result<Option<GradientReducer>> {
        let reducer = |group| Reducer::new(group, params, BUCKET_BYTES);
        let reducer = self.group.as_ref().map(reducer).transpose()?;
        Ok(reducer.map(|reducer| GradientReducer { reducer, ranks: self.clone() }))
    }

    /// Checks that every rank holds the same bits in `tensors` (fp32), by a sum over each.
    ///
    /// # Errors
    /// They differ: the replicas have diverged, and no update after that means anything. A rank is lost.
    pub fn check_same(&self, tensors: &[Tensor]) -> Result<()> {
        let Some(group) = &self.group else { return Ok(()) };
        let sums: Vec<i64> = tensors
            .iter()
            .map(|t| Ok(t.detach().f_view_dtype(Kind::Int)?.f_sum(Kind::Int64)?.f_int64_value(&[])?))
            .collect::<Result<_>>()?;
        let (least, most) = (Tensor::from_slice(&sums), Tensor::from_slice(&sums));
        group.all_reduce(&least, Reduce::Min).map_err(|e| self.lost_peer(e))?;
        group.all_reduce(&most, Reduce::Max).map_err(|e| self.lost_peer(e))?;
        let apart = least.not_equal_tensor(&most).sum(Kind::Int64).int64_value(&[]);
        if apart == 0 {
            return Ok(());
        }
        Err(Error::failed(format!("the ranks hold different weights ({apart} tensors of {})", tensors.len()))
            .hint("run the same program with the same libtorch on every machine; the last checkpoint is untouched"))
    }
}

/// Why the ranks cannot use NCCL, if they cannot; each gives its GPU's name, or its own reason.
fn nccl_obstacle(all: &[std::result::Result<String, String>]) -> Option<String> {
    for (rank, own) in all.iter().enumerate() {
        match own {
            Err(reason) => return Some(format!("rank {rank} {reason}")),
            Ok(_) => {
                if let Some(other) = all[..rank].iter().position(|before| before == own) {
                    return Some(format!("ranks {other} and {rank} share a GPU"));
                }
            }
        }
    }
    None
}

/// Sums the gradients of some parameters over the ranks.
#[derive(Debug)]
pub struct GradientReducer {
    reducer: Reducer,
    ranks: Ranks,
}

impl GradientReducer {
    /// As [`Reducer::prepare_for_backward`].
    ///
    /// # Errors
    /// A rank is lost; a fault of the device.
    pub fn arm(&mut self) -> Result<()> {
        self.reducer.prepare_for_backward().map_err(|e| self.ranks.collective_fault(e))
    }

    /// As [`Reducer::finalize`].
    ///
    /// # Errors
    /// A rank is lost; a fault of the device.
    pub fn finish(&mut self) -> Result<()> {
        self.reducer.finalize().map_err(|e| self.ranks.collective_fault(e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nccl_wants_a_gpu_for_each() {
        let gpu = |name: &str| Ok(name.to_owned());
        let none = || Err("has no GPU".to_owned());
        assert_eq!(nccl_obstacle(&[gpu("a"), gpu("b"), gpu("c")]), None);
        assert!(nccl_obstacle(&[gpu("a"), gpu("b"), gpu("a")]).unwrap().contains("ranks 0 and 2 share"));
        assert!(nccl_obstacle(&[gpu("a"), none()]).unwrap().contains("rank 1 has no GPU"));
    }

    #[test]
    fn one_process_needs_no_other() {
        let alone = Ranks::single();
        assert!(alone.any(true).unwrap() && !alone.any(false).unwrap());
        assert_eq!(alone.broadcast(Some(7)).unwrap(), 7);
        assert_eq!(alone.all_gather_bytes(b"ab").unwrap(), [b"ab".to_vec()]);
        assert!(alone.gradient_reducer(&[]).unwrap().is_none());
        alone.select_backend(Device::Cpu, DdpBackend::Nccl).unwrap();
        alone.close().unwrap();
        alone.check_same(&[Tensor::from_slice(&[1f32])]).unwrap();
    }
}
