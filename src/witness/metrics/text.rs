//! The text of a scrape.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

use super::{Caller, Metrics};

/// Labels of a metered process's counter.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfPath {
    uuid: String,
    gpu: String,
    host: String,
    pid: u32,
    program: String,
    job: String,
    rank: String,
    path: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfDevice {
    uuid: String,
    gpu: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfProcess {
    pid: u32,
    program: String,
    user: String,
    container: String,
    pod: String,
    job: String,
    library: String,
    entry: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfWhat {
    what: String,
}

type Amount = Counter<f64, AtomicU64>;

impl Metrics {
    /// All of it, as text.
    #[must_use]
    pub fn text(&self) -> String {
        // What comes from the stand-in says so in every line.
        let labels = self.simulated.then(|| ("simulated".into(), "true".into()));
        let mut registry = Registry::with_prefix_and_labels("flopsprof", labels.into_iter());
        self.metered(&mut registry);
        self.devices(&mut registry);
        self.witness(&mut registry);
        self.complete(&mut registry);
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &registry);
        text
    }

    fn metered(&self, registry: &mut Registry) {
        let flop = Family::<OfPath, Amount>::default();
        registry.register("flop", "Floating-point operations read from the GPU's operation counters", flop.clone());
        for m in self.metered.values() {
            for ((ordinal, path), amount) in &m.flop {
                let device = m.devices.get(ordinal).cloned().unwrap_or_default();
                let labels = OfPath {
                    uuid: device.uuid,
                    gpu: device.name,
                    host: m.host.clone(),
                    pid: m.pid,
                    program: m.program.clone(),
                    job: m.job.clone(),
                    rank: m.rank.clone(),
                    path: path.strip_prefix(crate::counter::plan::PREFIX).unwrap_or(path).to_owned(),
                };
                flop.get_or_create(&labels).inc_by(*amount);
            }
        }
    }

    fn devices(&self, registry: &mut Registry) {
        let (energy, tensor) = (Family::<OfDevice, Amount>::default(), Family::<OfDevice, Amount>::default());
        let gauge = Family::<OfDevice, Gauge<f64, AtomicU64>>::default;
        let (utilization, power, clock) = (gauge(), gauge(), gauge());
        registry.register_with_unit("device_energy", "Energy of the device since the witness began, by NVML", Unit::Joules, energy.clone());
        let help = "Time in which the device's tensor cores were active, at their peak, by NVML's GPM or by PM sampling";
        registry.register_with_unit("device_tensor", help, Unit::Seconds, tensor.clone());
        registry.register_with_unit(
            "device_utilization",
            "Share of time in which a kernel ran, by NVML",
            Unit::Ratios,
            utilization.clone(),
        );
        registry.register_with_unit("device_power", "Power at the moment", Unit::Other("watts".to_owned()), power.clone());
        registry.register_with_unit("device_sm_clock", "Mean SM clock", Unit::Other("hertz".to_owned()), clock.clone());
        for ((uuid, gpu), state) in &self.devices {
            let labels = OfDevice { uuid: uuid.clone(), gpu: gpu.clone() };
            if let Some((first, last)) = state.energy_mj {
                energy.get_or_create(&labels).inc_by(last.saturating_sub(first) as f64 / 1e3);
            }
            tensor.get_or_create(&labels).inc_by(state.tensor_s);
            for (family, value) in [(&utilization, state.utilization), (&power, state.power_w), (&clock, state.clock_hz)] {
                if let Some(value) = value {
                    family.get_or_create(&labels).set(value);
                }
            }
        }
    }

    fn witness(&self, registry: &mut Registry) {
        let calls = Family::<OfProcess, Counter>::default();
        let help = "Calls of the CUDA driver by process; of launches those in the time of flopsprof_launches_counted_seconds_total";
        registry.register("driver_calls", help, calls.clone());
        for (id, Caller { seen, calls: by_entry, .. }) in &self.callers {
            for (entry, n) in by_entry {
                let labels = OfProcess {
                    pid: id.pid,
                    program: seen.comm.clone(),
                    user: seen.user.clone(),
                    container: seen.container.clone().unwrap_or_default(),
                    pod: seen.pod.clone().unwrap_or_default(),
                    job: seen.slurm_job.clone().unwrap_or_default(),
                    library: seen.library.to_string(),
                    entry: entry.clone(),
                };
                calls.get_or_create(&labels).inc_by(*n);
            }
        }
        let counted = Amount::default();
        counted.inc_by(self.launches_on_s);
        registry.register_with_unit("launches_counted", "Time in which launches were counted", Unit::Seconds, counted);
        let (lost, life, living) =
            (Family::<OfWhat, Counter>::default(), Family::<OfWhat, Counter>::default(), Family::<OfWhat, Gauge>::default());
        registry.register("witness_lost", "Events and calls that the probes could not tell", lost.clone());
        registry.register("process_events", "Processes of the node that began, became another program, ended", life.clone());
        registry.register("gpu_processes", "Processes that use a GPU, with the meter's library and without", living.clone());
        let of = |what: &str| OfWhat { what: what.to_owned() };
        for (what, n) in [("events", self.lost.0), ("calls", self.lost.1)] {
            lost.get_or_create(&of(what)).inc_by(n);
        }
        for (what, n) in [("forked", self.life.0), ("executed", self.life.1), ("ended", self.life.2)] {
            life.get_or_create(&of(what)).inc_by(n);
        }
        for (what, n) in [("with_library", self.living.0), ("without_library", self.living.1)] {
            living.get_or_create(&of(what)).set(n.cast_signed());
        }
    }

    fn complete(&self, registry: &mut Registry) {
        let Some(c) = &self.completeness else { return };
        let gauge = Family::<OfDevice, Gauge<f64, AtomicU64>>::default;
        let (ratio, error, metered) = (gauge(), gauge(), gauge());
        registry.register_with_unit("completeness", "Share of the device's tensor time that was metered", Unit::Ratios, ratio.clone());
        registry.register_with_unit("completeness_error", "Error of it, from the device-wide number", Unit::Ratios, error.clone());
        let help = "Tensor time of metered processes on the device, in the evidence so far";
        registry.register_with_unit("metered_tensor", help, Unit::Seconds, metered.clone());
        for d in &c.devices {
            let labels = OfDevice { uuid: d.uuid.clone(), gpu: d.name.clone() };
            for (family, value) in [(&ratio, d.completeness), (&error, d.error), (&metered, Some(d.metered_tensor_s))] {
                if let Some(value) = value {
                    family.get_or_create(&labels).set(value);
                }
            }
        }
        let verdict = Family::<OfWhat, Gauge>::default();
        registry.register("completeness_verdict", "1 at the verdict that holds", verdict.clone());
        let all = ["complete", "not witnessed", "incomplete"];
        for what in all {
            verdict.get_or_create(&OfWhat { what: what.to_owned() }).set(i64::from(c.verdict.words() == what));
        }
    }
}
