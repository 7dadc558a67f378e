//! Whose work kept the devices busy, and for how long: counted where answers come back, whoever asked for them.

use forebay_shared::ids::{ModelName, TenantName};
use forebay_shared::job::Output;
use forebay_shared::metrics::ApiMetrics;

/// Adds what these answers say about device time.
pub(super) fn device_time(metrics: &ApiMetrics, tenant: &TenantName, model: &ModelName, outputs: &[Output]) {
    let micros: u64 = outputs.iter().map(|output| u64::from(output.device_us)).sum();
    // Workers from before wire version 2 do not say; a built-in model takes none.
    if micros == 0 {
        return;
    }
    let seconds = micros as f64 / 1e6;
    metrics.device_seconds_total.with(&(model.clone(),)).inc_by(seconds);
    if metrics.registry().has_tenants() {
        metrics.tenant_device_seconds_total.with(&(tenant.clone(), model.clone())).inc_by(seconds);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_time_is_counted_by_model_and_by_configured_tenant() {
        let metrics = ApiMetrics::new();
        let (model, tenant) = (ModelName::from("m"), TenantName::from("a"));
        metrics.register_model(&model);
        let outputs = [250_000, 500_000].map(|device_us| Output { tokens: 1, device_us, vector: Vec::new() });
        device_time(&metrics, &tenant, &model, &outputs);
        assert!(!metrics.render().contains("tenant="), "no keys, no tenants");
        metrics.register_tenant(&tenant);
        device_time(&metrics, &tenant, &model, &outputs);
        device_time(&metrics, &"what a client typed".into(), &model, &outputs);
        assert_eq!(metrics.device_seconds_total.with(&(model.clone(),)).get(), 2.25);
        assert_eq!(metrics.tenant_device_seconds_total.with(&(tenant, model.clone())).get(), 0.75);
        assert!(!metrics.render().contains("typed"));
    }
}
