//! What goes on meanwhile, a line a second, in place on a terminal.

use super::{drive::Meter, report::whole};
use std::{
    io::Write,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::time::{MissedTickBehavior, interval};

const TICK: Duration = Duration::from_secs(1);

/// Where it is told; whoever does not listen any more misses nothing else.
pub struct Progress {
    out: Option<Box<dyn Write + Send>>,
    terminal: bool,
    in_place: bool,
}

impl Progress {
    /// `None`: nothing is told. `terminal`: whether it is one.
    pub fn new(out: Option<Box<dyn Write + Send>>, terminal: bool) -> Self {
        Self { out, terminal, in_place: false }
    }

    /// A step.
    pub fn say(&mut self, text: &str) {
        self.close();
        self.write(&format!("{text}\n"));
    }

    /// Tells of the meters until the future is done.
    pub async fn during<T>(&mut self, meters: &[(&str, &Arc<Meter>)], future: impl Future<Output = T>) -> T {
        let (since, mut before) = (Instant::now(), vec![0; meters.len()]);
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tick.tick().await;
        let mut future = std::pin::pin!(future);
        loop {
            tokio::select! {
                done = &mut future => {
                    self.close();
                    return done;
                }
                _ = tick.tick() => {}
            }
            let mut text = format!("{:>5.0} s", since.elapsed().as_secs_f64());
            for ((name, meter), before) in meters.iter().zip(&mut before) {
                let (done, last) = (meter.done(), *before);
                *before = done;
                text.push_str(&format!("   {name} {} ({}/s)", whole(done as f64), whole((done - last) as f64)));
            }
            match self.terminal {
                true => self.write(&format!("\r{text}\x1b[K")),
                false => self.write(&format!("{text}\n")),
            }
            self.in_place = self.terminal;
        }
    }

    fn close(&mut self) {
        if std::mem::take(&mut self.in_place) {
            self.write("\n");
        }
    }

    fn write(&mut self, text: &str) {
        if let Some(out) = &mut self.out
            && out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err()
        {
            self.out = None;
        }
    }
}
