//! A TCP proxy that misbehaves on command, between any two parts: buyer and instance, instance and MySQL or Redis.
//!
//! Connections follow the fault of the moment, open ones too. What a fault held back flows again when it is over, as
//! after a network partition that TCP survived; only [`Proxy::cut`] and [`Fault::Refuse`] end connections.

pub mod sabotage;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use rand::Rng as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use sabotage::{Rewriter, Sabotage};

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// Nothing: bytes flow as they come.
    None,
    /// Bytes come in packets of 1 to so many, cut at random.
    Split(usize),
    /// Everything comes this late.
    Delay(Duration),
    /// One byte at a time, with this pause between two.
    Drip(Duration),
    /// Nothing comes through, and nobody is told: connections are accepted and stay silent.
    BlackHole,
    /// Open connections are ended, new ones too as soon as they are made.
    Refuse,
}

/// The proxy. Dropping it ends it and its connections.
pub struct Proxy {
    addr: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

struct Shared {
    target: watch::Sender<SocketAddr>,
    fault: watch::Sender<Fault>,
    /// Rises with each cut.
    cuts: watch::Sender<u64>,
    open: AtomicUsize,
    accepted: AtomicU64,
    sabotage: Option<Arc<Sabotage>>,
}

impl Proxy {
    /// A proxy on a port of its own, in front of this address.
    pub async fn to(target: SocketAddr) -> Self {
        Self::start(target, None).await
    }

    /// A proxy that also rewrites what clients ask; see [`Sabotage`].
    pub async fn sabotaging(target: SocketAddr, sabotage: Arc<Sabotage>) -> Self {
        Self::start(target, Some(sabotage)).await
    }

    async fn start(target: SocketAddr, sabotage: Option<Arc<Sabotage>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            target: watch::Sender::new(target),
            fault: watch::Sender::new(Fault::None),
            cuts: watch::Sender::new(0),
            open: AtomicUsize::default(),
            accepted: AtomicU64::default(),
            sabotage,
        });
        let accepting = tokio::spawn(accept(listener, shared.clone()));
        Self { addr, shared, accepting }
    }

    /// Where it listens.
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Where it listens, as the address of an instance.
    pub fn base(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Sets what goes wrong from now on, on open connections too.
    pub fn set(&self, fault: Fault) {
        self.shared.fault.send_replace(fault);
        if fault == Fault::Refuse {
            self.cut();
        }
    }

    /// What goes wrong now.
    pub fn fault(&self) -> Fault {
        *self.shared.fault.borrow()
    }

    /// Ends all open connections, both ways, at once.
    pub fn cut(&self) {
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Sends new connections elsewhere: a server that came back on another port.
    pub fn retarget(&self, target: SocketAddr) {
        self.shared.target.send_replace(target);
    }

    /// Connections open now.
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::Acquire)
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::Acquire)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

/// Counts a connection for as long as it lives.
struct Open(Arc<Shared>);

impl Open {
    fn begin(shared: &Arc<Shared>) -> Self {
        shared.open.fetch_add(1, Ordering::AcqRel);
        shared.accepted.fetch_add(1, Ordering::AcqRel);
        Self(shared.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::AcqRel);
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        if *shared.fault.borrow() == Fault::Refuse {
            continue;
        }
        // Subscribed before anything else, so that no cut after this moment is missed.
        let mut cuts = shared.cuts.subscribe();
        cuts.mark_unchanged();
        let open = Open::begin(&shared);
        tokio::spawn(async move {
            tokio::select! {
                () = connection(client, &open.0) => {}
                _ = cuts.changed() => {}
            }
        });
    }
}

async fn connection(client: TcpStream, shared: &Shared) {
    let target = *shared.target.borrow();
    let Ok(server) = TcpStream::connect(target).await else { return };
    // Without this the pieces of a split would be put together again.
    drop((client.set_nodelay(true), server.set_nodelay(true)));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let rewriter = shared.sabotage.as_ref().map(|sabotage| Rewriter::new(sabotage.clone()));
    let up = pump(from_client, to_server, shared.fault.subscribe(), rewriter);
    let down = pump(from_server, to_client, shared.fault.subscribe(), None);
    // Half-closed connections go on the other way.
    tokio::join!(up, down);
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut fault: watch::Receiver<Fault>,
    mut rewriter: Option<Rewriter>,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        let bytes = match &mut rewriter {
            Some(rewriter) => rewriter.feed(&buffer[..read]),
            None => buffer[..read].to_vec(),
        };
        if pass(&bytes, &mut to, &mut fault).await.is_err() {
            break;
        }
    }
    // A connection's end does not come through a black hole either: the other side learns nothing.
    drop(fault.wait_for(|fault| *fault != Fault::BlackHole).await);
    drop(to.shutdown().await);
}

/// Passes bytes on the way the fault of the moment wants it, which may change in the middle.
async fn pass(mut bytes: &[u8], to: &mut OwnedWriteHalf, fault: &mut watch::Receiver<Fault>) -> std::io::Result<()> {
    while !bytes.is_empty() {
        let now = *fault.borrow_and_update();
        let (piece, pause) = match now {
            Fault::None | Fault::Refuse => (bytes.len(), Duration::ZERO),
            Fault::Split(most) => (rand::rng().random_range(1..=most.clamp(1, bytes.len())), Duration::ZERO),
            Fault::Delay(pause) => (bytes.len(), pause),
            Fault::Drip(pause) => (1, pause),
            Fault::BlackHole => {
                drop(fault.changed().await);
                continue;
            }
        };
        if !pause.is_zero() {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = fault.changed() => continue,
            }
        }
        to.write_all(&bytes[..piece]).await?;
        bytes = &bytes[piece..];
        if let Fault::Split(_) = now {
            tokio::task::yield_now().await;
        }
    }
    Ok(())
}
