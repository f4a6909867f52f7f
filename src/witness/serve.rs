//! Answers Prometheus.

use std::sync::{Arc, Mutex, PoisonError};

use tiny_http::{Header, Method, Response, Server};

use super::metrics::Metrics;

/// What OpenMetrics asks a server to call its text.
const TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Answers Prometheus, on a thread of its own, as long as the process lives. Returns the address: the system chooses a port where 0 is given.
///
/// # Errors
/// What the system says of the address.
pub fn serve(address: &str, metrics: Arc<Mutex<Metrics>>) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
    let server = Server::http(address)?;
    let address = server.server_addr().to_string();
    std::thread::Builder::new().name("metrics".to_owned()).spawn(move || {
        for request in server.incoming_requests() {
            let path = request.url().split('?').next().unwrap_or_default();
            let answer = match (request.method(), path) {
                (Method::Get | Method::Head, "/metrics") => {
                    let mut metrics = metrics.lock().unwrap_or_else(PoisonError::into_inner);
                    metrics.look();
                    Response::from_string(metrics.text()).with_header(header("Content-Type", TYPE))
                }
                (Method::Get | Method::Head, "/") => Response::from_string("flopsprof: /metrics\n"),
                (Method::Get | Method::Head, _) => Response::from_string("not found\n").with_status_code(404),
                _ => Response::from_string("only GET\n").with_status_code(405),
            };
            // Who asked may have gone.
            let _ = request.respond(answer);
        }
    })?;
    Ok(address)
}

fn header(name: &str, value: &str) -> Header {
    // Constants, which are headers.
    Header::from_bytes(name, value).unwrap_or_else(|()| unreachable!("{name}"))
}
