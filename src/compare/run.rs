//! A comparison from beginning to end: what is made, what is measured, in which order, and that all that was made is gone again.

use jiff::Timestamp;

use crate::bench::machine::{self, Machine};
use crate::compare::environment::Environment;
use crate::compare::findings::{self, Findings, Mode, Parameters, Search, VERSION};
use crate::compare::options::Options;
use crate::compare::search::search;
use crate::compare::{CompareError, one, report};
use crate::console;
use crate::engine::Stopper;

/// Measures, and says what it found. `stopper` ends it early; what was measured by then is reported, and nothing stays behind.
///
/// # Errors
/// See [`CompareError`]. What was measured before is reported all the same.
pub fn run(options: &Options, stopper: &Stopper) -> Result<(), CompareError> {
    let mut findings = Findings {
        version: VERSION,
        forebay: env!("CARGO_PKG_VERSION").to_owned(),
        started_at: Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        machine: this_machine(),
        ..Findings::default()
    };
    // Whoever measures for minutes is not told at the end that there is no place for what was found.
    report::make_room(options)?;
    let mut environment = Environment::create(options)?;
    findings.id = environment.id.clone();
    findings.environment = environment.found()?;
    findings.parameters = parameters(options, &environment);
    console::out(report::headline(&findings));
    let outcome = measure(&mut environment, options, &mut findings, stopper);
    drop(environment);
    findings.cut_short = outcome.is_err() || stopper.is_stopped();
    let written = report::write(&findings, options);
    outcome?;
    written?;
    match (findings.wrong.is_empty(), findings.runs.is_empty()) {
        (false, _) => Err(CompareError::Failed(findings.wrong.join("; "))),
        (true, true) => Err(CompareError::Interrupted),
        (true, false) => Ok(()),
    }
}

fn measure(
    environment: &mut Environment,
    options: &Options,
    findings: &mut Findings,
    stopper: &Stopper,
) -> Result<(), CompareError> {
    let rate = match options.rate {
        Some(rate) => rate,
        None => {
            let found = findings.search.insert(Search::default());
            let outcome = search(environment, options, stopper, found);
            console::out(report::search(found));
            outcome?;
            found.borne.ok_or_else(|| {
                let limit = options.borne_p99.as_millis();
                CompareError::Unavailable(format!(
                    "not even the lowest rate that was tried is answered without errors and within {limit} ms: see --rate and --p99-ms"
                ))
            })?
        }
    };
    options.fits(rate)?;
    for factor in &options.factors {
        for mode in [Mode::Sync, Mode::Async] {
            if stopper.is_stopped() {
                return Ok(());
            }
            let found = one::run(environment, options, mode, (rate * factor, *factor), stopper);
            let run = match found {
                // What was begun last is no figure; what came before is.
                Err(CompareError::Interrupted) if !findings.runs.is_empty() => return Ok(()),
                found => found?,
            };
            findings.wrong.extend(one::wrong(&run));
            console::out(report::line(&run));
            findings.runs.push(run);
        }
    }
    Ok(())
}

fn this_machine() -> findings::Machine {
    let Machine { host, kernel, cpu, cores, memory_bytes } = Machine::this();
    findings::Machine { host, kernel, cpu, cores, memory_bytes, load_before: machine::load() }
}

fn parameters(options: &Options, environment: &Environment) -> Parameters {
    Parameters {
        seconds: options.seconds,
        keys: options.keys,
        skew: options.skew,
        seed: options.seed,
        value_bytes: options.value_bytes as u64,
        connections: options.connections as u64,
        ramp: options.ramp,
        timeout_ms: options.timeout.as_millis() as u64,
        pool_size: options.pool_size,
        pool_wait_ms: options.pool_wait.as_millis() as u64,
        workers_per_shard: environment.config.engine.workers_per_shard as u64,
        partitions: options.partitions,
        burst_factor: options.burst_factor,
        borne_p99_ms: options.borne_p99.as_secs_f64() * 1000.0,
    }
}
