//! What is seen of the processes: a board that is redrawn on a terminal, one line per change elsewhere.
//!
//! Everything goes to standard error; standard output is for the answer.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::fleet::Status;
use super::keeper::State;

pub struct Board {
    terminal: Option<MultiProgress>,
    follower: JoinHandle<()>,
}

impl Board {
    /// Shows the processes from now on.
    pub fn show(statuses: watch::Receiver<Vec<Status>>) -> Self {
        if std::io::stderr().is_terminal() {
            let multi = MultiProgress::new();
            let follower = tokio::spawn(draw(multi.clone(), statuses));
            Self { terminal: Some(multi), follower }
        } else {
            Self { terminal: None, follower: tokio::spawn(tell(statuses)) }
        }
    }

    /// Puts `text` on standard output without disturbing the board.
    pub fn print(&self, text: &str) {
        match &self.terminal {
            Some(multi) => multi.suspend(|| println!("{text}")),
            None => println!("{text}"),
        }
    }

    /// Puts `text` on standard error without disturbing the board.
    pub fn note(&self, text: &str) {
        match &self.terminal {
            Some(multi) => multi.suspend(|| eprintln!("{text}")),
            None => eprintln!("{text}"),
        }
    }

    /// Takes the board away.
    pub fn end(self) {
        self.follower.abort();
        if let Some(multi) = &self.terminal {
            let _gone = multi.clear();
        }
        self.note("stopped");
    }
}

async fn tell(mut statuses: watch::Receiver<Vec<Status>>) {
    let mut told: Vec<String> = Vec::new();
    loop {
        let begun = |status: &&Status| status.state != State::Waiting;
        let now: Vec<(String, String)> =
            statuses.borrow_and_update().iter().filter(begun).map(|status| (news(status), line(status))).collect();
        for (_, line) in now.iter().filter(|(news, _)| !told.contains(news)) {
            eprintln!("{line}");
        }
        told = now.into_iter().map(|(news, _)| news).collect();
        if statuses.changed().await.is_err() {
            return;
        }
    }
}

async fn draw(multi: MultiProgress, mut statuses: watch::Receiver<Vec<Status>>) {
    let moving =
        ProgressStyle::with_template("{spinner:.yellow} {msg}").unwrap_or_else(|_| ProgressStyle::default_spinner());
    let still = ProgressStyle::with_template("{prefix} {msg}").unwrap_or_else(|_| ProgressStyle::default_spinner());
    let count = statuses.borrow().len();
    let bars: Vec<ProgressBar> = (0..count).map(|_| multi.add(ProgressBar::new_spinner())).collect();
    loop {
        for (bar, status) in bars.iter().zip(statuses.borrow_and_update().iter()) {
            match mark(&status.state) {
                Some(mark) => {
                    bar.disable_steady_tick();
                    bar.set_style(still.clone());
                    bar.set_prefix(mark);
                }
                None => {
                    bar.set_style(moving.clone());
                    bar.enable_steady_tick(Duration::from_millis(120));
                }
            }
            bar.set_message(line(status));
            bar.tick();
        }
        if statuses.changed().await.is_err() {
            return;
        }
    }
}

/// A sign for states that stay; the others move.
const fn mark(state: &State) -> Option<&'static str> {
    match state {
        State::Ready { .. } => Some("●"),
        State::Stopped => Some("○"),
        State::Failed { .. } => Some("✗"),
        State::Waiting | State::Starting { .. } | State::Restarting { .. } | State::Stopping { .. } => None,
    }
}

/// What makes a further line worth printing: of a phase its name, but not how far it is.
fn news(status: &Status) -> String {
    match &status.state {
        State::Starting { doing: Some(doing), .. } => {
            format!("{} {}", status.spec.name, doing.split(' ').next().unwrap_or_default())
        }
        _ => line(status),
    }
}

fn line(status: &Status) -> String {
    let spec = &status.spec;
    let state = match &status.state {
        State::Waiting => "waits for the broker".to_owned(),
        State::Starting { doing: None, .. } => spec.starting.clone(),
        State::Starting { doing: Some(doing), .. } => format!("{}: {doing}", spec.starting),
        State::Ready { pid } => {
            let on = spec.gpu.as_ref().map(|gpu| format!(" on {gpu}")).unwrap_or_default();
            format!("ready       {} (process {pid}){on}", spec.addr)
        }
        State::Restarting { reason, after } if after.is_zero() => format!("ended, starts again: {reason}"),
        State::Restarting { reason, after } => {
            format!("ended, starts again in {}: {reason}", humantime::format_duration(*after))
        }
        State::Stopping { .. } => "stopping".to_owned(),
        State::Stopped => "stopped".to_owned(),
        State::Failed { .. } => "failed".to_owned(),
    };
    format!("{:<14} {state}", spec.name)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::up::plan::{Kind, Spec};

    #[test]
    fn only_a_new_phase_of_a_start_is_news() {
        let spec = Arc::new(Spec {
            kind: Kind::Worker,
            name: "worker-1".to_owned(),
            program: "forebay".into(),
            args: Vec::new(),
            env: Vec::new(),
            addr: ([127, 0, 0, 1], 9000).into(),
            monitor_addr: None,
            starting: "starting mini".to_owned(),
            gpu: Some("GPU-8932f937".to_owned()),
        });
        let starting = |doing: &str| Status {
            spec: Arc::clone(&spec),
            state: State::Starting { pid: 1, doing: Some(doing.to_owned()) },
        };
        let (early, late) = (starting("downloading 12 of 90 MB"), starting("downloading 13 of 90 MB"));
        assert_eq!(line(&early), "worker-1       starting mini: downloading 12 of 90 MB");
        assert_eq!(news(&early), news(&late));
        assert_ne!(news(&late), news(&starting("loading 90 MB")));
        let ready = Status { spec: Arc::clone(&spec), state: State::Ready { pid: 7 } };
        assert_eq!(line(&ready), "worker-1       ready       127.0.0.1:9000 (process 7) on GPU-8932f937");
    }
}
