//! Keeps the ledger in a SQLite file. Of the command alone: nothing here is reachable from the injected library.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use thiserror::Error;

use super::{Entry, Kept, PlaceError, Placement, base_key, place};
use crate::rule::Origin;

/// Version of the tables, kept in `PRAGMA user_version`.
const SCHEMA: i64 = 1;
/// How long to wait for another process that writes.
const BUSY: Duration = Duration::from_secs(10);

const TABLES: &str = "
    CREATE TABLE model (
        id INTEGER PRIMARY KEY,
        base TEXT NOT NULL,
        modification TEXT NOT NULL,
        origin TEXT NOT NULL,       -- rule::Origin, JSON
        UNIQUE (base, modification)
    ) STRICT;
    CREATE TABLE run (
        id INTEGER PRIMARY KEY AUTOINCREMENT,   -- a number is never given twice
        model INTEGER NOT NULL REFERENCES model (id),
        added_unix_s INTEGER NOT NULL,
        entry TEXT NOT NULL         -- cumulative::Entry, JSON
    ) STRICT;
    CREATE TABLE file (
        run INTEGER NOT NULL REFERENCES run (id) ON DELETE CASCADE,
        key TEXT NOT NULL,
        PRIMARY KEY (run, key)
    ) STRICT;
    CREATE INDEX file_key ON file (key);
";

/// Why the ledger cannot be used.
#[derive(Debug, Error)]
pub enum StoreError {
    /// Its folder cannot be made.
    #[error("{path}: {cause}")]
    Io {
        /// The folder.
        path: PathBuf,
        /// What the file system said.
        cause: std::io::Error,
    },
    /// SQLite refused.
    #[error("{path}: {}", of(path, cause))]
    Sqlite {
        /// The ledger's file.
        path: PathBuf,
        /// What it said.
        cause: rusqlite::Error,
    },
    /// Written by a newer flopsprof.
    #[error("{path}: this ledger has format {found}, this flopsprof reads up to {SCHEMA}: use a newer flopsprof")]
    Newer {
        /// The ledger's file.
        path: PathBuf,
        /// Its format.
        found: i64,
    },
    /// What is in it cannot be read.
    #[error("{path}: {what}: {cause}")]
    Content {
        /// The ledger's file.
        path: PathBuf,
        /// Which part.
        what: String,
        /// What is wrong.
        cause: serde_json::Error,
    },
    /// There is no such entry.
    #[error("{path}: there is no entry {id}")]
    NoEntry {
        /// The ledger's file.
        path: PathBuf,
        /// The number.
        id: i64,
    },
    /// The entry cannot be added.
    #[error(transparent)]
    Place(#[from] PlaceError),
}

/// A modification of a base model, with all its runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Modification {
    /// The base model, as the ledger knows it.
    pub base: String,
    /// The modification's name.
    pub name: String,
    /// What it was made from.
    pub origin: Origin,
    /// Its runs, in the order of time.
    pub runs: Vec<Kept>,
}

/// What adding did.
#[derive(Clone, Debug, PartialEq)]
pub struct Added {
    /// The entry's number.
    pub id: i64,
    /// What it did.
    pub placement: Placement,
    /// What was stored of the base model before, where it differs from now.
    pub origin_before: Option<Origin>,
    /// Other modifications that hold some of the same evidence.
    pub also_in: Vec<String>,
}

/// The ledger's file, open.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
    path: PathBuf,
}

impl Store {
    /// Opens a ledger, and makes it where there is none.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            fs::create_dir_all(folder).map_err(|cause| StoreError::Io { path: folder.to_owned(), cause })?;
        }
        let sql = |cause| StoreError::Sqlite { path: path.to_owned(), cause };
        let mut connection = Connection::open(path).map_err(sql)?;
        connection.busy_timeout(BUSY).map_err(sql)?;
        connection.pragma_update(None, "foreign_keys", true).map_err(sql)?;
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql)?;
        let found: i64 = tx.query_row("PRAGMA user_version", [], |r| r.get(0)).map_err(sql)?;
        if found > SCHEMA {
            return Err(StoreError::Newer { path: path.to_owned(), found });
        }
        if found == 0 {
            tx.execute_batch(TABLES).map_err(sql)?;
            tx.pragma_update(None, "user_version", SCHEMA).map_err(sql)?;
        }
        tx.commit().map_err(sql)?;
        Ok(Self { connection, path: path.to_owned() })
    }

    /// What is stored of a base model and a modification, if they are known.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn origin(&self, base: &str, modification: &str) -> Result<Option<Origin>, StoreError> {
        let text: Option<String> = self
            .connection
            .query_row("SELECT origin FROM model WHERE base = ?1 AND modification = ?2", params![base, modification], |r| r.get(0))
            .optional()
            .map_err(|e| self.sql(e))?;
        text.map(|t| self.parse(&t, "the base model")).transpose()
    }

    /// Adds a run, or puts it in the place of what it was. All or nothing.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::Place`] when the run contradicts what is there.
    pub fn add(
        &mut self,
        origin: &Origin,
        modification: &str,
        entry: &Entry,
        chains: &[Vec<String>],
        now_unix_s: u64,
    ) -> Result<Added, StoreError> {
        let base = base_key(origin);
        let before = self.origin(&base, modification)?.filter(|o| o != origin);
        let path = self.path.clone();
        let sql = |cause| StoreError::Sqlite { path: path.clone(), cause };
        let json = |what: &str, cause| StoreError::Content { path: path.clone(), what: what.to_owned(), cause };
        let origin_text = serde_json::to_string(origin).map_err(|e| json("the base model", e))?;
        let entry_text = serde_json::to_string(entry).map_err(|e| json("the run", e))?;
        let tx = self.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql)?;
        let model: i64 = tx
            .query_row(
                "INSERT INTO model (base, modification, origin) VALUES (?1, ?2, ?3)
                 ON CONFLICT (base, modification) DO UPDATE SET origin = excluded.origin RETURNING id",
                params![base, modification, origin_text],
                |r| r.get(0),
            )
            .map_err(sql)?;
        let kept = runs(&tx, &path, model)?;
        let placement = place(entry, chains, &kept)?;
        let also_in = also_in(&tx, model, entry).map_err(sql)?;
        let replaced: &[i64] = if let Placement::Replaces(ids) = &placement { ids } else { &[] };
        for id in replaced {
            tx.execute("DELETE FROM run WHERE id = ?1", [id]).map_err(sql)?;
        }
        // Itself again keeps its number.
        let id = replaced.first().copied();
        let now = i64::try_from(now_unix_s).unwrap_or(i64::MAX);
        tx.execute("INSERT INTO run (id, model, added_unix_s, entry) VALUES (?1, ?2, ?3, ?4)", params![id, model, now, entry_text])
            .map_err(sql)?;
        let id = tx.last_insert_rowid();
        for file in &entry.files {
            tx.execute("INSERT OR IGNORE INTO file (run, key) VALUES (?1, ?2)", params![id, file.key]).map_err(sql)?;
        }
        tx.commit().map_err(sql)?;
        Ok(Added { id, placement, origin_before: before, also_in })
    }

    /// Takes a run out.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn remove(&mut self, id: i64) -> Result<(), StoreError> {
        match self.connection.execute("DELETE FROM run WHERE id = ?1", [id]) {
            Ok(0) => Err(StoreError::NoEntry { path: self.path.clone(), id }),
            Ok(_) => Ok(()),
            Err(e) => Err(self.sql(e)),
        }
    }

    /// All modifications, with their runs.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn modifications(&mut self) -> Result<Vec<Modification>, StoreError> {
        let path = self.path.clone();
        let sql = |cause| StoreError::Sqlite { path: path.clone(), cause };
        // One transaction, so that nothing moves between the reads.
        let tx = self.connection.transaction().map_err(sql)?;
        let rows: Vec<(i64, String, String, String)> = {
            let mut all = tx.prepare("SELECT id, base, modification, origin FROM model ORDER BY base, modification").map_err(sql)?;
            let rows = all.query_map([], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?))).map_err(sql)?;
            rows.collect::<Result<_, _>>().map_err(sql)?
        };
        let mut modifications = Vec::new();
        for (id, base, name, origin) in rows {
            let origin = content(&path, &origin, "the base model")?;
            modifications.push(Modification { base, name, origin, runs: runs(&tx, &path, id)? });
        }
        Ok(modifications)
    }

    fn sql(&self, cause: rusqlite::Error) -> StoreError {
        StoreError::Sqlite { path: self.path.clone(), cause }
    }

    fn parse<T: serde::de::DeserializeOwned>(&self, text: &str, what: &str) -> Result<T, StoreError> {
        content(&self.path, text, what)
    }
}

fn content<T: serde::de::DeserializeOwned>(path: &Path, text: &str, what: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|cause| StoreError::Content { path: path.to_owned(), what: what.to_owned(), cause })
}

fn runs(tx: &Transaction<'_>, path: &Path, model: i64) -> Result<Vec<Kept>, StoreError> {
    let sql = |cause| StoreError::Sqlite { path: path.to_owned(), cause };
    let mut all = tx.prepare("SELECT id, added_unix_s, entry FROM run WHERE model = ?1 ORDER BY id").map_err(sql)?;
    let rows = all.query_map([model], |r| Ok((r.get(0)?, r.get::<_, i64>(1)?, r.get::<_, String>(2)?))).map_err(sql)?;
    let mut kept = Vec::new();
    for row in rows {
        let (id, added, entry) = row.map_err(sql)?;
        let entry = content(path, &entry, &format!("run {id}"))?;
        kept.push(Kept { id, added_unix_s: u64::try_from(added).unwrap_or(0), entry });
    }
    kept.sort_by_key(|k| (k.entry.began_unix_s, k.id));
    Ok(kept)
}

/// Other modifications that hold evidence of this entry.
fn also_in(tx: &Transaction<'_>, model: i64, entry: &Entry) -> rusqlite::Result<Vec<String>> {
    let mut find = tx.prepare(
        "SELECT DISTINCT model.base || ', ' || model.modification FROM file JOIN run ON run.id = file.run JOIN model ON model.id = run.model
         WHERE file.key = ?1 AND model.id <> ?2",
    )?;
    let mut names = Vec::new();
    for file in &entry.files {
        for name in find.query_map(params![file.key, model], |r| r.get::<_, String>(0))? {
            let name = name?;
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    Ok(names)
}

/// What SQLite says, without the file: of one that cannot be opened it names that itself.
fn of(path: &Path, cause: &rusqlite::Error) -> String {
    let said = cause.to_string();
    said.strip_suffix(&format!(": {}", path.display())).map(str::to_owned).unwrap_or(said)
}
