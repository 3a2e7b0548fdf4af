//! Calls in flight, how many went well and how long they took.

use super::{Error, usage::cpu};
use hdrhistogram::Histogram;
use std::{
    future::Future,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

/// No single call takes longer.
const CALL: Duration = Duration::from_secs(30);
/// A call that the node has no room for is made again after this.
const PAUSE: Duration = Duration::from_millis(10);
/// The longest time that is told apart, in microseconds.
const LONGEST: u64 = 60_000_000;

/// What is counted while others go on.
#[derive(Debug)]
pub struct Meter {
    done: AtomicU64,
    refused: AtomicU64,
    times: Mutex<Histogram<u64>>,
}

impl Default for Meter {
    fn default() -> Self {
        let times = Histogram::new_with_bounds(1, LONGEST, 3).expect("1 µs to a minute at three digits");
        Self { done: AtomicU64::new(0), refused: AtomicU64::new(0), times: Mutex::new(times) }
    }
}

impl Meter {
    /// So many messages, after one time.
    pub fn note(&self, took: Duration, count: u64) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.times.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(micros);
        self.done.fetch_add(count, Relaxed);
    }

    pub fn done(&self) -> u64 {
        self.done.load(Relaxed)
    }

    /// Calls that were made again.
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    /// In microseconds.
    pub fn times(&self) -> Histogram<u64> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// How much is called.
#[derive(Debug, Clone)]
pub struct Work {
    pub in_flight: usize,
    /// Calls in all, at most.
    pub most: u64,
    /// Messages in a call.
    pub each: u64,
    pub stop: CancellationToken,
}

/// Calls, each with its number, until all are made or it is to stop. One that is
/// refused for want of room is made again, and waits for it; any other failure is one.
pub async fn keep_calling<C, F>(work: Work, meter: Arc<Meter>, call: C) -> Result<(), Error>
where
    C: Fn(u64) -> F + Send + Sync + 'static,
    F: Future<Output = Result<(), Status>> + Send + 'static,
{
    let (call, next) = (Arc::new(call), Arc::new(AtomicU64::new(0)));
    let mut tasks = JoinSet::new();
    for _ in 0..work.in_flight {
        let (work, call, next, meter) = (work.clone(), call.clone(), next.clone(), meter.clone());
        tasks.spawn(async move {
            while !work.stop.is_cancelled() {
                let number = next.fetch_add(1, Relaxed);
                if number >= work.most {
                    break;
                }
                call_once(&work, &meter, &*call, number).await?;
            }
            Ok::<_, Error>(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}

async fn call_once<C, F>(work: &Work, meter: &Meter, call: &C, number: u64) -> Result<(), Error>
where
    C: Fn(u64) -> F,
    F: Future<Output = Result<(), Status>>,
{
    loop {
        let since = Instant::now();
        match timeout(CALL, call(number)).await {
            Ok(Ok(())) => {
                meter.note(since.elapsed(), work.each);
                return Ok(());
            }
            Ok(Err(status)) if status.code() == Code::ResourceExhausted => {
                meter.refused.fetch_add(1, Relaxed);
                if work.stop.is_cancelled() {
                    return Ok(());
                }
                sleep(PAUSE).await;
            }
            Ok(Err(status)) => return Err(status.into()),
            Err(_) => return Err(format!("no answer within {} s", CALL.as_secs()).into()),
        }
    }
}

/// How calls went.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// Calls finished a second.
    pub calls: f64,
    /// Microseconds of the called process on a core, a call.
    pub cpu: f64,
}

/// Calls `process` with so many in flight, after a fifth of the span to warm up.
pub async fn calls<C, F>(process: u32, in_flight: usize, span: Duration, call: C) -> Result<Rate, Error>
where
    C: Fn() -> F + Send + Sync + 'static,
    F: Future<Output = Result<(), Status>> + Send + 'static,
{
    let (meter, stop) = (Arc::new(Meter::default()), CancellationToken::new());
    let work = Work { in_flight, most: u64::MAX, each: 1, stop: stop.clone() };
    let mut calling = std::pin::pin!(keep_calling(work, meter.clone(), move |_| call()));
    let watching = async {
        sleep(span / 5).await;
        let (before, used, since) = (meter.done(), cpu(process)?, Instant::now());
        sleep(span).await;
        let count = (meter.done() - before) as f64;
        Ok::<_, Error>(Rate { calls: count / since.elapsed().as_secs_f64(), cpu: (cpu(process)? - used) * 1e6 / count })
    };
    let rate = tokio::select! {
        ended = &mut calling => {
            ended?;
            return Err("the calls ended early".into());
        }
        rate = watching => rate?,
    };
    stop.cancel();
    calling.await?;
    match meter.refused() {
        0 => Ok(rate),
        refused => Err(format!("{refused} calls were refused for want of room").into()),
    }
}
