//! Warms a cache with three graphs, or checks what somebody has left of it: the program that the
//! scripts in `tests/faults` interrupt, and a small example of how the crate is used.
//!
//! ```text
//! warm FOLDER [ask]      asks for three graphs, compiling those that are not there
//! warm FOLDER busy       also does what is done to a cache besides: gc, verify, quarantine, export
//! warm FOLDER check      finds out what a reader would, then asks, and all is to be well
//! warm FOLDER nothing    does nothing, to be compared with
//! ```
//!
//! A number behind that says how many entries were damaged on purpose.
//!
//! | Exit code | Meaning |
//! | --- | --- |
//! | 0 | all is well |
//! | 3 | a graph was not delivered, or not the right bytes: this must never happen |
//! | 4 | something torn is in the place of an entry, or is left where nobody will remove it |
//! | 5 | more warnings than one for what happened |
//!
//! It writes to the standard output what it found, as far as that can be written to.

use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cairn_graph_cache::{
    Artifact, ArtifactFile, CacheOptions, Compiled, DiskAccess, DiskOptions, DiskStore, Event,
    GcOptions, GraphCache, KeyFields, LoadFailure, Lookup, MissReason, Observer, Origin,
    Store as _, VerifyOptions, export,
};

const NUM_GRAPHS: u8 = 3;
const WRONG: u8 = 3;
const TORN: u8 = 4;
const LOUD: u8 = 5;

/// Whatever goes wrong, with the exit code that says so.
type Failure = (u8, String);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (folder, rest) = arguments.split_first().unwrap_or((&"", &[]));
    let (folder, what) = (Path::new(folder), rest.first().copied().unwrap_or("ask"));
    let num_damaged = rest.get(1).map_or(Ok(0), |number| number.parse());
    let result = match (what, num_damaged) {
        ("nothing", Ok(_)) => Ok(()),
        ("ask", Ok(num_damaged)) => warm(folder, num_damaged),
        ("busy", Ok(_)) => busy(folder),
        ("check", Ok(num_damaged)) => check(folder, num_damaged),
        _ => Err((2, "usage: warm FOLDER [ask|busy|check|nothing [DAMAGED]]".to_owned())),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err((code, what)) => {
            say(&what);
            code.into()
        }
    }
}

/// Where nothing can be written, nobody reads either.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn fields(number: u8) -> KeyFields {
    KeyFields::new().text("backend", "example").text("graph", number.to_string())
}

fn compiled(number: u8) -> Result<Artifact, Box<dyn Error>> {
    let file = |name: &str, bytes: Vec<u8>| ArtifactFile { name: name.into(), bytes };
    let code = (0..9000_u32).map(|at| (at % 251) as u8 ^ number).collect();
    Ok(Artifact::new(vec![file("code.bin", code), file("table.json", b"{}".to_vec())])?)
}

/// Remembers what a person would be warned of.
#[derive(Default)]
struct Warnings(Mutex<Vec<String>>);

impl Observer for Warnings {
    fn observe(&self, event: &Event) {
        // That the bad entry of a miss was moved away is of the same matter, and who was killed had
        // locks that others take over.
        let is_known = matches!(event, Event::Quarantined { .. } | Event::TookOver { .. });
        if event.is_warning() && !is_known {
            self.lines().push(event.to_string());
        }
    }
}

impl Warnings {
    fn lines(&self) -> MutexGuard<'_, Vec<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn at_most(&self, most: usize) -> Result<(), Failure> {
        let lines = self.lines();
        let what = || format!("{} warnings, at most {most} expected: {lines:?}", lines.len());
        if lines.len() <= most { Ok(()) } else { Err((LOUD, what())) }
    }
}

fn open(folder: &Path) -> (GraphCache, Arc<Warnings>) {
    let warnings = Arc::new(Warnings::default());
    let observers = vec![Arc::clone(&warnings) as Arc<dyn Observer>];
    let options = CacheOptions { observers, ..CacheOptions::in_folder("warm 1.0", folder) };
    (GraphCache::open(options), warnings)
}

/// Asks for a graph; whatever happens to the folder, there is one, and it is right.
fn ask(cache: &GraphCache, number: u8) -> Result<Origin, Failure> {
    let wrong = |what: &dyn fmt::Display| (WRONG, format!("graph {number}: {what}"));
    let expected = compiled(number).map_err(|error| wrong(&error))?;
    let load = |artifact: &Artifact| Ok::<_, LoadFailure<Infallible>>(artifact.clone());
    let compile = || Ok(Compiled::new(expected.clone()));
    let answer = cache.get_or_compile(&fields(number), &format!("graph {number}"), load, compile);
    let (artifact, outcome) = answer.map_err(|error| wrong(&error))?;
    say(&format!("graph {number}: {:?} {:?}", outcome.origin, outcome.warnings));
    if artifact == expected { Ok(outcome.origin) } else { Err(wrong(&"wrong bytes")) }
}

fn warm(folder: &Path, num_damaged: usize) -> Result<(), Failure> {
    let (cache, warnings) = open(folder);
    (0..NUM_GRAPHS).try_for_each(|number| ask(&cache, number).map(drop))?;
    // Of whatever else went wrong, there is one.
    warnings.at_most(num_damaged + 1)
}

/// Does what else is done to a cache. Each of it may fail, but what is left must be good.
fn busy(folder: &Path) -> Result<(), Failure> {
    let (cache, _) = open(folder);
    (0..NUM_GRAPHS).try_for_each(|number| ask(&cache, number).map(drop))?;
    let key = fields(0).key();
    let start = cache.begin_start(&[key]);
    let tell = |what: &str, result: Result<(), String>| {
        if let Err(error) = result {
            say(&format!("{what}: {error}"));
        }
    };
    let text = |error: cairn_graph_cache::StoreError| error.to_string();
    tell("quarantine", cache.quarantine(&key, "for a test").map_err(text));
    ask(&cache, 0)?;
    if let Some(disk) = cache.disk() {
        tell("pin", disk.pin(&key).map_err(text));
        tell("remove", disk.remove(&fields(1).key()).map(drop).map_err(text));
        let repair = VerifyOptions { repair: true, ..VerifyOptions::default() };
        tell("verify", disk.verify(&repair).map(drop).map_err(text));
        let room = GcOptions { max_bytes: Some(20_000), dry_run: false };
        tell("gc", disk.gc(&room).map(drop).map_err(text));
        let exported = export(disk, &[key], std::io::sink(), &mut |_| {});
        tell("export", exported.map(drop).map_err(|error| error.to_string()));
        tell("unpin", disk.unpin(&key).map_err(text));
    }
    start.ready();
    (0..NUM_GRAPHS).try_for_each(|number| ask(&cache, number).map(drop))
}

/// What is there is whole, and all can be put right.
fn check(folder: &Path, num_damaged: usize) -> Result<(), Failure> {
    let torn = |what: String| (TORN, what);
    let options = DiskOptions { access: DiskAccess::ReadOnly, ..DiskOptions::default() };
    let reader = DiskStore::open_with(folder, options).map_err(|error| torn(error.to_string()))?;
    let report =
        reader.verify(&VerifyOptions::default()).map_err(|error| torn(error.to_string()))?;
    say(&format!("{} entries, {} good", report.num_entries, report.num_good));
    let mut bad = Vec::new();
    for number in 0..NUM_GRAPHS {
        match reader.get(&fields(number).key()) {
            Lookup::Hit(_) | Lookup::Miss(MissReason::Absent) => {}
            Lookup::Miss(reason) => bad.push(format!("graph {number}: {reason}")),
        }
    }
    if bad.len() > num_damaged || report.num_good + bad.len() != report.num_entries {
        return Err(torn(format!("not all entries are good: {bad:?}, {:?}", report.problems)));
    }
    let (cache, warnings) = open(folder);
    (0..NUM_GRAPHS).try_for_each(|number| ask(&cache, number).map(drop))?;
    let Some(disk) = cache.disk() else {
        return Err(torn("the folder is of no use any more".to_owned()));
    };
    for number in 0..NUM_GRAPHS {
        if !matches!(disk.get(&fields(number).key()), Lookup::Hit(_)) {
            return Err(torn(format!("graph {number} was not stored")));
        }
    }
    disk.gc(&GcOptions::default()).map_err(|error| torn(error.to_string()))?;
    warnings.at_most(bad.len())?;
    drop(cache);
    let repair = VerifyOptions { repair: true, ..VerifyOptions::default() };
    let report = DiskStore::open(folder).and_then(|disk| disk.verify(&repair));
    let report = report.map_err(|error| torn(error.to_string()))?;
    if !report.is_repaired() {
        return Err(torn(format!("what was found cannot be put right: {report:?}")));
    }
    let report =
        reader.verify(&VerifyOptions::default()).map_err(|error| torn(error.to_string()))?;
    if report.is_clean() { Ok(()) } else { Err(torn(format!("not clean: {:?}", report.problems))) }
}
