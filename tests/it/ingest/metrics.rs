//! What the gateway says of itself, as Prometheus and the dashboard understand it.

use forebay::metrics::name::{Kind, Name};

use super::{Gate, SUBSCRIPTIONS, gateway, put, request, shard};
use crate::deploy::{dashboard_queries, metrics};
use crate::real::admin::promtool_takes;
use crate::support::{Database, PATIENCE, Prometheus, Rig, Server, Topic, wait_until};

#[test]
fn a_real_prometheus_understands_them_and_the_dashboard_shows_them() {
    let database = Database::create(Server::A, "ingest");
    database.execute(SUBSCRIPTIONS);
    let topic = Topic::create("ingest", 2);
    let both = format!(
        "{}[[ingest.route]]\npath = \"/rows/{{app_id}}/{{subscription_id}}\"\nmethods = [\"PUT\"]\ntopic = {:?}\nmode = \"sync\"\n",
        gateway(topic.name(), ""),
        topic.name()
    );
    let rig = Rig::new(&format!("{}{both}", shard("main", database.dsn(), "")));
    let gate = Gate::start(&rig);
    let admin = gate.admin();
    let crate::support::Admin::Tcp(address) = &admin else { unreachable!("it has an address") };
    let prometheus = Prometheus::scraping(address);
    let mut client = gate.client();
    let mut ask = || {
        assert_eq!(put(&mut client, "canary", 1, "on").status, 202);
        client.send(request("PUT", "canary", "1", "{\"state\":7}"));
        assert_eq!(client.answer().status, 422);
        client.send(
            request("PUT", "canary", "1", "{\"state\":\"on\"}").replace("/apps/canary/subscriptions", "/rows/canary"),
        );
        assert_eq!(client.answer().status, 200);
    };
    ask();
    let text = admin.get("/metrics").expect(200);
    promtool_takes(&text);
    assert!(!text.contains("canary"), "a value of a request is in the metrics");
    let own = Name::ALL.iter().map(|name| name.family()).filter(|family| family.name.starts_with("forebay_ingest_"));
    let missing: Vec<&str> = own
        .filter(|family| {
            let part = if family.kind == Kind::Histogram { "_bucket" } else { "" };
            !text.lines().any(|line| line.starts_with(&format!("{}{part}", family.name)))
        })
        .map(|family| family.name)
        .collect();
    assert!(missing.is_empty(), "not there: {missing:?}");

    // Rates want several looks at something that moves.
    let of_gateway =
        |(_, promql): &(String, String)| metrics(promql).iter().any(|(name, _)| name.starts_with("forebay_ingest_"));
    let queries: Vec<_> = dashboard_queries().into_iter().filter(of_gateway).collect();
    assert!(queries.len() > 10, "{}", queries.len());
    wait_until(PATIENCE, "an answer to each query of the gateway's panels", || {
        ask();
        let empty = queries.iter().find(|(_, promql)| prometheus.query(promql).is_empty());
        empty.is_none()
    });
    drop(client);
    gate.process.terminate().expect(0);
}
