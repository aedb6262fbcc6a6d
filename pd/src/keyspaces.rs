//! Keyspaces: named ranges of an encoded cluster, usable once their boundaries are region
//! boundaries (wire, section 3.8).

use std::collections::BTreeSet;

use flotilla_proto::clock::{Mono, Wall};
use flotilla_proto::keys::{KEYSPACE_ID_MAX, KeyMode, keyspace_boundaries};
use flotilla_proto::keyspacepb::{
    GetAllKeyspacesRequest, GetAllKeyspacesResponse, KeyspaceMeta, KeyspaceState,
    LoadKeyspaceByIdRequest, LoadKeyspaceRequest, LoadKeyspaceResponse, LookupKeyspaceResponse,
    NamespaceRef, UpdateKeyspaceStateRequest, UpdateKeyspaceStateResponse,
    get_all_keyspaces_request, load_keyspace_by_id_request, namespace_ref,
    update_keyspace_state_request,
};
use flotilla_proto::pdpb::ErrorType;

use crate::call::{Call, Request, calls};
use crate::changes::{Change, Done, Plan, Then};
use crate::effect::{Event, RequestToken};
use crate::genesis::{DEFAULT_KEYSPACE, DEFAULT_KEYSPACE_ID};
use crate::internal::{CreateKeyspace, CreateKeyspaceError, CreatedKeyspace};
use crate::leading::Leading;
use crate::limits::{
    KEYSPACE_CONFIG_BYTES_MAX, KEYSPACE_NAME_BYTES_MAX, KEYSPACE_WAIT, PARKED_MAX,
};
use crate::records::{self, KeyspaceRecord, Mod};
use crate::reply::{Answer, Cx, Refusal};
use crate::splits::Wanted;

/// A request that waits for a keyspace's boundaries.
#[derive(Debug)]
pub(crate) struct KeyspaceWait {
    pub(crate) token: RequestToken,
    keyspace: u32,
    deadline: Mono,
    /// The `Load…` that waits; `None`: a creation.
    load: Option<Request>,
}

/// Keyspaces whose boundaries are to be split.
#[derive(Debug, Default)]
pub(crate) struct Unsplit {
    wanted: BTreeSet<u32>,
    /// Split, and the change that records it is queued. Invariant: disjoint from `wanted`.
    recording: BTreeSet<u32>,
}

impl Unsplit {
    fn want(&mut self, id: u32) {
        if !self.recording.contains(&id) {
            self.wanted.insert(id);
        }
    }

    /// Recording that `id` is split was refused.
    pub(crate) fn try_again(&mut self, id: u32) {
        self.recording.remove(&id);
        self.wanted.insert(id);
    }
}

impl Leading {
    pub(crate) fn want_all_keyspaces_split(&mut self) {
        let unsplit = self
            .durable
            .keyspaces
            .iter()
            .filter(|(_, record)| !record.split);
        for id in unsplit.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.unsplit.want(id);
        }
    }

    /// Starts the splits that have room, and ends the waits that are over.
    pub(crate) fn drive_keyspaces(&mut self, cx: &mut Cx<'_>) {
        let next = |leading: &Self| {
            let mut wanted = leading.unsplit.wanted.iter().copied();
            wanted.find(|id| !leading.splits.runs_for_keyspace(*id))
        };
        while !self.splits.full()
            && let Some(id) = next(self)
        {
            let boundaries = keyspace_boundaries(id).into();
            self.start_split(cx, Wanted::Keyspace(id), boundaries, None);
        }
        for wait in std::mem::take(&mut self.keyspace_waits) {
            if cx.now < wait.deadline {
                self.keyspace_waits.push(wait);
            } else {
                self.answer_keyspace(cx, wait);
            }
        }
    }

    /// All boundaries of a keyspace are region boundaries now: that is recorded.
    pub(crate) fn keyspace_split(&mut self, cx: &mut Cx<'_>, id: u32) {
        self.unsplit.wanted.remove(&id);
        self.unsplit.recording.insert(id);
        self.change(cx, Change::KeyspaceReady(id));
    }

    pub(crate) fn plan_keyspace_ready(&self, id: u32) -> (Vec<Mod>, Done) {
        let mods = match self.durable.keyspaces.get(&id) {
            Some(record) if !record.split => {
                let record = KeyspaceRecord {
                    split: true,
                    ..record.clone()
                };
                vec![records::put_keyspace(id, &record)]
            }
            _ => Vec::new(),
        };
        let then = vec![
            Then::KeyspaceReady(id),
            Then::Event(Event::KeyspaceReady { id }),
        ];
        let done = Done {
            token: None,
            response: None,
            then,
        };
        (mods, done)
    }

    pub(crate) fn keyspace_ready(&mut self, cx: &mut Cx<'_>, id: u32) {
        self.unsplit.recording.remove(&id);
        for wait in std::mem::take(&mut self.keyspace_waits) {
            if wait.keyspace == id {
                self.answer_keyspace(cx, wait);
            } else {
                self.keyspace_waits.push(wait);
            }
        }
    }

    /// Waits for the boundaries of keyspace `id`, and has them split.
    pub(crate) fn await_keyspace(
        &mut self,
        cx: &mut Cx<'_>,
        token: RequestToken,
        id: u32,
        load: Option<Request>,
    ) {
        let wait = KeyspaceWait {
            token,
            keyspace: id,
            deadline: cx.now + KEYSPACE_WAIT,
            load,
        };
        if self.keyspace_waits.len() >= PARKED_MAX {
            return self.answer_keyspace(cx, wait);
        }
        self.keyspace_waits.push(wait);
        self.unsplit.want(id);
        self.drive_keyspaces(cx);
    }

    /// Answers by what is durable now.
    fn answer_keyspace(&mut self, cx: &mut Cx<'_>, wait: KeyspaceWait) {
        let id = wait.keyspace;
        match wait.load {
            Some(request) => {
                let result = self.loaded(id);
                reply_loaded(cx, wait.token, &request, result);
            }
            None => {
                let created = match self.durable.keyspaces.get(&id) {
                    Some(record) if record.split => Ok(record.meta(id)),
                    record => Err(CreateKeyspaceError::NotSplitYet {
                        name: record.map_or_else(String::new, |record| record.name.clone()),
                        id,
                    }),
                };
                cx.answer(
                    wait.token,
                    calls::CreateKeyspace::answer(CreatedKeyspace(created)),
                );
            }
        }
    }

    /// `LoadKeyspace` and `LoadKeyspaceByID`.
    pub(crate) fn load_keyspace(&mut self, cx: &mut Cx<'_>, token: RequestToken, request: Request) {
        let id = match &request {
            Request::LoadKeyspace(load) => self.keyspace_named(load),
            Request::LoadKeyspaceByID(load) => self.keyspace_by_id(load),
            _ => unreachable!("{} loads no keyspace", request.name()),
        };
        match id.and_then(|id| self.usable(id)) {
            Ok((id, false)) => self.await_keyspace(cx, token, id, Some(request)),
            Ok((id, true)) => {
                let result = self.loaded(id);
                reply_loaded(cx, token, &request, result);
            }
            Err(refusal) => reply_loaded(cx, token, &request, Err(refusal)),
        }
    }

    /// The keyspace, and whether its boundaries are split.
    fn usable(&self, id: u32) -> Answer<(u32, bool)> {
        if self.durable.cluster.mode() == Some(KeyMode::Plain) {
            return Err(Refusal::unknown(CreateKeyspaceError::PlainKeys.to_string()));
        }
        let record = self
            .durable
            .keyspaces
            .get(&id)
            .ok_or_else(|| not_found(&id.to_string()))?;
        Ok((id, record.split))
    }

    fn loaded(&self, id: u32) -> Answer<LoadKeyspaceResponse> {
        match self.durable.keyspaces.get(&id) {
            Some(record) if record.split => Ok(LoadKeyspaceResponse {
                keyspace: Some(record.meta(id)),
                ..LoadKeyspaceResponse::default()
            }),
            Some(record) => {
                let text = format!(
                    "keyspace {:?} not found: its region boundaries are not split yet",
                    record.name
                );
                Err(Refusal::Header(ErrorType::EntryNotFound, text))
            }
            None => Err(not_found(&id.to_string())),
        }
    }

    fn keyspace_named(&self, load: &LoadKeyspaceRequest) -> Answer<u32> {
        check_namespace(load.namespace.as_ref())?;
        let id = self.durable.keyspace_names.get(&load.name);
        id.copied().ok_or_else(|| not_found(&load.name))
    }

    fn keyspace_by_id(&self, load: &LoadKeyspaceByIdRequest) -> Answer<u32> {
        use load_keyspace_by_id_request::Keyspace;
        match &load.keyspace {
            Some(Keyspace::Id(id)) => Ok(*id),
            Some(Keyspace::KeyspaceIdentity(identity)) if identity.namespace_id == 0 => {
                Ok(identity.keyspace_id)
            }
            Some(Keyspace::KeyspaceIdentity(identity)) => {
                Err(not_found(&identity.keyspace_id.to_string()))
            }
            None => Ok(DEFAULT_KEYSPACE_ID),
        }
    }

    /// Names are unique, so at most one; one that is not usable yet is none.
    pub(crate) fn lookup_keyspace(&self, name: &str) -> Answer<LookupKeyspaceResponse> {
        let id = self
            .durable
            .keyspace_names
            .get(name)
            .copied()
            .ok_or_else(|| not_found(name))?;
        let keyspace = self.loaded(id)?.keyspace;
        Ok(LookupKeyspaceResponse {
            keyspaces: keyspace.into_iter().collect(),
            ..LookupKeyspaceResponse::default()
        })
    }

    pub(crate) fn all_keyspaces(
        &self,
        request: &GetAllKeyspacesRequest,
    ) -> Answer<GetAllKeyspacesResponse> {
        use get_all_keyspaces_request::StartKeyspace;
        check_namespace(request.namespace.as_ref())?;
        let start = match &request.start_keyspace {
            Some(StartKeyspace::StartId(id)) => *id,
            Some(StartKeyspace::StartKeyspaceIdentity(identity)) => identity.keyspace_id,
            None => 0,
        };
        let limit = if request.limit == 0 {
            usize::MAX
        } else {
            request.limit as usize
        };
        Ok(GetAllKeyspacesResponse {
            keyspaces: self
                .durable
                .keyspaces
                .range(start..)
                .take(limit)
                .map(|(id, record)| record.meta(*id))
                .collect(),
            ..GetAllKeyspacesResponse::default()
        })
    }

    pub(crate) fn plan_create_keyspace(
        &self,
        wall: Wall,
        create: CreateKeyspace,
    ) -> Result<Plan<()>, CreateKeyspaceError> {
        if !self.durable.cluster.bootstrapped {
            return Err(CreateKeyspaceError::NotBootstrapped);
        }
        check_create(&create)?;
        if self.durable.keyspace_names.contains_key(&create.name) {
            return Err(CreateKeyspaceError::Exists { name: create.name });
        }
        if self.durable.cluster.mode() == Some(KeyMode::Plain) {
            return Err(CreateKeyspaceError::PlainKeys);
        }
        let last = self
            .durable
            .keyspaces
            .last_key_value()
            .map_or(DEFAULT_KEYSPACE_ID, |(id, _)| *id);
        let id = last + 1;
        if id > KEYSPACE_ID_MAX {
            return Err(CreateKeyspaceError::IdsUsedUp);
        }
        let now = seconds(wall);
        let record = KeyspaceRecord {
            name: create.name,
            state: KeyspaceState::Enabled as i32,
            created_at: now,
            state_changed_at: now,
            config: create.config,
            split: false,
        };
        let (mut mods, mut then) = self.decide_mode(Some(KeyMode::Encoded));
        mods.push(records::put_keyspace(id, &record));
        then.push(Then::Event(Event::KeyspaceCreated { id }));
        then.push(Then::SplitKeyspace(id));
        Ok(Plan {
            mods,
            response: (),
            then,
        })
    }

    pub(crate) fn plan_keyspace_state(
        &self,
        wall: Wall,
        request: &UpdateKeyspaceStateRequest,
    ) -> Answer<Plan<UpdateKeyspaceStateResponse>> {
        use update_keyspace_state_request::Keyspace;
        let id = match &request.keyspace {
            Some(Keyspace::Id(id)) => *id,
            Some(Keyspace::KeyspaceIdentity(identity)) => identity.keyspace_id,
            None => DEFAULT_KEYSPACE_ID,
        };
        let before = self
            .durable
            .keyspaces
            .get(&id)
            .ok_or_else(|| not_found(&id.to_string()))?;
        if id == DEFAULT_KEYSPACE_ID {
            let text = format!("the state of the keyspace {DEFAULT_KEYSPACE} cannot be changed");
            return Err(Refusal::unknown(text));
        }
        let from = before.state();
        let to = KeyspaceState::try_from(request.state)
            .map_err(|_| Refusal::unknown(format!("{} is no keyspace state", request.state)))?;
        if !may_become(from, to) {
            let text = format!(
                "a keyspace that is {} cannot become {}",
                from.as_str_name(),
                to.as_str_name()
            );
            return Err(Refusal::unknown(text));
        }
        if from == to {
            return Ok(Plan::answer(updated(before.meta(id))));
        }
        let after = KeyspaceRecord {
            state: to as i32,
            state_changed_at: seconds(wall),
            ..before.clone()
        };
        let mods = vec![records::put_keyspace(id, &after)];
        Ok(Plan::change(updated(after.meta(id)), mods))
    }
}

/// Disabled ones come back, archived ones only go.
fn may_become(from: KeyspaceState, to: KeyspaceState) -> bool {
    use KeyspaceState::{Archived, Disabled, Enabled, Tombstone};
    match from {
        Enabled => matches!(to, Enabled | Disabled),
        Disabled => matches!(to, Enabled | Disabled | Archived),
        Archived => matches!(to, Archived | Tombstone),
        Tombstone => to == Tombstone,
    }
}

fn check_create(create: &CreateKeyspace) -> Result<(), CreateKeyspaceError> {
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let name = &create.name;
    if name.is_empty() || name.len() > KEYSPACE_NAME_BYTES_MAX || !name.bytes().all(letter) {
        return Err(CreateKeyspaceError::Name { name: name.clone() });
    }
    let bytes = create
        .config
        .iter()
        .map(|(key, value)| key.len() + value.len())
        .sum();
    if bytes > KEYSPACE_CONFIG_BYTES_MAX {
        let max = KEYSPACE_CONFIG_BYTES_MAX;
        return Err(CreateKeyspaceError::Config { bytes, max });
    }
    Ok(())
}

/// There is one namespace, number 0.
fn check_namespace(namespace: Option<&NamespaceRef>) -> Answer<()> {
    use namespace_ref::Namespace;
    match namespace.and_then(|namespace| namespace.namespace.as_ref()) {
        None | Some(Namespace::NamespaceId(0)) => Ok(()),
        Some(Namespace::NamespaceName(name)) if name.is_empty() => Ok(()),
        Some(_) => {
            let text = "namespace not found: there is only the default one".to_owned();
            Err(Refusal::Header(ErrorType::EntryNotFound, text))
        }
    }
}

fn reply_loaded(
    cx: &mut Cx<'_>,
    token: RequestToken,
    request: &Request,
    result: Answer<LoadKeyspaceResponse>,
) {
    match request {
        Request::LoadKeyspaceByID(_) => cx.reply::<calls::LoadKeyspaceByID>(token, result),
        _ => cx.reply::<calls::LoadKeyspace>(token, result),
    }
}

fn not_found(what: &str) -> Refusal {
    Refusal::Header(
        ErrorType::EntryNotFound,
        format!("keyspace {what:?} not found"),
    )
}

fn updated(keyspace: KeyspaceMeta) -> UpdateKeyspaceStateResponse {
    UpdateKeyspaceStateResponse {
        keyspace: Some(keyspace),
        ..UpdateKeyspaceStateResponse::default()
    }
}

fn seconds(wall: Wall) -> i64 {
    i64::try_from(wall.seconds()).unwrap_or(i64::MAX)
}
