//! nginx that asks about Txn-Tokens, as `examples/nginx` and docs/how-to/protect-a-service-with-nginx.md show it.
//! `tests/tools.sh` fetches it.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};

use crate::scene::{MAILER, READER};
use crate::support::eventually;
use crate::support::http::Connection;
use crate::support::workload::Form;
use crate::support::writ::{self, Setup, Writ};
use crate::tools::{fetched, root};

struct Nginx {
    process: Child,
    address: SocketAddr,
}

impl Drop for Nginx {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Nginx {
    /// nginx with one of the configurations of `examples/nginx`, in front of a service that answers 200 to everything.
    fn start(writ: &Writ, configuration: &str) -> Option<Self> {
        let nginx = fetched("nginx/usr/sbin/nginx")?;
        let module = fetched("nginx/usr/lib/nginx/modules/ngx_http_js_module.so")?;
        let [address, behind] = free_ports();
        let folder = writ.setup.path("nginx");
        let credentials = writ.setup.credentials("reader");
        writ.setup.write("nginx/gateway.pem", &credentials.certificate_pem);
        writ.setup.write("nginx/gateway.key", &credentials.key_pem);
        writ.setup.write("nginx/ca.pem", &writ.setup.ca.pem());
        fs::copy(root().join("examples/nginx/txn_token.js"), folder.join("txn_token.js")).unwrap();
        let site = fs::read_to_string(root().join("examples/nginx").join(configuration)).unwrap();
        let site = site
            .replace("/etc/nginx/txn-token", folder.to_str().unwrap())
            .replace("tts.trust-domain.example:8443", &writ.site().endpoints().exchange.to_string())
            .replace("tts.trust-domain.example", "localhost")
            .replace("127.0.0.1:8080", &address.to_string())
            .replace("127.0.0.1:9000", &behind.to_string());
        writ.setup.write("nginx/site.conf", &site);
        let temporary: Vec<String> = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|name| format!("{name}_temp_path {name};"))
            .collect();
        let main = format!(
            "load_module {};\ndaemon off;\nmaster_process off;\npid nginx.pid;\nevents {{}}\nhttp {{\n\
             access_log off;\n{}\ninclude site.conf;\nserver {{ listen {behind}; return 200 in; }}\n}}\n",
            module.display(),
            temporary.join("\n")
        );
        writ.setup.write("nginx/nginx.conf", &main);
        let mut command = Command::new(nginx);
        command.arg("-p").arg(&folder).args(["-c", "nginx.conf", "-e", "error.log"]);
        let process = command.stdin(Stdio::null()).spawn().unwrap();
        let nginx = Self { process, address };
        eventually("nginx accepts", || Connection::plain(address).ok());
        Some(nginx)
    }

    /// The status of a request with this Txn-Token.
    fn status(&self, token: Option<&str>) -> u16 {
        let headers: Vec<(&str, &str)> = token.map(|token| ("Txn-Token", token)).into_iter().collect();
        writ::get(&mut Connection::plain(self.address).unwrap(), "GET", "/mailboxes/bob", &headers).status
    }
}

fn free_ports() -> [SocketAddr; 2] {
    let held = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    held.map(|listener| listener.local_addr().unwrap())
}

/// A service, and tokens that are good, for another purpose, expired, and of another signature.
fn service() -> (Writ, [String; 4]) {
    let brief = MAILER.replace("scope = \"mailbox.report\"", "scope = \"mailbox.report\"\nlifetime = \"1s\"");
    let writ = Setup::new().client("mailer", MAILER).client("brief", &brief).client("reader", READER).start();
    let issued = |client: &str, scope: &str| writ.workload(client).token(&Form::client_credentials(scope)).issued();
    let good = issued("mailer", "mailbox.deliver").token;
    let other = issued("mailer", "mailbox.report").token;
    let expired = issued("brief", "mailbox.report");
    expired.wait_until_expired();
    let (signed, _) = good.rsplit_once('.').unwrap();
    let forged = format!("{signed}.{}", other.rsplit_once('.').unwrap().1);
    (writ, [good, other, expired.token, forged])
}

/// An answer about a token that is not valid is 200, and nginx looks at nothing else.
#[test]
fn auth_request_on_introspection_alone_accepts_every_token() {
    let (writ, [good, other, expired, forged]) = service();
    let Some(nginx) = Nginx::start(&writ, "fails-open.conf") else { return };
    for token in [&good, &other, &expired, &forged, "no-token"] {
        assert_eq!(nginx.status(Some(token)), 200, "{token}");
    }
}

#[test]
fn auth_request_that_reads_the_answer_accepts_valid_tokens_for_the_purpose() {
    let (mut writ, [good, other, expired, forged]) = service();
    let Some(nginx) = Nginx::start(&writ, "txn_token.conf") else { return };
    assert_eq!(nginx.status(Some(&good)), 200);
    for token in [Some(other.as_str()), Some(&expired), Some(&forged), Some("no-token"), Some("a&token=b"), None] {
        assert_eq!(nginx.status(token), 401, "{token:?}");
    }
    // No request is accepted while the service cannot be asked.
    writ.terminate();
    assert!(nginx.status(Some(&good)) >= 400);
}
