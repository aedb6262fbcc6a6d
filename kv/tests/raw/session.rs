//! Transcripts: one request per line, `->`, and what came of it.
//!
//! Words: `-` is an empty key, bound or value; `@k` is the key `k` of keyspace 1 under API v2, `@@k`
//! of keyspace 2; `\xNN` is a byte; `WORD*N` is a word with its last byte
//! N times. Options: `ttl=N`, `cf=NAME`,
//! `api=N`, `reverse`, `keys` (only).

use bytes::Bytes;
use flotilla_engine::Cf;
use flotilla_kv::{
    Answer, Failure, KeyMode, Outcome, Proposal, Read, ReadWrite, Scope, StatusCode, View, Write,
    answer,
};
use flotilla_proto::kvrpcpb::{self, Context, KeyRange, KvPair};
use flotilla_proto::metapb::Region;

use crate::state::State;

pub(crate) struct Session {
    mode: KeyMode,
    region: Region,
    now: u64,
    expired: bool,
    state: State,
}

/// Plays `script` in `mode`, each line against what it says comes of it.
#[track_caller]
pub(crate) fn check(mode: KeyMode, script: &str) {
    let mut session = Session::new(mode);
    for line in script
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
    {
        let (request, expected) = line.split_once("->").unwrap_or((line, ""));
        let told = session.step(request.trim());
        assert_eq!(told, expected.trim(), "{}", request.trim());
    }
}

/// A line: its words and its options.
struct Line<'a> {
    words: Vec<&'a str>,
    ttl: u64,
    cf: String,
    api: i32,
    reverse: bool,
    key_only: bool,
}

impl<'a> Line<'a> {
    fn parse(line: &'a str, mode: KeyMode) -> Self {
        let api = match mode {
            KeyMode::Plain => kvrpcpb::ApiVersion::V1,
            KeyMode::Encoded => kvrpcpb::ApiVersion::V2,
        };
        let mut parsed = Self {
            words: vec![],
            ttl: 0,
            cf: String::new(),
            api: api.into(),
            reverse: false,
            key_only: false,
        };
        for word in line.split_whitespace() {
            match word.split_once('=') {
                Some(("ttl", number)) => parsed.ttl = number.parse().unwrap(),
                Some(("cf", name)) => parsed.cf = name.to_owned(),
                Some(("api", number)) => parsed.api = number.parse().unwrap(),
                _ if word == "reverse" => parsed.reverse = true,
                _ if word == "keys" => parsed.key_only = true,
                _ => parsed.words.push(word),
            }
        }
        parsed
    }

    fn context(&self) -> Option<Context> {
        Some(Context {
            api_version: self.api,
            ..Context::default()
        })
    }
}

fn bytes(word: &str) -> Bytes {
    if let Some((word, times)) = word.split_once('*') {
        let mut out = bytes(word).to_vec();
        let last = out.pop().unwrap();
        out.extend(vec![last; times.parse().unwrap()]);
        return out.into();
    }
    let (prefix, word) = match word {
        "-" => (&b""[..], ""),
        word if word.starts_with("@@") => (&b"r\0\0\x02"[..], &word[2..]),
        word if word.starts_with('@') => (&b"r\0\0\x01"[..], &word[1..]),
        word => (&b""[..], word),
    };
    let mut out = prefix.to_vec();
    let mut rest = word;
    while let Some(at) = rest.find("\\x") {
        out.extend(&rest.as_bytes()[..at]);
        out.push(u8::from_str_radix(&rest[at + 2..at + 4], 16).unwrap());
        rest = &rest[at + 4..];
    }
    out.extend(rest.as_bytes());
    out.into()
}

/// The inverse of [`bytes`], with long ones named by their length.
fn word(bytes: &[u8]) -> String {
    let (prefix, rest) = match bytes {
        [] => ("-", bytes),
        [b'r', 0, 0, 1, rest @ ..] => ("@", rest),
        [b'r', 0, 0, 2, rest @ ..] => ("@@", rest),
        _ => ("", bytes),
    };
    if rest.len() > 100 {
        return format!("{prefix}<{} bytes>", rest.len());
    }
    let byte = |byte: &u8| match byte {
        b'!'..=b'~' => char::from(*byte).to_string(),
        _ => format!("\\x{byte:02x}"),
    };
    prefix.to_owned() + &rest.iter().map(byte).collect::<String>()
}

fn pairs(pairs: &[KvPair]) -> String {
    assert!(
        pairs.iter().all(|pair| pair.error.is_none()),
        "no errors inside pairs"
    );
    let words = pairs
        .iter()
        .map(|pair| format!("{}={}", word(&pair.key), word(&pair.value)));
    words.collect::<Vec<_>>().join(" ")
}

/// `key:value`.
fn pair(text: &str) -> KvPair {
    let (key, value) = text.split_once(':').unwrap();
    KvPair {
        key: bytes(key),
        value: bytes(value),
        ..KvPair::default()
    }
}

/// `start..end`.
fn range(text: &str) -> KeyRange {
    let (start, end) = text.split_once("..").unwrap();
    KeyRange {
        start_key: bytes(start),
        end_key: bytes(end),
    }
}

trait Parts: Answer {
    fn error_text(&self) -> &str;
    fn region_message(&self) -> Option<String>;
}

macro_rules! parts {
    ($($response:ident $error:ident)*) => {$(
        impl Parts for kvrpcpb::$response {
            fn error_text(&self) -> &str { parts!(@ $error self) }
            fn region_message(&self) -> Option<String> {
                self.region_error.as_ref().map(|error| error.message.clone())
            }
        }
    )*};
    (@ text $self:ident) => { &$self.error };
    (@ none $self:ident) => { "" };
}

parts! {
    RawGetResponse text RawGetKeyTtlResponse text RawChecksumResponse text RawPutResponse text
    RawBatchPutResponse text RawDeleteResponse text RawBatchDeleteResponse text
    RawDeleteRangeResponse text RawCasResponse text
    RawBatchGetResponse none RawScanResponse none RawBatchScanResponse none
}

fn tell<A: Parts>(result: Result<A, Failure>, show: impl FnOnce(A) -> String) -> String {
    let outcome = match answer(result) {
        Ok(outcome) => outcome,
        Err(error) => return format!("the store stops: {error}"),
    };
    match outcome {
        Outcome::Status(refusal) => {
            let code = match refusal.status_code() {
                StatusCode::InvalidArgument => "invalid argument",
                StatusCode::OutOfRange => "out of range",
            };
            let text = refusal.to_string();
            let batched = Outcome::<A>::Status(refusal).into_response();
            assert_eq!(batched.region_message().as_deref(), Some(&*text));
            format!("{code}: {text}")
        }
        Outcome::Response(response) => match (response.region_message(), response.error_text()) {
            (Some(message), "") => format!("region error: {message}"),
            (Some(_), error) => panic!("both a region error and {error}"),
            (None, "") => show(response),
            (None, error) => format!("error: {error}"),
        },
    }
}

impl Session {
    pub(crate) fn new(mode: KeyMode) -> Self {
        Self {
            mode,
            region: Region {
                id: 3,
                ..Region::default()
            },
            now: 1_000,
            expired: false,
            state: State::default(),
        }
    }

    fn scope(&self) -> Scope<'_> {
        Scope {
            mode: self.mode,
            region: &self.region,
            now: self.now,
        }
    }

    fn view<T>(&self, run: impl FnOnce(&View<'_, State>) -> T) -> T {
        let expired = || self.expired;
        run(&View {
            scope: self.scope(),
            reader: &self.state,
            expired: &expired,
        })
    }

    fn read<C: Read>(&self, request: C, show: impl FnOnce(C::Response) -> String) -> String
    where
        C::Response: Parts,
    {
        tell(self.view(|view| request.read(view)), show)
    }

    fn write<C: Write>(&mut self, request: C) -> String
    where
        C::Response: Parts,
    {
        let planned = request.plan(&self.scope());
        self.propose(planned, |_| "ok".to_owned())
    }

    fn swap(&mut self, request: kvrpcpb::RawCasRequest) -> String {
        let decided = self.view(|view| request.decide(view));
        self.propose(decided, |response| {
            let before = match response.previous_not_exist {
                true => "none".to_owned(),
                false => word(&response.previous_value),
            };
            format!(
                "{}, was {before}",
                if response.succeed { "done" } else { "not done" }
            )
        })
    }

    /// Applies the proposal; an empty one is told as such.
    fn propose<A: Parts>(
        &mut self,
        proposal: Result<Proposal<A>, Failure>,
        show: impl FnOnce(A) -> String,
    ) -> String {
        let mut nothing = "";
        let response = proposal.map(|Proposal { mods, response }| {
            nothing = if mods.is_empty() {
                " (nothing to propose)"
            } else {
                ""
            };
            self.state.apply(&self.region, &mods);
            response
        });
        tell(response, show) + nothing
    }

    /// Runs one line and tells what came of it.
    pub(crate) fn step(&mut self, line: &str) -> String {
        let parsed = Line::parse(line, self.mode);
        let (&name, words) = parsed.words.split_first().unwrap();
        match name {
            "region" => {
                let physical = |word| Some(bytes(word)).filter(|key| !key.is_empty());
                let boundary = |word| physical(word).map(|key| self.mode.physical(&key));
                self.region.start_key = boundary(words[0]).unwrap_or_default();
                self.region.end_key = boundary(words[1]).unwrap_or_default();
                String::new()
            }
            "at" => {
                self.now = words[0].parse().unwrap();
                String::new()
            }
            "deadline" => {
                self.expired = words[0] == "passed";
                String::new()
            }
            "damage" => {
                self.state.damage(
                    Cf::CfDefault,
                    self.mode.physical(&bytes(words[0])),
                    bytes(words[1]),
                );
                String::new()
            }
            "put" | "puts" | "delete" | "deletes" | "erase" | "swap" => {
                self.step_write(name, words, &parsed)
            }
            _ => self.step_read(name, words, &parsed),
        }
    }

    fn step_write(&mut self, name: &str, words: &[&str], line: &Line<'_>) -> String {
        let (context, cf) = (line.context(), line.cf.clone());
        match name {
            "put" => self.write(kvrpcpb::RawPutRequest {
                context,
                key: bytes(words[0]),
                value: bytes(words[1]),
                cf,
                ttl: line.ttl,
                for_cas: false,
            }),
            // puts TTL,TTL.. key:value..
            "puts" => self.write(kvrpcpb::RawBatchPutRequest {
                context,
                pairs: words[1..].iter().map(|text| pair(text)).collect(),
                cf,
                ttl: line.ttl,
                for_cas: false,
                ttls: words[0]
                    .split(',')
                    .filter_map(|ttl| ttl.parse().ok())
                    .collect(),
            }),
            "delete" => self.write(kvrpcpb::RawDeleteRequest {
                context,
                key: bytes(words[0]),
                cf,
                for_cas: false,
            }),
            "deletes" => self.write(kvrpcpb::RawBatchDeleteRequest {
                context,
                keys: words.iter().map(|word| bytes(word)).collect(),
                cf,
                for_cas: false,
            }),
            "erase" => self.write(kvrpcpb::RawDeleteRangeRequest {
                context,
                start_key: bytes(words[0]),
                end_key: bytes(words[1]),
                cf,
            }),
            // swap KEY EXPECTED|none VALUE|delete
            _ => self.swap(kvrpcpb::RawCasRequest {
                context,
                key: bytes(words[0]),
                value: if words[2] == "delete" {
                    Bytes::new()
                } else {
                    bytes(words[2])
                },
                previous_not_exist: words[1] == "none",
                previous_value: if words[1] == "none" {
                    Bytes::new()
                } else {
                    bytes(words[1])
                },
                cf,
                ttl: line.ttl,
                delete: words[2] == "delete",
            }),
        }
    }

    fn step_read(&self, name: &str, words: &[&str], line: &Line<'_>) -> String {
        let (context, cf) = (line.context(), line.cf.clone());
        match name {
            "get" => self.read(
                kvrpcpb::RawGetRequest {
                    context,
                    key: bytes(words[0]),
                    cf,
                },
                |response| {
                    if response.not_found {
                        "none".to_owned()
                    } else {
                        word(&response.value)
                    }
                },
            ),
            "gets" => {
                let keys = words.iter().map(|word| bytes(word)).collect();
                let request = kvrpcpb::RawBatchGetRequest { context, keys, cf };
                self.read(request, |response| pairs(&response.pairs))
            }
            "ttl" => self.read(
                kvrpcpb::RawGetKeyTtlRequest {
                    context,
                    key: bytes(words[0]),
                    cf,
                },
                |response| {
                    if response.not_found {
                        "none".to_owned()
                    } else {
                        response.ttl.to_string()
                    }
                },
            ),
            "scan" => {
                let request = kvrpcpb::RawScanRequest {
                    context,
                    start_key: bytes(words[0]),
                    end_key: bytes(words[1]),
                    limit: words[2].parse().unwrap(),
                    key_only: line.key_only,
                    cf,
                    reverse: line.reverse,
                };
                self.read(request, |response| pairs(&response.kvs))
            }
            // scans LIMIT start..end..
            "scans" => {
                let request = kvrpcpb::RawBatchScanRequest {
                    context,
                    ranges: words[1..].iter().map(|text| range(text)).collect(),
                    each_limit: words[0].parse().unwrap(),
                    key_only: line.key_only,
                    cf,
                    reverse: line.reverse,
                };
                self.read(request, |response| pairs(&response.kvs))
            }
            // checksum ALGORITHM start..end..
            "checksum" => {
                let request = kvrpcpb::RawChecksumRequest {
                    context,
                    algorithm: words[0].parse().unwrap(),
                    ranges: words[1..].iter().map(|text| range(text)).collect(),
                };
                self.read(request, |response| {
                    let (sum, rows, bytes) =
                        (response.checksum, response.total_kvs, response.total_bytes);
                    format!("{sum:016x}, {rows} rows, {bytes} bytes")
                })
            }
            _ => panic!("no request: {name}"),
        }
    }
}
