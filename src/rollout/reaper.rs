//! Kills the process groups of a user's programs when this process is gone, however it ended.
//!
//! A small shell waits on a pipe that this process alone holds open. Every program's process group is sent to it; when
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
static REAPER: Mutex<Option<Reaper>> = Mutex::new(None);

/// Adds a process group that must not outlive this process; `leader` is its process id.
pub fn add(leader: u32) {
    send(&format!("+ {leader}\n"));
}

/// Takes off a group that has ended, or that the caller ends.
pub fn remove(leader: u32) {
    send(&format!("- {leader}\n"));
}

fn send(line: &str) {
    let mut held = REAPER.lock().unwrap_or_else(|e| e.into_inner());
    if held.is_none() {
        *held = Reaper::start().inspect_err(|e| tracing::debug!("no shell watches over programs: {e}")).ok();
    }
    if let Some(reaper) = held.as_mut()
        && reaper.input.write_all(line.as_bytes()).is_err()
    {
        // Somebody ended it; the next program starts another.
        *held = None;
    }
}

#[derive(Debug)]
struct Reaper {
    shell: Child,
    input: ChildStdin,
}

impl Reaper {
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

impl Drop for Reaper {
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
        let mut reaper = Reaper::start().unwrap();
        let lines = format!("+ {}\n+ {}\n- {}\n", kept.id(), released.id(), released.id());
        reaper.input.write_all(lines.as_bytes()).unwrap();
        let Reaper { ref mut shell, .. } = reaper;
        assert!(shell.try_wait().unwrap().is_none());
        // As when the process ends: its end of the pipe is closed.
        let (read, write) = std::io::pipe().unwrap();
        drop((
            read,
            std::mem::replace(&mut reaper.input, ChildStdin::from(std::os::fd::OwnedFd::from(write))),
        ));
        assert_eq!(kept.wait().unwrap().signal(), Some(9));
        assert!(reaper.shell.wait().unwrap().success());
        assert!(released.try_wait().unwrap().is_none());
        released.kill().unwrap();
        released.wait().unwrap();
    }
}
