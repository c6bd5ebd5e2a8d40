//! Ends what a user's programs started when this process is gone, however it went.
//!
//! A small shell waits on a pipe that this process alone holds open. It is told of every program's process group; when
//! the pipe closes (the end, a second Ctrl-C, SIGKILL, out of memory) it kills the groups that are left. A process
//! that leaves its group (`setsid`) escapes. Next: [`super::process`], which starts the programs.

use std::io::Write;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;

/// `+ ID` adds a group, `- ID` takes it off; what is left at the end of the input is killed.
const SCRIPT: &str = r#"trap '' HUP INT QUIT TERM
all=
while read -r what id; do
    case $what in
    +) all="$all $id" ;;
    -) left=
        for one in $all; do [ "$one" = "$id" ] || left="$left $one"; done
        all=$left ;;
    esac
done
for one in $all; do kill -s KILL -- "-$one"; done
"#;

/// One for the whole process: it stands for the process's end.
static KEEPER: Mutex<Option<Keeper>> = Mutex::new(None);

/// Lets a group end with this process.
pub fn add(leader: u32) {
    tell(&format!("+ {leader}\n"));
}

/// A group that has ended, or is ended by the caller.
pub fn remove(leader: u32) {
    tell(&format!("- {leader}\n"));
}

fn tell(line: &str) {
    let mut held = KEEPER.lock().unwrap_or_else(|e| e.into_inner());
    if held.is_none() {
        *held = Keeper::start().inspect_err(|e| tracing::debug!("no shell watches over programs: {e}")).ok();
    }
    if let Some(keeper) = held.as_mut()
        && keeper.input.write_all(line.as_bytes()).is_err()
    {
        // Somebody ended it; the next program starts another.
        *held = None;
    }
}

#[derive(Debug)]
struct Keeper {
    shell: Child,
    input: ChildStdin,
}

impl Keeper {
    fn start() -> std::io::Result<Self> {
        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        // What ends this process's group must not end it first.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut shell = command.spawn()?;
        let input = shell.stdin.take().ok_or(std::io::ErrorKind::BrokenPipe)?;
        Ok(Self { shell, input })
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // Only one that is gone already is dropped.
        let _ = self.shell.try_wait();
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::process::{CommandExt, ExitStatusExt};

    use super::*;

    #[test]
    fn groups_that_are_left_end_with_the_pipe() {
        let sleeper = || Command::new("sleep").arg("300").process_group(0).spawn().unwrap();
        let (mut kept, mut released) = (sleeper(), sleeper());
        let mut keeper = Keeper::start().unwrap();
        let lines = format!("+ {}\n+ {}\n- {}\n", kept.id(), released.id(), released.id());
        keeper.input.write_all(lines.as_bytes()).unwrap();
        let Keeper { ref mut shell, .. } = keeper;
        assert!(shell.try_wait().unwrap().is_none());
        // As when the process ends: its end of the pipe is closed.
        let (read, write) = std::io::pipe().unwrap();
        drop((
            read,
            std::mem::replace(&mut keeper.input, ChildStdin::from(std::os::fd::OwnedFd::from(write))),
        ));
        assert_eq!(kept.wait().unwrap().signal(), Some(9));
        assert!(keeper.shell.wait().unwrap().success());
        assert!(released.try_wait().unwrap().is_none());
        released.kill().unwrap();
        released.wait().unwrap();
    }
}
