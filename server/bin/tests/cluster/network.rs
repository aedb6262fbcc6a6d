//! The network between nodes: every node is dialled at a port of this process, which knows who calls
//! and lets bytes through, or not, in each direction.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::RUNTIME;

/// Bytes that are carried at a time.
const PIECE_BYTES: usize = 64 << 10;

/// Who sends and receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum End {
    /// A node, by its number.
    Node(usize),
    /// Clients.
    Clients,
}

/// Bytes from the first do not get to the second. They are kept, as by TCP: they arrive once the way
/// is free, if anybody still waits for them.
type Cuts = BTreeSet<(End, End)>;

/// The ports where nodes are dialled, and what goes through.
pub(crate) struct Network {
    ports: Vec<Arc<Port>>,
    cuts: watch::Sender<Cuts>,
}

struct Port {
    number: usize,
    /// Where nodes dial it, and whoever goes by what PD says ...
    addr: SocketAddr,
    /// ... and where those do who are known to be clients.
    door: SocketAddr,
    /// Where the node listens, whenever it runs; `None`: it never ran.
    target: Mutex<Option<SocketAddr>>,
    /// The data folders by which the processes of nodes are known.
    folders: Arc<[PathBuf]>,
    cuts: watch::Receiver<Cuts>,
}

impl Network {
    /// One for the nodes of these data folders.
    pub(crate) fn new(folders: Vec<PathBuf>) -> Self {
        let (cuts, seen) = watch::channel(Cuts::new());
        let folders: Arc<[PathBuf]> = folders.into();
        let listen = || {
            let listener = RUNTIME.block_on(TcpListener::bind("127.0.0.1:0"));
            let listener = listener.expect("a free port");
            let addr = listener.local_addr().expect("it is bound");
            (listener, addr)
        };
        let open = |number| {
            let ((listener, addr), (at_door, door)) = (listen(), listen());
            let port = Arc::new(Port {
                number,
                addr,
                door,
                target: Mutex::default(),
                folders: Arc::clone(&folders),
                cuts: seen.clone(),
            });
            RUNTIME.spawn(Arc::clone(&port).serve(listener, None));
            RUNTIME.spawn(Arc::clone(&port).serve(at_door, Some(End::Clients)));
            port
        };
        Self {
            ports: (0..folders.len()).map(open).collect(),
            cuts,
        }
    }

    /// Where a node is dialled, whatever port it has really.
    pub(crate) fn addr(&self, node: usize) -> String {
        self.ports[node].addr.to_string()
    }

    /// Where clients of this process dial it.
    pub(crate) fn door(&self, node: usize) -> String {
        self.ports[node].door.to_string()
    }

    /// Where the node listens.
    pub(crate) fn target(&self, node: usize) -> Option<SocketAddr> {
        self.ports[node].target()
    }

    /// The node listens there, whenever it runs.
    pub(crate) fn lead_to(&self, node: usize, target: SocketAddr) {
        let known = &self.ports[node].target;
        *known.lock().unwrap_or_else(PoisonError::into_inner) = Some(target);
    }

    /// Nothing gets from the first of each to the second any more, until all is healed.
    pub(crate) fn cut(&self, ways: impl IntoIterator<Item = (End, End)>) {
        self.cuts.send_modify(|cuts| cuts.extend(ways));
    }

    pub(crate) fn heal(&self) {
        self.cuts.send_modify(Cuts::clear);
    }
}

impl Port {
    fn target(&self) -> Option<SocketAddr> {
        *self.target.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn serve(self: Arc<Self>, listener: TcpListener, known: Option<End>) {
        // Ends with the runtime: a port is never given to anybody else.
        while let Ok((socket, from)) = listener.accept().await {
            let port = Arc::clone(&self);
            RUNTIME.spawn(async move {
                // Whoever dials somebody that is away is told so by the end of the connection.
                let _ = port.carry(socket, from, known).await;
            });
        }
    }

    async fn carry(
        &self,
        caller: TcpStream,
        from: SocketAddr,
        known: Option<End>,
    ) -> std::io::Result<()> {
        let Some(target) = self.target() else {
            return Ok(());
        };
        let node = TcpStream::connect(target).await?;
        let there = match known {
            Some(end) => end,
            None => {
                let folders = Arc::clone(&self.folders);
                let owner = tokio::task::spawn_blocking(move || owner(from, &folders));
                owner.await.unwrap_or(End::Clients)
            }
        };
        let here = End::Node(self.number);
        for socket in [&caller, &node] {
            socket.set_nodelay(true)?;
        }
        let ((from_caller, to_caller), (from_node, to_node)) =
            (caller.into_split(), node.into_split());
        let asked = pump(from_caller, to_node, (there, here), self.cuts.clone());
        let answered = pump(from_node, to_caller, (here, there), self.cuts.clone());
        // Where one direction breaks, both do.
        tokio::try_join!(asked, answered).map(|_| ())
    }
}

/// Carries bytes while their way is free.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    way: (End, End),
    mut cuts: watch::Receiver<Cuts>,
) -> std::io::Result<()> {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let read = from.read(&mut piece).await;
        // Not even the end of a connection gets through.
        let free = cuts.wait_for(|cuts| !cuts.contains(&way)).await.is_ok();
        if !free {
            return Ok(());
        }
        match read? {
            0 => return to.shutdown().await,
            count => to.write_all(&piece[..count]).await?,
        }
    }
}

/// Whose socket is bound to `address`.
fn owner(address: SocketAddr, folders: &[PathBuf]) -> End {
    let Some(socket) = inode(address) else {
        return End::Clients;
    };
    let named = PathBuf::from(format!("socket:[{socket}]"));
    let mut processes = fs::read_dir("/proc").expect("processes").flatten();
    let found = processes.find_map(|process| {
        let command = fs::read_to_string(process.path().join("cmdline")).ok()?;
        let node = folders
            .iter()
            .position(|folder| command.split('\0').any(|word| Path::new(word) == folder))?;
        let mut files = fs::read_dir(process.path().join("fd")).ok()?.flatten();
        let holds = files.any(|file| fs::read_link(file.path()).is_ok_and(|file| file == named));
        holds.then_some(node)
    });
    found.map_or(End::Clients, End::Node)
}

/// The kernel's name of the socket that is bound to `address`.
fn inode(address: SocketAddr) -> Option<u64> {
    // proc(5), /proc/net/tcp: the address as it lies in memory, and the port, both in hexadecimal.
    let SocketAddr::V4(v4) = address else {
        return None;
    };
    let ip = u32::from_ne_bytes(v4.ip().octets());
    let local = format!("{ip:08X}:{:04X}", v4.port());
    let table = fs::read_to_string("/proc/net/tcp").expect("the sockets");
    table.lines().skip(1).find_map(|line| {
        let mut words = line.split_whitespace();
        (words.nth(1)? == local).then_some(())?;
        words.nth(7)?.parse().ok()
    })
}
