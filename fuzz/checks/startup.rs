//! The packets before a session: startup, requests for encryption, cancel requests; and what startup parameters hold.

use bytes::BytesMut;
use ringway_gateway::plan::session::check_setting;
use ringway_gateway::pool::settings::{parse_options, Settings};
use ringway_gateway::pool::timeout;
use ringway_gateway::wire::startup::{next_startup, StartupMessage, StartupPacket};

use super::Cuts;

pub fn check(data: &[u8]) {
    let (mut cuts, bytes) = Cuts::of(data);
    let mut whole = BytesMut::from(bytes);
    let packet = next_startup(&mut whole);
    let (mut buf, mut rest) = (BytesMut::new(), bytes);
    let cut = loop {
        match next_startup(&mut buf) {
            Ok(None) if !rest.is_empty() => buf.extend_from_slice(cuts.next(&mut rest)),
            read => break read,
        }
    };
    assert_eq!(cut, packet);
    if let Ok(Some(StartupPacket::Startup(message))) = &packet {
        parameters(message);
        // What follows is left, whatever came with it.
        assert_eq!([&buf[..], rest].concat(), &whole[..]);
    }
    // With the right length in front, so that mutations reach the parser.
    if bytes.len() >= 4 {
        let mut packet = BytesMut::from(bytes);
        packet[..4].copy_from_slice(&(bytes.len() as u32).to_be_bytes());
        if let Ok(Some(StartupPacket::Startup(message))) = next_startup(&mut packet) {
            parameters(&message);
        }
    }
}

fn parameters(message: &StartupMessage) {
    assert!(!message.user().is_empty() && !message.database().is_empty());
    assert!(message.minor_spoken() <= message.minor);
    let _ = message.negotiation();
    let mut settings = Settings::default();
    let options = parse_options(message.get("options").unwrap_or_default());
    let options = options.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    for (name, value) in message.parameters().chain(options) {
        let _ = (check_setting(name, Some(value)), timeout::parse(value));
        settings.set_value(name, value);
    }
    let _ = (settings.idle_session_timeout(), settings.statements_from(&Settings::default()));
    settings.remove("options");
}
