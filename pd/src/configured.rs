//! Reading and changing settings.

use crate::call::{Call, calls};
use crate::changes::{Done, whole};
use crate::effect::RequestToken;
use crate::internal::{ConfigSet, SetConfig, SetConfigError};
use crate::leading::Leading;
use crate::records::{self, ClusterRecord, Mod};
use crate::reply::Cx;
use crate::schedule::Schedule;
use crate::settings::{MAX_REPLICAS, Settings};

impl Leading {
    /// The settings of a term's rows: those that [`records::Durable`] has taken do decode.
    pub(crate) fn read_settings(durable: &records::Durable, base: Schedule) -> Settings {
        let replicas = durable.cluster.max_peer_count;
        Settings::new(base, replicas, &durable.config)
            .expect("rows that do not decode are not taken")
    }

    /// All of a request, or none of it.
    pub(crate) fn plan_config(
        &self,
        cx: &Cx<'_>,
        token: RequestToken,
        request: &SetConfig,
    ) -> (Vec<Mod>, Done) {
        let (mods, result) = match self.check_config(cx, request) {
            Ok(mods) => (mods, Ok(())),
            Err(error) => (Vec::new(), Err(error)),
        };
        let answer = calls::SetConfig::answer(ConfigSet(result));
        whole(token, mods, Some(answer), Vec::new())
    }

    fn check_config(&self, cx: &Cx<'_>, request: &SetConfig) -> Result<Vec<Mod>, SetConfigError> {
        let mut settings = Self::read_settings(&self.durable, cx.config.schedule);
        let mut config = self.durable.config.clone();
        let mut refused = Vec::new();
        for (name, value) in &request.0 {
            match settings.set(name, value) {
                Ok(()) if name == MAX_REPLICAS => {}
                Ok(()) => {
                    let text = settings.text(name).expect("it was just set");
                    config.values.insert(name.clone(), text);
                }
                Err(why) => refused.push((name.clone(), why)),
            }
        }
        if !refused.is_empty() {
            return Err(SetConfigError { refused });
        }
        // What cannot be changed is not written down either.
        config.values.remove("enable-placement-rules");
        let mut mods = Vec::new();
        if config != self.durable.config {
            mods.push(records::put_config(&config));
        }
        if settings.max_replicas != self.durable.cluster.max_peer_count {
            mods.push(records::put_cluster(&ClusterRecord {
                max_peer_count: settings.max_replicas,
                ..self.durable.cluster.clone()
            }));
        }
        Ok(mods)
    }
}
