//! Certificates as they come, are renewed and are forgotten, with an authority that does as it is told.
//!
//! Waiting costs nothing here: the clock is paused, and the time of day goes by the same clock unless a test sets it.

use std::cell::Cell;
use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

use super::{CertError, CertState, Certs};
use crate::identity::ca::{CaError, Certify};
use crate::identity::renew::Validity;
use crate::identity::tests::{Authority, account};
use crate::identity::tls::Credentials;
use crate::model::Identity;
use crate::task::Tasks;

thread_local! {
    /// The time of day when the test began, and when that was. Each test has a thread.
    static NOON: Cell<Option<(SystemTime, Instant)>> = const { Cell::new(None) };
}

/// The time of day.
fn today() -> SystemTime {
    let (noon, at) = NOON.get().unwrap_or_else(|| {
        let noon = (SystemTime::now(), Instant::now());
        NOON.set(Some(noon));
        noon
    });
    noon + at.elapsed()
}

/// Sets the clock ahead, or back.
fn set_clock(by: i64) {
    let noon = shifted(today(), by);
    NOON.set(Some((noon, Instant::now())));
}

fn shifted(time: SystemTime, seconds: i64) -> SystemTime {
    let distance = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 { time - distance } else { time + distance }
}

/// What the authority says.
#[derive(Clone, Copy)]
enum Answer {
    /// A certificate valid since so many seconds and for so many more; the first may be in the future, the last past.
    Certificate(i64, i64),
    Busy,
    /// None, for ever.
    Silence,
}
use Answer::{Busy, Certificate, Silence};

/// What the authority saw.
#[derive(Default)]
struct Seen {
    asked: Mutex<Vec<(Identity, Instant)>>,
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Seen {
    /// When it was asked for `name`, from the first time on.
    fn times(&self, name: &str) -> Vec<Duration> {
        let asked = self.asked.lock().unwrap();
        let times: Vec<_> = asked.iter().filter(|(who, _)| *who == account(name)).map(|(_, at)| *at).collect();
        times.iter().map(|at| *at - times[0]).collect()
    }

    fn count(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

/// Answers the n-th request (from 0) with `answer(n)`, after `takes`.
struct Fake<F> {
    answer: F,
    takes: Duration,
    seen: Arc<Seen>,
    authority: Authority,
}

impl<F: Fn(usize) -> Answer + Send + Sync + 'static> Certify for Fake<F> {
    async fn certify(&self, identity: &Identity) -> Result<Credentials, CaError> {
        let nth = {
            let mut asked = self.seen.asked.lock().unwrap();
            asked.push((identity.clone(), Instant::now()));
            asked.len() - 1
        };
        let _counted = Counted::new(&self.seen);
        sleep(self.takes).await;
        match (self.answer)(nth) {
            Certificate(since, left) => Ok(self.lasting(identity, since, left)),
            Busy => Err(CaError::Refused(Box::new(tonic::Status::unavailable("busy")))),
            Silence => std::future::pending().await,
        }
    }
}

impl<F> Fake<F> {
    fn lasting(&self, identity: &Identity, since: i64, left: i64) -> Credentials {
        let now = today();
        let mut credentials = self.authority.credentials(identity);
        credentials.validity = Validity { not_before: shifted(now, -since), not_after: shifted(now, left) };
        credentials
    }
}

/// A request under way.
struct Counted<'a>(&'a Seen);

impl<'a> Counted<'a> {
    fn new(seen: &'a Seen) -> Self {
        seen.most.fetch_max(seen.now.fetch_add(1, SeqCst) + 1, SeqCst);
        Self(seen)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, SeqCst);
    }
}

fn start(takes: Duration, answer: impl Fn(usize) -> Answer + Send + Sync + 'static) -> (Certs, Arc<Seen>, Tasks) {
    let (seen, tasks) = (Arc::new(Seen::default()), Tasks::new());
    let fake = Fake { answer, takes, seen: Arc::clone(&seen), authority: Authority::new("root") };
    (Certs::start_by(today, fake, &tasks), seen, tasks)
}

fn start_quick(answer: impl Fn(usize) -> Answer + Send + Sync + 'static) -> (Certs, Arc<Seen>, Tasks) {
    start(Duration::ZERO, answer)
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

async fn ready(certs: &Certs, name: &str, limit: Duration) -> Result<Arc<Credentials>, CertError> {
    certs.watch(&account(name)).ready(limit).await
}

/// The one identity's state.
fn state(certs: &Certs) -> CertState {
    certs.list().remove(0).1
}

#[tokio::test(start_paused = true)]
async fn the_first_to_ask_has_it_fetched_and_all_share_it() {
    let (certs, seen, _tasks) = start(seconds(1), |_| Certificate(0, 1000));
    let waits = join_all((0..5).map(|_| ready(&certs, "web", seconds(2))));
    let got: Vec<_> = waits.await.into_iter().map(Result::unwrap).collect();
    assert!(got.iter().all(|credentials| Arc::ptr_eq(credentials, &got[0])));
    assert_eq!(got[0].identity, account("web"));
    let at_once = ready(&certs, "web", Duration::ZERO).now_or_never().expect("it is there already").unwrap();
    assert!(Arc::ptr_eq(&at_once, &got[0]));
    assert_eq!(seen.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn waiting_has_a_limit_and_says_why_it_was_in_vain() {
    let (certs, seen, _tasks) = start(seconds(1), |nth| if nth == 0 { Busy } else { Silence });
    for (limit, expected) in [
        (Duration::ZERO, "the authority has not answered yet"),
        (Duration::from_millis(900), "the authority has not answered yet"),
        (seconds(1), "the certificate authority refuses: The service is currently unavailable: busy"),
        (seconds(60), "the certificate authority refuses: The service is currently unavailable: busy"),
    ] {
        let began = Instant::now();
        let error = ready(&certs, "web", limit).await.unwrap_err();
        assert!(matches!(error, CertError::NotYet { .. }), "{limit:?}: {error:?}");
        let text = format!("certificate of spiffe://cluster.local/ns/shop/sa/web not there yet: {expected}");
        assert_eq!(error.to_string(), text, "{limit:?}");
        let waited = began.elapsed();
        assert!(waited >= limit && waited < limit + Duration::from_millis(10), "{limit:?}: {waited:?}");
    }
    assert_eq!(seen.count(), 2, "waiting alone asks nobody");
}

#[tokio::test(start_paused = true)]
async fn trap_27_failures_are_retried_with_longer_waits_until_one_succeeds() {
    let (certs, seen, _tasks) = start_quick(|nth| if nth < 5 { Busy } else { Certificate(0, 100_000) });
    let credentials = ready(&certs, "web", seconds(60)).await.unwrap();
    let times = seen.times("web");
    assert_eq!(times.len(), 6);
    for (nth, (pair, wait)) in times.windows(2).zip([1.0, 2.0, 4.0, 8.0, 16.0]).enumerate() {
        let gap = (pair[1] - pair[0]).as_secs_f64();
        assert!(gap > wait * 0.79 && gap < wait * 1.21, "wait {nth} was {gap}, not about {wait}");
    }
    let state = state(&certs);
    assert_eq!(state.last_error, None, "it is over");
    assert!(Arc::ptr_eq(&state.credentials.unwrap(), &credentials));
    assert!(state.next.unwrap() > today() + seconds(30_000));
}

#[tokio::test(start_paused = true)]
async fn it_is_renewed_at_half_its_life() {
    // A fifth of its life is over when it comes, so half of it is over after 300 seconds, two fifths after 200.
    let (certs, seen, _tasks) = start_quick(|_| Certificate(200, 800));
    let first = ready(&certs, "web", seconds(1)).await.unwrap();
    sleep(seconds(2000)).await;
    let times = seen.times("web");
    assert!((7..=10).contains(&times.len()), "{times:?}");
    for pair in times.windows(2) {
        let gap = (pair[1] - pair[0]).as_secs_f64();
        assert!(gap > 199.0 && gap < 301.0, "{times:?}");
    }
    let last = ready(&certs, "web", Duration::ZERO).await.unwrap();
    assert_ne!(last.serial, first.serial, "the new one is used");
    assert_eq!(state(&certs).last_error, None);
}

/// An authority that backdates, and whose certificates are short-lived, gives such ones.
#[tokio::test(start_paused = true)]
async fn a_certificate_that_comes_old_is_no_reason_to_ask_without_a_pause() {
    for (case, answer) in [("past half its life", Certificate(120, 60)), ("expired", Certificate(120, -1))] {
        // Silence in the end: a loop without a pause would never come back.
        let (certs, seen, _tasks) = start_quick(move |nth| if nth < 200 { answer } else { Silence });
        certs.keep_only(&[account("web")].into());
        sleep(seconds(10)).await;
        assert!(seen.count() <= 12, "{case}: asked {} times in 10 seconds", seen.count());
    }
}

#[tokio::test(start_paused = true)]
async fn the_old_one_is_used_while_renewal_fails_until_it_expires() {
    let (certs, seen, _tasks) = start_quick(|nth| if nth == 0 { Certificate(0, 1000) } else { Busy });
    let credentials = ready(&certs, "web", seconds(1)).await.unwrap();
    sleep(seconds(998)).await;
    assert!(seen.count() > 5, "renewal is tried again: {:?}", seen.times("web"));
    let CertState { credentials: kept, last_error, next } = state(&certs);
    assert!(Arc::ptr_eq(&kept.unwrap(), &credentials));
    assert!(last_error.unwrap().contains("busy"));
    assert!(next.unwrap() <= credentials.validity.not_after, "not left to expire unattended");
    let still = ready(&certs, "web", Duration::ZERO).await.unwrap();
    assert!(Arc::ptr_eq(&still, &credentials));
    let before = seen.count();
    sleep(seconds(3)).await;
    assert!(seen.count() > before, "asked again when it expired");
    let error = ready(&certs, "web", seconds(1)).await.unwrap_err();
    assert!(matches!(error, CertError::Expired { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.starts_with("certificate of spiffe://cluster.local/ns/shop/sa/web has expired"), "{text}");
    assert!(text.ends_with("The service is currently unavailable: busy"), "{text}");
}

/// A machine that slept, or a clock that was wrong until the network came.
#[tokio::test(start_paused = true)]
async fn the_clock_may_be_set() {
    let (certs, seen, _tasks) = start_quick(|_| Certificate(0, 100_000));
    ready(&certs, "web", seconds(1)).await.unwrap();
    set_clock(200_000);
    ready(&certs, "web", seconds(70)).await.expect("renewed soon after the clock shows that it has expired");
    assert_eq!(seen.count(), 2);
    // A failure is tried again after its wait, whatever the clock shows.
    let (certs, seen, _tasks) = start_quick(|nth| if nth == 0 { Busy } else { Certificate(0, 100_000) });
    ready(&certs, "web", Duration::from_millis(1)).await.unwrap_err();
    set_clock(-100_000);
    ready(&certs, "web", seconds(70)).await.expect("asked again, though the clock was set back");
    assert_eq!(seen.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_past_the_expiry_gets_the_next_one() {
    let answers = [Certificate(1000, -1), Busy, Busy, Certificate(0, 1000)];
    let (certs, _seen, _tasks) = start_quick(move |nth| answers[nth]);
    let credentials = ready(&certs, "web", seconds(60)).await.unwrap();
    assert!(credentials.valid_at(today()));
}

#[tokio::test(start_paused = true)]
async fn what_is_in_use_is_fetched_early_and_the_rest_is_forgotten() {
    let (certs, seen, _tasks) = start_quick(|_| Certificate(0, 1000));
    let names = |certs: &Certs| {
        certs.list().iter().map(|(identity, _)| identity.service_account().to_owned()).collect::<Vec<_>>()
    };
    let use_only = |names: &[&str]| certs.keep_only(&names.iter().map(|name| account(name)).collect::<HashSet<_>>());
    use_only(&["web", "api"]);
    sleep(seconds(1)).await;
    assert_eq!(names(&certs), ["api", "web"], "sorted");
    assert_eq!(seen.count(), 2, "fetched before anybody asked");
    use_only(&["web", "db"]);
    use_only(&["web", "db"]);
    sleep(seconds(1)).await;
    assert_eq!(names(&certs), ["db", "web"]);
    assert_eq!(seen.count(), 3, "only db is new");
    sleep(seconds(3000)).await;
    assert_eq!(seen.times("api").len(), 1, "what is forgotten is not renewed");
    assert!(seen.times("web").len() > 3);
    use_only(&[]);
    assert_eq!(certs.list().len(), 0);
    let before = seen.count();
    sleep(seconds(3000)).await;
    assert_eq!(seen.count(), before);
    ready(&certs, "api", seconds(1)).await.unwrap();
    assert_eq!(seen.times("api").len(), 2, "asked for anew");
}

#[tokio::test(start_paused = true)]
async fn eight_requests_at_most_are_under_way() {
    let (certs, seen, _tasks) = start(seconds(1), |_| Certificate(0, 100_000));
    let identities: HashSet<_> = (0..20).map(|number| account(&format!("sa-{number}"))).collect();
    let began = Instant::now();
    certs.keep_only(&identities);
    join_all(identities.iter().map(|identity| certs.watch(identity).ready(seconds(60)))).await;
    assert_eq!(seen.most.load(SeqCst), 8);
    assert_eq!(seen.count(), 20);
    let took = began.elapsed();
    assert!(took >= seconds(3) && took < seconds(4), "8, 8 and 4: {took:?}");
}

#[tokio::test(start_paused = true)]
async fn requests_for_what_is_forgotten_make_room() {
    let (certs, seen, _tasks) = start_quick(|nth| if nth < 8 { Silence } else { Certificate(0, 1000) });
    certs.keep_only(&(0..8).map(|number| account(&format!("sa-{number}"))).collect());
    sleep(seconds(1)).await;
    assert_eq!(seen.now.load(SeqCst), 8);
    assert!(ready(&certs, "web", seconds(10)).await.is_err(), "all is taken");
    certs.keep_only(&[account("web")].into());
    ready(&certs, "web", seconds(10)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_process_keeps_nobody_waiting() {
    let (certs, _seen, tasks) = start_quick(|nth| if nth == 0 { Certificate(0, 1000) } else { Silence });
    let held = ready(&certs, "web", seconds(1)).await.unwrap();
    let waiting = certs.watch(&account("api"));
    let (result, _) = tokio::join!(waiting.ready(seconds(3600)), tasks.drain(seconds(1)));
    assert!(matches!(result, Err(CertError::NotYet { .. })));
    let kept = ready(&certs, "web", Duration::ZERO).await.unwrap();
    assert!(Arc::ptr_eq(&kept, &held), "what is there serves connections to their end");
}
