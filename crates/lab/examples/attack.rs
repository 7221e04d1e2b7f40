use clap::Parser;
#[derive(Parser)]
struct A {
    #[command(flatten)]
    s: vmpath_lab::SimulateArgs,
}
fn main() -> std::process::ExitCode {
    A::parse().s.run().unwrap()
}
