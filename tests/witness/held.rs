//! Programs that wait until they are told to work.

use std::{
    io::{BufRead, BufReader, Lines, Write},
    process::{Child, ChildStdout, Command, Stdio},
};

use crate::{
    harness::{Bench, zoo},
    watch::environment,
};

/// A program of the zoo that is ready to launch, and does when it is told.
pub(crate) struct Held {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    /// The process that does the work.
    pub(crate) pid: u64,
}

/// `held` with arguments, in a shell that does something first (`mount ... &&`), or by itself.
pub(crate) fn command(bench: &Bench, before: &str, args: &[&str]) -> Command {
    let mut command = bench.command(false, "held", args);
    if !before.is_empty() {
        let mut shell = Command::new("unshare");
        let program = zoo("held");
        shell.args(["--mount", "sh", "-ec", &format!("{before}\nexec {} {}", program.display(), args.join(" "))]);
        shell.envs(environment(&command)).current_dir(bench.dir.path());
        command = shell;
    }
    command
}

impl Held {
    /// Starts it, and waits until it is ready.
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("starting a program");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let line = lines.next().unwrap_or_else(|| panic!("{command:?} said nothing")).expect("a line");
        let pid = line.strip_prefix("ready ").and_then(|p| p.parse().ok()).unwrap_or_else(|| panic!("{command:?} said {line}"));
        Self { child, lines, pid }
    }

    /// Tells it to work, waits for its end, and returns the launches that it made.
    pub(crate) fn work(mut self) -> u64 {
        self.child.stdin.take().expect("a pipe").write_all(b"\n").expect("telling a program");
        let line = self.lines.next().expect("a line").expect("a line");
        let words: Vec<&str> = line.split(' ').collect();
        assert_eq!((words[0], words[1]), ("made", self.pid.to_string().as_str()));
        assert!(self.child.wait().expect("waiting").success());
        words[2].parse().expect("a number")
    }
}
