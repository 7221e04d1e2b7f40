use super::super::{Endpoint, EtcdTls, EtcdUser, Failback, Identity, OWNED_TOGETHER_MAX};
use super::{SMALL, faults, good, lines, parsed, small_with};
use crate::ids::{TargetId, VmId};
use crate::time::Duration;
use std::path::Path;

const FULL: &str = include_str!("full.toml");

/// The smallest cluster, without a warning. It begins at line 16 of `clustered`.
const CLUSTER: &str = "\
[host]
name = 'kvm1'
[cluster]
etcd = ['http://127.0.0.1:2379']
peer_listen = '10.0.0.1:7443'
peer_ca = '/ca'
peer_cert = '/cert'
peer_key = '/key'
";

fn clustered(piece: &str, replacement: &str) -> String {
    assert!(CLUSTER.contains(piece), "{piece}");
    format!("{SMALL}{}", CLUSTER.replacen(piece, replacement, 1))
}

fn warnings(text: &str) -> Vec<String> {
    lines(&parsed(text).unwrap_or_else(|f| panic!("{}\n{text}", lines(&f).join("\n"))).warnings)
}

#[test]
fn every_key_is_read() {
    let spec = good(FULL);
    let cluster = spec.cluster.as_ref().expect("there");
    let members: Vec<_> = cluster.etcd.endpoints.iter().map(Endpoint::to_string).collect();
    assert_eq!(members, ["10.0.9.1:2379", "etcd2.example:2379", "[fd00::9]:2379"]);
    assert_eq!(cluster.etcd.prefix, "/vmpath/east");
    let user = EtcdUser { name: "kvm1".into(), password_file: "/etc/vmpath/etcd.password".into() };
    assert_eq!(cluster.etcd.user, Some(user));
    let identity = Identity { cert: "/etc/vmpath/etcd.pem".into(), key: "/etc/vmpath/etcd.key".into() };
    let tls = EtcdTls { ca: "/etc/vmpath/etcd-ca.pem".into(), identity: Some(identity) };
    assert_eq!(cluster.etcd.tls, Some(tls));
    assert_eq!(cluster.etcd.lease, Duration::from_secs(15));
    let peer = &cluster.peer;
    assert_eq!(
        (peer.listen.to_string(), peer.address.to_string()),
        ("0.0.0.0:7443".into(), "10.0.8.1:7444".into())
    );
    assert_eq!(peer.ca, Path::new("/etc/vmpath/ca.pem"));
    assert_eq!(peer.identity.cert, Path::new("/etc/vmpath/kvm1.pem"));
    assert_eq!(peer.identity.key, Path::new("/etc/vmpath/kvm1.key"));
    let migration = &cluster.migration;
    assert_eq!(
        (migration.address.to_string(), migration.ports.clone()),
        ("10.0.7.1".into(), 50_000..=50_007)
    );
    assert_eq!((migration.max, migration.settle), (4, Duration::from_millis(500)));
    assert_eq!(spec.host.fence_command.as_deref(), Some("/etc/vmpath/fence"));
    let vm = spec.vm(VmId(0));
    assert_eq!(vm.launch.as_deref(), Some("/etc/vmpath/launch db1"));
    assert_eq!((vm.returns, vm.move_dwell), (true, Duration::from_secs(1800)));
}

#[test]
fn defaults_are_filled_in() {
    let text = clustered("[cluster]", "[cluster]");
    assert_eq!(warnings(&text), [""; 0]);
    let spec = good(&text);
    let cluster = spec.cluster.as_ref().expect("there");
    assert_eq!((cluster.etcd.prefix.as_str(), cluster.etcd.lease), ("/vmpath", Duration::from_secs(10)));
    assert_eq!((&cluster.etcd.user, &cluster.etcd.tls), (&None, &None));
    assert_eq!(cluster.peer.address, cluster.peer.listen);
    let migration = &cluster.migration;
    assert_eq!((migration.address, migration.ports.clone()), (cluster.peer.address.ip(), 49_152..=49_215));
    assert_eq!((migration.max, migration.settle), (2, Duration::from_secs(1)));
    let vm = spec.vm(VmId(0));
    assert_eq!((&vm.launch, vm.returns, vm.move_dwell), (&None, false, Duration::from_secs(600)));
    assert_eq!((good(SMALL).cluster, spec.host.fence_command), (None, None), "alone unless it says so");
    let followover = text.replacen("name = \"san0\"", "name = \"san0\"\nfailback = 'followover'", 1);
    assert_eq!(warnings(&followover), [""; 0]);
    assert_eq!(good(&followover).target(TargetId(0)).failback, Failback::Followover);
}

const ETCD: &str = "etcd = ['http://127.0.0.1:2379']";
const LISTEN: &str = "peer_listen = '10.0.0.1:7443'";

/// What is replaced in `CLUSTER`, by what, and what is said then.
const WRONG: &[(&str, &str, &[&str])] = &[
    (
        "name = 'kvm1'\n",
        "",
        &["17:1 [cluster]: this host has no name, and all hosts without one would be one host"],
    ),
    (ETCD, "", &["18:1 [cluster]: etcd is missing"]),
    (ETCD, "etcd = []", &["19:8 etcd: there are from 1 to 16 members"]),
    (ETCD, "etcd = ['10.0.0.1:2379']", &["19:9 etcd: \"10.0.0.1:2379\" is not a URL"]),
    (ETCD, "etcd = ['htp://10.0.0.1']", &["19:9 etcd: \"htp\" is neither http nor https"]),
    (ETCD, "etcd = ['http://10.0.0.1:0']", &["19:9 etcd: \"0\" is not a port"]),
    (ETCD, "etcd = ['http://a_b:1']", &["19:9 etcd: \"a_b\": '_' cannot be part of a host's name"]),
    (ETCD, "etcd = ['http://0.0.0.0']", &["19:9 etcd: 0.0.0.0 is not the address of one host"]),
    (
        ETCD,
        "etcd = ['http://10.0.0.1/v3']",
        &["19:9 etcd: \"http://10.0.0.1/v3\": a member of etcd has an address and a port only"],
    ),
    (
        ETCD,
        "etcd = ['http://127.0.0.1', 'http://127.0.0.1:2379/']",
        &["19:29 etcd: 127.0.0.1:2379 stands there twice"],
    ),
    (
        ETCD,
        "etcd_ca = '/x'\netcd = ['http://127.0.0.1', 'https://127.0.0.2']",
        &["20:29 etcd: some members have http and some https"],
    ),
    (
        ETCD,
        "etcd = 'https://127.0.0.1'",
        &["19:8 etcd: https needs etcd_ca, who signed the members' certificates"],
    ),
    ("[cluster]", "[cluster]\nprefix = 'vmpath'", &["19:10 prefix: \"vmpath\" does not begin with '/'"]),
    ("[cluster]", "[cluster]\nprefix = '/'", &["19:10 prefix: the name is empty"]),
    ("[cluster]", "[cluster]\nprefix = '/a b'", &["19:10 prefix: \"a b\": ' ' cannot be part of a name"]),
    (
        "[cluster]",
        "[cluster]\nuser = 'root'",
        &["19:8 user: password_file is missing, the file that holds the password"],
    ),
    (
        "[cluster]",
        "[cluster]\npassword_file = '/x'",
        &["19:17 password_file: user is missing, whose password this is"],
    ),
    (
        "[cluster]",
        "[cluster]\nuser = 'root'\npassword_file = 'x'",
        &[
            "19:8 user: password_file is missing, the file that holds the password",
            "20:17 password_file: \"x\" is not absolute",
        ],
    ),
    (
        "[cluster]",
        "[cluster]\netcd_cert = '/x'",
        &["19:13 etcd_cert: etcd_key is missing: one is no use without the other"],
    ),
    (
        "[cluster]",
        "[cluster]\netcd_key = '/x'",
        &["19:12 etcd_key: etcd_cert is missing: one is no use without the other"],
    ),
    ("[cluster]", "[cluster]\nlease = '1s'", &["19:9 lease: \"1s\" is not from 2s to 2m"]),
    (
        "[cluster]",
        "[cluster]\nlease = '2.5s'",
        &["19:9 lease: \"2.5s\": etcd counts a lease in whole seconds"],
    ),
    (
        "peer_ca = '/ca'\npeer_cert = '/cert'\npeer_key = '/key'\n",
        "",
        &[
            "18:1 [cluster]: peer_ca is missing",
            "18:1 [cluster]: peer_cert is missing",
            "18:1 [cluster]: peer_key is missing",
        ],
    ),
    ("peer_key = '/key'", "peer_key = 'key'", &["23:12 peer_key: \"key\" is not absolute"]),
    (LISTEN, "", &["18:1 [cluster]: peer_listen is missing"]),
    (LISTEN, "peer_listen = '10.0.0.1'", &["20:15 peer_listen: \"10.0.0.1\": the :PORT is missing"]),
    (
        LISTEN,
        "peer_listen = '[::]:7443'",
        &["20:15 peer_listen: [::]:7443 is every address of this host, and others need one"],
    ),
    (
        LISTEN,
        "peer_listen = '10.0.0.1:49200'",
        &["20:15 peer_listen: port 49200 is one of migrate_ports, 49152-49215"],
    ),
    (
        LISTEN,
        "peer_listen = '10.0.0.1:7443'\npeer_address = '0.0.0.0:1'",
        &["21:16 peer_address: 0.0.0.0 is not the address of one host"],
    ),
    (
        LISTEN,
        "peer_listen = '10.0.0.1:7443'\nmigrate_address = '10.0.0.1:5'",
        &["21:19 migrate_address: \"10.0.0.1:5\" is not an address"],
    ),
    (
        "[cluster]",
        "[cluster]\nmigrate_ports = '5000'",
        &["19:17 migrate_ports: 5000-5000 is 1 ports, and migrations_max is 2"],
    ),
    (
        "[cluster]",
        "[cluster]\nmigrate_ports = '5001-5000'",
        &["19:17 migrate_ports: \"5001-5000\": it ends before it begins"],
    ),
    (
        "[cluster]",
        "[cluster]\nmigrate_ports = '0-99999'",
        &["19:17 migrate_ports: \"0-99999\" is not a range of ports, each from 1 to 65535"],
    ),
    ("[cluster]", "[cluster]\nmigrations_max = 0", &["19:18 migrations_max: 0 is not from 1 to 64"]),
    ("[cluster]", "[cluster]\nsettle = '1m'", &["19:10 settle: \"1m\" is not from 10ms to 30s"]),
    ("[cluster]", "[cluster]\netdc = 1", &["19:1 [cluster] knows no key \"etdc\""]),
    ("[host]", "[host]\nfence_command = ' '", &["17:17 fence_command: the command is empty"]),
];

#[test]
fn what_is_wrong_with_a_cluster_is_said() {
    for (piece, replacement, expected) in WRONG {
        assert_eq!(faults(&clustered(piece, replacement)), *expected, "{replacement}");
    }
    let text = clustered("[cluster]", "[cluster]").replacen(
        "nbd = \"/run/vmpath/db1-vda.sock\"",
        "nbd_tcp = '10.0.0.1:7443'",
        1,
    );
    assert_eq!(
        faults(&text),
        ["20:15 peer_listen: 10.0.0.1:7443 is already taken by a disk; first at line 15"]
    );
    let twice = format!("{}[cluster]\n", clustered("[cluster]", "[cluster]"));
    assert!(faults(&twice)[0].contains("\"cluster\" stands there twice"), "{:?}", faults(&twice));
}

/// One more could never be claimed, and would be held for ever.
#[test]
fn a_vm_has_no_more_disks_than_can_change_hosts_together() {
    let disk =
        |at: usize| format!("[[vm.disk]]\nname = 'd{at}'\nunit = 'san0/u{at}'\nnbd = '/run/{at}.sock'\n");
    let text = |disks: usize| {
        let more: String = (1..disks).map(disk).collect();
        format!("{SMALL}{more}{CLUSTER}")
    };
    good(&text(OWNED_TOGETHER_MAX));
    let said = faults(&text(OWNED_TOGETHER_MAX + 1));
    assert!(said.len() == 1 && said[0].contains("one disk of its vm too many: 128"), "{said:?}");
    good(&text(OWNED_TOGETHER_MAX + 1).replace(CLUSTER, ""));
}

/// Whatever is wrong with it, nobody reads a password in what is said.
#[test]
fn a_password_is_never_repeated() {
    let secret = "s3cret";
    let texts = [
        clustered("[cluster]", "[cluster]\npassword = 's3cret'"),
        clustered("http://127.0.0.1:2379", "http://root:s3cret@127.0.0.1:2379"),
        clustered("http://127.0.0.1:2379", "root:s3cret@127.0.0.1:2379"),
    ];
    for text in texts {
        let said: Vec<String> = parsed(&text).expect_err("wrong").iter().map(ToString::to_string).collect();
        assert!(said.iter().all(|line| !line.contains(secret)), "{said:?}");
        assert!(said[0].contains("password_file"), "{said:?}");
    }
}

#[test]
fn warnings_of_a_cluster_and_of_none() {
    let vm = |more: &str| small_with("name = \"db1\"", &format!("name = \"db1\"\n{more}"));
    let alone = "no other host is configured: this has no effect";
    let target = |more: &str| small_with("name = \"san0\"", &format!("name = \"san0\"\n{more}"));
    let cases = [
        (vm("launch = 'x'"), format!("12:10 launch: {alone}")),
        (vm("return = true"), format!("12:10 return: {alone}")),
        (vm("move_dwell = '1m'"), format!("12:14 move_dwell: {alone}")),
        (format!("{SMALL}[host]\nfence_command = 'x'"), format!("17:17 fence_command: {alone}")),
        (
            target("failback = 'followover'"),
            "4:12 failback: no other host is configured: followover is immediate".into(),
        ),
        (
            clustered("127.0.0.1:2379", "10.0.0.9"),
            "19:9 etcd: 10.0.0.9:2379 is without TLS: anyone on the way to it can give a disk to another host".into(),
        ),
        (
            clustered("127.0.0.1:2379']", "10.0.0.9']\nuser = 'kvm1'\npassword_file = '/p'"),
            "19:9 etcd: 10.0.0.9:2379 is without TLS: anyone on the way to it reads the password, and can give a disk to \
             another host"
                .into(),
        ),
        (
            clustered("[cluster]", "[cluster]\netcd_ca = '/x'"),
            "19:11 etcd_ca: etcd is reached by http, which has no TLS: this has no effect".into(),
        ),
        (
            clustered("[cluster]", "[cluster]").replacen("\"db1\"", "\"db1\"\non_path_loss = 'migrate'", 1),
            "12:16 without qmp nothing can be migrated: vm db1 stays where it is".into(),
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(warnings(&text), [expected]);
    }
    let movable =
        "\"db1\"\nqmp = '/q'\non_path_loss = 'migrate'\non_no_path = 'migrate, then suspend'\nlaunch = 'x'";
    assert_eq!(warnings(&clustered("[cluster]", "[cluster]").replacen("\"db1\"", movable, 1)), [""; 0]);
}

#[test]
fn a_reload_changes_how_moves_are_done_and_not_where_others_are() {
    let running = good(FULL);
    let with = |piece: &str, replacement: &str| {
        assert!(FULL.contains(piece), "{piece}");
        good(&FULL.replacen(piece, replacement, 1)).rebase(&running)
    };
    for (piece, replacement) in [
        ("settle = \"500ms\"", "settle = \"2s\""),
        ("migrations_max = 4", ""),
        ("50000-50007", "50000-50009"),
        ("fence_command = \"/etc/vmpath/fence\"", ""),
        ("move_dwell = \"30m\"", ""),
        ("return = true", ""),
    ] {
        let after = with(piece, replacement).expect("allowed");
        assert_ne!(after, running, "{piece}");
    }
    let refused = |piece, replacement| with(piece, replacement).expect_err("refused");
    assert_eq!(
        refused("lease = \"15s\"", ""),
        ["cluster: what it says of etcd changes: a restart is needed"]
    );
    assert_eq!(
        refused("10.0.8.1:7444", "10.0.8.1:7445"),
        ["cluster: what it says of peers changes: a restart is needed"]
    );
    let (begin, end) = (FULL.find("[cluster]").expect("there"), FULL.find("[[target]]").expect("there"));
    let alone = good(&format!("{}{}", &FULL[..begin], &FULL[end..]));
    assert_eq!(
        alone.clone().rebase(&running),
        Err(vec!["cluster is gone: a restart is needed to remove it".into()])
    );
    assert_eq!(running.rebase(&alone), Err(vec!["cluster is new: a restart is needed to add it".into()]));
}
