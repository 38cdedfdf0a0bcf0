//! A shard that shares its core with somebody.

use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use socket2::SockRef;
use tokio::net::TcpListener;

use super::{At, Home, Seats};
use crate::sys::cores::{Homes, stay_on, usable};
use crate::sys::socket::set_home;
use crate::sys::thread::spawn;

const LIMIT: Duration = Duration::from_secs(10);

/// Works and looks, with new connections or without, until it is there or the time is over.
fn work(home: &Home, seats: &Seats, new: u32, until: At) {
    let start = Instant::now();
    while home.at.get() != until && start.elapsed() < LIMIT {
        (0..new).for_each(|_| home.welcome(seats));
        home.glance(seats);
    }
    assert_eq!(home.at.get(), until);
}

/// -1 as socket2 shows it.
const NOWHERE: usize = usize::MAX;

fn listener(core: usize) -> Rc<TcpListener> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    set_home(listener.as_fd(), Some(core)).unwrap();
    Rc::new(TcpListener::from_std(listener).unwrap())
}

/// The core whose connections it takes.
fn takes(listener: &TcpListener) -> usize {
    SockRef::from(listener).cpu_affinity().unwrap()
}

#[tokio::test]
async fn it_leaves_when_it_has_to_wait_and_comes_back() {
    let all = usable().unwrap();
    let (seats, homes) = (Seats::new(1), Homes::new(all.len(), &all));
    let home = Home::new(all[0], homes, 0);
    let [old, new] = [listener(all[0]), listener(all[0])];
    home.opened(&old);
    seats.take(0);
    stay_on(all[0]).unwrap();

    let stop = Arc::new(AtomicBool::default());
    let until = Arc::clone(&stop);
    let rival = spawn("rival", move || while !until.load(Relaxed) {}).unwrap();
    work(&home, &seats, 0, At::Away);
    assert_eq!((usable().unwrap(), seats.moves().left_home), (all.clone(), 1));
    assert_eq!(takes(&old), all[0], "there are no new connections that it could not serve");
    work(&home, &seats, 1, At::AwayForAll);
    assert_eq!((usable().unwrap(), seats.moves().left_home), (all.clone(), 1));
    home.opened(&new);
    assert_eq!([takes(&old), takes(&new)], [NOWHERE; 2]);

    stop.store(true, Relaxed);
    rival.join().unwrap();
    let back = async {
        while usable().unwrap() != all[..1] {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        () = home.keep(&seats) => {}
        back = tokio::time::timeout(LIMIT, back) => back.expect("it comes home"),
    }
    assert_eq!(home.at.get(), At::Home);
    assert_eq!([takes(&old), takes(&new)], [all[0]; 2]);
}
