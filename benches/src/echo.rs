//! An echo server: the RPC stack without a store behind it.
//!
//! It answers `RawGet` with a fixed value of the size asked for and `RawPut` with success, over the
//! same messages and the same gRPC library as the real server. What a driver reaches against it
//! is the most this machine can do; `flotilla bench raw --echo` takes turns between the two.

use std::{net::SocketAddr, path::PathBuf, process::Stdio, time::Duration};

use anyhow::Context;
use bytes::Bytes;
use clap::{Args, Subcommand};
use flotilla_proto::{
    kvrpcpb,
    tikvpb::tikv_server::{Tikv, TikvServer},
};
use flotilla_tls::TlsArgs;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    net::TcpListener,
    process::{Child, Command as Process},
    sync::oneshot,
};
use tonic::{
    Request, Response, Status,
    transport::{Server as Grpc, server::TcpIncoming},
};

use crate::raw;

/// Requests up to the longest value, with room around it: as the real server.
const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What the server prints before its address once it listens.
const LISTENING: &str = "listening on ";

/// The words behind the program's name that start a server; its options follow.
const SERVE_WORDS: [&str; 3] = ["bench", "echo", "serve"];

/// A child that does not listen by then never will.
const START_TIME_MAX: Duration = Duration::from_secs(10);

/// `flotilla bench echo`
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Server or driver
    #[command(subcommand)]
    pub command: Command,
}

/// The two sides of an echo.
#[derive(Subcommand, Clone, Debug)]
pub enum Command {
    /// Serve until the process is ended
    Serve(Serve),
    /// Measure a server
    Drive(Drive),
}

/// `flotilla bench echo serve`
#[derive(Args, Clone, Debug)]
pub struct Serve {
    /// Where to listen; with port 0 the system picks one, which is printed
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:0")]
    pub addr: SocketAddr,

    /// Bytes of the value that answers a get
    #[arg(long, value_name = "BYTES", default_value_t = 1_024)]
    pub value_size: usize,

    /// End when standard input does: a driver that dies takes its server along
    #[arg(long, hide = true)]
    pub until_input_ends: bool,
}

/// `flotilla bench echo drive`
#[derive(Args, Clone, Debug)]
pub struct Drive {
    /// `spawn` starts a server as a process of its own, `in-process` one inside the driver,
    /// HOST:PORT uses one that runs
    #[arg(long, value_name = "WHERE", default_value = "spawn")]
    pub echo: raw::Echo,

    /// Concurrent calls; several, or once with commas: each number is measured by itself
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "64")]
    pub clients: Vec<usize>,

    /// Connections that the calls share
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub connections: usize,

    /// Bytes of a value
    #[arg(long, value_name = "BYTES", default_value_t = 1_024)]
    pub value_size: usize,

    /// Length of a turn
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = humantime::parse_duration)]
    pub duration: Duration,

    /// Before each turn, not measured
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = humantime::parse_duration)]
    pub warmup: Duration,

    /// Write the report as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// No progress
    #[arg(long)]
    pub quiet: bool,
}

/// Serves until the process is ended, or measures and returns what was found.
///
/// # Errors
///
/// When the options cannot be, when the port is taken, when no server is there to be measured,
/// or when the file cannot be written.
pub async fn run(options: Options) -> anyhow::Result<Option<raw::Report>> {
    match options.command {
        Command::Serve(serve) => run_server(serve).await.map(|()| None),
        Command::Drive(drive) => run_driver(drive).await.map(Some),
    }
}

async fn run_server(serve: Serve) -> anyhow::Result<()> {
    let listener = TcpListener::bind(serve.addr).await;
    let listener = listener.with_context(|| format!("--addr {}", serve.addr))?;
    println!("{LISTENING}{}", listener.local_addr()?);
    let ended = async {
        if serve.until_input_ends {
            let mut ignored = Vec::new();
            // An input that cannot be read has ended as well.
            let _ = tokio::io::stdin().read_to_end(&mut ignored).await;
        } else {
            std::future::pending::<()>().await;
        }
    };
    serve_on(listener, serve.value_size, ended).await
}

async fn run_driver(drive: Drive) -> anyhow::Result<raw::Report> {
    let server = Server::at(&drive.echo, drive.value_size).await?;
    let options = raw::Options {
        pd: vec![server.address().to_owned()],
        tls: TlsArgs::default(),
        operation: raw::Operation::Get,
        clients: drive.clients,
        connections: drive.connections,
        regions: vec![1],
        records: 1_000_000,
        value_size: drive.value_size,
        echo: None,
        batch: false,
        etcd: Vec::new(),
        stock: false,
        duration: drive.duration,
        warmup: drive.warmup,
        rounds: 1,
        seed: 1,
        metrics: Vec::new(),
        json: drive.json,
        quiet: drive.quiet,
    };
    raw::run_echo_only(options, server.address()).await
}

/// A server to compare with; one that was started for the purpose ends when this is dropped.
pub(crate) struct Server {
    address: String,
    _kept: Kept,
}

enum Kept {
    /// Killed when dropped.
    Child(#[expect(dead_code, reason = "held for its drop")] Child),
    /// The server ends when this side of the channel is dropped.
    Task(#[expect(dead_code, reason = "held for its drop")] oneshot::Sender<()>),
    Foreign,
}

impl Server {
    /// Finds or starts one.
    pub(crate) async fn at(place: &raw::Echo, value_size: usize) -> anyhow::Result<Self> {
        match place {
            raw::Echo::At(address) => Ok(Self {
                address: address.clone(),
                _kept: Kept::Foreign,
            }),
            raw::Echo::InProcess => Self::in_process(value_size).await,
            raw::Echo::Spawn => Self::spawn(value_size)
                .await
                .context("starting the echo server"),
        }
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    async fn in_process(value_size: usize) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let (kept, ended) = oneshot::channel();
        tokio::spawn(async move {
            let ended = async move { ended.await.unwrap_or(()) };
            serve_on(listener, value_size, ended).await
        });
        Ok(Self {
            address,
            _kept: Kept::Task(kept),
        })
    }

    async fn spawn(value_size: usize) -> anyhow::Result<Self> {
        let mut child = Process::new(std::env::current_exe()?)
            .args(SERVE_WORDS)
            .args([
                "--value-size",
                &value_size.to_string(),
                "--until-input-ends",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let output = child.stdout.take().expect("the output was asked for");
        let mut lines = BufReader::new(output).lines();
        let line = tokio::time::timeout(START_TIME_MAX, lines.next_line());
        let line = line
            .await
            .context("it does not listen")??
            .context("it ended at once")?;
        let address = line
            .strip_prefix(LISTENING)
            .with_context(|| format!("it said {line:?}"))?;
        Ok(Self {
            address: address.to_owned(),
            _kept: Kept::Child(child),
        })
    }
}

async fn serve_on(
    listener: TcpListener,
    value_size: usize,
    ended: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let service = TikvServer::new(Echo {
        value: vec![b'e'; value_size].into(),
    });
    Grpc::builder()
        .add_service(service.max_decoding_message_size(MESSAGE_BYTES_MAX))
        .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), ended)
        .await
        .context("serving")
}

struct Echo {
    value: Bytes,
}

#[tonic::async_trait]
impl Tikv for Echo {
    async fn raw_get(
        &self,
        _: Request<kvrpcpb::RawGetRequest>,
    ) -> Result<Response<kvrpcpb::RawGetResponse>, Status> {
        let value = self.value.clone();
        Ok(Response::new(kvrpcpb::RawGetResponse {
            value,
            ..Default::default()
        }))
    }

    async fn raw_put(
        &self,
        _: Request<kvrpcpb::RawPutRequest>,
    ) -> Result<Response<kvrpcpb::RawPutResponse>, Status> {
        Ok(Response::new(kvrpcpb::RawPutResponse::default()))
    }
}
