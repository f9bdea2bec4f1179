//! Records sent to collectors of syslog: what arrives, and what is counted of what does not.

use std::{
    io::{BufRead, BufReader, Read},
    net::{TcpListener, TcpStream, UdpSocket},
    os::unix::net::UnixDatagram,
    path::Path,
    time::{Duration, Instant},
};

use portcullis::{
    audit::{
        Lines, Record, Sink,
        lines::Counts,
        syslog::{Collector, Facility, SyslogSettings},
    },
    base::files::Files,
    config,
    metrics::Metrics,
    server::syslog::Syslog,
};
use serde_json::Value;

use crate::house;

/// Records on their way to a collector, and what is counted of them.
struct Sender {
    metrics: Metrics,
    lines: Lines,
}

impl Sender {
    fn to(to: Collector) -> Self {
        let settings =
            SyslogSettings { to, facility: Facility::Local0, app_name: "gate".into(), message_bytes_max: 8192 };
        let metrics = Metrics::new().unwrap();
        let (syslog, longest) = Syslog::new(&settings);
        Self { lines: Lines::new(syslog, metrics.records("syslog")).unwrap().of_at_most(longest), metrics }
    }

    fn send(&self, id: &str) {
        self.lines.write(&Record { decision_id: id.into(), ..Record::default() });
    }

    /// Waits until so many are written and dropped.
    fn counts(&self, expected: (u64, u64)) {
        let counted = || {
            let counts = self.metrics.records("syslog");
            (counts.written.get(), counts.dropped.get())
        };
        let deadline = Instant::now() + Duration::from_secs(20);
        while counted() != expected {
            assert!(Instant::now() < deadline, "{:?} and not {expected:?}", counted());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The id in a message, which is as the RFC has it.
fn id(message: &[u8]) -> String {
    record(message)["decision_id"].as_str().unwrap().to_owned()
}

/// The record in a message.
fn record(message: &[u8]) -> Value {
    let text = std::str::from_utf8(message).unwrap();
    let parts: Vec<_> = text.splitn(8, ' ').collect();
    assert_eq!((parts[0], parts[3], parts[5], parts[6]), ("<134>1", "gate", "decision", "-"), "{text}");
    assert!(parts[1].len() == 24 && parts[1].ends_with('Z') && parts[4] == std::process::id().to_string(), "{text}");
    serde_json::from_str(parts[7]).unwrap()
}

fn datagram(socket: &UnixDatagram) -> String {
    id(&message(socket))
}

fn message(socket: &UnixDatagram) -> Vec<u8> {
    let mut message = vec![0; 70_000];
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let bytes = socket.recv(&mut message).unwrap();
    message.truncate(bytes);
    message
}

fn counted(stream: &mut BufReader<TcpStream>) -> String {
    let mut length = Vec::new();
    stream.read_until(b' ', &mut length).unwrap();
    let length = std::str::from_utf8(&length).unwrap().trim_end().parse().unwrap();
    let mut message = vec![0; length];
    stream.read_exact(&mut message).unwrap();
    id(&message)
}

fn accept(listener: &TcpListener) -> BufReader<TcpStream> {
    let stream = listener.accept().unwrap().0;
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    BufReader::new(stream)
}

#[test]
fn a_collector_on_a_socket_gets_every_record_but_those_that_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path: &Path = &folder.path().join("log");
    let sender = Sender::to(Collector::Unix(path.to_owned()));
    sender.send("nobody is there yet");
    sender.counts((0, 1));
    let socket = UnixDatagram::bind(path).unwrap();
    sender.send("one");
    let first = message(&socket);
    assert_eq!(id(&first), "one");
    // It leaves, which is counted, and comes back.
    drop(socket);
    (0..3).for_each(|_| sender.send("nobody"));
    sender.counts((1, 4));
    std::fs::remove_file(path).unwrap();
    let socket = UnixDatagram::bind(path).unwrap();
    sender.send("two");
    assert_eq!(datagram(&socket), "two");
    // It leaves and is back before anything is sent, of which nobody was told.
    drop(socket);
    std::fs::remove_file(path).unwrap();
    let socket = UnixDatagram::bind(path).unwrap();
    sender.send("three");
    assert_eq!(datagram(&socket), "three");
    // Half a record is none: what is too long by a byte is not sent, where it holds nothing that it can do without.
    let longest = "x".repeat(8192 - first.len() + "one".len());
    sender.send(&longest);
    assert_eq!(message(&socket).len(), 8192);
    sender.send(&format!("{longest}x"));
    sender.send("last");
    assert_eq!(datagram(&socket), "last");
    sender.counts((5, 5));
    // What whoever asks can make long keeps no record away.
    let resource = Some("x".repeat(9_000).into());
    sender.lines.write(&Record { decision_id: "long".into(), resource, ..Record::default() });
    let told = record(&message(&socket));
    assert_eq!((&told["decision_id"], &told["left_out"][0]), (&"long".into(), &"resource".into()), "{told}");
    sender.counts((6, 5));
}

#[test]
fn a_collector_by_tcp_gets_every_record_but_those_that_are_counted() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let place = listener.local_addr().unwrap();
    let sender = Sender::to(Collector::Tcp(format!("localhost:{}", place.port())));
    let ids: Vec<_> = (0..50).map(|number| format!("line\nbreak {number}")).collect();
    ids.iter().for_each(|id| sender.send(id));
    let mut stream = accept(&listener);
    ids.iter().for_each(|id| assert_eq!(&counted(&mut stream), id));
    // Only the connection is another one.
    drop(stream);
    sender.send("again");
    let mut stream = accept(&listener);
    assert_eq!(counted(&mut stream), "again");
    drop((stream, listener));
    sender.send("nobody");
    sender.counts((51, 1));
    assert!(!sender.lines.has_room(1), "whoever wants no request without a record is told");
    let listener = TcpListener::bind(place).unwrap();
    // Nothing needs to be sent for that to be noticed.
    let mut stream = accept(&listener);
    let deadline = Instant::now() + Duration::from_secs(10);
    while !sender.lines.has_room(1) {
        assert!(Instant::now() < deadline, "never well again");
        std::thread::sleep(Duration::from_millis(5));
    }
    sender.send("two");
    assert_eq!(counted(&mut stream), "two");
    sender.send(&"x".repeat(9000));
    sender.counts((52, 2));
    // The end of records is an end of the connection, with nothing cut off before it.
    sender.send("last");
    sender.lines.close();
    assert_eq!(counted(&mut stream), "last");
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_collector_that_takes_nothing_holds_nobody_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let sender = Sender::to(Collector::Tcp(listener.local_addr().unwrap().to_string()));
    let stream = accept_after(&sender, &listener);
    let long = "x".repeat(7000);
    let began = Instant::now();
    (0..3000).for_each(|_| sender.send(&long));
    // Who waited for the collector would wait for hours: this is for slow machines.
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    let deadline = Instant::now() + Duration::from_secs(20);
    while sender.metrics.records("syslog").dropped.get() == 0 {
        assert!(Instant::now() < deadline, "nothing is dropped");
        std::thread::sleep(Duration::from_millis(5));
    }
    let Counts { written, dropped, waiting } = sender.metrics.records("syslog");
    assert!(waiting.get() > 0);
    sender.lines.close();
    assert_eq!(written.get() + dropped.get(), 3001, "each is counted");
    assert_eq!(waiting.get(), 0);
    drop(stream);
}

#[test]
fn a_collector_that_is_slower_than_records_come_gets_every_one() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let sender = Sender::to(Collector::Tcp(listener.local_addr().unwrap().to_string()));
    let mut stream = accept_after(&sender, &listener);
    // More than the system holds between the two.
    let ids: Vec<_> = (0..3000).map(|number| format!("{number} {}", "x".repeat(7000))).collect();
    ids.iter().for_each(|id| sender.send(id));
    assert_eq!(counted(&mut stream), "first");
    ids.iter().for_each(|id| assert_eq!(&counted(&mut stream), id));
    sender.counts((3001, 0));
}

fn accept_after(sender: &Sender, listener: &TcpListener) -> BufReader<TcpStream> {
    sender.send("first");
    accept(listener)
}

#[test]
fn a_collector_by_udp_gets_records() {
    for host in ["127.0.0.1", "[::1]"] {
        let Ok(socket) = UdpSocket::bind(format!("{host}:0")) else {
            assert_ne!(host, "127.0.0.1");
            println!("SKIPPED: this machine has no IPv6");
            continue;
        };
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let sender = Sender::to(Collector::Udp(socket.local_addr().unwrap().to_string()));
        sender.send("one");
        let mut message = vec![0; 70_000];
        let bytes = socket.recv(&mut message).unwrap();
        assert_eq!(id(&message[..bytes]), "one");
        sender.counts((1, 0));
    }
}

#[test]
fn a_message_is_no_longer_than_the_way_to_the_collector_takes_and_has_a_name() {
    let compiled = |section: &str| {
        let text = format!("{}records: {{ syslog: {{ {section} }} }}\n", house::ROUTES);
        let policies = ["policies/schema.cedarschema", "policies/users.cedar"].map(|it| (it, house::repository(it)));
        let files = Files::memory(policies.iter().map(|(name, text)| (*name, text.as_str())));
        let compiled = config::parse("config.yaml".into(), text, files).and_then(|loaded| loaded.compile());
        compiled.map(|it| it.servers.records.syslog.unwrap()).map_err(|problems| problems.to_string())
    };
    let usual = compiled("to: 'unix:/dev/log'").unwrap();
    let (facility, app_name) = (Facility::Authpriv, "portcullis".to_owned());
    let to = Collector::Unix("/dev/log".into());
    assert_eq!(usual, SyslogSettings { to, facility, app_name, message_bytes_max: 8192 });
    let named = compiled("to: 'udp://h:514', facility: local7, app_name: gate, message_bytes_max: 2048").unwrap();
    assert_eq!((named.facility, &*named.app_name, named.message_bytes_max), (Facility::Local7, "gate", 2048));
    for (to, longest) in [("unix:/dev/log", 65_000), ("udp://h:514", 65_000), ("tcp://h:601", 4_194_304)] {
        let with = |bytes: usize| compiled(&format!("to: '{to}', message_bytes_max: {bytes}"));
        assert_eq!(with(longest).map(|it| it.message_bytes_max), Ok(longest));
        for bytes in [2047, longest + 1] {
            assert!(with(bytes).unwrap_err().contains("`message_bytes_max` is out of range"), "{to} {bytes}");
        }
    }
    for name in ["''", "a b", "\"a\\n\"", "ä", &"x".repeat(49)] {
        let said = compiled(&format!("to: 'unix:/dev/log', app_name: {name}")).unwrap_err();
        assert!(said.contains("not a name of 1 to 48 visible characters"), "{name}: {said}");
    }
}
