//! Certificates, made for one test.

use std::fs;
use std::path::PathBuf;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};
use tempfile::TempDir;

/// A CA, and the folder with the files of all it has issued.
pub(crate) struct Authority {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

/// The files of one certificate.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    pub(crate) ca: PathBuf,
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let key = KeyPair::generate().expect("a key");
        let mut params = named("the CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let own = params.self_signed(&key).expect("signed");
        fs::write(folder.path().join("ca.pem"), own.pem()).expect("written");
        let issuer = Issuer::new(params, key);
        Self { folder, issuer }
    }

    /// A certificate for `name` that is good for both ends of a connection on this machine.
    pub(crate) fn issue(&self, name: &str) -> Files {
        self.issue_as(name, |_| ())
    }

    /// The same, with other properties. Replaces what was issued for `name` before.
    pub(crate) fn issue_as(
        &self,
        name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Files {
        let mut params = named(name);
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &self.issuer).expect("signed");
        let path = |kind| self.folder.path().join(format!("{name}.{kind}"));
        let files = Files {
            ca: self.folder.path().join("ca.pem"),
            cert: path("pem"),
            key: path("key"),
        };
        fs::write(&files.cert, cert.pem()).expect("written");
        fs::write(&files.key, key.serialize_pem()).expect("written");
        files
    }
}

fn named(name: &str) -> CertificateParams {
    let hosts = ["127.0.0.1".to_owned(), "localhost".to_owned()];
    let mut params = CertificateParams::new(hosts).expect("names");
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}
