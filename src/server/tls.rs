//! TLS in front of the door (RFC 8446), with client certificates where asked for. A certificate that was presented is known
//! by its SHA-256 from then on, and by what it says where an authority vouches for it: that its holder has the key was proven by the handshake.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use pingora_core::protocols::l4::virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream};
use rustls::{
    DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, aws_lc_rs::default_provider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, UnixTime},
    server::{
        NoServerSessionStorage, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::watch,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{
    certificates::{Certificates, chain},
    socket::Socket,
    x509,
};
use crate::{
    base::{
        digest::sha256,
        problem::{Problem, Problems},
    },
    config::tls::{ClientCertificate, TlsFiles},
    request::certificate::Certificate,
};

/// The name of HTTP/2 in a handshake (RFC 9113 section 3.2).
const HTTP2: &[u8] = b"h2";

/// How connections are opened: in TLS, or in the clear where there is none. May be changed for those to come; those that
/// are open learn of it.
pub struct Tls {
    accepting: watch::Sender<Option<Arc<Accepting>>>,
    /// Whether HTTP/2 is offered.
    http2: bool,
}

/// What accepts TLS connections.
pub struct Accepting {
    /// What it was made of.
    files: TlsFiles,
    acceptor: TlsAcceptor,
}

impl std::fmt::Debug for Accepting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Accepting")
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

impl Tls {
    /// As `files` say, HTTP/2 being offered or not.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn new(files: Option<&TlsFiles>, http2: bool) -> Result<Self, Problems> {
        let tls = Self { accepting: watch::Sender::new(None), http2 };
        tls.replace(tls.prepare(files)?);
        Ok(tls)
    }

    /// What accepts connections as `files` say: what does so now, where they are the same.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn prepare(&self, files: Option<&TlsFiles>) -> Result<Option<Arc<Accepting>>, Problems> {
        let Some(files) = files else { return Ok(None) };
        let now = self.accepting.borrow().clone().filter(|now| now.files == *files);
        let made =
            || acceptor(files, self.http2).map(|acceptor| Arc::new(Accepting { files: files.clone(), acceptor }));
        now.map_or_else(made, Ok).map(Some)
    }

    /// Accepts connections by `accepting` from now on.
    pub fn replace(&self, accepting: Option<Arc<Accepting>>) {
        self.accepting.send_if_modified(|now| {
            let changes = !is_same(now.as_ref(), accepting.as_ref());
            *now = accepting;
            changes
        });
    }

    /// By what the next connection is opened.
    pub fn handshake(&self) -> Handshake {
        let mut now = self.accepting.subscribe();
        let accepting = now.borrow_and_update().clone();
        Handshake { accepting, now }
    }
}

/// By what a connection is opened, or was, and what has become of that since.
pub struct Handshake {
    accepting: Option<Arc<Accepting>>,
    now: watch::Receiver<Option<Arc<Accepting>>>,
}

impl Handshake {
    /// What accepts it; nothing where there is no TLS.
    pub const fn accepting(&self) -> Option<&Arc<Accepting>> {
        self.accepting.as_ref()
    }

    /// Whether another certificate would be shown to the client now, or asked of it.
    pub fn is_old(&self) -> bool {
        !is_same(self.accepting.as_ref(), self.now.borrow().as_ref())
    }

    /// Whether the client would have to show something else now. No request may come in by it any more.
    pub fn is_void(&self) -> bool {
        let asked =
            |accepting: &Accepting| (accepting.files.client_certificate, accepting.files.client_authorities.clone());
        let now = self.now.borrow();
        self.now.has_changed().is_err()
            || self.is_old() && self.accepting().map(|it| asked(it)) != now.as_ref().map(|it| asked(it))
    }

    /// Ends when anything changes.
    pub async fn changed(&mut self) {
        let _ = self.now.changed().await;
    }

    /// Ends when it is void.
    pub async fn voided(&mut self) {
        while !self.is_void() {
            self.changed().await;
        }
    }

    /// Ends when a client that has not begun a request has no more time to: at once where it is void, after `patience` where it is old.
    pub async fn closes(&mut self, patience: Duration) {
        while !self.is_void() {
            if !self.is_old() {
                self.changed().await;
            } else if timeout(patience, self.changed()).await.is_err() {
                return;
            }
        }
    }
}

fn is_same(one: Option<&Arc<Accepting>>, other: Option<&Arc<Accepting>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (None, None) => true,
        _ => false,
    }
}

/// What accepts TLS connections as `files` say, HTTP/2 being offered or not.
///
/// # Errors
/// What is wrong with them.
pub fn acceptor(files: &TlsFiles, http2: bool) -> Result<TlsAcceptor, Problems> {
    let provider = Arc::new(default_provider());
    let mut problems = Problems::default();
    let certificates = problems.keep(Certificates::load(files, &provider));
    let verifier = problems.keep(verifier(files, provider.clone()));
    let (certificates, verifier) = problems.into_result(certificates.zip(verifier))?;
    let builder = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Problem::new(format!("no TLS: {error}")))?;
    let resumes = verifier.is_none();
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(certificates));
    if !resumes {
        // A connection that is taken up again is made without its certificate being looked at again.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    let offered: &[&[u8]] = if http2 { &[HTTP2, b"http/1.1"] } else { &[b"http/1.1"] };
    config.alpn_protocols = offered.iter().map(|name| name.to_vec()).collect();
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn verifier(files: &TlsFiles, provider: Arc<CryptoProvider>) -> Result<Option<Arc<dyn ClientCertVerifier>>, Problem> {
    let optional = match files.client_certificate {
        ClientCertificate::Off => return Ok(None),
        ClientCertificate::Accepted => true,
        ClientCertificate::Required => false,
    };
    let Some(authorities) = &files.client_authorities else {
        return Ok(Some(Arc::new(HolderOnly { provider, mandatory: !optional })));
    };
    let unusable =
        |error: String| Problem::at(authorities, format!("the authorities of clients cannot be used: {error}"));
    let mut roots = RootCertStore::empty();
    for authority in chain(authorities)? {
        roots.add(authority).map_err(|error| unusable(error.to_string()))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = if optional { builder.allow_unauthenticated() } else { builder };
    Ok(Some(builder.build().map_err(|error| unusable(error.to_string()))?))
}

/// Takes any certificate whose key the client holds: all that a token bound to it asks for (RFC 8705 section 3). Nobody
/// vouches for what is written in it, and nothing here reads that.
#[derive(Debug)]
struct HolderOnly {
    provider: Arc<CryptoProvider>,
    mandatory: bool,
}

impl ClientCertVerifier for HolderOnly {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// What came of a handshake.
#[derive(Debug)]
pub struct Shaken {
    /// The connection as the proxy takes it.
    pub stream: VirtualSocketStream,
    /// The client's certificate.
    pub certificate: Option<Certificate>,
    /// Whether the client has chosen HTTP/2.
    pub http2: bool,
}

/// Shakes hands.
///
/// # Errors
/// When the client does not do its part, or shows a certificate that is vouched for and cannot be read.
pub async fn accept(accepting: &Accepting, stream: Socket) -> io::Result<Shaken> {
    let stream = accepting.acceptor.accept(stream).await?;
    let session = stream.get_ref().1;
    let http2 = session.alpn_protocol() == Some(HTTP2);
    let presented = session.peer_certificates().and_then(|chain| chain.first());
    let known = |der: &CertificateDer<'_>| {
        let unread = || io::Error::new(io::ErrorKind::InvalidData, "a client certificate cannot be read");
        // INVARIANT: where there are authorities, the handshake has asked them.
        let is_vouched_for = accepting.files.client_authorities.is_some();
        let vouched = is_vouched_for.then(|| x509::read(der).ok_or_else(unread)).transpose()?;
        Ok::<_, io::Error>(Certificate { thumbprint: sha256(der), vouched })
    };
    let certificate = presented.map(known).transpose()?;
    Ok(Shaken { stream: VirtualSocketStream::new(Box::new(Secured(stream))), certificate, http2 })
}

#[derive(Debug)]
struct Secured(TlsStream<Socket>);

impl VirtualSocket for Secured {
    /// They were set when the connection was accepted.
    fn set_socket_option(&self, _: VirtualSockOpt) -> io::Result<()> {
        Ok(())
    }
}

impl AsyncRead for Secured {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Secured {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(context)
    }
}
