//! The protobuf and gRPC interface `ringway.v1`, generated from `proto/ringway/v1/*.proto`.
//!
//! Only the RPC edges use these types; inside, the model of `ringway-topology` is used.

#[allow(clippy::all)]
pub mod v1 {
    tonic::include_proto!("ringway.v1");

    /// Descriptors of all services, for server reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/ringway.bin"));
}
