//! Where webhooks may be sent: never to what is only reachable from inside, such as a database or the machine's own
//! metadata.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use reqwest::Url;

/// How far a request may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reach {
    /// To the internet, encrypted.
    #[default]
    Public,
    /// And to this machine: right where nobody else can ask for it.
    PublicAndLoopback,
    /// Wherever the address says, also unencrypted.
    Anywhere,
}

/// Why an address is not one that webhooks are sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Forbidden {
    /// It cannot be read.
    #[error("is not an address such as https://example.com/hooks")]
    Unreadable,
    /// It is not encrypted.
    #[error("must begin with https://")]
    Scheme,
    /// Names and passwords would be shown to whoever sees the address.
    #[error("must have no name or password in it; what is sent is signed instead")]
    Credentials,
    /// It is, or resolves to, an address of a private network, of the machine itself, or of nobody.
    #[error("is, or resolves to, an address that is not on the public internet")]
    Address,
}

impl Reach {
    /// The address, if it is one that may be posted to as far as can be seen. What its name resolves to is not looked up.
    pub fn check(self, text: &str) -> Result<Url, Forbidden> {
        let url = Url::parse(text).map_err(|_| Forbidden::Unreadable)?;
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or(Forbidden::Unreadable)?;
        let name = host.trim_end_matches('.');
        let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().ok();
        let is_here = ip.map_or_else(
            || name == "localhost" || name.ends_with(".localhost"),
            |ip| ip.to_canonical().is_loopback(),
        );
        match (url.scheme(), self) {
            ("https", _) | ("http", Self::Anywhere) => {}
            ("http", Self::PublicAndLoopback) if is_here => {}
            _ => return Err(Forbidden::Scheme),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Forbidden::Credentials);
        }
        let is_allowed = match ip {
            Some(ip) => self.allows(ip),
            None => self != Self::Public || !is_here,
        };
        if is_allowed { Ok(url) } else { Err(Forbidden::Address) }
    }

    /// Whether somebody at this address may be connected to.
    #[must_use]
    pub fn allows(self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        match self {
            Self::Public => is_public(ip),
            Self::PublicAndLoopback => is_public(ip) || ip.is_loopback(),
            Self::Anywhere => true,
        }
    }
}

fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

// IANA IPv4 Special-Purpose Address Registry: all that is not globally reachable, and multicast.
fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    !(a == 0
        || a == 10
        || a == 127
        || (a == 100 && (64..128).contains(&b)) // carrier-grade NAT
        || (a == 169 && b == 254) // link-local: metadata of cloud machines
        || (a == 172 && (16..32).contains(&b))
        || (a == 192 && b == 0 && (c == 0 || c == 2))
        || (a == 192 && b == 88 && c == 99) // 6to4 relays
        || (a == 192 && b == 168)
        || (a == 198 && (b == 18 || b == 19))
        || (a == 198 && b == 51 && c == 100)
        || (a == 203 && b == 0 && c == 113)
        || a >= 224)
}

// IANA IPv6 Special-Purpose Address Registry. Only 2000::/3 is given out; the rest is local, multicast, or a way to IPv4.
fn is_public_v6(ip: Ipv6Addr) -> bool {
    let [first, second, ..] = ip.segments();
    (0x2000..0x4000).contains(&first)
        && !(first == 0x2001 && second < 0x200) // Teredo, benchmarking, ORCHID
        && !(first == 0x2001 && second == 0xdb8) // documentation
        && first != 0x2002 // 6to4, which is IPv4
        && !(first == 0x3fff && second < 0x1000) // documentation
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn webhooks_go_to_the_internet_and_nowhere_else() {
        for good in [
            "https://example.com/hooks",
            "https://example.com:8443/?key=1",
            "https://93.184.215.14/",
            "https://[2606:2800:21f:cb07:6820:80da:af6b:8b2c]/",
        ] {
            assert!(Reach::Public.check(good).is_ok(), "{good}");
        }
        for (bad, why) in [
            ("example.com", Forbidden::Unreadable),
            ("https://", Forbidden::Unreadable),
            ("http://example.com/", Forbidden::Scheme),
            ("ftp://example.com/", Forbidden::Scheme),
            ("file:///etc/passwd", Forbidden::Unreadable),
            ("https://user@example.com/", Forbidden::Credentials),
            ("https://:secret@example.com/", Forbidden::Credentials),
            ("https://localhost/", Forbidden::Address),
            ("https://LOCALHOST./", Forbidden::Address),
            ("https://db.localhost/", Forbidden::Address),
            ("https://127.0.0.1/", Forbidden::Address),
            ("https://127.1/", Forbidden::Address),
            ("https://2130706433/", Forbidden::Address),
            ("https://0x7f.0.0.1/", Forbidden::Address),
            ("https://0177.0.0.1/", Forbidden::Address),
            ("https://0.0.0.0/", Forbidden::Address),
            ("https://10.1.2.3/", Forbidden::Address),
            ("https://100.64.0.1/", Forbidden::Address),
            ("https://169.254.169.254/latest/meta-data", Forbidden::Address),
            ("https://172.31.255.255/", Forbidden::Address),
            ("https://192.168.1.1/", Forbidden::Address),
            ("https://198.18.0.1/", Forbidden::Address),
            ("https://224.0.0.1/", Forbidden::Address),
            ("https://255.255.255.255/", Forbidden::Address),
            ("https://[::]/", Forbidden::Address),
            ("https://[::1]/", Forbidden::Address),
            ("https://[::ffff:10.0.0.1]/", Forbidden::Address),
            ("https://[::ffff:a9fe:a9fe]/", Forbidden::Address),
            ("https://[64:ff9b::a00:1]/", Forbidden::Address),
            ("https://[fd00:ec2::254]/", Forbidden::Address),
            ("https://[fe80::1]/", Forbidden::Address),
            ("https://[ff02::1]/", Forbidden::Address),
            ("https://[2002:a00:1::]/", Forbidden::Address),
            ("https://[2001::1]/", Forbidden::Address),
            ("https://[2001:db8::1]/", Forbidden::Address),
        ] {
            assert_eq!(Reach::Public.check(bad), Err(why), "{bad}");
        }
    }

    #[test]
    fn the_neighbours_of_private_networks_are_public() {
        for ip in ["9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "172.15.0.1", "172.32.0.1"] {
            assert!(Reach::Public.allows(ip.parse().unwrap()), "{ip}");
        }
        for ip in ["2001:200::1", "2003::1", "2a00::1"] {
            assert!(Reach::Public.allows(ip.parse().unwrap()), "{ip}");
        }
    }

    #[test]
    fn a_server_that_only_this_machine_reaches_may_post_to_this_machine() {
        let reach = Reach::PublicAndLoopback;
        for good in
            ["http://127.0.0.1:3000/", "http://[::1]:3000/", "http://localhost:3000/", "https://localhost/"]
        {
            assert!(reach.check(good).is_ok(), "{good}");
        }
        assert_eq!(reach.check("http://example.com/"), Err(Forbidden::Scheme));
        assert_eq!(reach.check("http://10.0.0.1/"), Err(Forbidden::Scheme));
        assert_eq!(reach.check("https://10.0.0.1/"), Err(Forbidden::Address));
    }

    #[test]
    fn who_allows_private_networks_may_post_there_unencrypted() {
        for good in ["http://10.0.0.1/", "http://crm.internal:8080/hooks", "https://[fd00::1]/"] {
            assert!(Reach::Anywhere.check(good).is_ok(), "{good}");
        }
        assert_eq!(Reach::Anywhere.check("ftp://10.0.0.1/"), Err(Forbidden::Scheme));
        assert_eq!(Reach::Anywhere.check("http://user@10.0.0.1/"), Err(Forbidden::Credentials));
    }
}
