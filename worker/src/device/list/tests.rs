use super::*;

fn gpu(uuid: &str, form: Form) -> Gpu {
    Gpu {
        uuid: uuid.to_owned(),
        name: "NVIDIA H100 80GB HBM3".to_owned(),
        memory_bytes: 85_520_000_000,
        capability: Some((9, 0)),
        form,
    }
}

/// Two whole GPUs around a divided one.
fn gpus() -> Gpus {
    let slice = || Form::Slice { of: "GPU-bbbb0000-1".to_owned() };
    let all = vec![
        gpu("GPU-aaaa0000-1", Form::Whole),
        gpu("GPU-bbbb0000-1", Form::Divided),
        gpu("MIG-cccc0000-1", slice()),
        gpu("MIG-cccd0000-1", slice()),
        gpu("GPU-aaab0000-1", Form::Whole),
    ];
    Gpus { all, ..Gpus::default() }
}

fn visible(setting: Option<&str>) -> Vec<String> {
    gpus().visible(setting).into_iter().map(|gpu| gpu.uuid[..8].to_owned()).collect()
}

#[test]
fn without_a_setting_everything_but_a_divided_gpu_is_a_device() {
    assert_eq!(visible(None), ["GPU-aaaa", "MIG-cccc", "MIG-cccd", "GPU-aaab"]);
}

#[test]
fn numbers_count_gpus_in_the_drivers_order_and_keep_the_order_of_the_setting() {
    assert_eq!(visible(Some("2,0")), ["GPU-aaab", "GPU-aaaa"]);
    assert_eq!(visible(Some("1")), ["MIG-cccc", "MIG-cccd"]);
    assert_eq!(visible(Some(" 0 , 2nd")), ["GPU-aaaa", "GPU-aaab"]);
}

#[test]
fn beginnings_of_uuids_name_what_they_alone_fit() {
    assert_eq!(visible(Some("GPU-aaab,GPU-aaaa0")), ["GPU-aaab", "GPU-aaaa"]);
    assert_eq!(visible(Some("MIG-cccd")), ["MIG-cccd"]);
    assert_eq!(visible(Some("GPU-bbbb")), ["MIG-cccc", "MIG-cccd"]);
    assert!(visible(Some("GPU-aaa")).is_empty());
}

#[test]
fn the_first_entry_that_names_nothing_ends_the_list() {
    for setting in ["0,9,2", "0,-1,2", "0,x,2", "0,,2", "0,GPU-aaab"] {
        assert_eq!(visible(Some(setting)), ["GPU-aaaa"], "{setting}");
    }
    assert_eq!(visible(Some("GPU-aaaa,GPU-ffff,GPU-aaab")), ["GPU-aaaa"]);
    assert_eq!(visible(Some("GPU-aaaa,2,MIG-cccc")), ["GPU-aaaa"]);
    for setting in ["", "-1", "none", "NoDevFiles"] {
        assert!(visible(Some(setting)).is_empty(), "{setting:?}");
    }
}

#[test]
fn an_entry_that_comes_twice_empties_the_list() {
    assert!(visible(Some("0,2,0")).is_empty());
    assert!(visible(Some("GPU-aaaa,GPU-aaaa0000")).is_empty());
}

#[test]
fn a_choice_becomes_a_whole_uuid() {
    let gpus = gpus();
    let all = gpus.visible(None);
    let chosen = |text: &str| choose(&text.parse().unwrap(), &all).map(|choice| choice.to_string());
    assert_eq!(chosen("cpu").unwrap(), "cpu");
    assert_eq!(chosen("auto").unwrap(), "cuda:GPU-aaaa0000-1");
    assert_eq!(chosen("cuda:3").unwrap(), "cuda:GPU-aaab0000-1");
    assert_eq!(chosen("MIG-cccd0000").unwrap(), "cuda:MIG-cccd0000-1");
    assert_eq!(choose(&DeviceChoice::Auto, &[]), Ok(DeviceChoice::Cpu));
}

#[test]
fn a_choice_that_means_no_device_is_refused_with_what_there_is() {
    let gpus = gpus();
    let all = gpus.visible(None);
    let refused = |text: &str| choose(&text.parse().unwrap(), &all).unwrap_err().to_string();
    let there = "GPU-aaaa0000 NVIDIA H100 80GB HBM3, 85.5 GB; MIG-cccc0000";
    for text in ["cuda:4", "GPU-ffff", "GPU-bbbb0000"] {
        let refused = refused(text);
        assert!(refused.contains("is not here; there are") && refused.contains(there), "{refused}");
        assert_eq!(refused.lines().count(), 1);
    }
    assert!(refused("MIG-cc").contains("fits several devices"));
    let nothing = choose(&DeviceChoice::Ordinal(0), &[]).unwrap_err().to_string();
    assert_eq!(nothing, "--device cuda:0 is not here; there is no GPU that this process may use");
}

#[test]
fn a_uuid_is_cut_to_what_tells_devices_apart() {
    assert_eq!(short("GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"), "GPU-8932f937");
    assert_eq!(short("GPU-1"), "GPU-1");
}
