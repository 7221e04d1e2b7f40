//! Two hosts on loopback, with certificates by openssl: what they say, and what each refuses.

use super::dial::{self, Dial};
use super::words::Other;
use super::*;
use hyper::body::Bytes;
use hyper::{Method, StatusCode};
use rustls::pki_types::UnixTime;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use vmpath_core::migration::{HandOver, Move, MoveId, VmCarry};
use vmpath_lab::certs::{Authority, HostFiles, Validity};

/// 2026-11-23.
const NOW: u64 = 1_795_392_000;
/// 2100: every certificate has expired.
const LATE: u64 = 4_102_444_800;

/// A clock that the test sets.
#[derive(Clone, Debug)]
struct TestClock(Arc<AtomicU64>);

impl TestClock {
    fn at(seconds: u64) -> Self {
        Self(Arc::new(AtomicU64::new(seconds)))
    }
}

impl TimeProvider for TestClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0.load(Ordering::Relaxed))))
    }
}

struct Ca {
    _dir: tempfile::TempDir,
    authority: Authority,
}

fn ca() -> Ca {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::make(dir.path()).unwrap();
    Ca { _dir: dir, authority }
}

fn files(host: &str, made: &HostFiles) -> Files {
    Files { host: host.to_owned(), ca: made.ca.clone(), cert: made.cert.clone(), key: made.key.clone() }
}

impl Ca {
    fn files(&self, host: &str) -> Files {
        files(host, &self.authority.issue(host, Validity::Now).unwrap())
    }
}

/// A host, of which the test is control.
struct Host {
    name: String,
    channel: Channel,
    calls: mpsc::Receiver<PeerCall>,
    reports: mpsc::UnboundedReceiver<PeerReport>,
}

impl Host {
    fn start(files: Files) -> Self {
        Self::with(files, "127.0.0.1:0".parse().unwrap(), "1.2.3", TestClock::at(NOW))
    }

    fn with(files: Files, listen: SocketAddr, version: &str, clock: TestClock) -> Self {
        let name = files.host.clone();
        let (call, calls) = mpsc::channel(1);
        let (report, reports) = mpsc::unbounded_channel();
        let settings = Settings { files, listen, version: version.to_owned() };
        let channel = Channel::with_clock(settings, call, report, Arc::new(clock));
        Self { name, channel, calls, reports }
    }

    async fn address(&self) -> SocketAddr {
        let mut listening = self.channel.listening();
        let address = listening.wait_for(Result::is_ok).await.unwrap().clone();
        address.unwrap()
    }

    fn order_to(&self, host: &str, address: SocketAddr, request: PeerRequest) {
        self.channel.order(PeerOrder {
            ticket: 7,
            to: host.to_owned(),
            address: address.to_string(),
            request,
        });
    }

    async fn outcome(&mut self) -> Outcome {
        let report = timeout(Duration::from_secs(60), self.reports.recv()).await.expect("a report in time");
        let report = report.unwrap();
        assert_eq!(report.ticket, 7);
        report.outcome
    }

    async fn ask(&mut self, other: &Host, request: PeerRequest) -> Outcome {
        self.order_to(&other.name, other.address().await, request);
        self.outcome().await
    }

    /// The words of a refusal; anything else fails the test.
    async fn refused_by(&mut self, other: &Host) -> String {
        match self.ask(other, probe()).await {
            Answer::Refused(why) => why,
            outcome => panic!("{outcome:?}"),
        }
    }
}

fn probe() -> PeerRequest {
    PeerRequest::Probe { units: vec!["san/1".into(), "san/2".into()] }
}

fn move_id() -> MoveId {
    MoveId { host: "kvm1".into(), nonce: 0x7f, number: 1 }
}

fn order() -> Move {
    Move {
        id: move_id(),
        vm: "db".into(),
        from: "kvm1".into(),
        to: "kvm2".into(),
        home: "kvm1".into(),
        fled: vec![],
        disks: Vec::new(),
        instance: 9,
        memory: Some(1 << 28),
        room: Vec::new(),
        settle: Duration::from_secs(1),
        incident: None,
        vm_state: VmCarry::Running,
        rule: "on_path_loss = migrate".into(),
    }
}

fn hand_over() -> HandOver {
    HandOver {
        move_id: move_id(),
        vm: "db".into(),
        from: "kvm1".into(),
        to: "kvm2".into(),
        disks: Vec::new(),
        incident: Some("INC-7".into()),
        vm_state: VmCarry::Running,
    }
}

#[tokio::test]
async fn each_request_arrives_with_its_proven_caller_and_each_outcome_comes_back() {
    let ca = ca();
    let (mut one, mut two) = (Host::start(ca.files("kvm1")), Host::start(ca.files("kvm2")));
    let discard = PeerRequest::Discard { move_id: move_id(), why: "it stands still".into() };
    let script = [
        (probe(), Answer::Done(PeerAnswer::Done)),
        (probe(), Answer::Refused("san/2: no path".into())),
        (probe(), Answer::Unknown("the worker has not answered".into())),
        (PeerRequest::Prepare(order()), Answer::Done(PeerAnswer::Incoming("tcp:127.0.0.1:49152".into()))),
        (PeerRequest::HandOver(hand_over()), Answer::Done(PeerAnswer::Done)),
        (discard, Answer::Done(PeerAnswer::Done)),
        (PeerRequest::Ask { move_id: move_id() }, Answer::Done(PeerAnswer::State("prepared".into()))),
    ];
    let address = two.address().await;
    for (request, answer) in script {
        one.order_to("kvm2", address, request.clone());
        let call = two.calls.recv().await.unwrap();
        assert_eq!((call.from.as_str(), &call.request), ("kvm1", &request));
        call.reply.send(answer.clone()).unwrap();
        assert_eq!(one.outcome().await, answer);
    }
}

#[tokio::test]
async fn nothing_that_fails_before_the_greeting_ends_has_an_effect() {
    let ca = ca();
    let mut one = Host::start(ca.files("kvm1"));
    // Nobody listens.
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    one.order_to("kvm2", free, probe());
    assert!(
        matches!(one.outcome().await, Answer::Refused(why) if why.contains("nobody listens at 127.0.0.1:"))
    );
    // Another host is there than the one that is meant.
    let two = Host::start(ca.files("kvm2"));
    one.order_to("kvm3", two.address().await, probe());
    let Answer::Refused(why) = one.outcome().await else { panic!("it is not kvm3") };
    assert!(why.contains("the certificate is for kvm2, not for kvm3"), "{why}");
    // Another version, by the words of both ends.
    let listen = "127.0.0.1:0".parse().unwrap();
    let newer = Host::with(ca.files("kvm4"), listen, "1.3.0", TestClock::at(NOW));
    let why = one.refused_by(&newer).await;
    assert!(why.contains("kvm1 runs vmpath 1.2.3, this host runs 1.3.0"), "{why}");
    // Somebody who does not speak TLS.
    let stranger = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = stranger.local_addr().unwrap();
    let greeting = tokio::spawn(async move {
        let (mut stream, _) = stranger.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        stream
    });
    one.order_to("kvm5", address, probe());
    let Answer::Refused(why) = one.outcome().await else { panic!("nobody was asked") };
    assert!(why.contains("does not speak as vmpath does"), "{why}");
    drop(greeting.await);
}

#[tokio::test]
async fn another_authority_is_refused_by_either_end() {
    let (ours, theirs) = (ca(), ca());
    let two = Host::start(ours.files("kvm2"));
    let why = Host::start(theirs.files("kvm1")).refused_by(&two).await;
    assert!(
        why.contains("the certificate of kvm2 was not made by the authority in this host's peer_ca"),
        "{why}"
    );
    // One that trusts both, but has its own certificate by the one that the other end does not know.
    let mut files = theirs.files("kvm1");
    let both = fs::read_to_string(&files.ca).unwrap() + &fs::read_to_string(two_ca(&ours)).unwrap();
    files.ca = files.ca.with_file_name("both.pem");
    fs::write(&files.ca, both).unwrap();
    let why = Host::start(files).refused_by(&two).await;
    assert!(
        why.contains("kvm2 does not take this host's certificate") && why.contains("authorities"),
        "{why}"
    );
}

fn two_ca(ca: &Ca) -> std::path::PathBuf {
    ca.authority.issue("unused", Validity::Now).unwrap().ca
}

#[tokio::test]
async fn dates_are_refused_with_both_clocks_as_far_as_they_can_be_known() {
    let ca = ca();
    let listen = || "127.0.0.1:0".parse().unwrap();
    // The asked one's clock is wrong.
    let late = Host::with(ca.files("kvm2"), listen(), "1.2.3", TestClock::at(LATE));
    let why = Host::start(ca.files("kvm1")).refused_by(&late).await;
    assert!(why.contains("kvm2 refuses this host's certificate for its dates"), "{why}");
    assert!(
        why.contains("this host's clock says 2026-11-23") && why.contains("of the two clocks is wrong"),
        "{why}"
    );
    // The asking one's clock is wrong.
    let two = Host::start(ca.files("kvm3"));
    let mut ahead = Host::with(ca.files("kvm1"), listen(), "1.2.3", TestClock::at(LATE));
    let why = ahead.refused_by(&two).await;
    assert!(why.contains("the certificate of kvm3 has expired on 2099-01-01"), "{why}");
    assert!(why.contains("this host's clock says 2100-01-01"), "{why}");
    assert!(ahead.channel.trouble().unwrap().contains("own certificate has expired"));
    // Certificates that are really old, and really new.
    for (validity, wanted) in
        [(Validity::Expired, "expired on 2021-01-01"), (Validity::NotYet, "good only from 2090-01-01")]
    {
        let other = Host::start(files("kvm4", &ca.authority.issue("kvm4", validity).unwrap()));
        let why = Host::start(ca.files("kvm1")).refused_by(&other).await;
        assert!(why.contains("the certificate of kvm4") && why.contains(wanted), "{why}");
        assert!(other.channel.trouble().unwrap().contains(wanted.trim_start_matches("expired ")));
    }
}

#[tokio::test]
async fn a_caller_in_another_s_name_or_place_is_refused() {
    let ca = ca();
    let mut two = Host::start(ca.files("kvm2"));
    let address = two.address().await.to_string();
    let keeper = Keeper::new(ca.files("kvm1"), Arc::new(TestClock::at(NOW)));
    let call = |own: &str, request| {
        let own = Own { host: own.to_owned(), version: "1.2.3".into() };
        let peers = Peers::new(own, keeper.clone());
        let order = PeerOrder { ticket: 0, to: "kvm2".into(), address: address.clone(), request };
        async move { peers.call(&order).await }
    };
    let Answer::Refused(why) = call("kvm3", probe()).await else { panic!("it is kvm1") };
    assert!(why.contains("it says that it is kvm3, and its certificate is for kvm1"), "{why}");
    // A move that somebody else has begun, or that goes elsewhere.
    let foreign = MoveId { host: "kvm3".into(), ..move_id() };
    let Answer::Refused(why) =
        call("kvm1", PeerRequest::Discard { move_id: foreign, why: String::new() }).await
    else {
        panic!("it is not its move")
    };
    assert!(why.contains("kvm3.7f.1 is said to go from kvm1 to kvm2"), "{why}");
    let elsewhere = HandOver { to: "kvm3".into(), ..hand_over() };
    assert!(matches!(call("kvm1", PeerRequest::HandOver(elsewhere)).await, Answer::Refused(_)));
    assert!(two.calls.try_recv().is_err(), "none of them reached control");
}

#[tokio::test]
async fn what_control_does_not_answer_is_unknown_and_what_it_has_no_room_for_is_refused() {
    let ca = ca();
    let (mut one, mut two) = (Host::start(ca.files("kvm1")), Host::start(ca.files("kvm2")));
    let address = two.address().await;
    let ask = || PeerRequest::Ask { move_id: move_id() };
    one.order_to("kvm2", address, ask());
    drop(two.calls.recv().await.unwrap());
    assert!(matches!(one.outcome().await, Answer::Unknown(why) if why.contains("has ended over this")));
    one.order_to("kvm2", address, ask());
    let held = two.calls.recv().await.unwrap();
    assert!(matches!(one.outcome().await, Answer::Unknown(why) if why.contains("did not finish this")));
    drop(held);
    // One waits in the only place, the next finds none.
    one.order_to("kvm2", address, ask());
    one.order_to("kvm2", address, ask());
    assert!(matches!(one.outcome().await, Answer::Refused(why) if why.contains("too busy")));
    assert!(matches!(one.outcome().await, Answer::Unknown(_)));
}

#[tokio::test]
async fn a_connection_that_breaks_leaves_what_was_asked_unknown_and_the_next_call_dials_again() {
    let ca = ca();
    let (mut one, mut two) = (Host::start(ca.files("kvm1")), Host::start(ca.files("kvm2")));
    let address = two.address().await;
    one.order_to("kvm2", address, probe());
    let held = two.calls.recv().await.unwrap();
    drop(two);
    let Answer::Unknown(why) = one.outcome().await else { panic!("it may have had an effect") };
    assert!(why.contains("broke before its answer"), "{why}");
    drop(held);
    let mut two = Host::with(ca.files("kvm2"), address, "1.2.3", TestClock::at(NOW));
    two.address().await;
    one.order_to("kvm2", address, probe());
    two.calls.recv().await.unwrap().reply.send(Answer::Done(PeerAnswer::Done)).unwrap();
    assert_eq!(one.outcome().await, Answer::Done(PeerAnswer::Done));
}

#[tokio::test]
async fn strangers_and_nonsense_do_not_keep_the_port_from_peers() {
    let ca = ca();
    let (mut one, mut two) = (Host::start(ca.files("kvm1")), Host::start(ca.files("kvm2")));
    let address = two.address().await;
    let mut silent = Vec::new();
    for index in 0..4 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        if index % 2 == 0 {
            stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        }
        silent.push(stream);
    }
    one.order_to("kvm2", address, probe());
    two.calls.recv().await.unwrap().reply.send(Answer::Done(PeerAnswer::Done)).unwrap();
    assert_eq!(one.outcome().await, Answer::Done(PeerAnswer::Done));
}

#[tokio::test]
async fn requests_that_no_daemon_sends_are_refused_with_a_reason() {
    let ca = ca();
    let mut two = Host::start(ca.files("kvm2"));
    let address = two.address().await.to_string();
    let keeper = Keeper::new(ca.files("kvm1"), Arc::new(TestClock::at(NOW)));
    let own = Own { host: "kvm1".into(), version: "1.2.3".into() };
    let other = Other { host: "kvm2", address: &address };
    let connection = Dial { own: &own, keeper: &keeper, other }.connect().await.unwrap();
    let script = [
        (Method::GET, "/v1/secrets", Vec::new(), StatusCode::NOT_FOUND, "there is no GET /v1/secrets"),
        (Method::POST, "/v1/probe", b"{\"units\":[\"\"]}".to_vec(), StatusCode::BAD_REQUEST, "an empty name"),
        (Method::POST, "/v1/probe", b"\xff\xfe".to_vec(), StatusCode::BAD_REQUEST, "cannot be understood"),
        (
            Method::POST,
            "/v1/probe",
            vec![b' '; wire::SMALL_BODY_BYTES_MAX + 1],
            StatusCode::PAYLOAD_TOO_LARGE,
            "more than",
        ),
        (Method::GET, "/v1/moves/none", Vec::new(), StatusCode::BAD_REQUEST, "names no move"),
        (
            Method::PUT,
            "/v1/moves/kvm1.7f.2/handover",
            wire::write(&wire::HandOver::of(&hand_over())).unwrap(),
            StatusCode::BAD_REQUEST,
            "not for",
        ),
    ];
    for (method, path, body, status, words) in script {
        let request = dial::request(&own, "kvm2", (method, path), Bytes::from(body)).unwrap();
        let response = connection.requests.clone().send_request(request).await.unwrap();
        let (answered, body) = dial::collect(response).await.unwrap();
        let why = dial::reason(&body).unwrap();
        assert!(answered == status && why.contains(words), "{path}: {answered} {why}");
    }
    assert!(two.calls.try_recv().is_err(), "none of them reached control");
}

/// Puts one file over another as a renewal does.
fn replace(file: &Path, by: &Path) {
    let new = file.with_extension("renewed");
    fs::copy(by, &new).unwrap();
    fs::rename(new, file).unwrap();
}

#[test]
fn a_renewed_certificate_is_taken_and_a_half_renewed_one_is_not() {
    let ca = ca();
    let old = files("kvm1", &ca.authority.issue("kvm1", Validity::Expired).unwrap());
    let [cert, key] = [(&old.cert, "cert"), (&old.key, "key")].map(|(file, end)| {
        let place = file.with_extension(format!("{end}.in-place"));
        fs::copy(file, &place).unwrap();
        place
    });
    let place = Files { cert, key, ..old.clone() };
    let keeper = Keeper::new(place.clone(), Arc::new(TestClock::at(NOW)));
    let end = || keeper.present().as_ref().as_ref().map(|identity| identity.dates.to).unwrap();
    let expired = end();
    assert!(expired < NOW);
    let new = ca.files("kvm1");
    replace(&place.cert, &new.cert);
    keeper.look();
    assert_eq!(end(), expired, "the key is still the old one");
    replace(&place.key, &new.key);
    keeper.look();
    assert!(end() > NOW);
    fs::remove_file(&place.key).unwrap();
    keeper.look();
    assert!(end() > NOW, "what works stays");
}

#[test]
fn files_that_do_not_fit_this_host_are_told_with_their_names() {
    let ca = ca();
    let good = ca.files("kvm1");
    let load = |files: &Files| {
        let clock: Arc<dyn TimeProvider> = Arc::new(TestClock::at(NOW));
        identity::Identity::load(files, &clock).map(drop)
    };
    assert_eq!(load(&good), Ok(()));
    let check = |files: Files, words: &str| {
        let why = load(&files).unwrap_err();
        assert!(why.contains(words), "{why}");
    };
    check(Files { host: "kvm2".into(), ..good.clone() }, "the certificate is for kvm1, not for kvm2");
    check(Files { host: "no name".into(), ..good.clone() }, "must be a DNS name");
    check(Files { key: ca.files("kvm2").key, ..good.clone() }, "is not the key of the certificate");
    check(Files { key: "/nonexistent/key".into(), ..good.clone() }, "/nonexistent/key");
    check(Files { cert: good.key.clone(), ..good.clone() }, "holds no certificate");
    let other = self::ca();
    check(Files { ca: other.files("kvm1").ca, ..good.clone() }, "was not made by the authority");
    // A name for everybody is nobody's.
    let wild = files("kvm1.example.com", &ca.authority.issue("*.example.com", Validity::Now).unwrap());
    check(wild, "must list this host");
}

/// A network between two hosts, which can be cut: what was sent is then swallowed, and nobody is told.
struct Network {
    address: SocketAddr,
    cut: watch::Sender<Option<()>>,
}

async fn network(to: SocketAddr) -> Network {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (cut, is_cut) = watch::channel(None);
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let mut is_cut = is_cut.clone();
            tokio::spawn(async move {
                let mut far = TcpStream::connect(to).await.unwrap();
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                    // Held open, and silent for ever.
                    () = async { drop(is_cut.wait_for(Option::is_some).await) } => std::future::pending().await,
                }
            });
        }
    });
    Network { address, cut }
}

#[tokio::test]
async fn a_cut_network_leaves_what_was_asked_unknown_in_time_and_heals() {
    let ca = ca();
    let (mut one, mut two) = (Host::start(ca.files("kvm1")), Host::start(ca.files("kvm2")));
    let network = network(two.address().await).await;
    one.order_to("kvm2", network.address, PeerRequest::HandOver(hand_over()));
    let call = two.calls.recv().await.unwrap();
    network.cut.send_replace(Some(()));
    // It is stored over there, and nobody here hears of it.
    call.reply.send(Answer::Done(PeerAnswer::Done)).unwrap();
    let asked = timeout(PeerRequest::HandOver(hand_over()).within() + Duration::from_secs(1), one.outcome());
    assert!(matches!(asked.await, Ok(Answer::Unknown(_))));
    // A new connection does not come as far as a greeting: nothing can have happened.
    one.order_to("kvm2", network.address, probe());
    assert!(matches!(one.outcome().await, Answer::Refused(why) if why.contains("no answer from kvm2")));
    network.cut.send_replace(None);
    one.order_to("kvm2", network.address, probe());
    two.calls.recv().await.unwrap().reply.send(Answer::Done(PeerAnswer::Done)).unwrap();
    assert_eq!(one.outcome().await, Answer::Done(PeerAnswer::Done));
}
