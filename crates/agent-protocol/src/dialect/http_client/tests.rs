use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

const SECOND: Duration = Duration::from_secs(5);

/// What a server does with a connection: for each request what it writes;
/// `None` closes.
type Script = &'static [&'static [Option<&'static str>]];

fn endpoint(url: &str) -> HttpEndpoint {
    HttpEndpoint {
        url: url.parse().unwrap(),
        tls: TlsFiles::default(),
    }
}

/// A server whose connections, one after the other, follow a script. The first
/// one is that of `connect`.
async fn server(script: Script) -> (HttpEndpoint, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/auth", listener.local_addr().unwrap());
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        drop(listener.accept().await);
        for answers in script {
            let (mut socket, _) = listener.accept().await.unwrap();
            let count = Arc::clone(&count);
            tokio::spawn(async move {
                for answer in *answers {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        let Ok(byte) = socket.read_u8().await else {
                            return;
                        };
                        head.push(byte);
                    }
                    count.fetch_add(1, Ordering::SeqCst);
                    let Some(answer) = answer else { return };
                    let _ = socket.write_all(answer.as_bytes()).await;
                }
            });
        }
    });
    (endpoint(&url), asked)
}

async fn ask(client: &HttpClient) -> Result<(u16, Bytes), CallError> {
    let request = Request::get(client.url().clone()).body(Bytes::new());
    let answer = client.send(request.unwrap()).await?;
    let status = answer.status.as_u16();
    assert_eq!(answer.headers.contains_key("location"), status == 302);
    Ok((status, answer.body(16).await?))
}

const GOOD: Option<&str> = Some("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");

#[tokio::test]
async fn a_connection_is_used_again() {
    let (endpoint, _) = server(&[&[GOOD, GOOD, GOOD]]).await;
    let client = HttpClient::connect(&endpoint, SECOND).await.unwrap();
    for _ in 0..3 {
        assert_eq!(ask(&client).await.unwrap(), (200, Bytes::from("ok")));
    }
}

#[tokio::test]
async fn a_stale_connection_is_replaced_once() {
    let (endpoint, asked) = server(&[&[GOOD, None], &[GOOD, None], &[None], &[GOOD]]).await;
    let client = HttpClient::connect(&endpoint, SECOND).await.unwrap();
    assert!(ask(&client).await.is_ok());
    assert!(ask(&client).await.is_ok());
    assert_eq!(asked.load(Ordering::SeqCst), 3);
    // The other connection was not used before, so what is lost stays lost.
    assert_eq!(ask(&client).await.unwrap_err(), CallError::Lost);
    assert_eq!(asked.load(Ordering::SeqCst), 5);
    assert!(ask(&client).await.is_ok());
}

#[tokio::test]
async fn what_has_begun_to_be_answered_is_not_sent_again() {
    let (endpoint, asked) = server(&[&[GOOD, Some("HTTP/1.1 2"), None], &[GOOD]]).await;
    let client = HttpClient::connect(&endpoint, SECOND).await.unwrap();
    assert!(ask(&client).await.is_ok());
    let waiting = tokio::time::timeout(Duration::from_millis(100), ask(&client)).await;
    assert!(waiting.is_err(), "half an answer is none: {waiting:?}");
    assert_eq!(asked.load(Ordering::SeqCst), 2);

    let (endpoint, asked) = server(&[&[GOOD, Some("HTTP/1.1 2")], &[GOOD]]).await;
    let client = HttpClient::connect(&endpoint, SECOND).await.unwrap();
    assert!(ask(&client).await.is_ok());
    assert_eq!(ask(&client).await.unwrap_err(), CallError::Lost);
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn bad_answers_are_told_from_lost_ones() {
    let many = "x: y\r\n".repeat(MOST_HEADERS + 1);
    let many: &str = Box::leak(format!("HTTP/1.1 200 OK\r\n{many}\r\n").into_boxed_str());
    let long = "x".repeat(4 * LARGEST_HEAD);
    let long: &str = Box::leak(format!("HTTP/1.1 200 OK\r\nx: {long}\r\n\r\n").into_boxed_str());
    let table = [
        ("", Err(false)),
        ("SSH-2.0-x\r\n\r\n", Err(true)),
        ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok", Err(true)),
        ("HTTP/1.1 200 OK\r\ncontent-length: 17\r\n\r\n", Err(true)),
        ("HTTP/1.1 200 OK\r\n\r\n0123456789abcdefg", Err(true)),
        ("HTTP/1.1 200 OK\r\n\r\n0123456789abcdef", Ok(200)),
        (
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n",
            Err(true),
        ),
        (
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 403 No\r\n\r\n",
            Ok(403),
        ),
        (
            "HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 0\r\n\r\n",
            Ok(302),
        ),
        ("HTTP/1.0 204 None\r\n\r\n", Ok(204)),
        (many, Err(true)),
        (long, Err(true)),
    ];
    for (written, expected) in table {
        let answers: &'static [Option<&str>] = Box::leak(Box::new([Some(written)]));
        let script: Script = Box::leak(Box::new([answers]));
        let (endpoint, _) = server(script).await;
        let client = HttpClient::connect(&endpoint, SECOND).await.unwrap();
        let answer = ask(&client).await.map(|(status, _)| status);
        let answer = answer.map_err(|error| match error {
            CallError::Protocol(_) => true,
            CallError::Lost => false,
            other => panic!("{other} of {written:.40}"),
        });
        assert_eq!(answer, expected, "{written:.40}");
    }
}

#[tokio::test]
async fn a_server_that_is_gone_is_unreachable() {
    let (endpoint, _) = server(&[&[GOOD]]).await;
    let client = HttpClient::connect(&endpoint, SECOND).await.unwrap();
    assert!(ask(&client).await.is_ok());
    // The script is over, and with it the listener.
    assert_eq!(ask(&client).await.unwrap_err(), CallError::Closed);
    let again = HttpClient::connect(&endpoint, SECOND).await;
    assert!(
        matches!(again, Err(ConnectError::Unreachable(_))),
        "{again:?}"
    );
}

#[tokio::test]
async fn credentials_that_cannot_be_used_are_named() {
    let mut endpoint = endpoint("https://127.0.0.1:1/");
    endpoint.tls.ca = Some("/nonexistent/ca.pem".into());
    let error = HttpClient::connect(&endpoint, SECOND).await.unwrap_err();
    assert!(error.to_string().contains("/nonexistent/ca.pem"), "{error}");
    endpoint.tls = Default::default();
    endpoint.tls.server_name = Some("no name".into());
    let error = HttpClient::connect(&endpoint, SECOND).await.unwrap_err();
    assert!(error.to_string().contains("'no name'"), "{error}");
}

/// A server that wants to know who calls, and answers each connection once.
async fn tls_server() -> HttpEndpoint {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use rustls::server::WebPkiClientVerifier;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(file("ca.pem")).unwrap())
        .unwrap();
    let clients = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(clients.build().unwrap())
        .with_single_cert(
            vec![CertificateDer::from_pem_file(file("service.pem")).unwrap()],
            PrivateKeyDer::from_pem_file(file("service.key")).unwrap(),
        )
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut stream = acceptor.accept(socket).await?;
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await?);
                }
                stream.write_all(GOOD.unwrap().as_bytes()).await?;
                stream.shutdown().await
            });
        }
    });
    endpoint(&format!("https://127.0.0.1:{port}/auth"))
}

fn file(name: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/tls")
        .join(name)
}

#[tokio::test]
async fn both_ends_of_tls_know_each_other() {
    let mut endpoint = tls_server().await;
    endpoint.tls = TlsFiles {
        ca: Some(file("ca.pem")),
        server_name: Some("service.test".to_owned()),
        identity: Some((file("proxy.pem"), file("proxy.key"))),
    };
    let client = HttpClient::connect(&endpoint, SECOND).await.unwrap();
    for _ in 0..2 {
        assert_eq!(ask(&client).await.unwrap(), (200, Bytes::from("ok")));
    }
    let refused = [
        TlsFiles {
            ca: None,
            ..endpoint.tls.clone()
        },
        TlsFiles {
            server_name: Some("other.test".to_owned()),
            ..endpoint.tls.clone()
        },
        // The name of the URL is not in the certificate.
        TlsFiles {
            server_name: None,
            ..endpoint.tls.clone()
        },
        TlsFiles {
            ca: Some(file("proxy.key")),
            ..endpoint.tls.clone()
        },
    ];
    for tls in refused {
        let endpoint = HttpEndpoint {
            tls,
            ..endpoint.clone()
        };
        let refused = HttpClient::connect(&endpoint, SECOND).await;
        assert!(refused.is_err(), "{endpoint:?}");
    }
    // In TLS 1.3 the client learns only with the answer that it is not known.
    endpoint.tls.identity = None;
    if let Ok(client) = HttpClient::connect(&endpoint, SECOND).await {
        assert!(ask(&client).await.is_err());
    }
}
