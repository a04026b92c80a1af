//! The addresses on which the user wants REST to listen.

use std::{
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

/// Maximum `grpc_base` and `http`, so that no port exceeds 65,535.
pub(crate) const PORT_BASE_MAX: u16 = 65_000;

/// An address that the user asks for. Without a port, `--http-port` applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RestAddress {
    ip: IpAddr,
    port: Option<u16>,
}

/// Why a text is not such an address. A retry does not help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RestAddressError {
    /// The text is something else, a name for instance.
    #[error("it is neither an IP nor IP:PORT")]
    Form,
    /// The port leaves no room for further replicas, which take the ports after it.
    #[error("its port is not 1 to {PORT_BASE_MAX}")]
    Port,
}

impl FromStr for RestAddress {
    type Err = RestAddressError;

    fn from_str(text: &str) -> Result<Self, RestAddressError> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            let fits = (1..=PORT_BASE_MAX).contains(&address.port());
            let port = fits.then_some(address.port()).ok_or(RestAddressError::Port)?;
            return Ok(Self { ip: address.ip(), port: Some(port) });
        }
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        let ip = bare.parse().map_err(|_| RestAddressError::Form)?;
        Ok(Self { ip, port: None })
    }
}

impl RestAddress {
    /// The address on which this replica listens.
    pub(crate) fn of(self, http_port: u16, replica: u16) -> SocketAddr {
        (self.ip, self.port.unwrap_or(http_port) + replica).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_its_own_or_the_usual_one_and_replicas_follow() {
        for (text, wanted) in [
            ("0.0.0.0", "0.0.0.0:8001"),
            ("0.0.0.0:9000", "0.0.0.0:9001"),
            ("::", "[::]:8001"),
            ("[::1]", "[::1]:8001"),
            ("[::1]:9000", "[::1]:9001"),
        ] {
            let address: RestAddress = text.parse().unwrap();
            assert_eq!(address.of(8000, 1).to_string(), wanted, "{text}");
        }
        for (text, wrong) in [
            ("localhost", RestAddressError::Form),
            ("localhost:8000", RestAddressError::Form),
            (":8000", RestAddressError::Form),
            ("", RestAddressError::Form),
            ("0.0.0.0:0", RestAddressError::Port),
            ("0.0.0.0:65500", RestAddressError::Port),
        ] {
            assert_eq!(text.parse::<RestAddress>(), Err(wrong), "{text:?}");
        }
    }
}
