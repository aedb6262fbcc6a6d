//! What a certificate says.

use std::time::{Duration, SystemTime};

use x509_cert::der::Decode as _;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// Of whom a certificate is, and how long it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Its common name, if it has one.
    pub common_name: Option<String>,
    /// The common name and all DNS names, addresses, URIs and e-mail addresses, each once.
    pub names: Vec<String>,
    /// The serial number in hexadecimal digits: `0A:1B:...`.
    pub serial: String,
    /// From then on it holds ...
    pub not_before: SystemTime,
    /// ... and until then.
    pub not_after: SystemTime,
}

impl Certificate {
    /// Reads the binary form.
    pub(crate) fn parse(der: &[u8]) -> Result<Self, x509_cert::der::Error> {
        let parsed = x509_cert::Certificate::from_der(der)?;
        let parsed = parsed.tbs_certificate();
        let common_name = parsed.subject().common_name()?;
        let common_name = common_name.map(|name| name.value().into_owned());
        let common_name = common_name.filter(|name| !name.is_empty());
        let others = parsed.get_extension::<SubjectAltName>()?;
        let others = others.iter().flat_map(|(_, names)| &names.0);
        let mut names: Vec<String> = common_name.clone().into_iter().collect();
        for name in others.filter_map(text) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let validity = parsed.validity();
        Ok(Self {
            common_name,
            names,
            serial: parsed.serial_number().to_string(),
            not_before: validity.not_before.to_system_time(),
            not_after: validity.not_after.to_system_time(),
        })
    }

    /// How long it still holds; nothing once it has expired.
    pub fn left(&self) -> Duration {
        let left = self.not_after.duration_since(SystemTime::now());
        left.unwrap_or_default()
    }
}

fn text(name: &GeneralName) -> Option<String> {
    match name {
        GeneralName::DnsName(name)
        | GeneralName::Rfc822Name(name)
        | GeneralName::UniformResourceIdentifier(name) => Some(name.as_str().to_owned()),
        GeneralName::IpAddress(bytes) => {
            let bytes = bytes.as_bytes();
            let v4 = <[u8; 4]>::try_from(bytes).map(std::net::IpAddr::from);
            let v6 = <[u8; 16]>::try_from(bytes).map(std::net::IpAddr::from);
            v4.or(v6).ok().map(|ip| ip.to_string())
        }
        _ => None,
    }
}
