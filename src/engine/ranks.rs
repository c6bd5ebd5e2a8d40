//! Processes that train together. Each holds the whole model and takes its share of every update's micro-batches;
//! gradients are added up, so that all make the same update.
//!
//! The first rank alone writes files and speaks. Started by `torchrun` or `minimind run --nproc`, which say by
//! PyTorch's environment variables who is who. A process that was started alone pays nothing.

use std::rc::Rc;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};
use crate::native::{Group, Meeting, Reduce, Reducer, gpu_uuid, nccl_version};

/// Gradients travel in pieces of about this many bytes, PyTorch's 25 MB.
const BUCKET_BYTES: usize = 25 << 20;

/// How the fault begins that a rank meets when another has ended.
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

/// This process among those that train together.
#[derive(Debug, Clone)]
pub struct Ranks {
    rank: usize,
    world: usize,
    /// On this machine: this process's number and how many there are.
    local: (usize, usize),
    group: Option<Rc<Group>>,
}

impl Ranks {
    /// One process.
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
        let Meeting { rank, world, .. } = found.meeting;
        let group = Group::open(&found.meeting).map_err(|e| {
            e.hint("every rank must reach MASTER_ADDR:MASTER_PORT; minimind doctor tells whether ranks can be used")
        })?;
        Ok(Self { rank, world, local: found.local, group: Some(Rc::new(group)) })
    }

    /// This process's number, from 0.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// How many there are.
    pub fn world(&self) -> usize {
        self.world
    }

    /// Its number on this machine and how many share the machine.
    pub fn local(&self) -> (usize, usize) {
        self.local
    }

    /// Whether there is no other.
    pub fn is_single(&self) -> bool {
        self.world == 1
    }

    /// Whether this is the rank that writes and speaks.
    pub fn is_rank0(&self) -> bool {
        self.rank == 0
    }

    /// Whether GPUs add up without the host.
    pub fn uses_nccl(&self) -> bool {
        self.group.as_ref().is_some_and(|group| group.on_gpus())
    }

    /// A fault while tensors on a GPU were added up: where NCCL does that, it is this rank's own.
    fn collective_fault(&self, error: Error) -> Error {
        if !self.uses_nccl() {
            return self.lost_peer(error);
        }
        Error::failed(format!("rank {} of {} cannot add up with the others", self.rank, self.world))
            .because(error)
            .hint("NCCL_DEBUG=INFO tells more; runtime.ddp_backend: gloo goes through the host; the same command goes on from the last checkpoint")
    }

    fn lost_peer(&self, error: Error) -> Error {
        Error::failed(format!("rank {} of {} {LOST}", self.rank, self.world)).because(error).hint(
            "the one that ended first says why; the same command goes on from the last checkpoint, with as many ranks or others",
        )
    }

    /// This rank's share of `count` pieces of work: every world-th, so that long and short ones mix.
    pub fn own_indices(&self, count: u64) -> impl Iterator<Item = u64> + use<> {
        (self.rank as u64..count).step_by(self.world)
    }

    /// Adds `values` up over the ranks.
    pub fn all_reduce(&self, values: &mut [f64]) -> Result<()> {
        let Some(group) = &self.group else { return Ok(()) };
        let tensor = Tensor::from_slice(values);
        group.reduce(&tensor, Reduce::Sum).map_err(|e| self.lost_peer(e))?;
        values.copy_from_slice(&Vec::<f64>::try_from(&tensor)?);
        Ok(())
    }

    /// Whether it is so on any rank.
    pub fn any(&self, flag: bool) -> Result<bool> {
        let mut count = [f64::from(u8::from(flag))];
        self.all_reduce(&mut count)?;
        Ok(count[0] > 0.0)
    }

    /// Settles, all ranks together, whether their GPUs speak to each other: `device` is this rank's.
    ///
    /// # Errors
    /// NCCL is asked for and cannot be had, or fails.
    pub fn select_backend(&self, device: Device, wanted: DdpBackend) -> Result<()> {
        let Some(group) = &self.group else { return Ok(()) };
        let own = match device {
            Device::Cuda(_) if wanted == DdpBackend::Gloo => Err("is to use gloo".to_owned()),
            Device::Cuda(_) if nccl_version().is_none() => Err("has a libtorch without NCCL".to_owned()),
            Device::Cuda(index) => gpu_uuid(index).map_err(|fault| format!("cannot name its GPU ({fault})")),
            _ => Err("has no GPU".to_owned()),
        };
        let all = self.all_gather(&own)?;
        let Some(reason) = nccl_obstacle(&all) else {
            let Device::Cuda(index) = device else { return Ok(()) };
            return group
                .use_gpu(index)
                .map_err(|e| e.hint("runtime.ddp_backend: gloo adds gradients up through the host"));
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

    /// At the end of a run that went well, called by all ranks.
    pub fn close(&self) -> Result<()> {
        let Some(group) = self.group.as_ref().filter(|group| group.on_gpus()) else { return Ok(()) };
        // None parts before all are done: one that failed until now is noticed here.
        self.barrier()?;
        group.close()
    }

    /// Waits for all.
    pub fn barrier(&self) -> Result<()> {
        self.any(false).map(|_| ())
    }

    /// What the first rank has to say; the others pass `None`.
    pub fn broadcast<T: Serialize + DeserializeOwned>(&self, said: Option<T>) -> Result<T> {
        if self.is_single() {
            return said.ok_or_else(|| Error::failed("the first rank has nothing to say"));
        }
        let bytes = match &said {
            Some(said) => {
                serde_json::to_vec(said).map_err(|e| Error::failed("cannot tell ranks").because(e))?
            }
            None => Vec::new(),
        };
        let heard = self.broadcast_bytes(0, &bytes)?;
        serde_json::from_slice(&heard).map_err(|e| Error::failed("cannot read the first rank").because(e))
    }

    /// Everyone's bytes, by rank.
    pub fn all_gather_bytes(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        if self.is_single() {
            return Ok(vec![bytes.to_vec()]);
        }
        (0..self.world).map(|rank| self.broadcast_bytes(rank, bytes)).collect()
    }

    /// What everyone has to say, by rank.
    pub fn all_gather<T: Serialize + DeserializeOwned>(&self, said: &T) -> Result<Vec<T>> {
        let bytes = serde_json::to_vec(said).map_err(|e| Error::failed("cannot tell ranks").because(e))?;
        let read = |bytes: &Vec<u8>| {
            serde_json::from_slice(bytes).map_err(|e| Error::failed("cannot read a rank").because(e))
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

    /// Makes `tensor` the one of rank `root`.
    pub fn broadcast_tensor(&self, root: usize, tensor: &Tensor) -> Result<()> {
        match &self.group {
            Some(group) => group.broadcast(tensor, root).map_err(|e| self.collective_fault(e)),
            None => Ok(()),
        }
    }

    /// Lets the first rank do what the others then find done (a cache, a download).
    pub fn rank0_first<T>(&self, mut work: impl FnMut() -> Result<T>) -> Result<T> {
        if !self.is_rank0() {
            self.barrier()?;
            return work();
        }
        let done = work()?;
        self.barrier()?;
        Ok(done)
    }

    /// What shares the gradients of `params`; none where this process is alone.
    pub fn gradient_reducer(&self, params: &[Tensor]) -> Result<Option<GradientReducer>> {
        let reducer = |group| Reducer::new(group, params, BUCKET_BYTES);
        let reducer = self.group.as_ref().map(reducer).transpose()?;
        Ok(reducer.map(|reducer| GradientReducer { reducer, ranks: self.clone() }))
    }

    /// Checks that every rank holds the same bits in `tensors` (fp32), by a sum over each.
    ///
    /// # Errors
    /// They differ: the replicas have come apart, and no update after that is worth anything.
    pub fn check_same(&self, tensors: &[Tensor]) -> Result<()> {
        let Some(group) = &self.group else { return Ok(()) };
        let sums: Vec<i64> = tensors
            .iter()
            .map(|t| Ok(t.detach().f_view_dtype(Kind::Int)?.f_sum(Kind::Int64)?.f_int64_value(&[])?))
            .collect::<Result<_>>()?;
        let (least, most) = (Tensor::from_slice(&sums), Tensor::from_slice(&sums));
        group.reduce(&least, Reduce::Min).map_err(|e| self.lost_peer(e))?;
        group.reduce(&most, Reduce::Max).map_err(|e| self.lost_peer(e))?;
        let apart = least.not_equal_tensor(&most).sum(Kind::Int64).int64_value(&[]);
        if apart == 0 {
            return Ok(());
        }
        Err(Error::failed(format!("the ranks hold different weights ({apart} tensors of {})", tensors.len()))
            .hint("run the same program with the same libtorch on every machine; the last checkpoint is untouched"))
    }
}

/// Why ranks that say so of their GPUs (each one's name, or what keeps it from NCCL) cannot use NCCL, if they cannot.
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

/// Shares gradients.
#[derive(Debug)]
pub struct GradientReducer {
    reducer: Reducer,
    ranks: Ranks,
}

impl GradientReducer {
    /// As [`Reducer::arm`].
    pub fn arm(&mut self) -> Result<()> {
        self.reducer.arm().map_err(|e| self.ranks.collective_fault(e))
    }

    /// As [`Reducer::finish`].
    pub fn finish(&mut self) -> Result<()> {
        self.reducer.finish().map_err(|e| self.ranks.collective_fault(e))
    }
}

/// What the environment says of how this process was started.
#[derive(Debug, PartialEq, Eq)]
struct LaunchEnv {
    meeting: Meeting,
    local: (usize, usize),
}

impl LaunchEnv {
    fn read(variable: &dyn Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        let number = |name: &str| -> Result<Option<usize>> {
            let Some(text) = variable(name) else { return Ok(None) };
            let number = text.parse().map_err(|_| {
                Error::input(format!("{name} is `{text}`, not a whole number"))
                    .hint("torchrun and minimind run --nproc set it; unset RANK and WORLD_SIZE to train with one process")
            })?;
            Ok(Some(number))
        };
        let (Some(rank), Some(world)) = (number("RANK")?, number("WORLD_SIZE")?) else { return Ok(None) };
        if rank >= world {
            return Err(
                Error::input(format!("RANK is {rank} of WORLD_SIZE {world}")).hint("ranks count from 0")
            );
        }
        if world == 1 {
            return Ok(None);
        }
        let missing = |name: &str| {
            Error::input(format!("RANK and WORLD_SIZE are set, {name} is not"))
                .hint("start it with torchrun or minimind run --nproc, which set them all")
        };
        let host = variable("MASTER_ADDR").ok_or_else(|| missing("MASTER_ADDR"))?;
        let port = number("MASTER_PORT")?.ok_or_else(|| missing("MASTER_PORT"))?;
        let port =
            u16::try_from(port).map_err(|e| Error::input(format!("MASTER_PORT is {port}")).because(e))?;
        let agent = variable("TORCHELASTIC_USE_AGENT_STORE").is_some_and(|value| value == "True");
        let start = variable("TORCHELASTIC_RESTART_COUNT").unwrap_or_default();
        let local = (number("LOCAL_RANK")?.unwrap_or(rank), number("LOCAL_WORLD_SIZE")?.unwrap_or(world));
        let meeting = Meeting {
            host,
            port,
            rank,
            world,
            serves: rank == 0 && !agent,
            name: format!("minimind {start}"),
        };
        Ok(Some(Self { meeting, local }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(set: &[(&str, &str)]) -> Result<Option<LaunchEnv>> {
        LaunchEnv::read(&|name| {
            set.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_environment_says_who_is_who() {
        assert_eq!(read(&[]).unwrap(), None);
        assert_eq!(read(&[("RANK", "0"), ("WORLD_SIZE", "1")]).unwrap(), None);
        let place = [("RANK", "3"), ("WORLD_SIZE", "4"), ("MASTER_ADDR", "h"), ("MASTER_PORT", "29500")];
        let started = read(&place).unwrap().unwrap();
        assert_eq!((started.meeting.rank, started.meeting.world, started.local), (3, 4, (3, 4)));
        let mut first = place;
        first[0].1 = "0";
        assert!(read(&first).unwrap().unwrap().meeting.serves && !started.meeting.serves);
        // torchrun keeps the meeting place itself and numbers its restarts.
        let more = [("TORCHELASTIC_USE_AGENT_STORE", "True"), ("TORCHELASTIC_RESTART_COUNT", "2")];
        let torchrun = read(&[&first[..], &more, &[("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "2")]].concat());
        let torchrun = torchrun.unwrap().unwrap();
        assert!(!torchrun.meeting.serves && torchrun.meeting.name.ends_with('2'));
        assert_eq!(torchrun.local, (0, 2));
    }

    #[test]
    fn what_is_wrong_with_it_is_named() {
        let said = |set: &[(&str, &str)]| read(set).unwrap_err().to_string();
        assert!(said(&[("RANK", "x"), ("WORLD_SIZE", "2")]).contains("RANK is `x`"));
        assert!(said(&[("RANK", "2"), ("WORLD_SIZE", "2")]).contains("RANK is 2 of WORLD_SIZE 2"));
        assert!(said(&[("RANK", "1"), ("WORLD_SIZE", "2")]).contains("MASTER_ADDR is not"));
    }

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
