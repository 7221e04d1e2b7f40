//! The benchmark client must count what happens and see what is wrong.

use super::*;
use crate::vhost::fake::{Fake, Faults};
use clap::Parser;

#[derive(clap::Parser)]
struct Command {
    #[command(flatten)]
    args: HopArgs,
}

fn parse(line: &str) -> Result<HopArgs, clap::Error> {
    Command::try_parse_from(line.split_whitespace()).map(|command| command.args)
}

#[test]
fn the_command_line() {
    let args = parse("hop --many /a,/b --op write --block-size 128KiB --depth 8 --seconds 0.25 --poll busy")
        .unwrap();
    assert_eq!(args.sockets(), [PathBuf::from("/a"), PathBuf::from("/b")]);
    assert_eq!((args.op, args.block_size, args.seconds), (Op::Write, 128 << 10, Duration::from_millis(250)));
    assert_eq!((args.poll, args.verify, args.queues), (Poll::Busy, Verify::No, 1));
    for wrong in
        ["hop", "hop --socket /a --many /b", "hop --socket /a --depth 0", "hop --socket /a --seconds x"]
    {
        assert!(parse(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn the_defaults_in_code_are_those_of_the_command_line() {
    assert_eq!(parse("hop --many /a,/b").unwrap(), HopArgs::new(vec!["/a".into(), "/b".into()]));
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_is_connected() {
    for (line, why) in [("--block-size 1000", "multiple of 512"), ("--block-size 512 --verify yes", "4KiB")] {
        let refused = parse(&format!("hop --socket /nowhere {line}")).unwrap().measure().unwrap_err();
        assert!(refused.to_string().contains(why), "{refused}");
    }
    let missing = parse("hop --socket /nowhere").unwrap().measure().unwrap_err();
    assert!(missing.to_string().contains("is a server running"), "{missing}");
}

#[test]
fn the_span_is_whole_requests() {
    let args = parse("hop --socket /a --block-size 128KiB").unwrap();
    assert_eq!(args.span((1 << 20) + 4096), 1 << 20);
    let verified = HopArgs { verify: Verify::Yes, ..args.clone() };
    assert_eq!(verified.span(1 << 40), VERIFIED_SPAN);
    assert_eq!(HopArgs { span: Some(300 << 10), ..args }.span(1 << 30), 256 << 10);
}

/// Measures on a back end with these options, after `fault` was switched on.
fn measure(options: &str, spoil: impl FnOnce(&Faults)) -> HopReport {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("vhost");
    let fake = Fake::start(&socket, 256 << 10);
    spoil(&fake.faults);
    let line = format!("hop --socket {} --seconds 0.05 --warmup 0.01 {options}", socket.display());
    parse(&line).unwrap().measure().unwrap()
}

#[test]
fn an_honest_back_end_is_measured_and_found_good() {
    for options in ["", "--poll busy --op write --queues 2", "--op randwrite --depth 3", "--rate 2000"] {
        let report = measure(&format!("--verify yes {options}"), |_| {});
        assert!(report.requests > 0 && report.iops > 0.0, "{options}: {report:?}");
        assert_eq!((report.errors, report.mismatches, report.strays), (0, 0, 0), "{options}");
        assert!(report.latency_us.p50 > 0.0 && report.latency_us.p50 <= report.latency_us.max, "{report:?}");
        assert!(report.cpu_us > 0.0);
    }
}

#[test]
fn the_rate_is_not_exceeded() {
    let report = measure("--rate 1000", |_| {});
    assert!(report.requests as f64 <= 1000.0 * (report.seconds + 0.051) + 1.0, "{report:?}");
}

#[test]
fn lost_writes_and_failed_requests_are_counted() {
    let lost = measure("--verify yes", |faults| Faults::set(&faults.lose));
    assert!(lost.mismatches >= lost.requests && lost.errors == 0, "{lost:?}");
    let failed = measure("--op randwrite", |faults| Faults::set(&faults.fail));
    assert!(failed.requests > 0 && failed.errors >= failed.requests, "{failed:?}");
}

#[test]
fn a_back_end_that_goes_away_ends_the_measurement() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("vhost");
    let fake = Fake::start(&socket, 256 << 10);
    Faults::set(&fake.faults.hold);
    let line = format!("hop --socket {} --seconds 60", socket.display());
    let measuring = std::thread::spawn(move || parse(&line).unwrap().measure());
    while fake.open() == 0 {
        std::thread::yield_now();
    }
    drop(fake);
    let why = measuring.join().unwrap().unwrap_err();
    assert!(why.to_string().contains("has gone"), "{why}");
}
