//! Serves one directory until it is killed: `cargo run -p homing-broker --example serve -- DIR [HOST:PORT]`.

use homing_broker::{Broker, BrokerOptions};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let dir = args.next().ok_or("usage: serve DIR [HOST:PORT]")?.into();
    let listen = args.next().unwrap_or_else(|| "127.0.0.1:0".to_owned()).parse()?;
    let broker =
        Broker::start(BrokerOptions { dir, listen, auto_create_topics: true, ..BrokerOptions::default() })?;
    println!("{}", broker.addr());
    loop {
        std::thread::park();
    }
}
