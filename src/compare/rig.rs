//! What one mode needs: a table, a topic, a gateway, and in async mode an engine, ready to be asked; and how it is driven, watched by the
//! thread that started it, and stopped again.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use crate::compare::CompareError;
use crate::compare::environment::{Environment, Made};
use crate::compare::findings::Mode;
use crate::compare::generator::{self, Live, Load};
use crate::compare::ledger::Ledger;
use crate::compare::moment::Zero;
use crate::compare::options::Options;
use crate::compare::process::{Forebay, get, values};
use crate::engine::Stopper;

const LOOK_EVERY: Duration = Duration::from_millis(20);
/// The engine asks where the logs end once a second: it has said for longer that nothing waits.
const CALM: Duration = Duration::from_millis(2500);
/// Whoever ended it early does not wait for longer.
const HASTE: Duration = Duration::from_secs(10);

/// See the module's text.
pub struct Rig {
    pub made: Made,
    pub address: SocketAddr,
    pub gateway: Forebay,
    /// With its admin side.
    pub engine: Option<(Forebay, SocketAddr)>,
}

impl Rig {
    pub fn start(
        environment: &mut Environment,
        mode: Mode,
        options: &Options,
        stopper: &Stopper,
    ) -> Result<Rig, CompareError> {
        let made = environment.make(mode, options)?;
        let mut gateway = Forebay::start("ingest", &made.file)?;
        let engine = match mode {
            Mode::Sync => None,
            Mode::Async => {
                let mut engine = Forebay::start("run", &made.file)?;
                let admin = engine.address("admin interface: http://", stopper)?;
                engine.wait_until_ready(admin, stopper)?;
                Some((engine, admin))
            }
        };
        let address = gateway.address("gateway: http://", stopper)?;
        let admin = gateway.address("admin side: http://", stopper)?;
        gateway.wait_until_ready(admin, stopper)?;
        Ok(Rig { made, address, gateway, engine })
    }

    /// # Errors
    /// If one of the processes has ended.
    pub fn check(&mut self) -> Result<(), CompareError> {
        self.gateway.check()?;
        self.engine.as_mut().map_or(Ok(()), |(engine, _)| engine.check())
    }

    /// Until nothing waits in Kafka or is parked. Returns whether that came.
    pub fn drain(
        &mut self,
        patience: Duration,
        stopper: &Stopper,
        mut each: impl FnMut(),
    ) -> Result<bool, CompareError> {
        let Some(admin) = self.engine.as_ref().map(|(_, admin)| *admin) else { return Ok(true) };
        let (start, mut calm_since, mut stopped) = (Instant::now(), None, None);
        loop {
            self.check()?;
            each();
            let exposition = get(admin, "/metrics").unwrap_or_default();
            let lag: Vec<f64> = values(&exposition, "forebay_lag_records").collect();
            let parked: f64 = values(&exposition, "forebay_parked_records").sum();
            if lag.is_empty() || lag.iter().sum::<f64>() + parked > 0.0 {
                calm_since = None;
            } else if calm_since.get_or_insert_with(Instant::now).elapsed() >= CALM {
                return Ok(true);
            }
            let in_haste = stopper.is_stopped() && stopped.get_or_insert_with(Instant::now).elapsed() > HASTE;
            if in_haste || start.elapsed() > patience {
                return Ok(false);
            }
            thread::sleep(10 * LOOK_EVERY);
        }
    }

    /// Gateway first: what it has accepted is for the engine.
    pub fn stop(self) -> Result<Made, CompareError> {
        let Rig { made, gateway, engine, .. } = self;
        let stopped = gateway.stop();
        engine.map_or(Ok(()), |(engine, _)| engine.stop())?;
        stopped.map(|()| made)
    }
}

/// Lets the generator run on a thread of its own, and calls `tick` meanwhile. After an error of it nothing more is sent.
pub fn drive(
    load: &Load<'_>,
    zero: Zero,
    live: &Live,
    mut tick: impl FnMut() -> Result<(), CompareError>,
) -> Result<Ledger, CompareError> {
    thread::scope(|scope| {
        let body = || generator::run(load, zero, live);
        let thread = thread::Builder::new().name("compare-load".to_owned()).spawn_scoped(scope, body);
        let thread = thread.map_err(|e| CompareError::Failed(format!("the generator's thread: {e}")))?;
        let mut outcome = Ok(());
        while !thread.is_finished() {
            if outcome.is_ok() {
                outcome = tick();
            }
            if outcome.is_err() {
                live.end();
            }
            thread::sleep(LOOK_EVERY);
        }
        let ledger = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        live.end();
        outcome?;
        ledger.map_err(|e| CompareError::Failed(format!("the generator: {e}")))
    })
}
