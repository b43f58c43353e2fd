//! The whole life of a cluster, as processes. Stubs stand for the control plane and the gateway:
//! shell scripts that run this test executable again, or keep the list of shards in a file.

use std::os::unix::fs::PermissionsExt;
use std::process::Output;

use clap::Parser;
use rustix::process::Signal;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

use super::super::args::DevArgs;
use super::super::ports::{free_port, loopback};
use super::super::process::ProcessId;
use super::super::state::{DevState, PartState};
use super::*;

const BOUND: Duration = Duration::from_secs(20);

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    dev: DevArgs,
}

/// `shardctl dev`, when the stub script asks for it.
#[tokio::test]
async fn stub_dev() {
    let Ok(arguments) = std::env::var("STUB_DEV") else {
        return;
    };
    let args = Cli::parse_from(arguments.split(' ')).dev;
    let status = super::super::run(args).await.unwrap();
    assert_eq!(status, ExitCode::SUCCESS);
}

/// A gateway that forwards to the first shard.
#[tokio::test]
async fn stub_gateway() {
    let Ok(arguments) = std::env::var("STUB_GATEWAY") else {
        return;
    };
    let arguments: Vec<&str> = arguments.split(' ').collect();
    let [_, _, "--listen", listen, "--data", data] = arguments[..] else {
        panic!("{arguments:?}");
    };
    let port = std::fs::read_to_string(Path::new(data).with_file_name("s1").join("port")).unwrap();
    let shard = loopback(port.trim().parse().unwrap());
    let listener = TcpListener::bind(listen).await.unwrap();
    loop {
        let (mut client, _) = listener.accept().await.unwrap();
        if let Ok(mut server) = TcpStream::connect(shard).await {
            let _ = copy_bidirectional(&mut client, &mut server).await;
        }
    }
}

struct Bench {
    home: tempfile::TempDir,
    listen: SocketAddr,
    grpc: SocketAddr,
}

impl Bench {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        // The account that runs PostgreSQL must get through.
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(home.path(), open.clone()).unwrap();
        let bench = Self { home, listen: loopback(free_port().unwrap()), grpc: loopback(free_port().unwrap()) };
        let stub = std::env::current_exe().unwrap();
        let stub = format!("exec '{}' --nocapture --exact", stub.display());
        let scripts = [
            (
                "shardctl",
                format!(
                    "export RUST_BACKTRACE=0\n\
                     if [ \"$1\" = --grpc ]; then shift 2; fi\n\
                     case \"$1 $2\" in\n\
                     'dev '*) export STUB_DEV=\"$*\"; {stub} dev::cluster::tests::stub_dev ;;\n\
                     'serve '*) exec sleep 600 ;;\n\
                     'shard add') echo \"{{\\\"name\\\": \\\"$3\\\"}}\" >>'{0}' ;;\n\
                     'shard list') echo \"[$(paste -sd, '{0}')]\" ;;\n\
                     esac\n",
                    bench.shards().display()
                ),
            ),
            ("ringway-gateway", format!("export STUB_GATEWAY=\"$*\"; {stub} dev::cluster::tests::stub_gateway\n")),
        ];
        std::fs::write(bench.shards(), "").unwrap();
        for (name, script) in scripts {
            let path = bench.home.path().join(name);
            std::fs::write(&path, format!("#!/bin/sh\n{script}")).unwrap();
            std::fs::set_permissions(&path, open.clone()).unwrap();
        }
        bench
    }

    /// What the stub control plane knows, one line per shard.
    fn shards(&self) -> PathBuf {
        self.home.path().join("shards")
    }

    fn data(&self) -> PathBuf {
        self.home.path().join("data")
    }

    fn front(&self) -> String {
        format!("postgresql://postgres@{}/app", self.listen)
    }

    async fn shardctl(&self, arguments: &str) -> Output {
        let shardctl = self.home.path().join("shardctl");
        let command = Command::new(&shardctl)
            .args(arguments.split(' '))
            .arg("--data")
            .arg(self.data())
            .env("RINGWAY_SHARDCTL_BIN", &shardctl)
            .env("RINGWAY_GATEWAY_BIN", self.home.path().join("ringway-gateway"))
            .output();
        tokio::time::timeout(BOUND * 2, command).await.unwrap().unwrap()
    }

    async fn start(&self) -> String {
        let (listen, grpc) = (self.listen, self.grpc);
        let output = self.shardctl(&format!("dev --shards 2 --listen {listen} --grpc {grpc} --detach")).await;
        let text = String::from_utf8(output.stdout).unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}{errors}");
        text
    }

    fn state(&self) -> DevState {
        state::read(&self.data()).unwrap().unwrap()
    }

    fn part(&self, name: &str) -> Option<PartState> {
        let mut parts = self.state().parts.into_iter();
        parts.find(|part| part.name == name)
    }

    fn process(&self, name: &str) -> ProcessId {
        self.part(name).unwrap().process.unwrap()
    }

    async fn answers(&self, dsn: &str) {
        let started = Instant::now();
        while let Err(error) = answers(dsn).await {
            assert!(started.elapsed() < BOUND, "{error}");
            tokio::time::sleep(GATEWAY_POLL).await;
        }
    }

    /// Kills the part, and waits until it serves again.
    async fn kill(&self, name: &str) {
        let old = self.process(name);
        old.signal(Signal::KILL).unwrap();
        let started = Instant::now();
        while self.process(name) == old {
            assert!(started.elapsed() < BOUND, "{name} was not started again");
            tokio::time::sleep(GATEWAY_POLL).await;
        }
        self.answers(&self.front()).await;
    }
}

impl Drop for Bench {
    /// After a failed assertion, nothing of the cluster stays behind.
    fn drop(&mut self) {
        if let Ok(Some(state)) = state::read(&self.data()) {
            let parts = state.parts.iter().filter_map(|part| part.process);
            for process in std::iter::once(state.supervisor).chain(parts) {
                let _ = process.signal(Signal::KILL);
            }
        }
    }
}

#[tokio::test]
async fn a_cluster_lives_and_ends() {
    let bench = Bench::new();
    let text = bench.start().await;
    let dsn = bench.part("s1").unwrap().dsn.unwrap();
    for line in
        [&format!("shard s1 {dsn}\n"), "fsync=on synchronous_commit=on\n", &format!("ready {}\n", bench.front())]
    {
        assert!(text.contains(line), "{line} in {text}");
    }
    bench.answers(&bench.front()).await;

    let twice = bench.shardctl("dev --detach").await;
    assert!(!twice.status.success());
    let errors = String::from_utf8_lossy(&twice.stderr).into_owned();
    assert!(errors.contains("already runs on"), "{errors}");

    for part in ["gateway", "control", "s1"] {
        bench.kill(part).await;
    }
    assert_eq!(bench.part("s1").unwrap().dsn.unwrap(), dsn);

    let spare = bench.shardctl("dev spare --json").await;
    let text = String::from_utf8(spare.stdout).unwrap();
    let spare_dsn = text.split('"').find(|word| word.starts_with("postgresql:"));
    answers(spare_dsn.unwrap()).await.unwrap();
    assert_eq!(bench.part("spare1").unwrap().dsn.as_deref(), spare_dsn);

    // A killed supervisor leaves its parts; the next one starts over, with the same servers.
    let old = bench.state();
    old.supervisor.signal(Signal::KILL).unwrap();
    assert!(old.supervisor.gone(BOUND).await);
    bench.start().await;
    assert_eq!(bench.part("s1").unwrap().dsn.unwrap(), dsn);
    bench.answers(spare_dsn.unwrap()).await;
    let shards = std::fs::read_to_string(bench.shards()).unwrap();
    assert_eq!(shards.lines().count(), 2, "added again: {shards}");

    let new = bench.state();
    for _ in 0..2 {
        let stop = bench.shardctl("dev stop").await;
        assert!(stop.status.success());
    }
    for state in [old, new] {
        let parts = state.parts.iter().filter_map(|part| part.process);
        for process in std::iter::once(state.supervisor).chain(parts) {
            assert!(!process.is_running(), "{process:?} of {state:?}");
        }
    }
    assert!(state::read(&bench.data()).unwrap().is_none());
}
