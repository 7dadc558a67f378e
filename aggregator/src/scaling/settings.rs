//! What the operator wants of `forebay_desired_workers`.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use forebay_shared::settings::SettingsError;

use super::policy::{Bounds, Targets};

/// How many workers a model should have, as this aggregator advises.
#[derive(clap::Args, Debug, Clone)]
#[command(next_help_heading = "Scaling")]
pub struct ScalingArgs {
    /// `forebay_desired_workers`: how long a job may wait for a worker while there are enough of them.
    #[arg(long, env = "FOREBAY_TARGET_WAIT", default_value = "2s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub target_wait: Duration,
    /// How long it takes from wanting a worker to having it, until its model is warm. A backlog is given as much to shrink.
    #[arg(long, env = "FOREBAY_WORKER_START_TIME", default_value = "30s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub worker_start_time: Duration,
    /// Asynchronous jobs that wait should all be done within about this.
    #[arg(long, env = "FOREBAY_STORED_WAIT", default_value = "10m", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub stored_wait: Duration,
    /// Fewest workers of a model: a number for all, and others by model, such as `1,big=0`.
    #[arg(long, env = "FOREBAY_MIN_WORKERS", default_value = "1", value_name = "N[,MODEL=N]")]
    pub min_workers: PerModel,
    /// Most workers of a model, written in the same way.
    #[arg(long, env = "FOREBAY_MAX_WORKERS", default_value = "10", value_name = "N[,MODEL=N]")]
    pub max_workers: PerModel,
    /// Fewer workers are wanted only when fewer were enough all this time. More are wanted at once.
    #[arg(long, env = "FOREBAY_SCALE_DOWN_AFTER", default_value = "5m", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub scale_down_after: Duration,
    /// The last worker is kept for this long after the last demand, where --min-workers is 0.
    #[arg(long, env = "FOREBAY_SCALE_TO_ZERO_AFTER", default_value = "10m", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub scale_to_zero_after: Duration,
}

impl Default for ScalingArgs {
    fn default() -> Self {
        const MINUTE: Duration = Duration::from_secs(60);
        Self {
            target_wait: Duration::from_secs(2),
            worker_start_time: Duration::from_secs(30),
            stored_wait: 10 * MINUTE,
            min_workers: PerModel::all(1),
            max_workers: PerModel::all(10),
            scale_down_after: 5 * MINUTE,
            scale_to_zero_after: 10 * MINUTE,
        }
    }
}

impl ScalingArgs {
    /// # Errors
    /// [`SettingsError`] names the flag whose value cannot be used.
    pub fn targets(&self) -> Result<Targets, SettingsError> {
        let positive = |flag, value: Duration| {
            let problem = || SettingsError { flag, problem: "must be longer than 0s".to_owned() };
            if value.is_zero() { Err(problem()) } else { Ok(value) }
        };
        let models = self.min_workers.by_model.keys().chain(self.max_workers.by_model.keys()).map(String::as_str);
        for model in models.chain(["every other model"]) {
            let Bounds { min, max } = self.bounds(model);
            if min > max {
                let problem = format!("{max} for {model} is less than --min-workers, which is {min}");
                return Err(SettingsError { flag: "--max-workers", problem });
            }
        }
        Ok(Targets {
            wait: positive("--target-wait", self.target_wait)?,
            start_time: self.worker_start_time,
            stored_wait: positive("--stored-wait", self.stored_wait)?,
            down_after: self.scale_down_after,
            zero_after: self.scale_to_zero_after,
        })
    }

    pub fn bounds(&self, model: &str) -> Bounds {
        Bounds { min: self.min_workers.of(model), max: self.max_workers.of(model) }
    }
}

/// A number for every model, with exceptions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PerModel {
    others: u32,
    by_model: BTreeMap<String, u32>,
}

impl PerModel {
    pub fn all(others: u32) -> Self {
        Self { others, by_model: BTreeMap::new() }
    }

    pub fn of(&self, model: &str) -> u32 {
        self.by_model.get(model).copied().unwrap_or(self.others)
    }
}

impl FromStr for PerModel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |part: &str| format!("'{part}' is no number of workers; write such as 1 or 1,mini=0");
        let (mut others, mut by_model) = (None, BTreeMap::new());
        for part in text.split(',').map(str::trim) {
            // A model's name may hold the sign, a number does not.
            let (model, number) = part.rsplit_once('=').map_or((None, part), |(model, number)| (Some(model), number));
            let number: u32 = number.parse().map_err(|_| wrong(part))?;
            let twice = match model {
                Some(model) => by_model.insert(model.to_owned(), number).is_some(),
                None => others.replace(number).is_some(),
            };
            if twice {
                return Err(format!("'{part}' is said twice"));
            }
        }
        let others = others.ok_or_else(|| format!("'{text}' says nothing of the other models; begin with a number"))?;
        Ok(Self { others, by_model })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions_stand_beside_the_number_for_all() {
        let some: PerModel = "1,big=0, org/name=3".parse().unwrap();
        assert_eq!((some.of("other"), some.of("big"), some.of("org/name")), (1, 0, 3));
        for wrong in ["", "big=1", "1,2", "1,big", "1,big=0,big=1", "-1"] {
            assert!(wrong.parse::<PerModel>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_defaults_can_be_used_and_bounds_that_cross_cannot() {
        assert!(ScalingArgs::default().targets().is_ok());
        let crossed = ScalingArgs { min_workers: "1,big=11".parse().unwrap(), ..ScalingArgs::default() };
        assert_eq!(crossed.targets().unwrap_err().flag, "--max-workers");
        let no_wait = ScalingArgs { target_wait: Duration::ZERO, ..ScalingArgs::default() };
        assert_eq!(no_wait.targets().unwrap_err().flag, "--target-wait");
    }
}
