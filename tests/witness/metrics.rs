//! Prometheus: what `--listen` says, and that the dashboard asks for what there is.

use std::{
    io::{Read, Write},
    net::TcpStream,
    process::Stdio,
};

use crate::{
    alone,
    harness::{BF16, Bench},
    held::{Held, command},
    watch::{Watch, flopsprof, lost},
};

/// An answer: head and body.
fn get(address: &str, request: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).expect("connecting");
    write!(stream, "{request} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").expect("asking");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    (head.to_owned(), body.to_owned())
}

#[test]
fn prometheus_is_told_what_was_counted() {
    let _alone = alone();
    let bench = Bench::new();
    let mut asked = flopsprof(&bench);
    asked.args(["watch", "--launches", "all", "--every", "0.5", "--listen", "127.0.0.1:0", "--out"]).arg(bench.out());
    let watch = Watch::begin(asked, &bench.out());
    let address = watch.address();
    // A metered program, and one that is not.
    let output =
        bench.command(true, "plain", &["300", "1000"]).env("SLURM_JOB_ID", "4711").stdin(Stdio::null()).output().expect("a program");
    let said = String::from_utf8(output.stdout).expect("UTF-8");
    let truth: f64 = said.lines().find_map(|l| l.strip_prefix(&format!("truth {BF16} "))).expect("its own word").parse().expect("a number");
    let held = Held::start(command(&bench, "", &["250"]));
    let (pid, made) = (held.pid, held.work());
    watch.wait_for("its end", |r| r["ended"].as_array().is_some_and(|e| e.iter().any(|e| e["pid"] == pid)));
    std::thread::sleep(std::time::Duration::from_millis(300));
    let (head, body) = get(&address, "GET /metrics");
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("application/openmetrics-text; version=1.0.0"), "{head}");
    assert!(body.ends_with("# EOF\n"), "{body}");
    let line = |name: &str, labels: &[&str]| -> f64 {
        let found = body.lines().find(|l| l.starts_with(name) && labels.iter().all(|label| l.contains(label)));
        let found = found.unwrap_or_else(|| panic!("no {name} {labels:?} in\n{body}"));
        assert!(found.contains("simulated=\"true\""), "{found}");
        found.rsplit(' ').next().expect("a value").parse().expect("a number")
    };
    let flop = line("flopsprof_flop_total{", &["path=\"op_hgmma_src_bf16_dst_fp32\"", "job=\"4711\"", "program=\"plain\""]);
    assert!((flop - truth).abs() < 1.0, "{flop} {truth}");
    let calls = line("flopsprof_driver_calls_total{", &[&format!("pid=\"{pid}\""), "entry=\"cuLaunchKernel\"", "library=\"false\""]);
    assert!((calls - made as f64).abs() < 0.5, "{calls} {made}");
    assert!(line("flopsprof_device_energy_joules_total{", &["uuid=\"GPU-666c6f70"]) > 0.0);
    assert!(line("flopsprof_device_tensor_seconds_total{", &[]) > 0.0);
    assert!(line("flopsprof_process_events_total{", &["what=\"forked\""]) >= 2.0);
    // Each metric that the dashboard asks for is one of these, or comes with the first completeness.
    let dashboard = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/grafana.json")).expect("the dashboard");
    let dashboard: serde_json::Value = serde_json::from_str(&dashboard).expect("JSON");
    for panel in dashboard["panels"].as_array().expect("panels") {
        for target in panel["targets"].as_array().expect("targets") {
            let asked = target["expr"].as_str().expect("a query");
            for name in asked.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).filter(|w| w.starts_with("flopsprof_")) {
                let bare = name.strip_suffix("_total").unwrap_or(name);
                assert!(body.contains(&format!("# TYPE {bare} ")) || bare.starts_with("flopsprof_completeness"), "{name}");
            }
        }
    }
    assert!(get(&address, "GET /other").0.starts_with("HTTP/1.1 404"));
    assert!(get(&address, "POST /metrics").0.starts_with("HTTP/1.1 405"));
    assert_eq!(lost(&watch.end()), (0, 0));
}

#[test]
fn an_address_that_is_taken_is_said() {
    let bench = Bench::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    let output =
        flopsprof(&bench).args(["watch", "--no-ebpf", "--listen", &address, "--out"]).arg(bench.out()).output().expect("the command");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("--listen {address}: Address already in use")), "{said}");
}
