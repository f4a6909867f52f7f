//! Kernels: the report's table of which kernels executed the operations, as text, JSON and CSV.

use std::{collections::BTreeMap, fmt::Write, io};

use serde::Serialize;

use crate::{
    counter::{
        category::{Category, demangle},
        plan::PREFIX,
    },
    evidence::record::Kind,
    ledger::{
        self, RunTotal,
        arithmetic::{Amount, add_up},
        kernel::{KernelTotal, Key, Seen},
    },
};

/// Version of this form.
pub const FORMAT: u32 = 1;
/// Characters of a name in the text form: what a terminal of 160 has left beside the numbers.
const NAME: usize = 72;

/// The kernels of a run.
#[derive(Clone, Debug, Serialize)]
pub struct KernelReport {
    /// [`FORMAT`].
    pub format: u32,
    /// Version of flopsprof that wrote it.
    pub flopsprof: String,
    /// The stand-in GPU was used: no number here is a measurement.
    pub simulated: bool,
    /// The run's total, FLOP, decimal: the rows of which `rest` says how many are left out, `kernels` and `residual` add up to it.
    pub total: String,
    /// Censuses, and those of them that were of a whole number of the program's steps.
    pub censuses: u64,
    /// See `censuses`.
    pub whole_steps: u64,
    /// Launches that censuses saw.
    pub launches_seen: u64,
    /// Roll calls: times in which it was heard how often launches like these came.
    pub roll_calls: u64,
    /// Launches heard in them.
    pub launches_heard: u64,
    /// Those of them whose like no census saw; they are apportioned as the others are.
    pub launches_unknown: u64,
    /// Largest first.
    pub kernels: Vec<KernelRow>,
    /// The kernels that are left out, together.
    pub rest: Rest,
    /// What no census saw anything of.
    pub residual: Residual,
    /// By category, largest first.
    pub categories: Vec<CategoryRow>,
    /// Why there was no census, or not a whole one: how often.
    pub doubts: BTreeMap<String, u64>,
}

/// One kernel.
#[derive(Clone, Debug, Serialize)]
pub struct KernelRow {
    /// As its author wrote it.
    pub name: String,
    /// As the program's library has it; empty where it has none.
    pub symbol: String,
    /// What it does, by its name.
    pub category: Category,
    /// `kernel`, `graph` or `unnamed`.
    pub kind: Kind,
    /// FLOP of the total that are apportioned to it, decimal.
    pub flop: String,
    /// The same as a float.
    pub flop_float: f64,
    /// Standard error of `flop`, widened where few bursts tell it, so that twice it holds in 95 % of cases; null when it is not known.
    pub standard_error: Option<f64>,
    /// Share of the run's total.
    pub share: f64,
    /// The same FLOP by path.
    pub paths: BTreeMap<String, String>,
    /// Launches that censuses saw.
    pub launches_seen: u64,
    /// FLOP of one of these launches, by path: the mean of those in which the path was looked at.
    pub flop_per_launch: BTreeMap<String, f64>,
    /// FLOP of one launch on the CUDA cores, by format: the mean of those in which it was counted; empty where it was not.
    pub core_flop_per_launch: BTreeMap<String, f64>,
    /// Their grids and blocks, the most frequent first.
    pub shapes: Vec<ShapeRow>,
    /// How long they took, in a census, where kernels run one after the other; null where that was not counted.
    pub duration: Option<DurationRow>,
    /// FLOP per second of these launches; null without durations.
    pub flop_per_s: Option<f64>,
    /// Share of the dense peak of the paths it used, at the highest SM clock; null without durations or peaks.
    pub peak_share: Option<f64>,
}

/// A grid and block.
#[derive(Clone, Debug, Serialize)]
pub struct ShapeRow {
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Launches seen.
    pub launches: u64,
    /// FLOP of one of them: the mean.
    pub flop_per_launch: f64,
}

/// Durations of launches, ns.
#[derive(Clone, Debug, Serialize)]
pub struct DurationRow {
    /// Mean.
    pub mean_ns: f64,
    /// Half of the launches took no longer.
    pub p50_ns: u64,
    /// Nine of ten took no longer.
    pub p90_ns: u64,
    /// 99 of 100 took no longer.
    pub p99_ns: u64,
    /// The longest.
    pub max_ns: u64,
}

/// Kernels that are not listed.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Rest {
    /// How many.
    pub kernels: usize,
    /// Their FLOP, decimal.
    pub flop: String,
    /// Share of the run's total.
    pub share: f64,
    /// FLOP by path, decimal.
    pub paths: BTreeMap<String, String>,
}

/// What no census saw.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Residual {
    /// FLOP, decimal.
    pub flop: String,
    /// Share of the run's total.
    pub share: f64,
    /// By path.
    pub paths: BTreeMap<String, String>,
}

/// One category.
#[derive(Clone, Debug, Serialize)]
pub struct CategoryRow {
    /// Which.
    pub category: Category,
    /// FLOP, decimal.
    pub flop: String,
    /// Share of the run's total.
    pub share: f64,
}

/// What kind of kernels executed the operations: the report's part of this table.
#[derive(Clone, Debug, Serialize)]
pub struct Shares {
    /// Censuses that it rests on.
    pub censuses: u64,
    /// Largest first.
    pub categories: Vec<CategoryRow>,
    /// FLOP that no census saw anything of, decimal.
    pub residual: String,
    /// Share of the run's total.
    pub residual_share: f64,
}

/// The shares of the categories; none where there was no census.
#[must_use]
pub fn shares(run: &RunTotal) -> Option<Shares> {
    let table = kernels(run, 0);
    let KernelReport { censuses, categories, residual, .. } = table;
    (censuses > 0).then_some(Shares { censuses, categories, residual: residual.flop, residual_share: residual.share })
}

/// Makes the table of the `top` largest kernels.
#[must_use]
pub fn kernels(run: &RunTotal, top: usize) -> KernelReport {
    let all = ledger::sum(&run.paths).total();
    let share = |flop: u128| if all > 0 { flop as f64 / all as f64 } else { 0.0 };
    let mut rows: Vec<(&Key, &KernelTotal)> = run.kernels.rows.iter().collect();
    // Kernels without operations come last, those launched most often first.
    rows.sort_by(|a, b| (b.1.total(), b.1.launches, a.0).cmp(&(a.1.total(), a.1.launches, b.0)));
    let mut by_category: BTreeMap<Category, u128> = BTreeMap::new();
    for (key, row) in &rows {
        by_category.entry(category(key)).or_default().grow(row.total());
    }
    let mut categories: Vec<(Category, u128)> = by_category.into_iter().filter(|(_, flop)| *flop > 0).collect();
    categories.sort_by_key(|(_, flop)| std::cmp::Reverse(*flop));
    let left = rows.split_off(top.min(rows.len()));
    let left_flop = add_up(left.iter().map(|(_, r)| r.total()));
    let mut left_paths: BTreeMap<String, u128> = BTreeMap::new();
    for (path, flop) in left.iter().flat_map(|(_, r)| &r.flop) {
        left_paths.entry(path.clone()).or_default().grow(*flop);
    }
    let residual = add_up(run.kernels.residual.values().copied());
    KernelReport {
        format: FORMAT,
        flopsprof: env!("CARGO_PKG_VERSION").to_owned(),
        simulated: run.simulated,
        total: all.to_string(),
        censuses: run.kernels.censuses,
        whole_steps: run.kernels.whole,
        launches_seen: add_up(run.kernels.rows.values().map(|r| r.launches)),
        roll_calls: run.kernels.rolls,
        launches_heard: run.kernels.called.0,
        launches_unknown: run.kernels.called.1,
        kernels: rows.into_iter().map(|(key, total)| row(key, total, share(total.total()))).collect(),
        rest: Rest { kernels: left.len(), flop: u128::to_string(&left_flop), share: share(left_flop), paths: decimal(&left_paths) },
        residual: Residual { flop: u128::to_string(&residual), share: share(residual), paths: decimal(&run.kernels.residual) },
        categories: categories
            .into_iter()
            .map(|(c, flop)| CategoryRow { category: c, flop: flop.to_string(), share: share(flop) })
            .collect(),
        doubts: run.kernels.why.clone(),
    }
}

/// What a row is called.
#[must_use]
pub fn name(kind: Kind, symbol: &str) -> String {
    match kind {
        Kind::Graph => format!("CUDA graph {symbol}"),
        _ if symbol.is_empty() => "(launches without a name)".to_owned(),
        _ => demangle(symbol),
    }
}

fn category((kind, symbol): &Key) -> Category {
    match kind {
        Kind::Graph => Category::Graph,
        _ => Category::of(&demangle(symbol)),
    }
}

fn decimal(flop: &BTreeMap<String, u128>) -> BTreeMap<String, String> {
    flop.iter().map(|(path, n)| (path.clone(), n.to_string())).collect()
}

fn row(key: &Key, total: &KernelTotal, share: f64) -> KernelRow {
    let mut shapes: Vec<ShapeRow> = total
        .shapes
        .iter()
        .map(|((grid, block), (launches, paths))| ShapeRow {
            grid: *grid,
            block: *block,
            launches: *launches,
            flop_per_launch: paths.values().map(Seen::per_launch).sum::<f64>() + 0.0,
        })
        .collect();
    shapes.sort_by_key(|s| (std::cmp::Reverse(s.launches), s.grid, s.block));
    let durations = &total.durations;
    let timed = total.duration_ns > 0;
    KernelRow {
        name: name(key.0, &key.1),
        symbol: if key.0 == Kind::Kernel { key.1.clone() } else { String::new() },
        category: category(key),
        kind: key.0,
        flop: total.total().to_string(),
        flop_float: total.total() as f64,
        standard_error: total.standard_error(),
        share,
        paths: decimal(&total.flop),
        launches_seen: total.launches,
        flop_per_launch: total.seen.iter().filter(|(_, s)| s.flop > 0).map(|(path, s)| (path.clone(), s.per_launch())).collect(),
        core_flop_per_launch: total.cores.1.iter().map(|(f, n)| ((*f).to_owned(), *n as f64 / total.cores.0.max(1) as f64)).collect(),
        shapes,
        duration: timed.then(|| DurationRow {
            mean_ns: total.duration_ns as f64 / durations.len().max(1) as f64,
            p50_ns: durations.value_at_quantile(0.5),
            p90_ns: durations.value_at_quantile(0.9),
            p99_ns: durations.value_at_quantile(0.99),
            max_ns: durations.max(),
        }),
        flop_per_s: timed.then(|| total.rate()),
        peak_share: total.peak_share().filter(|_| timed),
    }
}

/// The table for a terminal.
#[must_use]
pub fn text(report: &KernelReport) -> String {
    let mut out = String::new();
    let mark = if report.simulated { " (simulated)" } else { "" };
    let _ = writeln!(out, "flopsprof report --kernels{mark}");
    if report.simulated {
        out += "SIMULATED: the stand-in GPU was used. No number below is a measurement.\n";
    }
    let total = report.total.parse::<f64>().unwrap_or(0.0);
    let _ = writeln!(
        out,
        "\nexecuted {total:.6e}{mark} FLOP, apportioned by {} census(es), {} of them of whole steps, {} launches seen",
        report.censuses, report.whole_steps, report.launches_seen
    );
    if report.roll_calls > 0 {
        let known = 100.0 * (1.0 - report.launches_unknown as f64 / report.launches_heard.max(1) as f64);
        let _ = writeln!(
            out,
            "and by {} roll call(s) of {} launches, {known:.2} % of them known from a census",
            report.roll_calls, report.launches_heard
        );
    }
    let _ = writeln!(
        out,
        "\n{:>7} {:>9} {:>13} {:>9} {:>12} {:>9} {:>10} {:>6}  {:<18} {:<16} {:<6} kernel",
        "share", "std.err.", "FLOP", "launches", "FLOP/launch", "p50 us", "TFLOP/s", "peak", "category", "grid", "path"
    );
    for row in &report.kernels {
        let (grid, more) = row.shapes.first().map_or_else(Default::default, |s| (s.grid, row.shapes.len() - 1));
        let grid = format!("{}x{}x{}{}", grid[0], grid[1], grid[2], if more > 0 { format!(" +{more}") } else { String::new() });
        let _ = writeln!(
            out,
            "{:>6.2}% {:>9} {:>13.4e} {:>9} {:>12.4e} {:>9} {:>10} {:>6}  {:<18} {:<16} {:<6} {}",
            100.0 * row.share,
            row.standard_error
                .map_or_else(|| "unknown".to_owned(), |e| if total > 0.0 { format!("{:.2}%", 100.0 * e / total) } else { "0".to_owned() }),
            row.flop_float,
            row.launches_seen,
            per_launch(row),
            row.duration.as_ref().map_or_else(|| "-".to_owned(), |d| format!("{:.1}", d.p50_ns as f64 / 1e3)),
            row.flop_per_s.map_or_else(|| "-".to_owned(), |r| format!("{:.2}", r / 1e12)),
            row.peak_share.map_or_else(|| "-".to_owned(), |s| format!("{:.1}%", 100.0 * s)),
            row.category.name(),
            grid,
            main_path(row),
            short(&row.name),
        );
    }
    if report.rest.kernels > 0 {
        let flop = report.rest.flop.parse::<f64>().unwrap_or(0.0);
        let _ = writeln!(
            out,
            "{:>6.2}% {:>9} {flop:>13.4e} {} more kernels (--kernels=N shows N)",
            100.0 * report.rest.share,
            "",
            report.rest.kernels
        );
    }
    let residual = report.residual.flop.parse::<f64>().unwrap_or(0.0);
    let _ = writeln!(out, "{:>6.2}% {:>9} {residual:>13.4e} residual: what no census saw", 100.0 * report.residual.share, "");
    if report.kernels.iter().any(|k| k.standard_error.is_none() && k.flop != "0") {
        out += "std.err. unknown: one burst alone, or parts of steps, do not tell how far other steps differ\n";
    }
    let by: Vec<String> = report.categories.iter().map(|c| format!("{} {:.2} %", c.category.name(), 100.0 * c.share)).collect();
    if !by.is_empty() {
        let _ = writeln!(out, "\nby category: {}", by.join(", "));
    }
    if report.censuses == 0 && report.doubts.is_empty() {
        out += "\nno census was taken: the run was too short, or its budget too small (FLOPSPROF_OVERHEAD, flopsprof run --overhead)\n";
    }
    if !report.doubts.is_empty() {
        out += "\ncensuses that were not taken, or not whole:\n";
    }
    for (why, times) in &report.doubts {
        let _ = writeln!(out, "  - {why}{}", if *times > 1 { format!(" ({times} times)") } else { String::new() });
    }
    out
}

/// FLOP of one launch, all paths together. A sum of no floats is -0.
fn per_launch(row: &KernelRow) -> f64 {
    row.flop_per_launch.values().sum::<f64>() + 0.0
}

/// The path of most of a row's operations, shortened to its format.
fn main_path(row: &KernelRow) -> &str {
    let most = row.paths.iter().max_by_key(|(_, flop)| flop.parse::<u128>().unwrap_or(0)).filter(|(_, flop)| *flop != "0");
    let Some((path, _)) = most else { return "-" };
    let rest = path.strip_prefix(PREFIX).unwrap_or(path);
    let rest = rest.split_once("src_").map_or(rest, |(_, source)| source);
    rest.split('_').next().unwrap_or(rest)
}

/// A name that fits a line: its beginning, without the return type that says nothing.
pub(super) fn short(name: &str) -> String {
    let name = name.strip_prefix("void ").unwrap_or(name);
    if name.chars().count() <= NAME { name.to_owned() } else { name.chars().take(NAME - 1).chain(['…']).collect() }
}

/// The table as CSV: a line a kernel, then the rest and the residual.
///
/// # Errors
/// What writing says.
pub fn csv(report: &KernelReport, to: impl io::Write) -> io::Result<()> {
    let mut paths: Vec<&str> = report
        .kernels
        .iter()
        .map(|k| &k.paths)
        .chain([&report.rest.paths, &report.residual.paths])
        .flat_map(BTreeMap::keys)
        .map(String::as_str)
        .collect();
    paths.sort_unstable();
    paths.dedup();
    let mut out = csv::Writer::from_writer(to);
    let mut head: Vec<&str> = "kernel,symbol,category,kind,flop,standard_error,share,launches_seen,flop_per_launch,grid,block,shapes,mean_ns,p50_ns,p90_ns,p99_ns,max_ns,\
                               flop_per_s,peak_share,simulated"
        .split(',')
        .collect();
    head.extend(&paths);
    out.write_record(head)?;
    let simulated = report.simulated.to_string();
    let float = |x: Option<f64>| x.map(|x| format!("{x:e}")).unwrap_or_default();
    let dims = |d: [u32; 3]| format!("{}x{}x{}", d[0], d[1], d[2]);
    for k in &report.kernels {
        let (category, kind) = (plain(&k.category), plain(&k.kind));
        let shape = k.shapes.first();
        let ns = |of: fn(&DurationRow) -> u64| k.duration.as_ref().map(|d| of(d).to_string()).unwrap_or_default();
        let mut fields =
            vec![k.name.clone(), k.symbol.clone(), category, kind, k.flop.clone(), float(k.standard_error), format!("{:e}", k.share)];
        fields.extend([k.launches_seen.to_string(), format!("{:e}", per_launch(k))]);
        fields.extend([
            shape.map(|s| dims(s.grid)).unwrap_or_default(),
            shape.map(|s| dims(s.block)).unwrap_or_default(),
            k.shapes.len().to_string(),
        ]);
        fields.extend([
            float(k.duration.as_ref().map(|d| d.mean_ns)),
            ns(|d| d.p50_ns),
            ns(|d| d.p90_ns),
            ns(|d| d.p99_ns),
            ns(|d| d.max_ns),
        ]);
        fields.extend([float(k.flop_per_s), float(k.peak_share), simulated.clone()]);
        fields.extend(paths.iter().map(|p| k.paths.get(*p).cloned().unwrap_or_else(|| "0".to_owned())));
        out.write_record(fields)?;
    }
    let mut together = |name: &str, flop: &str, share: f64, by_path: &BTreeMap<String, String>| {
        let mut fields = vec![String::new(); 20];
        (fields[0], fields[4], fields[6], fields[19]) = (name.to_owned(), flop.to_owned(), format!("{share:e}"), simulated.clone());
        fields.extend(paths.iter().map(|p| by_path.get(*p).cloned().unwrap_or_else(|| "0".to_owned())));
        out.write_record(fields)
    };
    if report.rest.kernels > 0 {
        together(&format!("({} more kernels)", report.rest.kernels), &report.rest.flop, report.rest.share, &report.rest.paths)?;
    }
    together("(residual)", &report.residual.flop, report.residual.share, &report.residual.paths)?;
    out.flush()
}

/// A word as JSON has it.
fn plain(of: &impl Serialize) -> String {
    serde_json::to_value(of).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}
