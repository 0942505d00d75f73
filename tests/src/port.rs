//! Ports for servers that cannot say which one the kernel gave them.

use std::io::Read;
use std::net::{Ipv4Addr, TcpListener, TcpStream};

/// A port on 127.0.0.1 that a server can take, and that the kernel gives to nobody else for a
/// minute: a connection that has just been closed still holds it.
pub fn reserve() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = listener
        .local_addr()
        .expect("a bound socket has an address");
    let mut client = TcpStream::connect(address).expect("connect to ourselves");
    let (server, _) = listener.accept().expect("accept ourselves");
    // Whoever closes first is left with the port in TIME_WAIT.
    drop(server);
    let end = client.read(&mut [0]).expect("the end of the connection");
    assert_eq!(end, 0);
    address.port()
}
