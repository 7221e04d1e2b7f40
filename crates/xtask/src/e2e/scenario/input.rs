//! Bad input from every side: configuration, clients, targets. Each gets the answer that is due to it, and nobody else
//! notices.

use crate::e2e::host::{Host, Wanted};
use crate::e2e::network::now_unix_us;
use crate::e2e::rawclient::{self, RawClient};
use crate::e2e::stage::Stage;
use crate::e2e::storage::{self, UNIT_BYTES};
use anyhow::{Context, Result};
use std::fs;
use std::process::Command;
use std::time::Duration;
use vmpath_lab::array::control::ArrayControl;
use vmpath_lab::report::{Bound, Truth};

const DOWN_MAX: Duration = Duration::from_secs(10);
const UP_MAX: Duration = Duration::from_secs(30);

pub(super) fn bad_input(stage: &mut Stage) -> Result<()> {
    configuration(stage)?;
    let (_storage, mut array) = storage::array(stage, &["gold"])?;
    let mut host = Host::start(stage, "tools.toml")?;
    reload(stage, &mut host)?;
    clients(stage)?;
    hasty_clients(stage, &mut host)?;
    for (fault, says) in [
        ("garbage", "protocol error"),
        ("cut-reply", "closed"),
        ("unknown-cookie", "protocol error"),
        ("reset announce-size 4096", "not this unit"),
    ] {
        target(stage, &mut host, &mut array, fault, says)?;
    }
    host.finish(stage)
}

/// All faults at once, each with its line; nothing is started.
fn configuration(stage: &mut Stage) -> Result<()> {
    let file = stage.config("bad.toml")?;
    let text = fs::read_to_string(&file)?;
    let output =
        Command::new(stage.binary()).arg("check").arg(&file).output().context("cannot run vmpath")?;
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let name = file.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let lines: Vec<usize> = (1..).zip(text.lines()).filter(|(_, l)| is_marked(l)).map(|(n, _)| n).collect();
    let missed: Vec<usize> =
        lines.iter().copied().filter(|n| !said.contains(&format!("{name}:{n}:"))).collect();
    stage
        .report
        .check("faults of a bad configuration not reported", missed.len() as f64, Bound::Equal(0.0), "faults")
        .note = format!("of {}; lines not named: {missed:?}", lines.len());
    let status = output.status.code().map(f64::from);
    stage.report.check("exit status of vmpath check on it", status, Bound::Equal(1.0), "status");

    let mut daemon = Command::new("timeout");
    daemon.args(["--signal=KILL", "10"]).arg(stage.binary()).arg("daemon").arg("-c").arg(&file);
    let status = daemon.output().context("cannot run vmpath")?.status.code().map(f64::from);
    stage.report.check("exit status of vmpath daemon on it", status, Bound::Equal(1.0), "status");
    Ok(())
}

/// A reload with faults changes nothing.
fn reload(stage: &mut Stage, host: &mut Host) -> Result<()> {
    let good = fs::read(stage.config("tools.toml")?)?;
    let before = host.vm("gold")?["disks"].clone();
    let file = stage.config("bad.toml")?;
    let answer = host.operator(&["reload"])?;
    let words = String::from_utf8_lossy(&answer.stderr).lines().next().unwrap_or_default().to_owned();
    stage.report.check_that("a reload with faults is refused", Truth::from(!answer.status.success()), words);
    let same = host.vm("gold")?["disks"] == before && host.path("san0/a")?["health"] == "up";
    stage.report.check_that("the old configuration stays in force", Truth::from(same), "");
    fs::write(&file, good)?;
    let answer = host.operator(&["reload"])?;
    let words = String::from_utf8_lossy(&answer.stdout).trim().to_owned();
    stage.report.check_that("a good one is taken", Truth::from(answer.status.success()), words);
    Ok(())
}

/// `… # 3: wrong unit`
fn is_marked(line: &str) -> bool {
    let mark = line.split_once(" # ").and_then(|(_, comment)| comment.split_once(':'));
    mark.is_some_and(|(number, _)| number.parse::<u32>().is_ok())
}

fn clients(stage: &mut Stage) -> Result<()> {
    let socket = stage.dir.join("gold.sock");
    let closed = rawclient::speak(&socket, &[b'x'; 4096])?;
    stage.report.check_that("a client that speaks garbage is closed", Truth::from(closed), "");

    let mut client = RawClient::open(&socket, "vda")?;
    let beyond = client.read(UNIT_BYTES, 4096)?;
    stage.report.check_that(
        "a read beyond the end is an error",
        Truth::from(beyond == Some(rawclient::EINVAL)),
        said(beyond),
    );
    let well = client.read(0, 4096)?;
    stage.report.check_that("and the connection goes on", Truth::from(well == Some(0)), said(well));
    let oversized = client.read(0, u32::MAX)?;
    let refused = oversized.is_none_or(|error| error != 0);
    stage.report.check_that("an oversized request is refused", Truth::from(refused), said(oversized));

    let mut client = RawClient::open(&socket, "vda")?;
    client.write(&[0x77; 64])?;
    let closed = client.is_closed()?;
    stage.report.check_that("garbage instead of a request closes the connection", Truth::from(closed), "");
    let mut client = RawClient::open(&socket, "vda")?;
    let well = client.read(0, 4096)?;
    stage.report.check_that("another client notices nothing", Truth::from(well == Some(0)), said(well));
    Ok(())
}

/// Handshakes that end in the same piece as they succeed, or that have no way to fail.
fn hasty_clients(stage: &mut Stage, host: &mut Host) -> Result<()> {
    use rawclient::{Request, export_name, flags, go};
    let leave = Request::Disconnect.encode(0);
    let garbage = vec![0x77; 64];
    let cases = [
        ("a wrong EXPORT_NAME", vec![flags(), export_name("vdz")]),
        ("flags and a wrong EXPORT_NAME in one piece", vec![[flags(), export_name("vdz")].concat()]),
        ("GO and DISC in one piece", vec![flags(), [go("vda"), leave.clone()].concat()]),
        ("EXPORT_NAME and DISC in one piece", vec![flags(), [export_name("vda"), leave].concat()]),
        ("GO and garbage in one piece", vec![flags(), [go("vda"), garbage].concat()]),
    ];
    let socket = stage.dir.join("gold.sock");
    for (case, segments) in cases {
        let closed = rawclient::converse(&socket, &segments)?;
        stage.report.check_that(&format!("{case}: the connection is closed"), Truth::from(closed), "");
        let lives = host.check_alive();
        let words = lives.as_ref().err().map(|why| format!("{why:#}")).unwrap_or_default();
        stage.report.check_that(&format!("{case}: the daemon lives on"), Truth::from(lives.is_ok()), words);
        let well = RawClient::open(&socket, "vda").and_then(|mut client| client.read(0, 4096));
        let words = well.as_ref().map_or_else(|why| format!("{why:#}"), |error| said(*error));
        let served = well.is_ok_and(|error| error == Some(0));
        stage.report.check_that(&format!("{case}: another client is served"), Truth::from(served), words);
        host.check_alive()?;
        stage.say(case);
    }
    Ok(())
}

fn said(error: Option<u32>) -> String {
    error.map_or("connection closed".to_owned(), |code| format!("error {code}"))
}

/// Portal a misbehaves: its path goes down with the reason, path b carries on, and what is read is right.
fn target(
    stage: &mut Stage,
    host: &mut Host,
    array: &mut ArrayControl,
    fault: &str,
    says: &str,
) -> Result<()> {
    let since = now_unix_us();
    array.fault("a", fault)?;
    stage.say(format!("portal a: {fault}"));
    let socket = stage.dir.join("gold.sock");
    let mut client = RawClient::open(&socket, "vda")?;
    for block in 0..64 {
        let error = client.read(block * 65536, 65536)?;
        anyhow::ensure!(error == Some(0), "a read fails while path b is up: {}", said(error));
    }
    let wanted = Wanted { kind: "path-down", subject: "san0/a", since_unix_us: since, bound: DOWN_MAX };
    host.wait_event(stage, &wanted)?;
    // The reason may first be what broke the connection; it is what keeps the path down that must be told.
    let reason = stage.wait("the reason", DOWN_MAX, |_| {
        let reason = host.path("san0/a")?["reason"].as_str().unwrap_or_default().to_owned();
        Ok(Some(reason).filter(|r| r.contains(says)))
    });
    let found = reason.as_ref().map_or_else(ToString::to_string, Clone::clone);
    stage.report.check_that(
        &format!("{fault}: the path is down for that reason"),
        Truth::from(reason.is_ok()),
        found,
    );
    let up = host.path("san0/b")?["health"] == "up";
    stage.report.check_that(&format!("{fault}: the other path is not affected"), Truth::from(up), "");
    array.clear("a")?;
    host.wait_path(stage, "san0/a", "up", UP_MAX)
}
