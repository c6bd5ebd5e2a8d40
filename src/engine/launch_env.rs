//! The environment variables by which `torchrun` and `minimind run --nproc` launch a rank.

use crate::error::{Error, Result};
use crate::native::Rendezvous;

/// How this process was launched, by its environment variables.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LaunchEnv {
    /// Where the ranks meet, and which of them this is.
    pub meeting: Rendezvous,
    /// The rank on this machine, and the number of ranks on it.
    pub local: (usize, usize),
}

impl LaunchEnv {
    /// `None` where this is the only process.
    pub(super) fn read(variable: &dyn Fn(&str) -> Option<String>) -> Result<Option<Self>> {
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
        let meeting = Rendezvous {
            host,
            port,
            rank,
            world,
            hosts_store: rank == 0 && !agent,
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
        assert!(read(&first).unwrap().unwrap().meeting.hosts_store && !started.meeting.hosts_store);
        // torchrun keeps the meeting place itself and numbers its restarts.
        let more = [("TORCHELASTIC_USE_AGENT_STORE", "True"), ("TORCHELASTIC_RESTART_COUNT", "2")];
        let torchrun = read(&[&first[..], &more, &[("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "2")]].concat());
        let torchrun = torchrun.unwrap().unwrap();
        assert!(!torchrun.meeting.hosts_store && torchrun.meeting.name.ends_with('2'));
        assert_eq!(torchrun.local, (0, 2));
    }

    #[test]
    fn what_is_wrong_with_it_is_named() {
        let said = |set: &[(&str, &str)]| read(set).unwrap_err().to_string();
        assert!(said(&[("RANK", "x"), ("WORLD_SIZE", "2")]).contains("RANK is `x`"));
        assert!(said(&[("RANK", "2"), ("WORLD_SIZE", "2")]).contains("RANK is 2 of WORLD_SIZE 2"));
        assert!(said(&[("RANK", "1"), ("WORLD_SIZE", "2")]).contains("MASTER_ADDR is not"));
    }
}
