use super::check;

#[test]
fn vms() {
    check(
        "name = \"db1\"",
        &[
            ("priority = -1", &["12:12 priority: -1 is not from 0 to 1000000"]),
            ("priority = 1000001", &["12:12 priority: 1000001 is not from 0 to 1000000"]),
            ("priority = 'high'", &["12:12 priority: a whole number is expected, and this is a string"]),
            ("shares = 0", &["12:10 shares: this is not from 1 to 100000"]),
            ("shares = 'hihg'", &["12:10 shares: \"hihg\" is none of \"low\", \"normal\", \"high\""]),
            (
                "shares = true",
                &["12:10 shares: a whole number or a string is expected, and this is true or false"],
            ),
            ("reservation = '80'", &["12:15 reservation: \"80\" has no unit"]),
            ("reservation = '0 B/s'", &["12:15 reservation: \"0 B/s\" is zero: a rate is at least 1 B/s"]),
            (
                "reservation = '500 MiB/s'\nlimit = '400 MiB/s'",
                &["12:15 reservation: 500 MiB/s is above the limit of 400 MiB/s at line 13"],
            ),
            (
                "limit = '1 KiB/s'",
                &["12:9 limit: \"1 KiB/s\" is too little for even one request of 4 KiB a second"],
            ),
            ("limit = '0 MiB/s'", &["12:9 limit: \"0 MiB/s\" is zero: a rate is at least 1 B/s"]),
            ("limit_iops = 0", &["12:14 limit_iops: 0 is not from 1 to 100000000"]),
            ("limit_iops = '10'", &["12:14 limit_iops: a whole number is expected, and this is a string"]),
            ("qmp = 'db1.qmp'", &["12:7 qmp: \"db1.qmp\" is not absolute"]),
            (
                "qmp = '/run/vmpath/db1-vda.sock'",
                &[
                    "16:7 nbd: /run/vmpath/db1-vda.sock is already the socket of vm db1's QMP; first at line 12",
                ],
            ),
            (
                "qmp = '/run/q'\n[[vm.disk]]\nname = 'vdb'\nunit = 'san0/more'\nvhost_user = '/x'",
                &[
                    "12:7 qmp: vm db1 cannot be suspended without an error to its guest: some of its disks have vhost_user, some only NBD",
                ],
            ),
            ("libvirt = 'qemu:///system'", &["12:1 libvirt is not available yet"]),
        ],
    );
}

#[test]
fn policies() {
    check(
        "name = \"db1\"",
        &[
            (
                "on_path_loss = 'failover+suspnd'",
                &[
                    "12:16 on_path_loss: \"failover+suspnd\" is none of \"failover\", \"suspend\", \"migrate\", \"failover+suspend\", \"failover+migrate\"",
                ],
            ),
            (
                "on_path_loss = 'die'",
                &[
                    "12:16 on_path_loss: \"die\" is none of \"failover\", \"suspend\", \"migrate\", \"failover+suspend\", \"failover+migrate\"",
                ],
            ),
            ("when = 'never'", &["12:8 when: \"never\" is none of \"always\", \"outranked\""]),
            ("on_no_path = 'hold 60s'", &["12:14 on_no_path: \"hold 60s\": and what then?"]),
            ("on_no_path = 'wait'", &["12:14 on_no_path: \"wait\" is none of hold, suspend, migrate, fail"]),
            (
                "may_suspend = 1",
                &["12:15 may_suspend: true or false is expected, and this is a whole number"],
            ),
            ("resume = 'always'", &["12:10 resume: \"always\" is none of \"repair\", \"failback\""]),
            ("prioriy = 1", &["12:1 [[vm]] knows no key \"prioriy\""]),
            ("'' = 1", &["12:1 [[vm]] knows no key \"\""]),
        ],
    );
}

#[test]
fn disks() {
    check(
        "name = \"vda\"",
        &[
            ("vhost_user = 'x'", &["14:14 vhost_user: \"x\" is not absolute"]),
            (
                "vhost_user = '/run/vmpath/db1-vda.sock'",
                &[
                    "14:14 vhost_user: /run/vmpath/db1-vda.sock is already the socket of disk db1/vda; first at line 16",
                ],
            ),
            ("queues = 0", &["14:10 queues: 0 is not from 1 to 16"]),
            ("queues = 17", &["14:10 queues: 17 is not from 1 to 16"]),
            ("read_only = 'yes'", &["14:13 read_only: true or false is expected, and this is a string"]),
            ("nbd_tcp = 0", &["14:11 nbd_tcp: this is not a port, from 1 to 65535"]),
            ("nbd_tcp = 70000", &["14:11 nbd_tcp: this is not a port, from 1 to 65535"]),
            ("nbd_tcp = 'localhost:1'", &["14:11 nbd_tcp: \"localhost\" is a host name, not an address"]),
            ("nbd_tcp = '10810'", &["14:11 nbd_tcp: \"10810\" is not an IPv4 address"]),
            ("nbd_tcp = '127.0.0.1'", &["14:11 nbd_tcp: \"127.0.0.1\": the :PORT is missing"]),
            (
                "nbd_tcp = 1.5",
                &["14:11 nbd_tcp: a whole number or a string is expected, and this is a fraction"],
            ),
            ("ndb = '/x'", &["14:1 [[vm.disk]] knows no key \"ndb\""]),
        ],
    );
}

#[test]
fn second_disks() {
    check(
        "nbd = \"/run/vmpath/db1-vda.sock\"",
        &[
            ("[[vm.disk]]\nname = 'vdb'\nnbd = '/x'", &["16:1 [[vm.disk]]: unit is missing"]),
            ("[[vm.disk]]\nname = 'vdb'\nunit = 'san0/more'", &["16:1 [[vm.disk]]: nbd is missing"]),
            (
                "vhost_user = '/x'\n[[vm.disk]]\nname = 'vdb'\nunit = 'san0/more'\nvhost_user = '/x'",
                &["20:14 vhost_user: /x is already the socket of disk db1/vda; first at line 16"],
            ),
            (
                "[[vm.disk]]\nname = 'vdb'\nunit = 'san1/more'\nnbd = '/x'",
                &["18:8 no target is named \"san1\""],
            ),
            (
                "[[vm.disk]]\nname = 'vdb'\nunit = 'more'\nnbd = '/x'",
                &["18:8 unit: \"more\" names no target"],
            ),
            (
                "[[vm.disk]]\nname = 'vdb'\nunit = 'san0/root'\nnbd = '/x'",
                &["18:8 unit san0/root is already disk db1/vda; first at line 14"],
            ),
            (
                "[[vm.disk]]\nname = 'vda'\nunit = 'san0/more'\nnbd = '/x'",
                &["17:8 another disk of this vm is named \"vda\"; first at line 13"],
            ),
            (
                "[[vm.disk]]\nname = 'vdb'\nunit = 'san0/more'\nnbd = '/run/vmpath//db1-vda.sock'",
                &[
                    "19:7 nbd: /run/vmpath//db1-vda.sock is already the socket of disk db1/vda; first at line 15",
                ],
            ),
            (
                "[[vm.disk]]\nname = 'vdb'\nunit = 'san0/more'\nnbd = '/run/vmpath/vmpath.sock'",
                &["19:7 nbd: /run/vmpath/vmpath.sock is already the socket of the API"],
            ),
            (
                "nbd_tcp = 1\n[[vm.disk]]\nname = 'vdb'\nunit = 'san0/more'\nnbd_tcp = '0.0.0.0:1'",
                &["20:11 nbd_tcp: 0.0.0.0:1 is already taken by disk db1/vda; first at line 16"],
            ),
        ],
    );
}

#[test]
fn second_tables() {
    check(
        "nbd = \"/run/vmpath/db1-vda.sock\"",
        &[
            (
                "[[vm]]\nname = 'db1'\n[[vm.disk]]\nname = 'vda'\nunit = 'san0/root'\nnbd = '/x'",
                &[
                    "17:8 another vm is named \"db1\"; first at line 11",
                    "20:8 unit san0/root is already disk db1/vda; first at line 14",
                ],
            ),
            ("[[target]]\nname = 'san1'", &["16:1 this target has no path"]),
            (
                "[[target]]\nname = 'san0'\n[[target.path]]\nname = 'a'\nurl = 'nbd://10.9.9.9'",
                &["17:8 another target is named \"san0\"; first at line 3"],
            ),
            (
                "[[target]]\nname = 'san1'\n[[target.path]]\nname = 'a'\nurl = 'nbd://10.0.1.5'\n[[vm]]\nname = 'x'\n[[vm.disk]]\nname = 'vda'\nunit = 'san1/root'\nnbd = '/x'",
                &["20:7 url: unit san1/root is the same export as unit san0/root; first at line 6"],
            ),
            (
                "[[vm]]\n[[vm.disk]]",
                &[
                    "16:1 [[vm]]: name is missing",
                    "17:1 [[vm.disk]]: name is missing",
                    "17:1 [[vm.disk]]: unit is missing",
                    "17:1 [[vm.disk]]: nbd is missing",
                ],
            ),
            ("[[vm]]\nname = 'd b'", &["17:8 name: \"d b\": ' ' cannot be part of a name"]),
            ("[[vmm]]\nname = 'x'", &["16:3 the file knows no key \"vmm\""]),
            (
                "[host]\nname = 'kvm 1'\nshed_when = 'umnet'\nshed_after = '1ms'\napi_socket = '/run/vmpath/db1-vda.sock'\nadmin_group = ''",
                &[
                    "15:7 nbd: /run/vmpath/db1-vda.sock is already the socket of the API; first at line 20",
                    "17:8 name: \"kvm 1\": ' ' cannot be part of a name",
                    "18:13 shed_when: \"umnet\" is none of \"unmet\", \"reserved\"",
                    "19:14 shed_after: \"1ms\" is not from 100ms to 60m",
                    "21:15 admin_group: the name is empty",
                ],
            ),
            ("[[host]]\nname = 'x'", &["16:1 host: there is only one, so it is no list of tables"]),
        ],
    );
}

/// A front end that a path leads back to would serve itself.
#[test]
fn a_path_may_not_lead_back_to_this_host() {
    let more = "[[target]]\nname = 'loop'\n[[target.path]]\nname = 'a'\nurl = 'nbd://127.0.0.1:7'\n[[target.path]]\nname = 'b'\nurl = 'nbd://10.0.0.9:7'";
    let listen = |address: &str| format!("nbd_tcp = {address}\n{more}");
    let loopback = "21:7 url: this leads back to disk db1/vda of this host; first at line 16";
    let other = "24:7 url: this leads back to disk db1/vda of this host; first at line 16";
    let nbd = "nbd = \"/run/vmpath/db1-vda.sock\"";
    check(
        nbd,
        &[
            (&listen("7"), &[loopback]),
            (&listen("'[::]:7'"), &[loopback]),
            (&listen("'10.0.0.9:7'"), &[other]),
        ],
    );
}
