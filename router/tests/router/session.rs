//! Machines that write down what is done to them, and the commands of a transcript.

use flotilla_router::{Budget, Executor, Fifo, Machine, Poller, Router, RouterConfig, SendError};

pub(crate) struct Input {
    pub(crate) name: String,
    pub(crate) bytes: u64,
}

/// Writes down what is done to it.
pub(crate) struct Scribe {
    pub(crate) addr: u64,
    pub(crate) heavy: bool,
}

#[derive(Default)]
pub(crate) struct Effects {
    /// Per machine of the round, what it was given.
    pub(crate) turns: Vec<(u64, Vec<String>)>,
}

impl Effects {
    fn note(&mut self, addr: u64, what: &str) {
        match self.turns.last_mut() {
            Some((last, notes)) if *last == addr => notes.push(what.to_owned()),
            _ => self.turns.push((addr, vec![what.to_owned()])),
        }
    }
}

impl Machine for Scribe {
    type Input = Input;
    type Effects = Effects;
    type Now = u64;

    fn handle(&mut self, _now: u64, input: Input, effects: &mut Effects) {
        match input.name.as_str() {
            "heavy" => self.heavy = true,
            "light" => self.heavy = false,
            _ => {}
        }
        effects.note(self.addr, &input.name);
    }

    fn tick(&mut self, now: u64, effects: &mut Effects) {
        effects.note(self.addr, &format!("tick@{now}"));
    }

    fn end_round(&mut self, _now: u64, effects: &mut Effects) {
        effects.note(self.addr, "end");
    }

    fn retire(&mut self, _now: u64, effects: &mut Effects) {
        effects.note(self.addr, "retire");
    }

    fn is_heavy(&self) -> bool {
        self.heavy
    }

    fn input_bytes(input: &Input) -> u64 {
        input.bytes
    }
}

pub(crate) struct Writer {
    pub(crate) router: Router<Scribe>,
    pub(crate) lines: Vec<String>,
}

impl Executor<Effects> for Writer {
    type Fatal = String;

    fn execute(&mut self, effects: &mut Effects) -> Result<(), String> {
        for (addr, notes) in effects.turns.drain(..) {
            self.lines.push(format!("  {addr}: {}", notes.join(" ")));
            for note in &notes {
                if let Some(to) = note.strip_prefix("kick-") {
                    let input = Input {
                        name: "kicked".into(),
                        bytes: 0,
                    };
                    self.router
                        .send(to.parse().expect("an address"), input)
                        .expect("it listens");
                }
                if note == "fatal" {
                    return Err(format!("{addr} is fatal"));
                }
                if note == "retire" {
                    // The address is free again when the effects of the last turn are carried out.
                    let machine = Scribe { addr, heavy: false };
                    if !self.router.is_shut() && addr >= 100 {
                        assert!(self.router.register(addr, machine, 1).is_ok());
                        self.lines.push(format!("  {addr}: born again"));
                    }
                }
            }
        }
        Ok(())
    }
}

pub(crate) struct Session {
    pub(crate) router: Router<Scribe>,
    poller: Poller<Scribe, Writer>,
    now: u64,
}

impl Session {
    pub(crate) fn run(budget: Budget, bytes: u64, script: &str) -> String {
        let router = Router::new(RouterConfig {
            queued_bytes_max: bytes,
        });
        let writer = Writer {
            router: router.clone(),
            lines: Vec::new(),
        };
        let poller = Poller::new(router.clone(), writer, budget);
        let mut session = Self {
            router,
            poller,
            now: 0,
        };
        let mut out = String::new();
        for line in script
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
        {
            out.push_str(&format!("{line}\n"));
            for answer in session
                .command(line)
                .iter()
                .filter(|answer| *answer != "ok")
            {
                out.push_str(&format!("  {}\n", answer.trim()));
            }
        }
        out
    }

    fn command(&mut self, line: &str) -> Vec<String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let option = |name: &str| {
            let value = words
                .iter()
                .find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
            value.map(|value| value.parse::<u64>().expect("a number"))
        };
        let addr = || words[1].parse::<u64>().expect("an address");
        let input = |name: &str| Input {
            name: name.to_owned(),
            bytes: option("bytes").unwrap_or(0),
        };
        let answer = match words[0] {
            "register" => {
                let machine = Scribe {
                    addr: addr(),
                    heavy: false,
                };
                let capacity = option("cap").unwrap_or(8) as usize;
                let result = self.router.register(addr(), machine, capacity);
                result.map_or_else(|back| format!("{} back", back.addr), |()| "ok".into())
            }
            "send" => match self.router.send(addr(), input(words[2])) {
                Ok(()) => "ok".into(),
                Err(error) => {
                    let which = if matches!(error, SendError::Full(_)) {
                        "full"
                    } else {
                        "closed"
                    };
                    format!("{which}, {} back", error.into_input().name)
                }
            },
            "force" => match self.router.force_send(addr(), input(words[2])) {
                Ok(()) => "ok".into(),
                Err(input) => format!("closed, {} back", input.name),
            },
            "tick" if words[1] == "all" => {
                self.router.tick_all();
                return Vec::new();
            }
            "tick" => {
                self.router.tick(addr());
                return Vec::new();
            }
            "broadcast" => {
                let count = self
                    .router
                    .broadcast(|addr| input(&format!("{}-{addr}", words[1])));
                format!("reached {count}")
            }
            "close" => {
                self.router.close(addr());
                return Vec::new();
            }
            "shutdown" => {
                self.router.shutdown();
                return Vec::new();
            }
            "round" => return self.round(),
            "state" => format!(
                "machines {:?}, ready {}, bytes {}",
                self.router.addrs(),
                self.router.ready(),
                self.router.queued_bytes()
            ),
            other => panic!("no command {other}"),
        };
        vec![answer]
    }

    fn round(&mut self) -> Vec<String> {
        self.now += 1;
        let result = self.poller.round(self.now, &mut Fifo);
        let mut lines = std::mem::take(&mut self.poller.executor().lines);
        match result {
            Ok(0) => lines.push("nothing".into()),
            Ok(_) => {}
            Err(fatal) => lines.push(format!("fatal: {fatal}")),
        }
        lines
    }
}
