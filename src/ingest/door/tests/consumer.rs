//! The door and the consumer's decoder cannot disagree.

use proptest::prelude::*;

use super::*;
use crate::state::batch::Batch;
use crate::state::chunk::Chunk;
use crate::types::{Generation, NextOffset, Token, TopicIx, TopicPartition};

fn value() -> impl Strategy<Value = String> {
    let plain = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        any::<i64>().prop_map(|n| n.to_string()),
        (-9999..9999i32).prop_map(|n| n.to_string()),
        any::<f64>().prop_filter("JSON has no others", |n| n.is_finite()).prop_map(|n| format!("{n:e}")),
        "[a-z0-9:]{0,7}".prop_map(|text| format!("{text:?}")),
        "\\PC{0,6}".prop_map(|text| serde_json::Value::from(text).to_string()),
        prop_oneof![Just("2024-01-02"), Just("2024-01-02T03:04:05Z"), Just("free"), Just("12345  ")]
            .prop_map(|t| format!("{t:?}")),
        Just("\"\\ud83d\"".to_owned()),
        Just("\"\\u0000\"".to_owned()),
    ];
    plain.prop_recursive(2, 8, 3, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..3).prop_map(|items| format!("[{}]", items.join(","))),
            proptest::collection::vec(("[a-c]", inner), 0..3).prop_map(|fields| format!(
                "{{{}}}",
                fields.iter().map(|(n, v)| format!("{n:?}:{v}")).collect::<Vec<_>>().join(",")
            )),
        ]
    })
}

fn field() -> impl Strategy<Value = (String, String)> {
    let names = ["app", "sub", "state", "price", "tier", "note", "since", "doc", "ok", "id", "day", "other"];
    (proptest::sample::select(names.to_vec()), value()).prop_map(|(name, value)| (name.to_owned(), value))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

    /// Whatever the door lets in, the consumer's decoder takes; and it is the row that the path says.
    #[test]
    fn what_the_door_lets_in_the_consumer_takes(
        fields in proptest::collection::vec(field(), 0..6),
        app in "\\PC{1,5}",
        sub in prop_oneof![any::<i32>().prop_map(|n| n.to_string()), "[0-9.e-]{1,4}"],
        deletes in any::<bool>(),
        state in any::<bool>(),
    ) {
        let mut fields: Vec<String> = fields.iter().map(|(name, value)| format!("{name:?}:{value}")).collect();
        if state {
            fields.push("\"state\":\"on\"".to_owned());
        }
        let body = format!("{{{}}}", fields.join(" , "));
        let (method, body) = if deletes { (Method::Delete, String::new()) } else { (Method::Put, body) };
        let config = samples::config("");
        let mut door = door_over(&config, &[samples::catalog()]);
        let Ok((key, value)) = ask(&mut door, method, &[&app, &sub], &body) else { return Ok(()) };
        let crate::config::Target::Table(table) = &config.topics[0].target else { panic!("a table") };
        let plan = TablePlan::new(&config.topics[0], table, &samples::catalog()).expect("a plan");
        let mut writer = TableWriter::new(Arc::new(plan));
        let mut chunk = Box::new(Chunk::new(TopicIx(0)));
        let at = TopicPartition { topic: TopicIx(0), partition: 0 };
        let run = chunk.open_run(at, 0, Generation(1), Token(1), NextOffset(0));
        let (key, value) = (key.as_bytes(), value.as_deref().map(str::as_bytes));
        chunk.push(run, 0, 0, &RawRecord { offset: Offset(0), timestamp_ms: NOW_MS, key: Some(key), value, headers: &[] });
        let mut batch = Batch::new();
        batch.push(chunk);
        let mut bad = Vec::new();
        writer.load(&batch, 0..1, &mut bad);
        prop_assert!(bad.is_empty(), "{bad:?}");
        let of = |column: usize| writer.checked_cell(column).map(<[u8]>::to_vec);
        prop_assert_eq!(of(0), Some(app.as_bytes().to_vec()));
        let mut encoded = Vec::new();
        Kind::Int4.encode_text(&sub, &mut encoded).expect("it was let in");
        prop_assert_eq!(of(1), Some(encoded));
    }
}
