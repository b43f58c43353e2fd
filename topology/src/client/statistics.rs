//! What a gateway reports of itself, since its start.

use std::collections::BTreeMap;

use ringway_proto::v1;

use crate::ids::MoveId;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GatewayStatistics {
    pub moves: BTreeMap<MoveId, MoveStatistics>,
    pub clients: u64,
    pub statements: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MoveStatistics {
    /// Transactions whose writes were applied on the other shard before they committed.
    pub mirrored_transactions: u64,
    pub mirrored_rows: u64,
    /// Transactions that committed with their captured rows left to the sweeper.
    pub unmirrored_transactions: u64,
    /// Statements that waited for a cutover.
    pub held_statements: u64,
    pub held_microseconds: u64,
    pub held_microseconds_max: u64,
}

impl MoveStatistics {
    /// Sums, and the longest of the holds.
    pub fn merge(&mut self, other: &MoveStatistics) {
        self.mirrored_transactions += other.mirrored_transactions;
        self.mirrored_rows += other.mirrored_rows;
        self.unmirrored_transactions += other.unmirrored_transactions;
        self.held_statements += other.held_statements;
        self.held_microseconds += other.held_microseconds;
        self.held_microseconds_max = self.held_microseconds_max.max(other.held_microseconds_max);
    }
}

impl From<&GatewayStatistics> for v1::GatewayStatistics {
    fn from(statistics: &GatewayStatistics) -> v1::GatewayStatistics {
        let of_move = |(id, m): (&MoveId, &MoveStatistics)| v1::MoveStatistics {
            move_id: id.0,
            mirrored_transactions: m.mirrored_transactions,
            mirrored_rows: m.mirrored_rows,
            unmirrored_transactions: m.unmirrored_transactions,
            held_statements: m.held_statements,
            held_microseconds: m.held_microseconds,
            held_microseconds_max: m.held_microseconds_max,
        };
        v1::GatewayStatistics {
            moves: statistics.moves.iter().map(of_move).collect(),
            clients: statistics.clients,
            statements: statistics.statements,
        }
    }
}

impl From<&v1::GatewayStatistics> for GatewayStatistics {
    fn from(statistics: &v1::GatewayStatistics) -> GatewayStatistics {
        let of_move = |m: &v1::MoveStatistics| {
            let statistics = MoveStatistics {
                mirrored_transactions: m.mirrored_transactions,
                mirrored_rows: m.mirrored_rows,
                unmirrored_transactions: m.unmirrored_transactions,
                held_statements: m.held_statements,
                held_microseconds: m.held_microseconds,
                held_microseconds_max: m.held_microseconds_max,
            };
            (MoveId(m.move_id), statistics)
        };
        GatewayStatistics {
            moves: statistics.moves.iter().map(of_move).collect(),
            clients: statistics.clients,
            statements: statistics.statements,
        }
    }
}
