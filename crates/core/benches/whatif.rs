//! How long a forecast takes on a large host: 1,000 VMs on 16 paths of 4 targets, every VM with a reservation and a monitor.

use criterion::{Criterion, criterion_group, criterion_main};
use std::fmt::Write as _;
use std::hint::black_box;
use std::sync::Arc;
use vmpath_core::ids::PathId;
use vmpath_core::spec::{Source, Spec, parse};
use vmpath_core::whatif::{Question, ask, healthy};

fn spec(ladder: &str) -> Arc<Spec> {
    let mut text = String::new();
    for target in 0..4 {
        writeln!(text, "[[target]]\nname = \"san{target}\"").expect("a string");
        for path in 0..4 {
            let url = format!("nbd://10.0.{target}.{path}:10809");
            writeln!(text, "[[target.path]]\nname = \"p{path}\"\nurl = \"{url}\"\ncapacity = \"2500 MiB/s\"")
                .expect("a string");
        }
    }
    for vm in 0..1000 {
        writeln!(
            text,
            "[[vm]]\nname = \"vm{vm}\"\npriority = {}\nreservation = \"30 MiB/s\"\non_no_path = \"{ladder}\"\nmay_suspend = true\nqmp = \"/run/{vm}.qmp\"\n\
             [[vm.disk]]\nname = \"vda\"\nunit = \"san{}/vm{vm}\"\nnbd = \"/run/{vm}.sock\"",
            vm % 100 + 1,
            vm % 4
        )
        .expect("a string");
    }
    Arc::new(parse(&[Source { name: "bench.toml", text: &text }]).expect("a good configuration").spec)
}

fn forecasts(c: &mut Criterion) {
    let copied = spec("hold 30s, then suspend");
    let (controller, now) = healthy(&copied);
    c.bench_function("whatif/copy", |b| b.iter(|| black_box(controller.clone())));
    c.bench_function("whatif/view", |b| b.iter(|| black_box(controller.view(now))));
    for (name, ladder) in
        [("suspend", "hold 30s, then suspend"), ("fail", "hold 60s, then suspend 10m, then fail")]
    {
        let spec = spec(ladder);
        let (controller, now) = healthy(&spec);
        let of = |lost: &dyn Fn(PathId) -> bool| Question {
            lose: spec.path_ids().filter(|path| lost(*path)).collect(),
            drain: vec![],
        };
        let questions = [
            ("two_of_16_paths", of(&|path| path.index() < 2)),
            ("a_target", of(&|path| path.index() < 4)),
            ("all_16_paths", of(&|_| true)),
        ];
        for (what, question) in questions {
            c.bench_function(&format!("whatif/{name}/{what}"), |b| {
                b.iter(|| ask(controller.clone(), now, black_box(&question), None));
            });
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10);
    targets = forecasts
}
criterion_main!(benches);
