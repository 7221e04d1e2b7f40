//! Frames drawn from made-up looks, keys pressed on them, rates over them.

use super::board::{After, Board, Daemon, Sort};
use super::cells::Paint;
use super::draw;
use super::interval;
use super::look::Look;
use crate::api::client::CallError;
use crate::api::wire;
use crate::cli::testing;
use proptest::prelude::*;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::style::{Color, Modifier};
use std::time::Duration;

const MIB: u64 = 1 << 20;

/// Two paths, one lost; gold well, silver unmet, bronze suspended; counters as after `seconds` of 60 MiB/s.
fn look(seconds: u64) -> Look {
    let at = (100 + seconds) * 1_000_000;
    let mut lost = testing::path("a");
    (lost.health, lost.preferred) = ("down".into(), false);
    lost.reason = Some("path san0/a has been down for 12.0 s: connection reset by the target (INC-1)".into());
    (lost.pending_bytes, lost.pending_requests, lost.errors) = (0, 0, 31);
    let mut good = testing::path("b");
    (good.pending_bytes, good.estimate_bytes_per_second) = (3 << 19, 98 * MIB);
    (good.completed_bytes, good.completed_requests) = (seconds * 62 * MIB, seconds * 1500);
    let share = |vm: &str, mib, share_percent| wire::Carried {
        vm: vm.into(),
        bytes_per_second: mib * MIB,
        share_percent,
    };
    good.carried = vec![share("gold", 60, 96.8), share("silver", 2, 3.2)];
    let mut gold = testing::vm("gold", 100);
    (gold.reservation_bytes_per_second, gold.entitled_bytes_per_second) = (Some(60 * MIB), Some(98 * MIB));
    (gold.completed_bytes, gold.completed_requests) = (seconds * 60 * MIB, seconds * 960);
    let mut silver = testing::vm("silver", 90);
    (silver.reservation_bytes_per_second, silver.reservation_unmet_bytes_per_second) =
        (Some(50 * MIB), 48 * MIB);
    silver.held = 40;
    silver.held_reasons = vec![wire::HeldReason { reason: "window".into(), requests: 40 }];
    (silver.completed_bytes, silver.completed_requests) = (seconds * 2 * MIB, seconds * 540);
    let mut bronze = testing::vm("bronze", 50);
    (bronze.state, bronze.held, bronze.in_flight) = ("suspended".into(), 3, 0);
    bronze.held_reasons = vec![wire::HeldReason { reason: "policy".into(), requests: 3 }];
    let counts = |words: &[(&str, usize)]| words.iter().map(|(w, n)| ((*w).into(), *n)).collect();
    Look {
        host: wire::Host {
            at_unix_us: at,
            name: "kvm1".into(),
            version: "0".into(),
            pid: 7,
            daemon_started_unix_us: 0,
            generation: 12,
            api_socket: "/s".into(),
            admin_group: "vmpath".into(),
            shed_when: "unmet".into(),
            shed_after_ms: 1000,
            paths: counts(&[("up", 1), ("down", 1), ("marginal", 0)]),
            vms: counts(&[("running", 2), ("suspended", 1)]),
            open_incidents: 1,
            last_event_seq: 1,
            dataplane: None,
        },
        incidents: wire::Incidents {
            at_unix_us: at,
            incidents: vec![wire::Incident {
                incident: "INC-1".into(),
                opened_unix_us: 0,
                closed_unix_us: None,
                summary: "path san0/a lost".into(),
                paths: vec![],
                vms_affected: vec![],
            }],
        },
        paths: wire::Paths { counted_unix_us: Some(at), ..testing::paths(vec![lost, good]) },
        vms: wire::Vms {
            at_unix_us: at,
            generation: 12,
            counted_unix_us: Some(at),
            groups: vec![],
            vms: vec![bronze, silver, gold],
        },
    }
}

fn board() -> Board {
    let mut board = Board::default();
    board.looked(Ok(look(0)));
    board.looked(Ok(look(1)));
    board
}

fn silent() -> CallError {
    CallError::Silent { socket: "/s".into() }
}

fn frame(board: &mut Board, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("no real terminal");
    terminal
        .draw(|frame| draw::live(board, Paint::Colours, frame.area(), frame.buffer_mut()))
        .expect("no real terminal");
    let text = terminal.backend().to_string();
    text.lines().map(|line| format!("{}\n", line.trim_matches('"').trim_end())).collect()
}

fn press(board: &mut Board, keys: &str) {
    for key in keys.chars() {
        let code = match key {
            '\n' => KeyCode::Enter,
            '\t' => KeyCode::Tab,
            '\x1b' => KeyCode::Esc,
            'V' => KeyCode::Down,
            letter => KeyCode::Char(letter),
        };
        assert_eq!(board.key(KeyEvent::from(code)), After::GoOn, "{key}");
    }
}

fn names(board: &Board) -> Vec<&str> {
    board.vms().iter().map(|vm| vm.name.as_str()).collect()
}

#[test]
fn a_frame_of_80_columns_says_it_all() {
    let expect = "\
vmpath kvm1  up 1 min 41 s  generation 12  00:01:41 UTC
62.0 MiB/s  1500 IO/s  43 held  paths 1 down, 1 up  VMs 2 running, 1 suspended
1 open incident: INC-1 path san0/a lost

PATH     HEALTH   ACCESS     REQ PENDING/WINDOW     SERVICE  MiB/s    CAN ERRORS
san0/a   down     optimized    0 [        0B/2.0M]   812 us      0      0     31
san0/b   up       optimized    3 [||||||1.5M/2.0M]   812 us   62.0   98.0      0
-- 3 VMs by priority
VM       PRIO  MiB/s ENTITLED RESERVED  UNMET    IO/s OPEN  HELD WHY
gold      100   60.0     98.0     60.0    met     960    2     0
silver     90   2.00        -     50.0   48.0     540    2    40 no room
bronze     50      0        -        -      -       0    0     3 suspended
";
    let drawn = frame(&mut board(), 80, 24);
    let expect: Vec<_> = expect.lines().collect();
    let lines: Vec<_> = drawn.lines().collect();
    assert_eq!(lines[..expect.len()], expect, "{drawn}");
    assert!(lines[23].starts_with("q quit") && lines[23].ends_with("space pause"), "{drawn}");
}

#[test]
fn a_wide_frame_has_every_column_whole() {
    let drawn = frame(&mut board(), 132, 40);
    for line in [
        "san0/b   up       optimized    3 [|||||||||||||||||1.5M/2.0M]  64M   812 us   62.0   98.0      -    1500      0",
        "silver               90   1000 -          2.00        -      -     50.0   48.0     540    2    40 no room",
    ] {
        let words = |line: &str| line.split_whitespace().map(String::from).collect::<Vec<_>>();
        assert!(drawn.lines().any(|drawn| words(drawn) == words(line)), "{line}\n{drawn}");
    }
    let drawn = frame(&mut board(), 44, 24);
    assert!(drawn.contains("PATH") && !drawn.contains("WINDOW"), "half a bar is none:\n{drawn}");
}

#[test]
fn the_selected_path_shows_its_share_by_vm() {
    let mut board = board();
    press(&mut board, "\tV");
    let drawn = frame(&mut board, 80, 24);
    for words in [
        "-- san0/b: window 2.0M of at most 64M, 3 requests pending, service 812 us\n",
        "gold      100   60.0  96.8 % [|||",
        "silver     90   2.00   3.2 % [| ",
    ] {
        assert!(drawn.contains(words), "{words}\n{drawn}");
    }
    press(&mut board, "k");
    let drawn = frame(&mut board, 80, 24);
    assert!(
        drawn.contains("-- san0/a: window") && drawn.contains("connection reset by the target"),
        "{drawn}"
    );
    assert!(drawn.contains("it has lately carried nothing"), "{drawn}");
    press(&mut board, "\t");
    assert!(frame(&mut board, 80, 24).contains("-- 3 VMs by priority"));
}

#[test]
fn vms_are_sorted_reversed_and_filtered() {
    let mut board = board();
    assert_eq!(names(&board), ["gold", "silver", "bronze"]);
    for (keys, sort, expect) in [
        ("n", Sort::Name, ["bronze", "gold", "silver"]),
        ("s", Sort::Served, ["gold", "silver", "bronze"]),
        ("r", Sort::Served, ["bronze", "silver", "gold"]),
        ("h", Sort::Held, ["silver", "bronze", "gold"]),
        ("u", Sort::Unmet, ["silver", "bronze", "gold"]),
        ("i", Sort::Requests, ["gold", "silver", "bronze"]),
        ("pr", Sort::Priority, ["bronze", "silver", "gold"]),
    ] {
        press(&mut board, keys);
        assert_eq!((board.sort, &names(&board)[..]), (sort, &expect[..]), "{keys}");
    }
    // Letters of the filter are no commands; case does not matter.
    press(&mut board, "/Rq");
    assert!(board.typing && names(&board).is_empty());
    assert!(frame(&mut board, 80, 24).contains("/Rq_"));
    board.key(KeyEvent::from(KeyCode::Backspace));
    press(&mut board, "\n");
    assert_eq!(names(&board), ["bronze", "silver"]);
    assert!(frame(&mut board, 80, 24).contains("-- 2 of 3 VMs with \"R\" by priority, reversed"));
    press(&mut board, "/\x1b");
    assert_eq!(names(&board).len(), 3);
}

#[test]
fn three_keys_quit() {
    let control_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    for key in [KeyEvent::from(KeyCode::Char('q')), KeyEvent::from(KeyCode::Esc), control_c] {
        assert_eq!(board().key(key), After::Quit, "{key:?}");
    }
    let mut typing = board();
    press(&mut typing, "/q\x1b");
    assert_eq!(typing.key(control_c), After::Quit);
    press(&mut typing, "/");
    assert_eq!(typing.key(control_c), After::Quit, "also from within the filter");
}

#[test]
fn scrolling_stays_within_the_rows() {
    let mut board = board();
    for (key, expect) in [
        (KeyCode::Down, 0),
        (KeyCode::Up, 0),
        (KeyCode::PageDown, 2),
        (KeyCode::Down, 2),
        (KeyCode::Home, 0),
        (KeyCode::End, 2),
        (KeyCode::PageUp, 0),
        (KeyCode::Char('j'), 1),
    ] {
        board.key(KeyEvent::from(key));
        assert_eq!(board.vm_table.selected(), Some(expect), "{key:?}");
    }
    let mut many = look(1);
    many.vms.vms = (0..200).map(|index| testing::vm(&format!("vm{index:03}"), 100)).collect();
    board.looked(Ok(many));
    board.key(KeyEvent::from(KeyCode::End));
    let drawn = frame(&mut board, 80, 24);
    assert!(drawn.contains("vm199") && !drawn.contains("vm000"), "{drawn}");
    board.looked(Ok(look(2)));
    assert!(frame(&mut board, 80, 24).contains("bronze"), "fewer rows than were scrolled past");
}

#[test]
fn a_pause_keeps_the_numbers_and_goes_on_counting() {
    let mut board = board();
    press(&mut board, " ");
    for seconds in 2..10 {
        board.looked(Ok(look(seconds)));
    }
    let drawn = frame(&mut board, 80, 24);
    assert!(drawn.contains("00:01:41 UTC  paused") && drawn.contains("gold      100   60.0"), "{drawn}");
    press(&mut board, " ");
    let drawn = frame(&mut board, 80, 24);
    assert!(drawn.contains("00:01:49 UTC\n") && drawn.contains("gold      100   60.0"), "{drawn}");
}

#[test]
fn a_daemon_that_goes_away_is_told_and_comes_back() {
    let mut board = Board::default();
    assert!(frame(&mut board, 80, 24).contains("asking the daemon"));
    board.looked(Err(silent()));
    let drawn = frame(&mut board, 80, 24);
    assert!(drawn.contains("NO ANSWER (1 look), trying again: the daemon at /s did not answer"), "{drawn}");
    board.looked(Ok(look(0)));
    board.looked(Ok(look(1)));
    assert!(!frame(&mut board, 80, 24).contains("NO ANSWER"));
    board.looked(Err(silent()));
    board.looked(Err(silent()));
    let drawn = frame(&mut board, 80, 24);
    assert!(
        drawn.contains("NO ANSWER (2 looks), these numbers are old") && drawn.contains("60.0"),
        "{drawn}"
    );
    board.looked(Ok(look(2)));
    assert_eq!(board.daemon, Daemon::Answers);
}

#[test]
fn rates_are_over_the_time_between_countings() {
    let served = |board: &Board| {
        let scene = board.scene.as_ref().expect("a look");
        let gold = scene.look.vms.vms.iter().find(|vm| vm.name == "gold").expect("gold");
        (scene.served(gold) / MIB, scene.flow_of(gold).map(|flow| flow.requests))
    };
    let mut board = Board::default();
    board.looked(Ok(look(0)));
    assert_eq!(served(&board), (60, None), "of one look only what the daemon measured");
    board.looked(Ok(look(4)));
    assert_eq!(served(&board), (60, Some(960)), "four seconds lay between");
    // The data plane has not counted since: nothing new is known, and nothing has stopped.
    board.looked(Ok(look(4)));
    assert_eq!(served(&board), (60, Some(960)));
    let mut doubled = look(5);
    doubled.vms.vms[2].completed_bytes += 60 * MIB;
    board.looked(Ok(doubled));
    assert_eq!(served(&board), (120, Some(960)));
    // Less than before, by the same daemon: no rate below zero.
    let mut less = look(6);
    less.vms.vms[2].completed_bytes = 0;
    board.looked(Ok(less));
    assert_eq!(served(&board).0, 0);
    // Another daemon begins at nothing: its first counters are no rate, its second are.
    let mut restarted = look(7);
    (restarted.host.pid, restarted.vms.vms[2].completed_requests) = (8, 5);
    board.looked(Ok(restarted.clone()));
    assert_eq!(served(&board).1, None);
    let mut next = restarted;
    next.vms.counted_unix_us = next.vms.counted_unix_us.map(|at| at + 500_000);
    next.vms.vms[2].completed_requests = 25;
    board.looked(Ok(next));
    assert_eq!(served(&board).1, Some(40));
    // A wall clock set back by an hour, or no report: no rate, and one again after.
    let mut back = look(0);
    (back.host.pid, back.vms.counted_unix_us) = (8, Some(1));
    board.looked(Ok(back));
    assert_eq!(served(&board).1, None);
}

#[test]
fn an_unmet_reservation_cannot_be_overlooked_with_or_without_colour() {
    let style_of = |paint, word: &str| {
        let mut terminal = Terminal::new(TestBackend::new(80, 24)).expect("no real terminal");
        let mut board = board();
        terminal
            .draw(|frame| draw::live(&mut board, paint, frame.area(), frame.buffer_mut()))
            .expect("drawn");
        let buffer = terminal.backend().buffer().clone();
        let row = |y: u16| (0..80).map(|x| buffer[(x, y)].symbol()).collect::<String>();
        let y = (0..24).find(|y| row(*y).starts_with(word)).expect("the row");
        let x =
            u16::try_from(row(y).rfind("48.0").or_else(|| row(y).rfind("met")).expect("the cell")).unwrap();
        let colours = buffer.content.iter().filter(|cell| cell.fg != Color::Reset).count();
        (buffer[(x, y)].modifier, buffer[(x, y)].fg, colours > 0)
    };
    let alarm = Modifier::BOLD | Modifier::REVERSED;
    assert_eq!(style_of(Paint::Colours, "silver"), (alarm, Color::Red, true));
    assert_eq!(style_of(Paint::Plain, "silver"), (alarm, Color::Reset, false));
    assert_eq!(style_of(Paint::Colours, "gold").1, Color::Green);
}

#[test]
fn a_plain_frame_has_every_row_and_each_paths_shares() {
    let mut board = board();
    let mut many = look(2);
    many.vms.vms.extend((0..60).map(|index| testing::vm(&format!("vm{index:03}"), 1)));
    board.looked(Ok(many));
    let text = draw::plain(&mut board, 120);
    assert!(text.contains("\nsan0/b for gold 96.8 %, silver 3.2 %\n"), "{text}");
    assert!(text.contains("vm059") && !text.contains("q quit") && !text.contains('\x1b'), "{text}");
    assert!(text.lines().all(|line| line.len() <= 120 && line == line.trim_end()), "{text}");
}

#[test]
fn an_interval_has_a_unit_and_bounds() {
    assert_eq!(interval("500ms"), Ok(Duration::from_millis(500)));
    assert_eq!(interval("2s"), Ok(Duration::from_secs(2)));
    for bad in ["", "5", "10ms", "2h", "0s", "soon"] {
        assert!(interval(bad).is_err(), "{bad}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Any size, any keys, between any looks.
    #[test]
    fn no_size_and_no_keys_break_a_frame(
        sizes in prop::collection::vec((0_u16..140, 0_u16..50), 1..6),
        keys in prop::collection::vec(prop::sample::select(vec!['\t', '\n', 'V', 'k', '/', 'o', 's', 'r', ' ', 'n']), 0..30),
        rows in 0_usize..30,
    ) {
        let mut board = Board::default();
        let mut terminal = Terminal::new(TestBackend::new(80, 24)).expect("no real terminal");
        for (index, (width, height)) in sizes.into_iter().enumerate() {
            for key in keys.iter().skip(index * 5).take(5) {
                press(&mut board, &key.to_string());
            }
            terminal.backend_mut().resize(width, height);
            terminal
                .draw(|frame| draw::live(&mut board, Paint::Colours, frame.area(), frame.buffer_mut()))
                .expect("no real terminal");
            let mut look = look(index as u64);
            look.vms.vms.truncate(rows);
            look.paths.paths.truncate(rows / 2);
            board.looked(if index % 3 == 2 { Err(silent()) } else { Ok(look) });
        }
        draw::plain(&mut board, 0);
    }
}
