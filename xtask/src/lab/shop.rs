//! The lab of the demo and of `lab up`: a little shop on two nodes.

use mesh_e2e::topology::LogFormat;
use mesh_e2e::{Lab, Pod, Service, Topology};

/// Port of the shop's nginx, and of its service.
pub(crate) const PORT: u16 = 8080;
pub(crate) const SERVICE_PORT: u16 = 80;

/// What the shop's nginx answers.
pub(crate) const GREETING: &str = "welcome to the shop\n";

/// Only the frontend may use the shop.
pub(crate) const POLICY: &str = "
    - name: only-frontend
      selector: {app: shop}
      action: ALLOW
      rules:
      - from: [{source: {serviceAccounts: [frontend]}}]";

/// Two nodes; on the first the shop's clients, on the second the shop.
pub(crate) fn topology() -> Topology {
    Topology::new()
        .pod(Pod::new("frontend", "n1"))
        .pod(Pod::new("guest", "n1"))
        .pod(Pod::new("outsider", "n1").plain())
        .pod(Pod::new("shop", "n2").label("app", "shop").probe(PORT))
        .service(Service::new("shop").port(SERVICE_PORT, PORT).selects("app", "shop"))
        .authorize(POLICY)
        .log_format(LogFormat::Text)
        .node_setting("drain", "1s")
}

/// The lab as a picture.
pub(crate) fn picture(lab: &Lab) -> String {
    let service = lab.vip4("shop", SERVICE_PORT);
    let node = |name: &str| lab.node(name).addresses.map(|address| address.to_string()).join("  ");
    let pod = |name: &str| format!("{name:<9}{}", lab.pod(name).v4);
    let rows = [
        (format!("node n1  {}", node("n1")), format!("node n2  {}", node("n2"))),
        (String::new(), String::new()),
        (format!("  {}", pod("frontend")), format!("  {}   nginx on {PORT}", pod("shop"))),
        (format!("  {}", pod("guest")), String::new()),
        (format!("  {}   not in the mesh", pod("outsider")), format!("  service shop  {service}")),
        (String::new(), String::new()),
        ("  mesh-agent node".to_owned(), "  mesh-agent node".to_owned()),
    ];
    let line = "─".repeat(40);
    let mut picture = format!("┌{line}┐      ┌{line}┐\n");
    for (at, (left, right)) in rows.iter().enumerate() {
        let gap = if at == 3 { "├──────┤" } else { "│      │" };
        picture.push_str(&format!("│ {left:<39}{gap} {right:<39}│\n"));
    }
    picture.push_str(&format!("└{line}┘      └{line}┘\n"));
    picture
}
