//! The global config items PD keeps for its stores: only the key mode (contracts: C38).

use flotilla_proto::keys::KeyMode;
use flotilla_proto::pdpb::{
    Error, ErrorType, EventType, GlobalConfigItem, LoadGlobalConfigRequest,
    LoadGlobalConfigResponse, StoreGlobalConfigRequest, StoreGlobalConfigResponse,
};

use crate::call::{Call, Response, calls};
use crate::changes::Then;
use crate::effect::Event;
use crate::leading::Leading;
use crate::limits::{CONFIG_KEY_MODE, CONFIG_PATH};
use crate::records::{self, Mod};
use crate::reply::Cx;
use crate::status::Status;

impl Leading {
    pub(crate) fn load_global_config(&self, request: &LoadGlobalConfigRequest) -> Response {
        if !is_ours(&request.config_path) {
            return Response::Status(elsewhere("LoadGlobalConfig"));
        }
        let all = [CONFIG_KEY_MODE.to_owned()];
        let names = if request.names.is_empty() {
            &all[..]
        } else {
            &request.names
        };
        let items = names.iter().map(|name| self.item(name)).collect();
        calls::LoadGlobalConfig::answer(LoadGlobalConfigResponse { items, revision: 0 })
    }

    fn item(&self, name: &str) -> GlobalConfigItem {
        let mut item = GlobalConfigItem {
            name: name.to_owned(),
            ..GlobalConfigItem::default()
        };
        if name == CONFIG_KEY_MODE {
            let mode = self.durable.cluster.mode().map_or("", KeyMode::name);
            mode.clone_into(&mut item.value);
            item.payload = mode.into();
        } else {
            item.error = Some(Error {
                r#type: ErrorType::GlobalConfigNotFound as i32,
                message: format!("no global config item {name:?}"),
            });
        }
        item
    }

    /// All items of a request, or none of them.
    pub(crate) fn plan_global_config(
        &self,
        request: &StoreGlobalConfigRequest,
    ) -> (Vec<Mod>, Response, Vec<Then>) {
        if !is_ours(&request.config_path) {
            return (
                Vec::new(),
                Response::Status(elsewhere("StoreGlobalConfig")),
                Vec::new(),
            );
        }
        let mut decided = self.durable.cluster.mode();
        for change in &request.changes {
            match parse_mode(change) {
                Ok(mode) if decided.is_none_or(|decided| decided == mode) => decided = Some(mode),
                Ok(mode) => {
                    let held = decided.map_or("", KeyMode::name);
                    let text = format!(
                        "this cluster's keys are {held}, they cannot become {}",
                        mode.name()
                    );
                    return (Vec::new(), stored(Some(text)), Vec::new());
                }
                Err(text) => return (Vec::new(), stored(Some(text)), Vec::new()),
            }
        }
        let (mods, then) = self.decide_mode(decided);
        (mods, stored(None), then)
    }

    /// What records `mode`, if it is not recorded yet.
    pub(crate) fn decide_mode(&self, mode: Option<KeyMode>) -> (Vec<Mod>, Vec<Then>) {
        match mode {
            Some(mode) if self.durable.cluster.mode().is_none() => {
                let mut cluster = self.durable.cluster.clone();
                cluster.set_mode(mode);
                (vec![records::put_cluster(&cluster)], vec![Then::Mode(mode)])
            }
            _ => (Vec::new(), Vec::new()),
        }
    }

    pub(crate) fn mode_decided(&mut self, cx: &mut Cx<'_>, mode: KeyMode) {
        cx.event(Event::KeyModeSet { mode });
        if mode == KeyMode::Encoded {
            self.want_all_keyspaces_split();
            self.drive_keyspaces(cx);
        }
    }
}

fn is_ours(path: &str) -> bool {
    path.trim_end_matches('/') == CONFIG_PATH.trim_end_matches('/')
}

fn elsewhere(call: &str) -> Status {
    let mut status = Status::unimplemented(call);
    status.message.push_str(&format!(" outside {CONFIG_PATH}"));
    status
}

fn parse_mode(change: &GlobalConfigItem) -> Result<KeyMode, String> {
    if change.name != CONFIG_KEY_MODE || change.kind != EventType::Put as i32 {
        return Err(format!(
            "only {CONFIG_KEY_MODE:?} can be stored, not {:?}",
            change.name
        ));
    }
    let payload = String::from_utf8_lossy(&change.payload);
    let value = if change.payload.is_empty() {
        change.value.as_str()
    } else {
        &payload
    };
    KeyMode::from_name(value)
        .ok_or_else(|| format!("{value:?} is no key mode: it is plain or encoded"))
}

fn stored(error: Option<String>) -> Response {
    let error = error.map(|message| Error {
        r#type: ErrorType::InvalidValue as i32,
        message,
    });
    calls::StoreGlobalConfig::answer(StoreGlobalConfigResponse { error })
}
