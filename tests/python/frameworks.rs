//! The real torch, transformers and PEFT, for a CPU: fetched with pip into `target/wheels` and kept there.
//!
//! PyPI has torch for Linux with CUDA only. Its own wheel is 0.5 GB, and the CUDA libraries that it is linked with are 2.2 GB more, which a CPU never calls but the loader wants to find. So
//! these are made here, empty but for the names that torch asks for: whoever calls one is aborted. CUDA's runtime and CUPTI are called when torch is loaded, are small, and are real.

use std::{
    collections::{BTreeSet, HashSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use object::{Object, ObjectSymbol, read::elf::ElfFile64};
use sha2::{Digest, Sha256};

use crate::wheels;

const REQUIREMENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/python/tests/real/requirements.txt");
/// Those that are real: the versions that this torch is made for.
const REAL: [(&str, &str); 2] = [("nvidia-cuda-runtime==13.0.96", "libcudart.so.13"), ("nvidia-cuda-cupti==13.0.85", "libcupti.so.13")];
/// The others, and how the names begin that they have.
const EMPTY: [&str; 10] = [
    "libcublas.so.13",
    "libcublasLt.so.13",
    "libcudnn.so.9",
    "libcufft.so.12",
    "libcufile.so.0",
    "libcurand.so.10",
    "libcusparse.so.12",
    "libcusparseLt.so.0",
    "libnccl.so.2",
    "libnvshmem_host.so.3",
];
const NAMES: [&str; 3] = ["cu", "nccl", "nvshmem"];

/// A Python that finds them.
pub(crate) fn python() -> Command {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(made);
    let mut command = Command::new(folder.join("bin/python"));
    command
        .env_remove("PYTHONPATH")
        .env("LD_LIBRARY_PATH", folder.join("cuda"))
        // Compiled once, in a folder that git does not see.
        .env("PYTHONPYCACHEPREFIX", folder.join("compiled"))
        .env("OMP_NUM_THREADS", "1")
        .env("HF_HUB_OFFLINE", "1")
        .env("CUDA_VISIBLE_DEVICES", "");
    command
}

fn made() -> PathBuf {
    let version = run(Command::new("python3").args(["-c", "import sys; print(sys.implementation.cache_tag)"]));
    let made_of = Sha256::digest([fs::read(REQUIREMENTS).expect("the requirements"), version.clone().into_bytes()].concat());
    let key: String = made_of.iter().take(6).map(|b| format!("{b:02x}")).collect();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("target/wheels/frameworks-{}-{key}", version.trim()));
    if folder.join("complete").exists() {
        return folder;
    }
    if folder.exists() {
        fs::remove_dir_all(&folder).expect("removing half of it");
    }
    // An environment of its own and no folder on a path: dill, for one, takes packages anywhere else for a program's own.
    run(Command::new("python3").args(["-m", "venv", "--without-pip"]).arg(&folder));
    let packages = run(Command::new(folder.join("bin/python")).args(["-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]));
    let (packages, cuda) = (PathBuf::from(packages.trim()), folder.join("cuda"));
    let pip = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-compile",
        "--no-deps",
        "--require-hashes",
        "--only-binary=:all:",
        "--root-user-action=ignore",
    ];
    run(Command::new("python3").args(pip).arg("--target").arg(&packages).args(["--requirement", REQUIREMENTS]));
    fs::create_dir_all(&cuda).expect("a folder");
    for (wheel, library) in REAL {
        fs::copy(wheels::find(&wheels::fetch(wheel), library), cuda.join(library)).expect("a copy");
    }
    empty(&packages.join("torch/lib"), &cuda);
    fs::write(folder.join("complete"), "").expect("the mark");
    folder
}

/// Makes the libraries that are not called.
fn empty(torch: &Path, cuda: &Path) {
    let (mut wanted, mut there) = (BTreeSet::new(), HashSet::new());
    let libraries = |folder: &Path| fs::read_dir(folder).expect("a folder").flatten().map(|e| e.path()).collect::<Vec<_>>();
    for path in libraries(torch).into_iter().chain(libraries(cuda)) {
        let Ok(data) = fs::read(&path) else { continue };
        let Ok(file) = ElfFile64::<object::Endianness>::parse(data.as_slice()) else { continue };
        for symbol in file.dynamic_symbols() {
            let Ok(name) = symbol.name() else { continue };
            if symbol.is_undefined() && NAMES.iter().any(|n| name.starts_with(n)) {
                wanted.insert(name.to_owned());
            } else if !symbol.is_undefined() {
                there.insert(name.to_owned());
            }
        }
    }
    let names =
        wanted.difference(&there.into_iter().collect()).map(|name| format!("void {name}(void) {{ abort(); }}\n")).collect::<String>();
    let source = cuda.join("empty.c");
    fs::write(&source, format!("void abort(void);\n{names}")).expect("a source");
    let compile = |name: &str| {
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-w", &format!("-Wl,-soname,{name}"), "-o"]).arg(cuda.join(name));
        cc
    };
    let (first, others) = EMPTY.split_first().expect("some");
    run(compile(first).arg(&source));
    // The loader looks a name up in all of them.
    for name in others {
        run(compile(name).args(["-x", "c", "/dev/null"]));
    }
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
