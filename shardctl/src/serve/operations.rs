//! The `Operations` service: everything that an operator does. Translates, and lets long work finish when its caller
//! goes away.

use std::future::Future;
use std::pin::Pin;

use ringway_proto::v1;
use ringway_topology::convert::{shard_to_proto, Audience};
use ringway_topology::ids::MoveId;
use ringway_topology::store;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use super::moves::{self, Command};
use crate::control::{Control, ControlError};
use crate::moves::Engine;
use crate::tables::{self, ShardTable};
use crate::{recovery, shards, verify};

pub(super) struct OperationsService {
    control: Control,
    engine: Engine,
}

impl OperationsService {
    pub(super) fn new(control: Control, engine: Engine) -> OperationsService {
        OperationsService { control, engine }
    }

    /// As a task of the control plane's.
    async fn finish<T, F>(&self, work: F) -> Result<T, ControlError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, ControlError>> + Send + 'static,
    {
        match self.control.spawn(work).await {
            Ok(Some(outcome)) => outcome,
            Ok(None) => Err(ControlError::ShuttingDown),
            Err(error) => {
                tables::settle_interrupted(&self.control);
                Err(ControlError::Internal(format!("the operation failed: {error}")))
            }
        }
    }

    async fn command(&self, request: Request<v1::MoveRequest>, command: Command) -> Reply<v1::MoveStatus> {
        let id = MoveId(request.into_inner().id);
        Ok(Response::new(moves::command(&self.engine, id, command).await?))
    }
}

type Reply<T> = Result<Response<T>, Status>;

fn some_text(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

#[tonic::async_trait]
impl v1::operations_server::Operations for OperationsService {
    type WatchMoveStream = Pin<Box<dyn Stream<Item = Result<v1::MoveStatus, Status>> + Send>>;

    async fn add_shard(&self, request: Request<v1::AddShardRequest>) -> Reply<v1::AddShardResponse> {
        let request = request.into_inner();
        if !request.replica_dsns.is_empty() {
            return Err(Status::unimplemented("replicas cannot be registered yet; leave --replica out"));
        }
        let joined = shards::join_with_warnings(&self.control, &request.name, &request.dsn).await?;
        let topology = self.control.topology();
        let shard = topology.shard(joined.shard).map(|shard| shard_to_proto(shard, Audience::Observer));
        Ok(Response::new(v1::AddShardResponse { shard, warnings: joined.warnings }))
    }

    async fn remove_shard(&self, request: Request<v1::RemoveShardRequest>) -> Reply<v1::RemoveShardResponse> {
        let (control, name) = (self.control.clone(), request.into_inner().name);
        self.finish(async move { shards::remove(&control, &name).await }).await?;
        Ok(Response::new(v1::RemoveShardResponse {}))
    }

    async fn shard_table(&self, request: Request<v1::ShardTableRequest>) -> Reply<v1::ShardTableResponse> {
        let request = request.into_inner();
        let control = self.control.clone();
        let wanted = ShardTable {
            table: request.table,
            key_column: request.key_column,
            keyspace: some_text(request.keyspace),
            colocate_with: some_text(request.colocate_with),
            allow_local_unique: request.allow_local_unique,
        };
        let done = self.finish(async move { tables::shard_table(&control, &wanted).await }).await?;
        let (warnings, epoch, rows_moved) = (done.warnings, done.epoch.0, done.rows);
        Ok(Response::new(v1::ShardTableResponse { warnings, epoch, rows_moved }))
    }

    async fn reference_table_create(
        &self,
        request: Request<v1::ReferenceTableRequest>,
    ) -> Reply<v1::ReferenceTableResponse> {
        let (control, table) = (self.control.clone(), request.into_inner().table);
        let done = self.finish(async move { tables::reference_table(&control, &table).await }).await?;
        let (warnings, epoch, rows_copied) = (done.warnings, done.epoch.0, done.rows);
        Ok(Response::new(v1::ReferenceTableResponse { warnings, epoch, rows_copied }))
    }

    async fn undistribute_table(
        &self,
        request: Request<v1::UndistributeTableRequest>,
    ) -> Reply<v1::UndistributeTableResponse> {
        let (control, table) = (self.control.clone(), request.into_inner().table);
        let done = self.finish(async move { tables::undistribute_table(&control, &table).await }).await?;
        Ok(Response::new(v1::UndistributeTableResponse { epoch: done.epoch.0, rows_moved: done.rows }))
    }

    async fn start_move(&self, request: Request<v1::StartMoveRequest>) -> Reply<v1::MoveStatus> {
        let request = request.into_inner();
        if !request.target_dsn.is_empty() {
            // A DSN that leads nowhere is refused, rather than tried again and again by a move.
            self.control.client_of_dsn(&request.target_dsn, &request.target).await.map_err(ControlError::from)?;
        }
        Ok(Response::new(moves::start_move(&self.engine, request).await?))
    }

    async fn list_moves(&self, request: Request<v1::ListMovesRequest>) -> Reply<v1::ListMovesResponse> {
        let moves = moves::list(&self.engine, request.into_inner().all);
        Ok(Response::new(v1::ListMovesResponse { moves }))
    }

    async fn get_move(&self, request: Request<v1::MoveRequest>) -> Reply<v1::MoveStatus> {
        Ok(Response::new(moves::get(&self.engine, MoveId(request.into_inner().id))?))
    }

    async fn watch_move(&self, request: Request<v1::MoveRequest>) -> Reply<Self::WatchMoveStream> {
        let statuses = moves::watch(&self.engine, MoveId(request.into_inner().id))?;
        Ok(Response::new(super::until_shutdown(&self.control, statuses)))
    }

    async fn pause_move(&self, request: Request<v1::MoveRequest>) -> Reply<v1::MoveStatus> {
        self.command(request, Command::Pause).await
    }

    async fn resume_move(&self, request: Request<v1::MoveRequest>) -> Reply<v1::MoveStatus> {
        self.command(request, Command::Resume).await
    }

    async fn cut_over_move(&self, request: Request<v1::MoveRequest>) -> Reply<v1::MoveStatus> {
        self.command(request, Command::CutOver).await
    }

    async fn roll_back_move(&self, request: Request<v1::MoveRequest>) -> Reply<v1::MoveStatus> {
        self.command(request, Command::RollBack).await
    }

    async fn complete_move(&self, request: Request<v1::MoveRequest>) -> Reply<v1::MoveStatus> {
        self.command(request, Command::Complete).await
    }

    async fn cancel_move(&self, request: Request<v1::MoveRequest>) -> Reply<v1::MoveStatus> {
        self.command(request, Command::Cancel).await
    }

    async fn verify(&self, _: Request<v1::VerifyRequest>) -> Reply<v1::VerifyResponse> {
        let control = self.control.clone();
        let report = self.finish(async move { verify::verify(&control).await }).await?;
        Ok(Response::new(v1::VerifyResponse {
            passed: report.findings.is_empty(),
            rows_checked: report.rows_checked,
            findings: report.findings,
        }))
    }

    async fn list_transactions(&self, _: Request<v1::ListTransactionsRequest>) -> Reply<v1::ListTransactionsResponse> {
        let listed = recovery::list(&self.control).await;
        let transaction = |one: recovery::Listed| v1::PreparedTransaction {
            gid: one.gid,
            shard: one.shard,
            anchor_shard: one.anchor_shard,
            age_milliseconds: one.age_milliseconds,
            state: one.state,
        };
        let transactions = listed.into_iter().map(transaction).collect();
        Ok(Response::new(v1::ListTransactionsResponse { transactions }))
    }

    async fn list_gateways(&self, _: Request<v1::ListGatewaysRequest>) -> Reply<v1::ListGatewaysResponse> {
        let status = |gateway: crate::control::GatewayView| v1::GatewayStatus {
            gateway_id: gateway.gateway.0,
            listen_address: gateway.listen_address,
            routed_epoch: gateway.routed.0,
            drained_epoch: gateway.drained.0,
            lease_live: gateway.is_live,
        };
        let gateways = self.control.gateways().list().into_iter().map(status).collect();
        Ok(Response::new(v1::ListGatewaysResponse { gateways }))
    }

    async fn export_topology(&self, _: Request<v1::ExportTopologyRequest>) -> Reply<v1::ExportTopologyResponse> {
        let bytes = store::encode(&self.control.topology()).map_err(ControlError::from)?;
        let json = String::from_utf8(bytes).map_err(|_| Status::internal("the topology is no text"))?;
        Ok(Response::new(v1::ExportTopologyResponse { json }))
    }

    async fn import_topology(&self, request: Request<v1::ImportTopologyRequest>) -> Reply<v1::ImportTopologyResponse> {
        let imported = store::decode(request.into_inner().json.as_bytes())
            .map_err(|error| Status::invalid_argument(format!("this is no exported topology: {error}")))?;
        let topology = self.control.import(imported).await?;
        Ok(Response::new(v1::ImportTopologyResponse { epoch: topology.epoch.0 }))
    }
}
