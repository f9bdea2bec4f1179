//! Sockets that are listened on: TCP's, and Unix ones, which nobody can connect to before their mode is set, which take the place
//! of one that a gate left behind but never of one at work, and which are gone in the end.

use std::{
    fs,
    io::{self, ErrorKind},
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_util::either::Either;
use ulid::Ulid;

use crate::base::address::Address;

/// A connection.
pub type Socket = Either<TcpStream, UnixStream>;

/// Owner and group may connect.
const MODE: u32 = 0o660;

/// A socket that is listened on.
#[derive(Debug)]
pub enum Listening {
    /// Of TCP.
    Tcp(TcpListener),
    /// On this machine alone.
    Unix(UnixListener, SocketFile),
}

/// The file of a Unix socket; dropping it removes it.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode: what stands there later may be another's.
    identity: (u64, u64),
}

impl From<TcpListener> for Listening {
    fn from(listener: TcpListener) -> Self {
        Self::Tcp(listener)
    }
}

impl Listening {
    /// Listens at `address`.
    ///
    /// # Errors
    /// What the system says; [`ErrorKind::AddrInUse`] where somebody listens there, or something else than a socket stands there.
    pub async fn bind(address: &Address) -> io::Result<Self> {
        match address {
            Address::Tcp(address) => TcpListener::bind(address).await.map(Self::Tcp),
            Address::Unix(path) => {
                let (listener, file) = bind_unix(path)?;
                Ok(Self::Unix(listener, file))
            }
        }
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn address(&self) -> io::Result<Address> {
        match self {
            Self::Tcp(listener) => listener.local_addr().map(Address::Tcp),
            Self::Unix(_, file) => Ok(Address::Unix(file.path.clone())),
        }
    }

    /// The next connection, and the address of its other end: on a Unix socket it has none. An address of IPv4 is one, though the
    /// socket be one of IPv6.
    ///
    /// # Errors
    /// What the system says.
    pub async fn accept(&self) -> io::Result<(Socket, Option<SocketAddr>)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                // What fails here has been closed already, which reading finds out.
                let _ = stream.set_nodelay(true);
                Ok((Either::Left(stream), Some(SocketAddr::new(peer.ip().to_canonical(), peer.port()))))
            }
            Self::Unix(listener, _) => Ok((Either::Right(listener.accept().await?.0), None)),
        }
    }
}

fn bind_unix(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    remove_stale(path)?;
    let nowhere = || io::Error::new(ErrorKind::InvalidInput, "the path of a socket has a folder");
    // Nobody else can look into this folder, so nobody connects before the mode is as it should be.
    let name = Ulid::generate().to_string();
    let folder = path.parent().ok_or_else(nowhere)?.join(format!(".{}", name.get(18..).unwrap_or(&name)));
    fs::DirBuilder::new().mode(0o700).create(&folder)?;
    let made = folder.join("s");
    let bound = (|| {
        let listener = UnixListener::bind(&made)?;
        fs::set_permissions(&made, fs::Permissions::from_mode(MODE))?;
        // Unlike a rename, this replaces nothing.
        fs::hard_link(&made, path)?;
        let metadata = fs::symlink_metadata(path)?;
        Ok((listener, SocketFile { path: path.to_owned(), identity: (metadata.dev(), metadata.ino()) }))
    })();
    let _ = fs::remove_file(&made);
    let _ = fs::remove_dir(&folder);
    bound
}

/// Removes a socket that nobody listens on.
fn remove_stale(path: &Path) -> io::Result<()> {
    let in_use = |what| Err(io::Error::new(ErrorKind::AddrInUse, what));
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(metadata) if !metadata.file_type().is_socket() => in_use("something else than a socket stands there"),
        Ok(_) => match std::os::unix::net::UnixStream::connect(path) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(_) => in_use("somebody listens there"),
        },
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = |metadata: fs::Metadata| (metadata.dev(), metadata.ino()) == self.identity;
        if fs::symlink_metadata(&self.path).is_ok_and(is_ours) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_takes_the_place_of_what_was_left_and_of_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gate.sock");
        let address = Address::Unix(path.clone());
        let listening = Listening::bind(&address).await.unwrap();
        assert_eq!(listening.address().unwrap(), address);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
        assert_eq!(Listening::bind(&address).await.unwrap_err().kind(), ErrorKind::AddrInUse);
        assert!(path.exists(), "one at work was removed");
        drop(listening);
        assert!(!path.exists(), "it was left behind");
        // As a gate leaves it that is killed.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let listening = Listening::bind(&address).await.unwrap();
        // What another put there is not ours to remove.
        fs::remove_file(&path).unwrap();
        fs::write(&path, "precious").unwrap();
        drop(listening);
        assert_eq!(Listening::bind(&address).await.unwrap_err().kind(), ErrorKind::AddrInUse);
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }
}
