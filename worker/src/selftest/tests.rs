use super::*;

fn args() -> SelfTestArgs {
    SelfTestArgs { threads: Some(2), batches: 40, ..SelfTestArgs::new(DeviceChoice::Cpu, None) }
}

fn missed(report: &Report) -> Vec<&str> {
    report.missed().map(|case| case.name.as_str()).collect()
}

#[test]
fn the_cpu_passes() {
    let report = run(&args()).unwrap();
    assert!(report.is_passed(), "{report}");
    let (passed, all) = report.passed_of();
    assert!(passed == all && all > 40, "{report}");
    assert!(!report.stand_in);
}

#[test]
fn every_kind_of_kernel_that_computes_wrongly_is_noticed() {
    for kernel in ["embedding", "layer norm", "linear store", "linear gelu", "linear add", "attention", "pooling max"] {
        let twin = Rig::new(Device::cpu(Some(2)).unwrap());
        let cases = kernels::cases(&Rig::new(Device::cpu(Some(2)).unwrap()), &twin, &mut Random::new(3), Some(kernel));
        for case in cases {
            let expected = if case.name.starts_with(kernel) { Verdict::Missed } else { Verdict::Passed };
            assert_eq!(case.verdict, expected, "{case:?}");
        }
    }
}

#[test]
fn a_model_with_other_weights_misses_its_references() {
    let tiny = Unpacked::new().unwrap();
    let path = tiny.folder().join("model.safetensors");
    let mut weights = std::fs::read(&path).unwrap();
    // The highest byte of one number in a hundred, past the header: signs and exponents.
    weights.iter_mut().skip(8192 + 3).step_by(400).for_each(|byte| *byte ^= 0x80);
    std::fs::write(&path, weights).unwrap();
    let file = tiny.folder().join("expected.json");
    std::fs::write(&file, serde_json::json!({ "rows": references() }).to_string()).unwrap();
    let report = run(&SelfTestArgs { models: vec![tiny.folder()], references: vec![file], ..args() }).unwrap();
    assert!(!report.is_passed() && missed(&report).contains(&"tiny-bert-embed: texts together"), "{report}");
}

#[test]
fn a_wrong_reference_is_missed_by_its_row_only() {
    let tiny = Unpacked::new().unwrap();
    let file = tiny.folder().join("expected.json");
    let mut rows = references();
    rows[3]["embedding"][5] = 0.9.into();
    std::fs::write(&file, serde_json::json!({ "model": "tiny-bert-embed", "rows": rows }).to_string()).unwrap();
    let report = run(&SelfTestArgs { models: vec![tiny.folder()], references: vec![file], ..args() }).unwrap();
    let wanted = [
        "9 texts alone, as references say",
        "texts together",
        "texts reversed",
        "ragged rows",
        "several batches under way",
    ];
    assert_eq!(missed(&report), wanted.map(|mix| format!("tiny-bert-embed: {mix}")), "{report}");
}

#[test]
fn a_model_without_references_is_held_against_the_cpu() {
    let tiny = Unpacked::new().unwrap();
    let report = run(&SelfTestArgs { models: vec![tiny.folder()], ..args() }).unwrap();
    assert!(report.is_passed() && report.to_string().contains("11 texts alone, as cpu, f32, say"), "{report}");
}

#[test]
fn what_cannot_be_tested_says_why() {
    let error = |args: SelfTestArgs| format!("{:#}", run(&args).unwrap_err());
    let half = error(SelfTestArgs::new(DeviceChoice::Cpu, Some(Precision::F16)));
    assert!(half.contains("f32 only"), "{half}");
    let nobodys = error(SelfTestArgs { references: vec!["tests".into()], ..args() });
    assert!(nobodys.contains("cannot use the references"), "{nobodys}");
    let report = run(&SelfTestArgs { models: vec!["/no/such/model".into()], ..args() }).unwrap();
    assert!(!report.is_passed() && report.to_string().contains("MISS: no model folder"), "{report}");
}

fn references() -> Vec<serde_json::Value> {
    let row = |row: fixtures::ReferenceRow| serde_json::json!({ "text": row.text, "embedding": row.embedding });
    References::tiny().unwrap().rows.into_iter().map(row).collect()
}
