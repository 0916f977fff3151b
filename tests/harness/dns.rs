//! A server of names over UDP that answers as it is told, or not at all.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

const A: u16 = 1;
const AAAA: u16 = 28;
const SRV: u16 = 33;

/// A running server. It ends when it is dropped.
pub(crate) struct Dns {
    address: SocketAddr,
    shared: Arc<Shared>,
}

/// By name, in lower case and without the final dot, and type: the data of records.
type Records = HashMap<(String, u16), Vec<Vec<u8>>>;

#[derive(Default)]
struct Shared {
    records: Mutex<Records>,
    mood: Mutex<Mood>,
    asked: AtomicUsize,
    ended: AtomicBool,
}

/// How it treats those who ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Mood {
    #[default]
    Answers,
    /// Says that something is wrong with it.
    Fails,
    Silent,
}

impl Dns {
    pub(crate) fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(50)))
            .unwrap();
        let address = socket.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let serving = shared.clone();
        thread::spawn(move || {
            let mut query = [0; 1500];
            while !serving.ended.load(SeqCst) {
                let Ok((length, peer)) = socket.recv_from(&mut query) else {
                    continue;
                };
                serving.asked.fetch_add(1, SeqCst);
                let answer = serving.answer(&query[..length]);
                if let Some(answer) = answer {
                    socket.send_to(&answer, peer).unwrap();
                }
            }
        });
        Self { address, shared }
    }

    /// The block `system` of a configuration that asks it.
    pub(crate) fn system(&self) -> String {
        format!(
            "system {{ worker-threads 2; resolver \"{}\" }}",
            self.address
        )
    }

    /// From now on a name has these addresses.
    pub(crate) fn name(&self, name: &str, addresses: &[&str]) -> &Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for address in addresses {
            match address.parse().unwrap() {
                IpAddr::V4(address) => v4.push(address.octets().to_vec()),
                IpAddr::V6(address) => v6.push(address.octets().to_vec()),
            }
        }
        let mut records = self.shared.records.lock().unwrap();
        records.insert((name.to_owned(), A), v4);
        records.insert((name.to_owned(), AAAA), v6);
        drop(records);
        self
    }

    /// From now on a service is at these hosts: priority, weight, port, host.
    pub(crate) fn service(&self, name: &str, hosts: &[(u16, u16, u16, &str)]) -> &Self {
        let data = hosts.iter().map(|(priority, weight, port, host)| {
            let mut data = Vec::new();
            for number in [priority, weight, port] {
                data.extend(number.to_be_bytes());
            }
            for label in host.split('.') {
                data.push(u8::try_from(label.len()).unwrap());
                data.extend(label.bytes());
            }
            data.push(0);
            data
        });
        let mut records = self.shared.records.lock().unwrap();
        records.insert((name.to_owned(), SRV), data.collect());
        drop(records);
        self
    }

    pub(crate) fn mood(&self, mood: Mood) {
        *self.shared.mood.lock().unwrap() = mood;
    }

    /// How often it was asked.
    pub(crate) fn asked(&self) -> usize {
        self.shared.asked.load(SeqCst)
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.shared.ended.store(true, SeqCst);
    }
}

impl Shared {
    fn answer(&self, query: &[u8]) -> Option<Vec<u8>> {
        /// An answer of a server that asks others.
        const ANSWER: u16 = 0x8180;
        const SERVER_FAILURE: u16 = 2;
        const NO_SUCH_NAME: u16 = 3;
        let mood = *self.mood.lock().unwrap();
        let mut at = 12;
        let mut labels = Vec::new();
        while query[at] != 0 {
            let length = usize::from(query[at]);
            let label = &query[at + 1..=at + length];
            labels.push(String::from_utf8(label.to_ascii_lowercase()).unwrap());
            at += length + 1;
        }
        let kind = u16::from_be_bytes([query[at + 1], query[at + 2]]);
        let question = &query[12..at + 5];
        let records = self.records.lock().unwrap();
        let key = (labels.join("."), kind);
        let found = records.get(&key).cloned().unwrap_or_default();
        let (flags, found) = match mood {
            Mood::Silent => return None,
            Mood::Fails => (ANSWER | SERVER_FAILURE, Vec::new()),
            Mood::Answers if records.keys().any(|(name, _)| *name == key.0) => (ANSWER, found),
            Mood::Answers => (ANSWER | NO_SUCH_NAME, Vec::new()),
        };
        let mut answer = query[..2].to_vec();
        let count = u16::try_from(found.len()).unwrap();
        for number in [flags, 1, count, 0, 0] {
            answer.extend(number.to_be_bytes());
        }
        answer.extend(question);
        for data in found {
            // The name of the question, in the class of the Internet, for a second.
            answer.extend([0xc0, 12]);
            answer.extend(kind.to_be_bytes());
            answer.extend(1_u16.to_be_bytes());
            answer.extend(1_u32.to_be_bytes());
            answer.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
            answer.extend(data);
        }
        Some(answer)
    }
}
