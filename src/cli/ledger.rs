//! `flopsprof ledger`: what was spent on a modification, over runs, restarts and rounds.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use flopsprof::{
    cumulative::{
        self, Entry, Placement,
        gather::{Gathered, gather},
        name_key,
        store::{Modification, Store},
    },
    reconcile::compute,
    rule::{Kind, Origin, assess, guidelines::CURRENT, split},
};
use serde_json::json;

use super::base::{BaseArgs, UseArgs, kind};

/// There is no evidence, or nothing in the ledger.
const NOTHING: u8 = 3;
/// Names the ledger's file.
const LEDGER: &str = "FLOPSPROF_LEDGER";
/// A modification that was given no name.
const UNNAMED: &str = "default";

/// Sum runs, restarts and rounds per base model and modification.
///
/// The Act looks at a model's whole life, not at one job. Each run is added once: added again under whatever path it replaces itself, grown since it
/// replaces what it was, cut or written anew it is refused. A job that crashed and was resumed counts what both halves executed.
///
/// Exit status: 0; 1 for an error (the run contradicts what is in the ledger, a folder holds two runs); 2 for wrong usage; 3 if there is no evidence, or nothing to
/// show.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  flopsprof ledger add --base meta-llama/Llama-3.2-3B --modification legal-v2 run7 run8\n  flopsprof ledger add --base meta-llama/Llama-3.2-3B --modification legal-v2 --as synthetic-private gen3\n  flopsprof ledger show --base meta-llama/Llama-3.2-3B"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
    /// The ledger's file [default: FLOPSPROF_LEDGER, else flopsprof/ledger.db in XDG_DATA_HOME or ~/.local/share]
    #[arg(long, global = true, value_name = "FILE")]
    db: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Verb {
    /// Add runs, or bring them up to date
    Add(Box<Add>),
    /// Show what was spent, and what follows from it
    Show(Show),
    /// Take a run out again
    Remove {
        /// Its number, as `show` prints it
        id: i64,
    },
}

#[derive(clap::Args)]
struct Add {
    /// Runs' folders
    #[arg(required = true, value_name = "DIR")]
    runs: Vec<PathBuf>,
    /// Name of what is being made from the base model
    #[arg(long, default_value = UNNAMED, value_name = "NAME")]
    modification: String,
    /// What the runs were for: training, synthetic-private, merged, rollouts, evaluation, discarded, ...
    #[arg(long = "as", default_value = "training", value_name = "KIND", value_parser = kind)]
    kind: Kind,
    /// All that lies in a folder belongs to this modification, although it is of several jobs
    #[arg(long)]
    together: bool,
    #[command(flatten)]
    base: BaseArgs,
    #[command(flatten)]
    uses: UseArgs,
}

#[derive(clap::Args)]
struct Show {
    /// Only this base model
    #[arg(long, value_name = "NAME")]
    base: Option<String>,
    /// Only this modification
    #[arg(long, value_name = "NAME")]
    modification: Option<String>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    let db = match args.db {
        Some(db) => db,
        None => default_db()?,
    };
    match args.verb {
        Verb::Add(add) => self::add(&db, &add),
        Verb::Show(show) => self::show(&db, &show),
        Verb::Remove { id } => {
            existing(&db)?.remove(id)?;
            println!("entry {id} removed");
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn default_db() -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(db) = set(LEDGER) {
        return Ok(db);
    }
    let data = set("XDG_DATA_HOME").or_else(|| set("HOME").map(|h| h.join(".local/share")));
    Ok(data.with_context(|| format!("where is the ledger? Give --db or set {LEDGER}"))?.join("flopsprof/ledger.db"))
}

/// A ledger that is there: looking at one makes none.
fn existing(db: &Path) -> Result<Store> {
    if !db.exists() {
        bail!("{}: there is no ledger here (flopsprof ledger add makes one; --db names another)", db.display());
    }
    Ok(Store::open(db)?)
}

fn add(db: &Path, args: &Add) -> Result<ExitCode> {
    if args.runs.len() > 1 && !(args.uses.of_which.is_empty() && args.uses.besides.is_empty()) {
        bail!("--of-which and --besides are said of one run: add the runs one by one");
    }
    let mut runs = Vec::new();
    for folder in &args.runs {
        match gather(folder) {
            Ok(run) => runs.push((folder, run)),
            Err(e) => {
                eprintln!("flopsprof: {e}");
                return Ok(ExitCode::from(NOTHING));
            }
        }
    }
    let mut entries = Vec::new();
    for (folder, run) in runs {
        if run.total.runs.len() > 1 && !args.together {
            let names: Vec<&str> = run.total.runs.iter().map(|r| r.name.as_str()).collect();
            bail!(
                "{} holds {} runs ({}): move them to folders of their own, or add them --together if all of it belongs to this modification",
                folder.display(),
                names.len(),
                names.join(", ")
            );
        }
        entries.push((entry(folder, &run, args)?, run.chains));
    }
    // Before there is a ledger: an error of usage makes none.
    let origin = origin(db, args)?;
    let mut store = Store::open(db)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    for (entry, chains) in &entries {
        let added = store.add(&origin, &args.modification, entry, chains, now)?;
        let flop: u128 = entry.components.iter().map(|c| c.amount.flop).sum();
        let what = match &added.placement {
            Placement::New => "added".to_owned(),
            Placement::Replaces(ids) if ids.as_slice() == [added.id] => "brought up to date".to_owned(),
            Placement::Replaces(ids) => format!("put in the place of entries {ids:?}"),
        };
        let simulated = if entry.simulated { " (simulated)" } else { "" };
        println!("entry {}: {} {what}: {:.6e} FLOP{simulated}", added.id, entry.name, flop as f64);
        if let Some(before) = &added.origin_before {
            eprintln!("flopsprof: what is known of the base model was changed; it was {}", serde_json::to_string(before)?);
        }
        for other in &added.also_in {
            eprintln!("flopsprof: {} is counted for another modification too: {other}", entry.name);
        }
        for doubt in &entry.doubts {
            eprintln!("flopsprof: {doubt}: while it is in the ledger, no verdict is given");
        }
        for gap in entry.gaps.iter().filter(|g| g.at_most.is_none()) {
            eprintln!("flopsprof: the sum is a lower bound: {}", gap.what);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The base model: as the flags say, or, with nothing but its name, as the ledger has it.
fn origin(db: &Path, args: &Add) -> Result<Origin> {
    if let Some(name) = args.base.only_name()
        && db.exists()
        && let Some(known) = Store::open(db)?.origin(&name_key(name), &args.modification)?
    {
        return Ok(known);
    }
    match args.base.origin(CURRENT)? {
        Origin::NotStated => bail!("which base model is it? Give --base NAME (and its compute), or --from-scratch"),
        origin => Ok(origin),
    }
}

fn entry(folder: &Path, run: &Gathered, args: &Add) -> Result<Entry> {
    let executed = compute::executed(&run.total);
    let mut components = split(executed.component(args.kind, args.kind.name()), args.uses.parts(CURRENT))?;
    components.extend(args.uses.besides(CURRENT));
    let name = std::fs::canonicalize(folder).ok().and_then(|p| Some(p.file_name()?.to_string_lossy().into_owned()));
    Ok(Entry {
        name: name.unwrap_or_else(|| folder.display().to_string()),
        began_unix_s: run.began_unix_s,
        files: run.files.clone(),
        components,
        gaps: executed.gaps,
        doubts: executed.doubts,
        simulated: executed.simulated,
    })
}

fn show(db: &Path, args: &Show) -> Result<ExitCode> {
    let base = args.base.as_deref().map(name_key);
    let wanted = |m: &Modification| {
        base.as_ref().is_none_or(|b| *b == m.base) && args.modification.as_ref().is_none_or(|n| *n == m.name) && !m.runs.is_empty()
    };
    let found: Vec<Modification> = existing(db)?.modifications()?.into_iter().filter(wanted).collect();
    if found.is_empty() {
        eprintln!("flopsprof: {}: nothing in the ledger that is asked for", db.display());
        return Ok(ExitCode::from(NOTHING));
    }
    let mut out = std::io::stdout().lock();
    let mut all = Vec::new();
    for m in &found {
        let mut assessment = assess(&cumulative::input(m.origin.clone(), &m.runs), CURRENT)?;
        assessment.assumptions.push(compute::assumption());
        if args.json {
            all.push(json!({ "base": m.base, "modification": m.name, "origin": m.origin, "runs": m.runs, "assessment": assessment }));
            continue;
        }
        writeln!(out, "{}, modification {}: {} run(s)", m.base, m.name, m.runs.len())?;
        for k in &m.runs {
            let flop: u128 = k.entry.components.iter().map(|c| c.amount.flop).sum();
            let killed = k.entry.files.iter().filter(|f| !f.ended).count();
            let killed = if killed > 0 { format!(", {killed} killed") } else { String::new() };
            writeln!(out, "  {:>4}  {:>14.6e} FLOP  {} ({} process(es){killed})", k.id, flop as f64, k.entry.name, k.entry.files.len())?;
        }
        writeln!(out, "\n{assessment}\n")?;
    }
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&json!({ "format": 1, "modifications": all }))?)?;
    }
    Ok(ExitCode::SUCCESS)
}
