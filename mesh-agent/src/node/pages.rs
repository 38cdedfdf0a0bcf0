//! Which page answers which path.

use http::{Method, StatusCode};

use super::{View, documents, dump};
use crate::admin::documents::Logging;
use crate::admin::router::{Ask, Reply, Router};
use crate::telemetry::log::{Filter, LogError};
use crate::telemetry::metrics::Metrics;

/// The pages of the admin socket.
pub(super) fn admin(view: &View, metrics: &Metrics) -> Router {
    let (status, pods, certificates, flows) = (view.clone(), view.clone(), view.clone(), view.clone());
    let log = view.log.clone();
    let router = Router::new()
        .json("/status", move || {
            let view = status.clone();
            async move { documents::status(&view).await }
        })
        .json("/pods", move || std::future::ready(documents::pods(&pods)))
        .json("/certs", move || std::future::ready(documents::certificates(&certificates)))
        .json("/flows", move || {
            let view = flows.clone();
            async move { documents::flows(&view).await }
        })
        .route(Method::POST, "/logging", move |ask| std::future::ready(logging(&log, &ask)));
    self::metrics(router, metrics)
}

/// What Istio's tools ask of a node proxy.
pub(super) fn tools(view: &View) -> Router {
    let (dumped, log) = (view.clone(), view.log.clone());
    Router::new()
        .json("/config_dump", move || {
            let view = dumped.clone();
            async move { dump::collect(&view).await }
        })
        .route(Method::POST, "/logging", move |ask| std::future::ready(logging(&log, &ask)))
}

/// The metrics, under both paths that scrapers of Istio's node proxy use (protocol note, section 12.1).
pub(super) fn metrics(mut router: Router, metrics: &Metrics) -> Router {
    for path in ["/metrics", "/stats/prometheus"] {
        let metrics = metrics.clone();
        router = router.route(Method::GET, path, move |ask| {
            let page = metrics.page(ask.accept());
            std::future::ready(Reply::page(page.content_type, page.body))
        });
    }
    router
}

/// Shows the log filter, after changing it if the request says so.
fn logging(log: &Filter, ask: &Ask) -> Reply {
    let change = || -> Result<String, LogError> {
        if let Some(filter) = ask.parameter("level") {
            log.set(&filter)?;
        } else if ask.parameter("reset").is_some() {
            log.reset()?;
        }
        log.current()
    };
    match change() {
        Ok(filter) => Reply::json(&Logging { filter }),
        Err(error) => Reply::text(error.to_string()).with_status(StatusCode::BAD_REQUEST),
    }
}
