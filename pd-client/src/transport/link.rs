//! The one connection of a client: to the member that leads, found by any member, found again when
//! it breaks.

use std::time::Duration;

use flotilla_proto::pdpb::pd_client::PdClient as Stub;
use flotilla_proto::pdpb::{GetMembersRequest, GetMembersResponse, Member};
use flotilla_tls::why;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tonic::transport::{Channel, Endpoint};

use super::{ClientConfig, PdError};

/// Endpoints remembered, configured and learnt.
const ENDPOINTS_MAX: usize = 64;
/// A connection that is silent this long is asked whether it lives.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
/// How long it has to answer.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);

/// A connection with the number by which its failure is reported.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    number: u64,
    pub(super) channel: Channel,
    pub(super) cluster_id: u64,
}

#[derive(Debug)]
pub(super) struct Link {
    config: ClientConfig,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// URLs, the configured ones first. Invariant: not empty, no URL twice.
    endpoints: Vec<String>,
    /// Where the next search begins.
    next: usize,
    connection: Option<Connection>,
    connections: u64,
    /// 0 until it is configured or learnt; never changes then.
    cluster_id: u64,
    backoff: Duration,
    not_before: Option<Instant>,
}

impl Link {
    pub(super) fn new(config: ClientConfig) -> Result<Self, PdError> {
        let mut endpoints: Vec<String> = Vec::new();
        for endpoint in &config.endpoints {
            let url = config.dial.url(endpoint);
            if let Err(error) = Endpoint::from_shared(url.clone()) {
                let why = error.to_string();
                return Err(PdError::Endpoint {
                    endpoint: endpoint.clone(),
                    why,
                });
            }
            if !endpoints.contains(&url) {
                endpoints.push(url);
            }
        }
        if endpoints.is_empty() {
            let why = "none is configured".to_owned();
            return Err(PdError::Endpoint {
                endpoint: String::new(),
                why,
            });
        }
        let state = State {
            endpoints,
            next: 0,
            connection: None,
            connections: 0,
            cluster_id: config.cluster_id.unwrap_or(0),
            backoff: config.backoff_first,
            not_before: None,
        };
        Ok(Self {
            config,
            state: Mutex::new(state),
        })
    }

    /// The connection, made if there is none. Whoever comes meanwhile waits for the same search.
    pub(super) async fn connection(
        &self,
        call: &'static str,
        deadline: Instant,
    ) -> Result<Connection, PdError> {
        let Ok(mut state) = timeout_at(deadline, self.state.lock()).await else {
            return Err(PdError::Unreachable {
                call,
                endpoints: self.config.endpoints.clone(),
                last: "another call was still looking for one".to_owned(),
            });
        };
        loop {
            if let Some(connection) = &state.connection {
                return Ok(connection.clone());
            }
            if let Some(not_before) = state.not_before {
                sleep_until(not_before.min(deadline)).await;
            }
            let last = match timeout_at(deadline, self.search(&mut state)).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(error @ PdError::OtherCluster { .. })) => return Err(error),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "time ran out while it was tried".to_owned(),
            };
            state.not_before = Some(Instant::now() + state.backoff);
            state.backoff = (state.backoff * 2).min(self.config.backoff_max);
            if Instant::now() >= deadline {
                let endpoints = state.endpoints.clone();
                return Err(PdError::Unreachable {
                    call,
                    endpoints,
                    last,
                });
            }
        }
    }

    /// A call by `connection` failed in a way that another connection may not.
    pub(super) async fn broke(&self, connection: &Connection) {
        let mut state = self.state.lock().await;
        let current = state
            .connection
            .as_ref()
            .is_some_and(|open| open.number == connection.number);
        if current {
            state.connection = None;
            state.not_before = Some(Instant::now() + state.backoff);
            state.backoff = (state.backoff * 2).min(self.config.backoff_max);
        }
    }

    /// A call succeeded: the next failure is tried again soon. Never waits.
    pub(super) fn works(&self, connection: &Connection) {
        // Whoever holds the lock is looking for another connection already.
        let Ok(mut state) = self.state.try_lock() else {
            return;
        };
        if state
            .connection
            .as_ref()
            .is_some_and(|open| open.number == connection.number)
        {
            state.backoff = self.config.backoff_first;
        }
    }

    pub(super) async fn endpoints(&self) -> Vec<String> {
        self.state.lock().await.endpoints.clone()
    }

    /// Asks one endpoint after the other who leads, and connects to that member.
    async fn search(&self, state: &mut State) -> Result<Connection, PdError> {
        let mut last = None;
        for _ in 0..state.endpoints.len() {
            let endpoint = state.endpoints[state.next % state.endpoints.len()].clone();
            state.next += 1;
            match self.ask(&endpoint, state.cluster_id).await {
                Ok((channel, members)) => {
                    return Ok(self.settle(state, &endpoint, channel, members).await);
                }
                Err(error @ PdError::OtherCluster { .. }) => return Err(error),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or(PdError::Malformed {
            call: "GetMembers",
            what: "never been asked for",
        }))
    }

    /// Connects to the leader that `members` name. Any member serves, by forwarding, so one that
    /// answered is as good if the leader cannot be reached from here.
    async fn settle(
        &self,
        state: &mut State,
        endpoint: &str,
        channel: Channel,
        members: GetMembersResponse,
    ) -> Connection {
        state.cluster_id = members
            .header
            .as_ref()
            .map_or(0, |header| header.cluster_id);
        for url in members
            .members
            .iter()
            .flat_map(|member| &member.client_urls)
        {
            let url = self.config.dial.url(url);
            if state.endpoints.len() < ENDPOINTS_MAX && !state.endpoints.contains(&url) {
                state.endpoints.push(url);
            }
        }
        let leader = self
            .leader(endpoint, members.leader.as_ref(), state.cluster_id)
            .await;
        state.connections += 1;
        let connection = Connection {
            number: state.connections,
            channel: leader.unwrap_or(channel),
            cluster_id: state.cluster_id,
        };
        state.connection = Some(connection.clone());
        connection
    }

    async fn leader(
        &self,
        endpoint: &str,
        leader: Option<&Member>,
        cluster_id: u64,
    ) -> Option<Channel> {
        let urls = leader?.client_urls.iter();
        let urls: Vec<_> = urls.map(|url| self.config.dial.url(url)).collect();
        if urls.iter().any(|url| url == endpoint) {
            return None;
        }
        for url in &urls {
            if let Ok((channel, _)) = self.ask(url, cluster_id).await {
                return Some(channel);
            }
        }
        None
    }

    /// Connects to `url` and asks for the members.
    async fn ask(
        &self,
        url: &str,
        cluster_id: u64,
    ) -> Result<(Channel, GetMembersResponse), PdError> {
        let call = "GetMembers";
        let unreachable = |last: String| PdError::Unreachable {
            call,
            endpoints: vec![url.to_owned()],
            last,
        };
        let endpoint = Endpoint::from_shared(url.to_owned())
            .map_err(|error| unreachable(error.to_string()))?
            .connect_timeout(self.config.connect_timeout)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE_EVERY)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
        let connected = self.config.dial.connect(&endpoint).await;
        let channel = connected.map_err(|error| unreachable(why(&error)))?;
        let mut stub = Stub::new(channel.clone());
        let asked = timeout(
            self.config.call_timeout,
            stub.get_members(GetMembersRequest::default()),
        )
        .await;
        let members = match asked {
            Ok(Ok(members)) => members.into_inner(),
            Ok(Err(status)) => return Err(unreachable(status.to_string())),
            Err(_) => return Err(unreachable("it did not answer in time".to_owned())),
        };
        let what = match &members.header {
            None => "no header",
            Some(header) if header.error.is_some() => "an error in its header",
            Some(header) if header.cluster_id == 0 => "cluster id 0",
            Some(header) if cluster_id != 0 && header.cluster_id != cluster_id => {
                return Err(PdError::OtherCluster {
                    endpoint: url.to_owned(),
                    expected: cluster_id,
                    found: header.cluster_id,
                });
            }
            Some(_) => return Ok((channel, members)),
        };
        Err(PdError::Malformed { call, what })
    }
}
