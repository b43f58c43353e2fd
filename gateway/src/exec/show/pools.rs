//! Pools, clients, servers, counts, settings.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use ringway_topology::model::Topology;

use super::{number, shard_name, Cell, Column, Number, Subject, Text};
use crate::exec::clients::Activity;
use crate::exec::gateway::Gateway;
use crate::plan::console::HELP;
use crate::pool::connect::Purpose;
use crate::pool::Pool;

pub fn columns(subject: Subject) -> &'static [Column] {
    match subject {
        Subject::Pools => &[
            Text("database"),
            Text("user"),
            Text("shard"),
            Number("cl_active"),
            Number("cl_waiting"),
            Number("sv_active"),
            Number("sv_idle"),
            Number("sv_login"),
            Number("maxwait"),
            Number("maxwait_us"),
            Text("pool_mode"),
            Number("sv_total"),
        ],
        Subject::Clients => &[
            Text("type"),
            Text("user"),
            Text("database"),
            Text("state"),
            Text("addr"),
            Number("port"),
            Text("connect_time"),
            Number("id"),
            Text("link"),
            Text("application_name"),
        ],
        Subject::Servers => &[
            Text("type"),
            Text("user"),
            Text("database"),
            Text("shard"),
            Text("state"),
            Text("addr"),
            Number("port"),
            Text("connect_time"),
            Number("id"),
            Number("remote_pid"),
            Number("link"),
        ],
        Subject::Stats => &[
            Text("database"),
            Number("total_xact_count"),
            Number("total_query_count"),
            Number("total_server_assignment_count"),
            Number("total_wait_time"),
            Number("avg_xact_count"),
            Number("avg_query_count"),
            Number("avg_server_assignment_count"),
            Number("avg_wait_time"),
            Number("total_single_shard_count"),
            Number("total_fan_out_count"),
            Number("total_distributed_commit_count"),
            Number("total_error_count"),
            Number("total_shared_read_count"),
        ],
        Subject::StatsTotals => &[
            Text("database"),
            Number("xact_count"),
            Number("query_count"),
            Number("server_assignment_count"),
            Number("wait_time"),
            Number("single_shard_count"),
            Number("fan_out_count"),
            Number("distributed_commit_count"),
            Number("error_count"),
            Number("shared_read_count"),
        ],
        Subject::Databases => &[
            Text("name"),
            Text("shard"),
            Text("host"),
            Number("port"),
            Text("database"),
            Number("pool_size"),
            Number("min_pool_size"),
            Number("reserve_pool_size"),
            Number("server_lifetime"),
            Text("pool_mode"),
            Number("current_connections"),
            Number("paused"),
        ],
        Subject::Users => &[
            Text("name"),
            Number("pool_size"),
            Number("reserve_pool_size"),
            Text("pool_mode"),
            Number("current_connections"),
        ],
        Subject::Lists => &[Text("list"), Number("items")],
        Subject::Listeners => &[Text("channel"), Number("clients")],
        Subject::Config => &[Text("key"), Text("value"), Text("default"), Text("changeable")],
        Subject::Help => &[Text("command"), Text("does")],
        // What is the cluster's own.
        _ => &[],
    }
}

pub fn rows(subject: Subject, gateway: &Gateway, topology: Option<&Topology>) -> Vec<Vec<Cell>> {
    match subject {
        Subject::Pools => pools(gateway, topology),
        Subject::Clients => clients(gateway, topology),
        Subject::Servers => servers(gateway, topology),
        Subject::Stats => vec![stats(gateway, true)],
        Subject::StatsTotals => vec![stats(gateway, false)],
        Subject::Databases => databases(gateway, topology),
        Subject::Users => users(gateway),
        Subject::Lists => lists(gateway, topology),
        Subject::Listeners => {
            let channels = gateway.listeners.channels().into_iter();
            channels.map(|(channel, clients)| vec![Cell::Text(channel.to_string()), number(clients)]).collect()
        }
        Subject::Config => config(gateway),
        Subject::Help => HELP.iter().map(|(command, does)| vec![(*command).into(), (*does).into()]).collect(),
        _ => Vec::new(),
    }
}

fn name_of(topology: Option<&Topology>, pool: &Pool) -> String {
    topology.map_or_else(|| pool.endpoint.shard.clone(), |topology| shard_name(topology, pool.shard))
}

fn time(time: SystemTime) -> Cell {
    humantime::format_rfc3339_seconds(time).to_string().into()
}

fn pools(gateway: &Gateway, topology: Option<&Topology>) -> Vec<Vec<Cell>> {
    let mut clients: BTreeMap<(Box<str>, Box<str>), (usize, usize)> = BTreeMap::new();
    for client in gateway.clients.all() {
        let counted = clients.entry((client.user.clone(), client.database.clone())).or_default();
        counted.0 += 1;
        counted.1 += usize::from(client.activity() == Activity::Waiting);
    }
    let rows = gateway.pools.all().into_iter().map(|pool| {
        let counts = pool.counts();
        let settings = pool.settings();
        let key = (pool.role.as_str().into(), pool.endpoint.database.as_str().into());
        let (all, waiting) = clients.get(&key).copied().unwrap_or_default();
        let active = match pool.purpose {
            Purpose::Application => all.saturating_sub(waiting),
            Purpose::Service => 0,
        };
        let wait = pool.longest_wait();
        vec![
            pool.endpoint.database.clone().into(),
            pool.role.clone().into(),
            name_of(topology, &pool).into(),
            number(active),
            number(counts.waiting),
            number(counts.lent),
            number(counts.idle),
            number(counts.opening),
            number(wait.as_secs()),
            number(wait.subsec_micros()),
            settings.mode.name().into(),
            number(counts.total),
        ]
    });
    rows.collect()
}

fn clients(gateway: &Gateway, topology: Option<&Topology>) -> Vec<Vec<Cell>> {
    let mut links: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for pool in gateway.pools.all() {
        for server in pool.servers() {
            let client = server.client.load(Ordering::Relaxed);
            links.entry(client).or_default().push(format!("{}:{}", name_of(topology, &pool), server.process_id));
        }
    }
    let rows = gateway.clients.all().into_iter().map(|client| {
        vec![
            "C".into(),
            (&*client.user).into(),
            (&*client.database).into(),
            client.activity().name().into(),
            client.address.map(|address| address.ip().to_string()).map_or(Cell::Null, Cell::Text),
            client.address.map_or(Cell::Null, |address| number(address.port())),
            time(client.connected),
            number(client.number),
            links.get(&client.number).map(|links| links.join(" ")).unwrap_or_default().into(),
            (&*client.application_name).into(),
        ]
    });
    rows.collect()
}

fn servers(gateway: &Gateway, topology: Option<&Topology>) -> Vec<Vec<Cell>> {
    let mut rows = Vec::new();
    for pool in gateway.pools.all() {
        for server in pool.servers() {
            let client = server.client.load(Ordering::Relaxed);
            rows.push(vec![
                "S".into(),
                pool.role.clone().into(),
                pool.endpoint.database.clone().into(),
                name_of(topology, &pool).into(),
                if client == 0 { "idle" } else { "active" }.into(),
                pool.endpoint.host.clone().into(),
                number(pool.endpoint.port),
                time(server.opened),
                number(server.number),
                number(server.process_id),
                if client == 0 { Cell::Null } else { number(client) },
            ]);
        }
    }
    rows
}

fn stats(gateway: &Gateway, averages: bool) -> Vec<Cell> {
    let statistics = &gateway.statistics;
    let totals = statistics.totals(&gateway.pools);
    let mut row = vec![
        gateway.database().map_or(Cell::Null, Cell::Text),
        number(totals.transactions),
        number(totals.statements),
        number(totals.checkouts),
        number(totals.waited_microseconds),
    ];
    if averages {
        let averages = statistics.averages();
        row.extend([
            number(averages.transactions),
            number(averages.statements),
            number(averages.checkouts),
            number(averages.waited_microseconds),
        ]);
    }
    let ours = [
        &statistics.single_shard,
        &statistics.fan_out,
        &statistics.distributed_commits,
        &statistics.errors,
        &statistics.shared_reads,
    ];
    row.extend(ours.map(|counter| number(counter.load(Ordering::Relaxed))));
    row
}

fn databases(gateway: &Gateway, topology: Option<&Topology>) -> Vec<Vec<Cell>> {
    let Some((topology, name)) = topology.zip(gateway.database()) else { return Vec::new() };
    let settings = gateway.pools.settings_of("", &name);
    let pools = gateway.pools.all();
    let rows = topology.shards.values().filter_map(|shard| {
        let endpoint = crate::pool::endpoint::Endpoint::parse(&shard.name, &shard.dsn).ok()?;
        let connections: usize = pools.iter().filter(|pool| pool.shard == shard.id).map(|pool| pool.total()).sum();
        Some(vec![
            name.clone().into(),
            shard.name.clone().into(),
            endpoint.host.into(),
            number(endpoint.port),
            endpoint.database.into(),
            number(settings.size_max),
            number(settings.size_min),
            number(settings.reserve_max),
            number(settings.lifetime_ms / 1_000),
            settings.mode.name().into(),
            number(connections),
            number(u8::from(gateway.pools.pause().is_on())),
        ])
    });
    rows.collect()
}

fn users(gateway: &Gateway) -> Vec<Vec<Cell>> {
    let live = gateway.live.load();
    let pools = gateway.pools.all();
    let mut names: BTreeSet<String> = live.pools.users.keys().cloned().collect();
    names.extend(live.admin_users.iter().chain(&live.stats_users).cloned());
    names.extend(gateway.users.load().iter().flat_map(|users| users.names().map(str::to_owned)));
    names.extend(gateway.clients.all().iter().map(|client| client.user.to_string()));
    let database = gateway.database().unwrap_or_default();
    let rows = names.into_iter().map(|name| {
        let settings = gateway.pools.settings_of(&name, &database);
        let connections: usize = pools.iter().filter(|pool| pool.role == name).map(|pool| pool.total()).sum();
        vec![
            name.into(),
            number(settings.size_max),
            number(settings.reserve_max),
            settings.mode.name().into(),
            number(connections),
        ]
    });
    rows.collect()
}

fn lists(gateway: &Gateway, topology: Option<&Topology>) -> Vec<Vec<Cell>> {
    let pools = gateway.pools.all();
    let (mut idle, mut lent) = (0, 0);
    for counts in pools.iter().map(|pool| pool.counts()) {
        idle += counts.idle;
        lent += counts.lent;
    }
    let clients = gateway.clients.all();
    let connected = usize::try_from(gateway.statistics.clients.load(Ordering::Relaxed)).unwrap_or(usize::MAX);
    let waiting = clients.iter().filter(|client| client.activity() == Activity::Waiting).count();
    [
        ("databases", usize::from(gateway.database().is_some())),
        ("users", users(gateway).len()),
        ("pools", pools.len()),
        ("shards", topology.map_or(0, |topology| topology.shards.len())),
        ("moves", topology.map_or(0, |topology| topology.moves.len())),
        ("used_clients", clients.len()),
        ("login_clients", connected.saturating_sub(clients.len())),
        ("waiting_clients", waiting),
        ("free_servers", idle),
        ("used_servers", lent),
    ]
    .map(|(list, items)| vec![list.into(), number(items)])
    .to_vec()
}

/// Settings that hold: what RELOAD changes as it was loaded last, the rest as the gateway began.
fn config(gateway: &Gateway) -> Vec<Vec<Cell>> {
    let loaded = gateway.loaded.load();
    let entries = gateway.config.entries().into_iter().zip(loaded.entries());
    let rows = entries.map(|(begun, loaded)| {
        let value = if begun.changeable { loaded.value } else { begun.value };
        let changeable = if begun.changeable { "yes" } else { "no" };
        vec![begun.key.into(), value.into(), begun.default.into(), changeable.into()]
    });
    rows.collect()
}
