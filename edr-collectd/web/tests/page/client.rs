//! A minimal browser for tests: HTTP/1.1 over a real connection to a real server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use edr_web::Options;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::fleet::Fleet;

/// Time limit, long enough for any machine; no test waits for the limit itself.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// The page of a fleet on a free port.
pub(crate) struct Site {
    pub(crate) address: SocketAddr,
    stop: oneshot::Sender<()>,
    served: JoinHandle<std::io::Result<()>>,
}

/// An answer of the server.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }
}

impl Site {
    pub(crate) async fn open(fleet: &Arc<Fleet>) -> Self {
        Self::open_with(fleet, Options::default()).await
    }

    pub(crate) async fn open_with(fleet: &Arc<Fleet>, options: Options) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let served = tokio::spawn(edr_web::serve(listener, fleet.clone(), options, stopped));
        Self { address, stop, served }
    }

    pub(crate) async fn get(&self, target: &str) -> Answer {
        self.ask("GET", target, &format!("Host: {}\r\n", self.address)).await
    }

    pub(crate) async fn ask(&self, method: &str, target: &str, headers: &str) -> Answer {
        self.send(format!("{method} {target} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n").as_bytes()).await
    }

    /// Sends bytes unchanged and reads until the server closes the connection.
    pub(crate) async fn send(&self, bytes: &[u8]) -> Answer {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        tokio::time::timeout(LIMIT, stream.read_to_end(&mut answer))
            .await
            .expect("the server answers and closes")
            .unwrap();
        let text = String::from_utf8(answer).expect("pages are UTF-8");
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        Answer { status, head: head.to_owned(), body: body.to_owned() }
    }

    /// Opens a stream of events, to be read with [`until`].
    pub(crate) async fn events(&self, target: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = format!("GET {target} HTTP/1.1\r\nHost: {}\r\n\r\n", self.address);
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    /// Stops the server and waits for its end.
    pub(crate) async fn close(self) {
        let _ = self.stop.send(());
        tokio::time::timeout(LIMIT, self.served).await.expect("the server stops").unwrap().unwrap();
    }
}

/// Reads until `text` arrives; false when the stream ends first.
pub(crate) async fn until(stream: &mut TcpStream, text: &str) -> bool {
    let mut seen = String::new();
    let mut buffer = [0; 4_096];
    let read = async {
        while !seen.contains(text) {
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return false,
                Ok(count) => seen.push_str(&String::from_utf8_lossy(&buffer[..count])),
            }
        }
        true
    };
    tokio::time::timeout(LIMIT, read).await.expect("an event or an end comes")
}
