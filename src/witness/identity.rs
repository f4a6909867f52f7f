//! Whose a process is: what `/proc` says of it.

use std::ffi::CStr;

use sha2::{Digest, Sha256};

use super::library;
use crate::evidence::{
    hex,
    witness::{Id, Parent, Seen},
};
use crate::{
    foreign,
    process::{Folder, Status},
};

/// How many parents are named.
const PARENTS: usize = 16;

/// What `/proc/PID/stat` says that matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stat {
    /// Which process.
    pub id: Id,
    /// Its parent.
    pub parent: u32,
    /// Its name.
    pub comm: String,
}

/// Reads it; none when the process is gone.
#[must_use]
pub fn stat(pid: u32) -> Option<Stat> {
    let stat = Folder::of(pid).stat()?;
    Some(Stat { id: Id { pid, start_ticks: stat.start_ticks()? }, parent: stat.parent()?, comm: foreign::cut(stat.name()?) })
}

/// Looks at a process; what the events said of it stands in `seen` already, and stays where it is gone.
pub fn look(seen: &mut Seen, plain: bool) {
    let pid = seen.id.pid;
    let folder = Folder::of(pid);
    let Some(stat) = stat(pid).filter(|s| seen.id.start_ticks == 0 || s.id == seen.id) else {
        seen.gone = true;
        return;
    };
    let parent = stat.parent;
    (seen.id, seen.comm) = (stat.id, stat.comm);
    let status = folder.status();
    seen.own_pid = status.as_ref().and_then(Status::own_pid).unwrap_or(pid);
    seen.uid = status.as_ref().and_then(Status::uid).unwrap_or(seen.uid);
    seen.user = user(seen.uid).unwrap_or_default();
    if let Ok(line) = folder.file("cmdline") {
        seen.cmdline_sha256 = hex(&Sha256::digest(&line));
        let words = line.split(|b| *b == 0).map(String::from_utf8_lossy).collect::<Vec<_>>().join(" ");
        seen.cmdline = plain.then(|| words.trim_end().to_owned());
    }
    seen.cgroup = foreign::cut(&cgroup(&String::from_utf8_lossy(&folder.file("cgroup").unwrap_or_default())));
    let place = place(&seen.cgroup);
    (seen.container, seen.pod, seen.slurm_job) = (place.container, place.pod, place.slurm_job);
    if seen.slurm_job.is_none() {
        let environment = folder.file("environ").unwrap_or_default();
        let job = environment.split(|b| *b == 0).find_map(|v| v.strip_prefix(b"SLURM_JOB_ID="));
        seen.slurm_job = job.map(|v| String::from_utf8_lossy(v).into_owned());
    }
    seen.library = library::maps(pid).is_some_and(|m| m.metered);
    seen.parents = parents(parent);
}

/// The parents of a process, from its first on.
#[must_use]
pub fn parents(first: u32) -> Vec<Parent> {
    let (mut parents, mut next) = (Vec::new(), first);
    while next != 0 && parents.len() < PARENTS {
        let Some(stat) = stat(next) else { break };
        parents.push(Parent { pid: next, comm: stat.comm });
        next = stat.parent;
    }
    parents
}

/// The control group's path: the version 2 one, unless that is the root and an older hierarchy says more.
fn cgroup(text: &str) -> String {
    let lines: Vec<(&str, &str)> = text.lines().filter_map(|l| l.split_once(':')?.1.split_once(':')).collect();
    let unified = lines.iter().find(|(controllers, _)| controllers.is_empty()).map_or("", |(_, path)| path);
    if unified.len() > 1 {
        return unified.to_owned();
    }
    lines.iter().map(|(_, path)| *path).max_by_key(|p| p.len()).unwrap_or_default().to_owned()
}

/// What a control group's path tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Place {
    container: Option<String>,
    pod: Option<String>,
    slurm_job: Option<String>,
}

/// Reads names that container engines, Kubernetes and Slurm give control groups.
fn place(cgroup: &str) -> Place {
    let mut place = Place::default();
    for part in cgroup.split('/') {
        let bare = part.strip_suffix(".scope").or_else(|| part.strip_suffix(".slice")).unwrap_or(part);
        // `docker-<id>.scope`, `cri-containerd-<id>.scope`, `crio-<id>`, `libpod-<id>`, or the id alone.
        let id = bare.rsplit(['-', ':']).next().unwrap_or_default();
        if id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit()) {
            place.container = Some(id.to_owned());
        }
        // `kubepods-burstable-pod<uid>.slice`, with `_` for `-` there, or `pod<uid>`.
        let pod = bare.rsplit_once("pod").map(|(_, uid)| uid.replace('_', "-"));
        if let Some(uid) = pod.filter(|u| u.len() == 36 && u.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-')) {
            place.pod = Some(uid);
        }
        if let Some(job) = part.strip_prefix("job_").filter(|j| !j.is_empty() && j.bytes().all(|b| b.is_ascii_digit())) {
            place.slurm_job = Some(job.to_owned());
        }
    }
    place
}

/// A user's name, as the system knows it.
#[must_use]
pub fn user(uid: u32) -> Option<String> {
    let mut buffer = vec![0; 4096];
    // SAFETY: zeros are a valid `passwd`; the call fills it with pointers into the buffer, which lives until the name is copied.
    unsafe {
        let mut entry: libc::passwd = std::mem::zeroed();
        let mut found = std::ptr::null_mut();
        let code = libc::getpwuid_r(uid, &raw mut entry, buffer.as_mut_ptr(), buffer.len(), &raw mut found);
        (code == 0 && !found.is_null()).then(|| CStr::from_ptr(entry.pw_name).to_string_lossy().into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_no_text_hides_nobody() {
        use std::os::unix::ffi::OsStrExt;
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join(std::ffi::OsStr::from_bytes(b"sl\xff\xfeep"));
        std::fs::copy("/bin/sleep", &program).unwrap();
        let mut sleeper = std::process::Command::new(&program).arg("60").spawn().unwrap();
        let found = stat(sleeper.id());
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
        assert_eq!(found.expect("it is there").comm, "sl\u{fffd}\u{fffd}ep");
    }

    #[test]
    fn control_groups_tell_where_a_process_belongs() {
        let id = "0123456789abcdef".repeat(4);
        let k8s =
            place(&format!("/kubepods.slice/kubepods-burstable-pod01234567_89ab_cdef_0123_456789abcdef.slice/cri-containerd-{id}.scope"));
        assert_eq!((k8s.container.as_deref(), k8s.pod.as_deref()), (Some(id.as_str()), Some("01234567-89ab-cdef-0123-456789abcdef")));
        assert_eq!(place(&format!("/docker/{id}")).container, Some(id));
        assert_eq!(place("/system.slice/slurmstepd.scope/job_4711/step_0/user").slurm_job.as_deref(), Some("4711"));
        assert_eq!(place("/user.slice/user-1000.slice/session-3.scope"), Place::default());
    }

    #[test]
    fn the_hierarchy_that_says_most_is_taken() {
        assert_eq!(cgroup("1:name=systemd:/a\n0::/user.slice\n"), "/user.slice");
        assert_eq!(cgroup("8:pids:/slurm/uid_0/job_1\n1:name=systemd:/\n0::/\n"), "/slurm/uid_0/job_1");
        assert_eq!(cgroup(""), "");
    }
}
