//! What the gateway does for every query without asking anybody, one operation at a time: for the microbenchmarks
//! (`benches/micro.rs`) and for counting instructions ([`super::callgrind`]).

use std::hint::black_box;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use bytes::BytesMut;
use clap::Parser as _;
use ringway_gateway::catalog::Catalog;
use ringway_gateway::config::{Config, Options};
use ringway_gateway::exec::gateway::{Gateway, RecentPlans};
use ringway_gateway::exec::view::{ControlPlane, View};
use ringway_gateway::plan::route::{evaluate, Parameter};
use ringway_gateway::plan::types::KeyExpression;
use ringway_gateway::wire::frontend::{self, Bind};
use ringway_gateway::wire::{backend, Format, FrameScanner, Span, TxStatus};
use ringway_topology::ids::{GatewayId, ShardId};
use ringway_topology::model::{Shard, ShardState, Topology};
use ringway_topology::ring::Ring;
use ringway_topology::token::{KeyType, Token};

const SHARDS: u16 = 16;
const STATEMENTS: usize = 100;
const STATEMENT: &str = "SELECT current_timestamp, ";

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Operation {
    /// A point read's answer: four messages by their headers.
    FrameScanning,
    /// A text's plan, among those that the session has used last.
    SessionPlan,
    /// A text's plan, among all that the gateway keeps.
    StatementCache,
    /// Bind's parameters, the key among them, and its token.
    KeyExtraction,
    /// The owner of a token, of 16 shards.
    RingLookup,
}

impl Operation {
    pub const ALL: [Operation; 5] = [
        Operation::FrameScanning,
        Operation::SessionPlan,
        Operation::StatementCache,
        Operation::KeyExtraction,
        Operation::RingLookup,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Operation::FrameScanning => "frame-scanning",
            Operation::SessionPlan => "session-plan",
            Operation::StatementCache => "statement-cache",
            Operation::KeyExtraction => "key-extraction",
            Operation::RingLookup => "ring-lookup",
        }
    }
}

/// What the operations work on.
pub struct Operations {
    answer: BytesMut,
    bind: BytesMut,
    gateway: Gateway,
    view: Arc<View>,
    recent: RecentPlans,
    search_path: Vec<String>,
    statements: Vec<String>,
    ring: Ring,
}

impl Operations {
    pub fn new() -> Result<Operations> {
        let mut answer = BytesMut::new();
        answer.extend_from_slice(&[b'2', 0, 0, 0, 4]);
        backend::data_row(&mut answer, [Some("12345")]);
        backend::command_complete(&mut answer, "SELECT 1");
        backend::ready_for_query(&mut answer, TxStatus::Idle);
        let mut bind = BytesMut::new();
        let key = 123_456_789i64.to_be_bytes();
        frontend::bind(&mut bind, "", "s1", [Format::Binary], [Some(&key[..]), None], [Format::Binary]);
        let shards: Vec<ShardId> = (1..=SHARDS).map(ShardId).collect();

        let mut topology = Topology::empty("bench".into(), "secret".into());
        for id in &shards {
            let (name, state) = (id.to_string(), ShardState::Member);
            topology.shards.insert(*id, Shard { id: *id, name, dsn: String::new(), state, system_identifier: 0 });
        }
        let options = Options::try_parse_from(["ringway-gateway", "--topology", "file:none"])?;
        let (forget, _) = tokio::sync::mpsc::channel(1);
        let gateway = Gateway::new(Config::load(options)?, GatewayId(1), ControlPlane::Fixed, forget);
        gateway.set_catalog(1, Catalog::default());
        gateway.view.publish(Arc::new(topology));
        let view = gateway.view.current().context("the view that was published")?;
        let operations = Operations {
            answer,
            bind,
            gateway,
            view,
            recent: RecentPlans::default(),
            search_path: vec!["$user".to_owned(), "public".to_owned()],
            statements: (0..STATEMENTS).map(|number| format!("{STATEMENT}{number}")).collect(),
            ring: Ring::equal(&shards)?,
        };
        for operation in Operation::ALL {
            operations.run(operation, STATEMENTS as u64);
        }
        Ok(operations)
    }

    pub fn run(&self, operation: Operation, count: u64) {
        for number in 0..count {
            match operation {
                Operation::FrameScanning => self.scan(),
                Operation::SessionPlan => {
                    let sql = self.statements[0].as_str();
                    let recent = &self.recent;
                    let path = &self.search_path;
                    let _ = black_box(self.gateway.plan_of_session(recent, sql, &self.view, path, "postgres", false));
                }
                Operation::StatementCache => {
                    let sql = self.statements[number as usize % STATEMENTS].as_str();
                    let _ = black_box(self.gateway.plan(sql, &self.view, &self.search_path, "postgres", false));
                }
                Operation::KeyExtraction => self.key(),
                Operation::RingLookup => {
                    let token = Token((number as i64).wrapping_mul(0x5851_f42d_4c95_7f2d));
                    black_box(self.ring.owner(black_box(token)));
                }
            }
        }
    }

    fn scan(&self) {
        let mut scanner = FrameScanner::new(1 << 20);
        let mut at = 0;
        loop {
            match scanner.scan(black_box(&self.answer[at..])) {
                Ok(Span::Rows { bytes, .. }) => at += bytes,
                Ok(Span::Control(header)) => at += header.len,
                Ok(Span::Incomplete) | Err(_) => break,
            }
        }
        black_box(at);
    }

    fn key(&self) {
        let Ok(bind) = Bind::parse(black_box(&self.bind[5..])) else { return };
        let parameters: Vec<Parameter<'_>> = bind
            .parameters
            .iter()
            .enumerate()
            .map(|(index, value)| Parameter { type_oid: 20, format: bind.parameter_formats.get(index), value })
            .collect();
        let key = KeyExpression::Parameter { index: 0, key_type: KeyType::Int8, typmod: -1 };
        let _ = black_box(evaluate(&key, &parameters).map(|key| key.map(|key| key.token())));
    }
}
