//! TLS to the fleet's database: verified by the system's certificates, or by those of a file.

use std::{path::PathBuf, sync::Arc};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::secret;
use crate::error::{Error, Kind, Result};

/// The certificates of a connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Tls {
    /// Certificates that may have signed that of the server; `None` for those of the system.
    pub(super) roots: Option<PathBuf>,
    /// The client's own certificate, and its key.
    pub(super) client: Option<(PathBuf, PathBuf)>,
    /// Accepts any certificate: the connection is encrypted, but an attacker in the middle is not
    /// detected.
    pub(super) unverified: bool,
}

impl Tls {
    pub(super) fn connector(&self) -> Result<MakeRustlsConnect> {
        let provider = Arc::new(ring::default_provider());
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| failed("failed to set up TLS", error))?;
        let config = if self.unverified {
            config.dangerous().with_custom_certificate_verifier(Arc::new(AnyServer(provider)))
        } else {
            config.with_root_certificates(self.roots()?)
        };
        let config = match &self.client {
            None => config.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = certificates(certificate)?;
                let text = secret::read_private(key, "private key")?;
                let what = || format!("failed to read the private key `{}`", key.display());
                let key = PrivateKeyDer::from_pem_slice(text.as_bytes())
                    .map_err(|error| failed(what(), error))?;
                config.with_client_auth_cert(chain, key).map_err(|error| failed(what(), error))?
            }
        };
        Ok(MakeRustlsConnect::new(config))
    }

    fn roots(&self) -> Result<RootCertStore> {
        let mut store = RootCertStore::empty();
        let (found, place) = if let Some(file) = &self.roots {
            (certificates(file)?, format!("in `{}`", file.display()))
        } else {
            let found = rustls_native_certs::load_native_certs().certs;
            (found, "among the system's certificates".to_owned())
        };
        store.add_parsable_certificates(found);
        if store.is_empty() {
            let message = format!(
                "there is no certificate authority {place}: name the file with that of the database in the address, \
                 `?sslrootcert=FILE`"
            );
            return Err(Error::new(Kind::Denied, message));
        }
        Ok(store)
    }
}

fn certificates(file: &PathBuf) -> Result<Vec<CertificateDer<'static>>> {
    let what = || format!("failed to read the certificates `{}`", file.display());
    CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect)
        .map_err(|error| failed(what(), error))
}

fn failed(
    message: impl Into<String>,
    error: impl std::error::Error + Send + Sync + 'static,
) -> Error {
    Error::new(Kind::Other, message).with_source(error)
}

/// Accepts every certificate, but still requires the server to have its key.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
